"""Fetches upstream's archives: side by side, going on where a run broke off, checked before they are unpacked.

What is wrong or half done never gets its final name: an archive is a ``.part`` until its checksum is right, and what is
unpacked lies in a hidden folder until it is complete.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import ssl
import stat
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import filelock
import httpx
import tenacity
import truststore
from rich.console import Console
from rich.filesize import decimal

from sightglass.facts.errors import UserError
from sightglass.local import pagecache
from sightglass.terminal.progress import Meter

ANSWER_SECONDS = 3.0
"""In which a release server has to answer the first request, name resolution included."""
READ_SECONDS = 20.0
ATTEMPTS = 5
"""In a row that brought no byte more."""
FIRST_WAIT_SECONDS = 0.5
"""After an attempt that brought some; doubles with each that brought none."""
LONGEST_WAIT_SECONDS = 8.0
SIDE_BY_SIDE = 4
UNPACKED = 4.5
"""A server's archive unpacks to about this many times its size."""
ORIGIN = "origin.json"
"""File beside what was unpacked: where it came from."""
SUMS = "sums.json"
"""Checksums of upstream's own lists, as they were at first use."""


@dataclass(frozen=True)
class Archive:
    """A release archive, what it must hash to, and what is taken out of it."""

    label: str
    """For people: name and version."""
    name: str
    """Of the folder that it is unpacked to."""
    url: str
    sha256: str | None
    """None where it is what upstream's own list says."""
    checksums: str
    """Upstream's own list."""
    members: Mapping[str, str] = field(default_factory=dict)
    """Place in the archive by program; empty where the whole archive is taken, without its one folder at the top."""

    @property
    def file(self) -> str:
        """Upstream's name of it."""
        return httpx.URL(self.url).path.rpartition("/")[2]


@dataclass(frozen=True)
class Result:
    """What became of a list of archives."""

    homes: Mapping[str, Path]
    """Folder by the archive's name."""
    failures: Mapping[str, str]
    """Reason by the archive's name."""
    fetched: int = 0
    """Bytes that came over the network."""


class _FetchError(Exception):
    """One archive could not be had; the message is the reason."""


class _Patience:
    """Goes on for as long as attempts bring more of a file."""

    def __init__(self, part: Path) -> None:
        self._part = part
        self._most = self._size()
        self._in_vain = 0

    def _size(self) -> int:
        return self._part.stat().st_size if self._part.exists() else 0

    def note(self, _state: tenacity.RetryCallState) -> None:
        size = self._size()
        self._in_vain = 0 if size > self._most else self._in_vain + 1
        self._most = max(self._most, size)

    def wait(self, _state: tenacity.RetryCallState) -> float:
        return min(FIRST_WAIT_SECONDS * float(2**self._in_vain), LONGEST_WAIT_SECONDS)

    def stop(self, _state: tenacity.RetryCallState) -> bool:
        return self._in_vain >= ATTEMPTS


class Fetcher:
    """Takes archives from upstream, or from a mirror that has them at the same paths."""

    def __init__(self, folder: Path, console: Console, mirror: str | None = None) -> None:
        self.folder = folder
        self._console = console
        self._mirror = mirror.rstrip("/") if mirror else None
        self._fetched = 0
        self._lock = threading.Lock()

    def fetch(
        self,
        archives: Sequence[Archive],
        before: Callable[[Mapping[str, str]], object] = lambda _failures: None,
    ) -> Result:
        """Have each archive unpacked in the folder, or a reason why not.

        ``before`` is told, before anything is fetched, what cannot be had. Raises :class:`UserError` where there is no
        room, or nothing can be written. Never for want of a network.
        """
        homes = {archive.name: self.folder / archive.name for archive in archives}
        missing = [archive for archive in archives if not complete(homes[archive.name])]
        failures: dict[str, str] = {}
        if missing:
            make(self.folder)
            with self._client() as client:
                offers = self._ask(client, missing)
                failures = {name: found for name, found in offers.items() if isinstance(found, str)}
                before(failures)
                wanted = [archive for archive in missing if archive.name not in failures]
                sizes = {archive.name: offers[archive.name] for archive in wanted}
                self._require_room({name: size for name, size in sizes.items() if isinstance(size, int)})
                failures |= self._fetch_all(client, wanted, sizes)
        return Result({name: home for name, home in homes.items() if name not in failures}, failures, self._fetched)

    # Before anything is fetched

    def _ask(self, client: httpx.Client, archives: Sequence[Archive]) -> dict[str, int | str | None]:
        """Size by archive, None where it is not told, or why it cannot be had; in threads, for name resolution knows no
        timeout.
        """
        found: dict[str, int | str | None] = {}

        def ask(archive: Archive) -> None:
            url = self._address(archive.url)
            try:
                answer = client.head(url, timeout=ANSWER_SECONDS)
            except httpx.HTTPError as error:
                found[archive.name] = f"{_host(url)} cannot be reached ({_describe(error)})"
                return
            if answer.status_code in (404, 410):
                found[archive.name] = f"{_host(url)} does not have {archive.file} (status {answer.status_code})"
            else:
                size = answer.headers.get("Content-Length", "")
                found[archive.name] = int(size) if answer.is_success and size.isdecimal() else None

        threads = [threading.Thread(target=ask, args=(archive,), daemon=True) for archive in archives]
        for thread in threads:
            thread.start()
        end = time.monotonic() + ANSWER_SECONDS
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
        answered = dict(found)
        silent = {
            archive.name: f"{_host(self._address(archive.url))} cannot be reached (no answer in {ANSWER_SECONDS:g} s)"
            for archive in archives
        }
        return {**silent, **answered}

    def _require_room(self, sizes: Mapping[str, int]) -> None:
        have = sum(part.stat().st_size for name in sizes if (part := self._part(name)).exists())
        needed = round(sum(sizes.values()) * (1 + UNPACKED)) - have
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise UserError(
                f"{self.folder} needs {decimal(needed)} of room and has {decimal(free)}: make room, "
                "or set SIGHTGLASS_CACHE_DIR to a folder on another disk."
            )

    # Fetching

    def _fetch_all(
        self, client: httpx.Client, archives: Sequence[Archive], sizes: Mapping[str, int | str | None]
    ) -> dict[str, str]:
        if not archives:
            return {}
        label = f"fetching {', '.join(archive.label for archive in archives)}"
        total = sum(size for size in sizes.values() if isinstance(size, int))
        done: dict[str, int] = {}
        with (
            Meter(self._console, label, lambda size: decimal(round(size))) as meter,
            ThreadPoolExecutor(max_workers=SIDE_BY_SIDE) as pool,
        ):
            first = {a.name: part.stat().st_size for a in archives if (part := self._part(a.name)).exists()}
            meter.total(total, already=sum(first.values()))

            def at(archive: Archive) -> Callable[[int], None]:
                def say(position: int) -> None:
                    with self._lock:
                        done[archive.name] = position
                        meter.done(sum({**first, **done}.values()))

                return say

            def one(archive: Archive) -> tuple[str, str | None]:
                try:
                    self._obtain(client, archive, at(archive))
                except _FetchError as error:
                    return archive.name, str(error)
                except OSError as error:
                    raise self._unwritable(error) from None
                return archive.name, None

            return {name: reason for name, reason in pool.map(one, archives) if reason}

    def _unwritable(self, error: OSError) -> UserError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return UserError(f"{self.folder} is full: make room, or set SIGHTGLASS_CACHE_DIR to another disk.")
        return UserError(f"{error}: set SIGHTGLASS_CACHE_DIR to a folder that can be written.")

    def _obtain(self, client: httpx.Client, archive: Archive, at: Callable[[int], None]) -> None:
        """Fetch, check and unpack one archive, unless another process has done so while this one waited for it."""
        home = self.folder / archive.name
        with filelock.FileLock(self.folder / f"{archive.name}.lock"):
            if complete(home):
                return
            part = self._part(archive.name)
            expected = archive.sha256 or self._listed(client, archive)
            begun = part.exists()
            found = self._download(client, archive, part, at)
            if found != expected and begun:
                # What an earlier run left may be of another content: once more, from the beginning.
                part.unlink(missing_ok=True)
                found = self._download(client, archive, part, at)
            if found != expected:
                part.unlink(missing_ok=True)
                raise _FetchError(f"{archive.file} hashes to {found} instead of {expected}, so it was deleted")
            self._install(archive, part, home, expected)
            part.unlink(missing_ok=True)

    def _download(self, client: httpx.Client, archive: Archive, part: Path, at: Callable[[int], None]) -> str:
        """Fetch into ``part``, going on where an attempt broke off; returns the SHA-256 of the whole."""
        patience = _Patience(part)
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(httpx.TransportError),
            after=patience.note,
            wait=patience.wait,
            stop=patience.stop,
            reraise=True,
        )
        url = self._address(archive.url)
        try:
            attempts(self._continue, client, url, part, at)
        except httpx.HTTPError as error:
            have = decimal(part.stat().st_size if part.exists() else 0)
            reason = f"{archive.file} broke off after {have} ({_describe(error)}); the next run goes on"
            raise _FetchError(reason) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                part.unlink(missing_ok=True)
            raise
        with part.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _continue(self, client: httpx.Client, url: str, part: Path, at: Callable[[int], None]) -> None:
        have = part.stat().st_size if part.exists() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with client.stream("GET", url, headers=headers) as response:
            if have and response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                return  # all of it is there; the checksum decides
            response.raise_for_status()
            goes_on = response.status_code == httpx.codes.PARTIAL_CONTENT
            with part.open("ab" if goes_on else "wb") as file:
                for chunk in response.iter_raw():
                    file.write(chunk)
                    with self._lock:
                        self._fetched += len(chunk)
                    at(file.tell())

    # Checksums that are upstream's own word

    def _listed(self, client: httpx.Client, archive: Archive) -> str:
        """The checksum that was remembered at first use, else the one of upstream's list, which is remembered."""
        file = self.folder / SUMS
        with filelock.FileLock(self.folder / f"{SUMS}.lock"):
            remembered: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
            if archive.url in remembered:
                return remembered[archive.url]
            found = self._in_list(client, archive)
            remembered[archive.url] = found
            replace(file, json.dumps(remembered, indent=2, sort_keys=True))
        self._say(f"{archive.label}: no checksum is pinned, so upstream's own list is trusted and remembered in {file}")
        return found

    def _in_list(self, client: httpx.Client, archive: Archive) -> str:
        url = self._address(archive.checksums)
        try:
            answer = client.get(url).raise_for_status()
        except httpx.HTTPError as error:
            raise _FetchError(
                f"{archive.file} has no pinned checksum, and {url} has none ({_describe(error)})"
            ) from None
        # A mirror is whom its person trusts; upstream's word counts only if nobody on the way could change it.
        if self._mirror is None and any(step.url.scheme != "https" for step in (*answer.history, answer)):
            raise _FetchError(f"{archive.file} has no pinned checksum, and {url} does not come over TLS")
        found = checksum_in(answer.text, archive.file)
        if found is None:
            raise _FetchError(f"{archive.file} has no pinned checksum, and {url} does not name it")
        return found

    # Unpacking

    def _install(self, archive: Archive, part: Path, home: Path, sha256: str) -> None:
        for leftover in self.folder.glob(f".{home.name}.*"):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f".{home.name}.", dir=self.folder))
        try:
            result = work / "result"
            try:
                _unpack(archive, part, result)
            except (tarfile.TarError, zipfile.BadZipFile, EOFError, KeyError) as error:
                part.unlink()
                raise _FetchError(
                    f"{archive.file} is no archive that can be unpacked ({error.args[0] if error.args else error})"
                ) from None
            origin = {"url": archive.url, "sha256": sha256}
            (result / ORIGIN).write_text(json.dumps(origin, indent=2))
            if home.exists():
                shutil.rmtree(home)
            pagecache.forget(result)
            result.rename(home)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    # Small things

    def _part(self, name: str) -> Path:
        return self.folder / f"{name}.part"

    def _address(self, url: str) -> str:
        """The address itself, or the same path below the mirror."""
        return url if self._mirror is None else f"{self._mirror}{httpx.URL(url).raw_path.decode()}"

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    @staticmethod
    def _client() -> httpx.Client:
        """A client with the machine's proxies and certificates."""
        try:
            return httpx.Client(
                follow_redirects=True,
                timeout=httpx.Timeout(READ_SECONDS, connect=10),
                verify=_trust(),
                limits=httpx.Limits(max_connections=None),
            )
        except (ValueError, httpx.InvalidURL) as error:
            raise UserError(
                f"The proxy that HTTPS_PROXY, HTTP_PROXY or ALL_PROXY name cannot be used: {error}"
            ) from None


def _trust() -> ssl.SSLContext:
    """The certificates that this machine trusts, and those that its person names as other programs are told them."""
    context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        if file := os.environ.get(name):
            try:
                context.load_verify_locations(cafile=file)
            except (OSError, ssl.SSLError) as error:
                raise UserError(f"{name} is {file}, which holds no certificates ({error}): correct it.") from None
    return context


def complete(home: Path) -> bool:
    """Whether that folder was unpacked to its end."""
    return (home / ORIGIN).is_file()


def make(folder: Path) -> None:
    """Make a folder in the cache; :class:`UserError` where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A folder that is there may still not be ours, or lie on a disk that is read only.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"{error}: set SIGHTGLASS_CACHE_DIR to a folder that can be written.") from None


def replace(file: Path, text: str) -> None:
    """Write a file so that others find the old one or the new one, and never half of it."""
    part = file.with_name(f"{file.name}.new")
    part.write_text(text)
    part.replace(file)


def checksum_in(text: str, name: str) -> str | None:
    """The SHA-256 of that file in a list, as ``sha256sum`` writes it, or in a file that holds nothing else."""
    for line in text.splitlines():
        match = re.fullmatch(r"([0-9a-fA-F]{64})(?:\s+\*?(?:\./)?(\S+))?", line.strip())
        if match and (match[2] == name or (match[2] is None and len(text.split()) == 1)):
            return match[1].lower()
    return None


def _host(url: str) -> str:
    return httpx.URL(url).host


def _describe(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"status {error.response.status_code}"
    return str(error) or type(error).__name__


# Archives


def _unpack(archive: Archive, part: Path, target: Path) -> None:
    if not archive.members:
        _unpack_all(part, target)
        return
    programs = target / "bin"
    programs.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        opened = _members(archive.file, part, set(archive.members.values()), stack)
        found = set()
        for member, stream in opened:
            for program, path in archive.members.items():
                if path == member:
                    with (programs / program).open("wb") as file:
                        shutil.copyfileobj(stream, file, 1 << 20)
                    (programs / program).chmod(0o755)
                    found.add(program)
    if lacking := sorted(archive.members.keys() - found):
        raise KeyError(f"it has no {archive.members[lacking[0]]}")


def _members(file: str, part: Path, wanted: set[str], stack: contextlib.ExitStack) -> Iterator[tuple[str, IO[bytes]]]:
    """The wanted files of an archive, each with its name; an archive that is none is the one program itself."""
    if file.endswith((".tar.gz", ".tgz")):
        tar: tarfile.TarFile = stack.enter_context(tarfile.open(part, "r:gz"))  # noqa: SIM115 - the stack closes it
        for member in tar:
            name = member.name.removeprefix("./")
            if name in wanted and member.isfile() and (stream := tar.extractfile(member)) is not None:
                yield name, stream
    elif file.endswith(".zip"):
        packed = stack.enter_context(zipfile.ZipFile(part))
        for name in wanted & set(packed.namelist()):
            # A link is a file in a zip, with the place it leads to as its content.
            if not stat.S_ISLNK(packed.getinfo(name).external_attr >> 16):
                yield name, stack.enter_context(packed.open(name))
    else:
        for name in wanted:
            yield name, stack.enter_context(part.open("rb"))


def _unpack_all(part: Path, target: Path) -> None:
    """Unpack with Python's data filter, which refuses what would land outside; one folder at the top is left out."""
    raw = target.with_name("raw")
    raw.mkdir()
    with tarfile.open(part, "r:gz") as tar:
        tar.extractall(raw, filter="data")
    entries = list(raw.iterdir())
    if len(entries) != 1 or not entries[0].is_dir():
        raise KeyError("it has no folder at its top")
    entries[0].rename(target)
