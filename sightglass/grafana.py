"""Finds Grafana: a folder that the person names, or the official release, fetched once and checked.

Grafana is not built like the other servers, because its frontend is no Go module.
"""

import contextlib
import hashlib
import os
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock
import httpx
import tenacity
from rich.console import Console
from rich.filesize import decimal

from sightglass.errors import UserError
from sightglass.progress import Meter
from sightglass.servers import host

GRAFANA_VERSION = "13.2.2"
BUILD = "34846740809"
"""Upstream's number of the build. An address that holds it never changes its content; those under ``/oss/release/``,
which are shorter, have been filled anew a day after a release, with other checksums."""

SHA256 = {
    # As published on https://grafana.com/grafana/download/13.2.2?edition=oss and pinned by several other projects;
    # for macOS as one other project pins it.
    ("linux", "amd64"): "9662c838a09824fdb072e5f6fbdd45b62cf541b20f3d609ea5011e6e5f544c8f",
    ("linux", "arm64"): "7268f9a576f919f14e6263b344a85b6ac8d768fbda247910c43ce4e12c747a72",
    ("darwin", "arm64"): "9ea91bf7cc92aa34dd59321c44e7a15a22ee6f3dbb491849a6357451d35d5932",
}

ANSWER_SECONDS = 3.0
"""In which the release server has to answer the first request, name resolution included."""
READ_SECONDS = 20.0
ATTEMPTS = 5
FIRST_WAIT_SECONDS = 0.5
"""Between the first two attempts; doubles each time."""


@dataclass(frozen=True)
class GrafanaHome:
    """An unpacked Grafana release."""

    path: Path
    """The folder with ``bin``, ``conf`` and ``public``: Grafana's homepath."""
    command: tuple[str, ...]
    """What starts the server, before any flags."""


@dataclass(frozen=True)
class Unavailable:
    """There is no Grafana, and one sentence that says why and what to set."""

    reason: str


@dataclass(frozen=True)
class Archive:
    """A release archive and what it must hash to."""

    name: str
    url: str
    sha256: str


class _FetchError(Exception):
    """The archive could not be had; the message completes "could not be fetched: ..."."""


_unavailable: dict[str, Unavailable] = {}  # by address: one failure is enough for a run


def release(system: str, machine: str) -> Archive | None:
    """The pinned archive for that GOOS and GOARCH, if there is a pinned checksum."""
    checksum = SHA256.get((system, machine))
    if checksum is None:
        return None
    folder = f"https://dl.grafana.com/grafana/release/{GRAFANA_VERSION}"
    url = f"{folder}/grafana_{GRAFANA_VERSION}_{BUILD}_{system}_{machine}.tar.gz"
    return Archive(f"grafana-{GRAFANA_VERSION}-{system}-{machine}", url, checksum)


def find_grafana(
    *, grafana_home: Path | None, cache_dir: Path, console: Console, archive: Archive | None = None
) -> GrafanaHome | Unavailable:
    """Return the Grafana to start: ``grafana_home`` if given, else ``archive`` (the pinned release by default).

    Raises :class:`UserError` if ``grafana_home`` holds no Grafana. Never raises for want of a network.
    """
    if grafana_home is not None:
        return _given(grafana_home.absolute())
    if archive is None:
        system, machine = host()
        archive = release(system, machine)
        if archive is None:
            return Unavailable(f"There is no pinned Grafana for {system} on {machine}: {_remedy()}")
    folder = cache_dir.absolute() / "grafana"
    home = folder / archive.name
    if (found := _inspect(home)) is not None:
        return found
    if archive.url in _unavailable:
        return _unavailable[archive.url]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / f"{archive.name}.lock"):
            if (found := _inspect(home)) is None:  # unless another process fetched it meanwhile
                found = _install(archive, home, console)
    except (_FetchError, OSError) as error:
        missing = Unavailable(f"Grafana could not be fetched: {error}. To have dashboards, {_remedy()}")
        _unavailable[archive.url] = missing
        return missing
    return found


def _remedy() -> str:
    return f"unpack a release of Grafana (such as {GRAFANA_VERSION}) and set GRAFANA_HOME to its folder."


# What is there already


def _inspect(path: Path) -> GrafanaHome | None:
    if not (path / "conf" / "defaults.ini").is_file() or not (path / "public").is_dir():
        return None
    for name, *arguments in (("grafana", "server"), ("grafana-server",)):
        program = path / "bin" / name
        if program.is_file() and os.access(program, os.X_OK):
            return GrafanaHome(path, (str(program), *arguments))
    return None


def _given(path: Path) -> GrafanaHome:
    found = _inspect(path)
    if found is None:
        raise UserError(
            f"GRAFANA_HOME is {path}, which is no unpacked Grafana release: it has to hold "
            "bin/grafana (or bin/grafana-server), conf/defaults.ini and public. Correct it or unset it."
        )
    return found


# Fetching


def _install(archive: Archive, home: Path, console: Console) -> GrafanaHome:
    """Fetch, check and unpack; what is wrong or half done never gets the final name."""
    part = home.with_name(f"{home.name}.tar.gz.part")
    _require_answer(archive.url)
    _download(archive.url, part, console)
    checksum = _sha256(part)
    if checksum != archive.sha256:
        part.unlink()
        raise _FetchError(f"{archive.url} hashes to {checksum} instead of {archive.sha256}, so it was deleted")
    for leftover in home.parent.glob(f".{home.name}.*"):  # of a process that was killed
        shutil.rmtree(leftover)
    work = Path(tempfile.mkdtemp(prefix=f".{home.name}.", dir=home.parent))
    try:
        try:
            _unpack(part, work, console)
        except (tarfile.TarError, EOFError) as error:
            part.unlink()
            raise _FetchError(f"{archive.url} is no archive that can be unpacked ({error})") from error
        top = next((folder for folder in sorted(work.iterdir()) if _inspect(folder)), None)
        if top is None:
            part.unlink()
            raise _FetchError(f"{archive.url} holds no Grafana release")
        if home.exists():
            shutil.rmtree(home)
        top.rename(home)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    part.unlink()
    return _given(home)


def _require_answer(url: str) -> None:
    """Raise unless the server answers at once; in a thread, because name resolution knows no timeout."""
    failure: list[str] = ["no answer"]

    def ask() -> None:
        try:
            httpx.head(url, timeout=ANSWER_SECONDS, follow_redirects=True).raise_for_status()
            failure.clear()
        except httpx.HTTPError as error:
            failure[0] = _describe(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS)
    if failure:
        raise _FetchError(f"{httpx.URL(url).host} cannot be reached ({failure[0]})")


def _describe(error: httpx.HTTPError) -> str:
    if isinstance(error, httpx.HTTPStatusError):
        return f"status {error.response.status_code}"
    return str(error) or type(error).__name__


def _download(url: str, part: Path, console: Console) -> None:
    """Fetch into ``part``, going on where an earlier attempt, or an earlier run, broke off."""
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(httpx.TransportError),
        wait=tenacity.wait_exponential(multiplier=FIRST_WAIT_SECONDS),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        reraise=True,
    )
    try:
        with Meter(console, f"fetching {url.rpartition('/')[2]}", lambda size: decimal(round(size))) as meter:
            attempts(_continue, url, part, meter)
    except httpx.HTTPError as error:
        have = decimal(part.stat().st_size if part.exists() else 0)
        raise _FetchError(f"the download broke off after {have} ({_describe(error)}); the next run goes on") from error


def _continue(url: str, part: Path, meter: Meter) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    timeout = httpx.Timeout(READ_SECONDS, connect=ANSWER_SECONDS)
    with httpx.stream("GET", url, headers=headers, timeout=timeout, follow_redirects=True) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return  # all of it is there; the checksum decides
        response.raise_for_status()
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            have = 0
        meter.total(have + int(response.headers.get("Content-Length", 0)))
        with part.open("ab" if have else "wb") as file:
            for chunk in response.iter_raw():
                file.write(chunk)
                meter.done(file.tell())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unpack(part: Path, target: Path, console: Console) -> None:
    """Unpack with Python's data filter, which refuses what would land outside of ``target``."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(part.open("rb"))
        tar = stack.enter_context(tarfile.open(fileobj=file, mode="r:gz"))
        meter = stack.enter_context(Meter(console, "unpacking Grafana", lambda size: decimal(round(size))))
        meter.total(part.stat().st_size)

        def watched() -> Iterator[tarfile.TarInfo]:
            for member in tar:
                meter.done(file.tell())
                yield member

        tar.extractall(target, members=watched(), filter="data")
