"""Fetching upstream's archives, from a real server on this machine that does all that goes wrong on the way."""

import contextlib
import hashlib
import io
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console

from sightglass.facts import versions
from sightglass.facts.errors import UserError
from sightglass.local import fetch
from sightglass.local.fetch import Archive, Fetcher, Result, checksum_in, complete
from sightglass.local.servers import SERVERS, archive, host
from tests.unit.upstream import Trouble, Upstream, authority, pack, serve

PROGRAM = b"#!/bin/sh\necho fetched\n"
SCRIPT = """
import json, sys
from pathlib import Path
from rich.console import Console
from sightglass.facts.errors import UserError
from sightglass.local.fetch import Archive, Fetcher
archives = [Archive(**one) for one in json.loads(sys.argv[2])]
try:
    result = Fetcher(Path(sys.argv[1]), Console(stderr=True)).fetch(archives)
except UserError as error:
    sys.exit(f"said: {error}")
print(json.dumps({"homes": sorted(result.homes), "failures": dict(result.failures)}))
"""
Fetch = Callable[..., Result]


@pytest.fixture(autouse=True)
def plain_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy and no certificates of the person who runs the tests; no long waits."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(fetch, "FIRST_WAIT_SECONDS", 0.01)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with serve(Upstream()) as running:
        yield running


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "releases"


@pytest.fixture
def get(releases: Path, output: io.StringIO) -> Fetch:
    def call(*archives: Archive, mirror: str | None = None) -> Result:
        return Fetcher(releases, Console(file=output, width=200), mirror).fetch(archives)

    return call


def left_behind(releases: Path) -> list[str]:
    """Everything in the cache but locks."""
    return sorted(path.name for path in releases.iterdir() if path.suffix != ".lock")


def run(program: Path) -> str:
    return subprocess.run([program], capture_output=True, text=True, check=True).stdout


class TestRight:
    @pytest.mark.parametrize("file", ["x-1.0.tar.gz", "x.zip", "x-linux-amd64"])
    def test_each_kind_of_archive(
        self, upstream: Upstream, get: Fetch, releases: Path, output: io.StringIO, file: str
    ) -> None:
        found = get(upstream.archive("x", file, {"x": PROGRAM}))
        assert found.failures == {}
        assert run(found.homes["x-1.0"] / "bin" / "x") == "fetched\n"
        assert left_behind(releases) == ["x-1.0"]
        assert found.fetched == len(upstream.files[f"/{file}"])
        assert re.search(r"fetching x 1\.0: done after \d", output.getvalue())

    @pytest.mark.parametrize("platform", ["linux-amd64", "linux-arm64", "darwin-amd64", "darwin-arm64"])
    def test_every_server_in_its_upstreams_layout(self, upstream: Upstream, get: Fetch, platform: str) -> None:
        system, machine = platform.split("-")
        for server in SERVERS:
            known = archive(server.name, system, machine)
            assert known is not None
            assert known.members.keys() == server.programs.keys()
            # What else upstream puts beside a program must not hinder.
            contents = {"LICENSE": b"text", **dict.fromkeys(known.members.values(), PROGRAM)}
            content = pack(known.file, contents)
            upstream.files[f"/{known.file}"] = content
            here = replace(
                known, url=f"{upstream.url}/{known.file}", sha256=hashlib.sha256(content).hexdigest(), name=server.name
            )
            found = get(here)
            assert found.failures == {}
            assert {run(found.homes[server.name] / "bin" / name) for name in server.programs} == {"fetched\n"}

    def test_a_whole_archive_without_its_folder_at_the_top(self, upstream: Upstream, get: Fetch) -> None:
        files = {"grafana-1.0/bin/grafana": PROGRAM, "grafana-1.0/public/index.html": b"page"}
        found = get(upstream.archive("grafana", "grafana.tar.gz", files, members={}))
        home = found.homes["grafana-1.0"]
        assert run(home / "bin" / "grafana") == "fetched\n"
        assert (home / "public" / "index.html").read_bytes() == b"page"

    def test_the_second_time_nothing_is_asked(self, upstream: Upstream, get: Fetch, output: io.StringIO) -> None:
        one = upstream.archive("x", "x.zip", {"x": PROGRAM})
        first = get(one)
        asked, said = len(upstream.seen), output.getvalue()
        assert get(one).homes == first.homes
        assert (len(upstream.seen), output.getvalue()) == (asked, said)

    def test_another_version_is_fetched_beside_it_and_nothing_else(self, upstream: Upstream, get: Fetch) -> None:
        one, two = (upstream.archive(name, f"{name}.zip", {name: PROGRAM}) for name in ("x", "y"))
        get(one, two)
        newer = replace(upstream.archive("x", "x-2.zip", {"x": PROGRAM + b"#2"}), name="x-2.0")
        upstream.seen.clear()
        found = get(newer, two)
        assert {seen.path for seen in upstream.seen} == {"/x-2.zip"}
        assert (found.homes["x-2.0"] / "bin" / "x").read_bytes() == PROGRAM + b"#2"

    def test_several_come_side_by_side(self, upstream: Upstream, get: Fetch) -> None:
        archives = [upstream.archive(f"x{n}", f"x{n}.zip", {f"x{n}": PROGRAM}) for n in range(9)]
        assert len(get(*archives).homes) == 9

    def test_a_redirect_is_followed(self, upstream: Upstream, get: Fetch) -> None:
        one = upstream.archive("x", "x.zip", {"x": PROGRAM})
        upstream.files["/stored/x"] = upstream.files["/x.zip"]
        upstream.trouble["/x.zip"] = Trouble(redirect=f"{upstream.url}/stored/x")
        assert get(one).failures == {}
        assert upstream.gets("stored/x") == [None]

    def test_the_origin_is_written_beside_it(self, upstream: Upstream, get: Fetch) -> None:
        one = upstream.archive("x", "x.zip", {"x": PROGRAM})
        home = get(one).homes["x-1.0"]
        assert json.loads((home / fetch.ORIGIN).read_text()) == {"url": one.url, "sha256": one.sha256}


class TestWrong:
    def test_another_content_is_refused_and_never_unpacked(
        self, upstream: Upstream, get: Fetch, releases: Path
    ) -> None:
        one = upstream.archive("x", "x.zip", {"x": PROGRAM})
        upstream.files["/x.zip"] = evil = pack("x.zip", {"x": b"evil"})
        found = get(one)
        got = hashlib.sha256(evil).hexdigest()
        assert found.failures == {"x-1.0": f"x.zip hashes to {got} instead of {one.sha256}, so it was deleted"}
        assert found.homes == {}
        assert left_behind(releases) == []

    def test_a_truncated_file_is_refused(self, upstream: Upstream, get: Fetch, releases: Path) -> None:
        one = upstream.archive("x", "x.zip", {"x": os.urandom(1000)})
        upstream.trouble["/x.zip"] = Trouble(truncated=True)
        assert "x.zip hashes to" in get(one).failures["x-1.0"]
        assert left_behind(releases) == []
        upstream.trouble.clear()
        assert get(one).failures == {}

    def test_one_that_fails_leaves_the_others(self, upstream: Upstream, get: Fetch) -> None:
        good, lost = (upstream.archive(name, f"{name}.zip", {name: PROGRAM}) for name in ("good", "lost"))
        del upstream.files["/lost.zip"]
        found = get(good, lost)
        assert list(found.homes) == ["good-1.0"]
        assert found.failures == {"lost-1.0": "localhost does not have lost.zip (status 404)"}
        assert upstream.gets("lost.zip") == []

    def test_an_error_of_the_host(self, upstream: Upstream, get: Fetch) -> None:
        one = upstream.archive("x", "x.zip", {"x": PROGRAM})
        upstream.trouble["/x.zip"] = Trouble(status=503)
        assert "(status 503)" in get(one).failures["x-1.0"]

    @pytest.mark.parametrize(
        ("file", "contents", "said"),
        [
            ("x.zip", {"other": b"text"}, "it has no x"),
            ("x.tar.gz", {"other": b"text"}, "it has no x"),
        ],
    )
    def test_an_archive_of_something_else(
        self, upstream: Upstream, get: Fetch, releases: Path, file: str, contents: dict[str, bytes], said: str
    ) -> None:
        found = get(upstream.archive("x", file, contents, members={"x": "x"}))
        assert found.failures == {"x-1.0": f"{file} is no archive that can be unpacked ({said})"}
        assert left_behind(releases) == []

    @pytest.mark.parametrize("file", ["x.zip", "x.tar.gz"])
    def test_what_is_no_archive_at_all(self, upstream: Upstream, get: Fetch, releases: Path, file: str) -> None:
        one = upstream.archive("x", file, {"x": PROGRAM})
        upstream.files[f"/{file}"] = b"<html>log in first</html>"
        one = replace(one, sha256=hashlib.sha256(upstream.files[f"/{file}"]).hexdigest())
        assert f"{file} is no archive that can be unpacked" in get(one).failures["x-1.0"]
        assert left_behind(releases) == []

    def test_nothing_lands_outside_of_the_cache(
        self, upstream: Upstream, get: Fetch, releases: Path, tmp_path: Path
    ) -> None:
        files = {"top/bin/x": PROGRAM, "top/../../../../escaped": b"outside"}
        found = get(upstream.archive("x", "x.tar.gz", files, members={}))
        assert "is no archive that can be unpacked" in found.failures["x-1.0"]
        assert not list(tmp_path.rglob("escaped"))
        assert left_behind(releases) == []

    def test_what_a_killed_run_left_is_removed(self, upstream: Upstream, get: Fetch, releases: Path) -> None:
        (releases / ".x-1.0.killed").mkdir(parents=True)
        get(upstream.archive("x", "x.zip", {"x": PROGRAM}))
        assert left_behind(releases) == ["x-1.0"]


class TestInterrupted:
    def test_a_broken_download_goes_on_where_it_was(self, upstream: Upstream, get: Fetch) -> None:
        one = upstream.archive("x", "x.zip", {"x": os.urandom(1000)})
        upstream.trouble["/x.zip"] = Trouble(breaks=1)
        assert get(one).failures == {}
        assert upstream.gets("x.zip") == [None, f"bytes={len(upstream.files['/x.zip']) // 2}-"]

    def test_many_breaks_end_nothing_while_more_comes(self, upstream: Upstream, get: Fetch) -> None:
        one = upstream.archive("x", "x.zip", {"x": os.urandom(1_000_000)})
        upstream.trouble["/x.zip"] = Trouble(breaks=8)
        assert get(one).failures == {}
        assert len(upstream.gets("x.zip")) == 9

    def test_breaks_that_bring_nothing_end_it(self, upstream: Upstream, get: Fetch) -> None:
        one = upstream.archive("x", "x.zip", {"x": os.urandom(1_000_000)})
        # Without ranges each attempt ends in the same place.
        upstream.trouble["/x.zip"] = Trouble(breaks=100, no_ranges=True)
        assert "x.zip broke off after 500.2 kB" in get(one).failures["x-1.0"]
        assert len(upstream.gets("x.zip")) == 6

    def test_a_host_that_knows_no_ranges_begins_anew(self, upstream: Upstream, get: Fetch) -> None:
        one = upstream.archive("x", "x.zip", {"x": os.urandom(1000)})
        upstream.trouble["/x.zip"] = Trouble(breaks=1, no_ranges=True)
        assert get(one).failures == {}

    @pytest.mark.parametrize("share", [0.1, 1.0])
    def test_a_later_run_goes_on(self, upstream: Upstream, get: Fetch, releases: Path, share: float) -> None:
        one = upstream.archive("x", "x.zip", {"x": os.urandom(1000)})
        content = upstream.files["/x.zip"]
        begun = content[: round(len(content) * share)]
        releases.mkdir(parents=True)
        (releases / "x-1.0.part").write_bytes(begun)
        found = get(one)
        assert found.failures == {}
        assert upstream.gets("x.zip") == [f"bytes={len(begun)}-"]
        assert found.fetched == len(content) - len(begun)
        assert left_behind(releases) == ["x-1.0"]

    def test_what_an_earlier_run_left_of_another_content_is_fetched_anew(
        self, upstream: Upstream, get: Fetch, releases: Path
    ) -> None:
        one = upstream.archive("x", "x.zip", {"x": os.urandom(1000)})
        releases.mkdir(parents=True)
        (releases / "x-1.0.part").write_bytes(b"something else")
        assert get(one).failures == {}
        assert upstream.gets("x.zip") == ["bytes=14-", None]

    def test_one_that_never_ends_well(self, upstream: Upstream, get: Fetch, releases: Path) -> None:
        one = upstream.archive("x", "x.zip", {"x": os.urandom(1000)})
        upstream.trouble["/x.zip"] = Trouble(breaks=1000)
        reason = get(one).failures["x-1.0"]
        assert re.fullmatch(r"x\.zip broke off after [\d.,]+ (bytes|kB) \(.+\); the next run goes on", reason)
        assert left_behind(releases) == ["x-1.0.part"]

    def test_killed_at_ten_random_moments(self, releases: Path) -> None:
        content = random.Random(7).randbytes(3_000_000)
        slow = Upstream(rate=2_500_000.0)
        with serve(slow):
            archives = [slow.archive(f"x{n}", f"x{n}.tar.gz", {f"x{n}": content}) for n in range(3)]
            chance = random.Random(21)
            for _ in range(10):
                with start(releases, archives) as process:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(0.4 + chance.random())
                    process.kill()
                for one in archives:
                    home = releases / one.name
                    # There is nothing by that name, or all of it.
                    assert not home.exists() or (home / "bin" / one.label.split()[0]).read_bytes() == content
            with start(releases, archives) as process:
                answer, _ = process.communicate(timeout=60)
        assert json.loads(answer) == {"homes": ["x0-1.0", "x1-1.0", "x2-1.0"], "failures": {}}
        assert left_behind(releases) == ["x0-1.0", "x1-1.0", "x2-1.0"]
        for n in range(3):
            assert (releases / f"x{n}-1.0" / "bin" / f"x{n}").read_bytes() == content

    def test_two_at_once_fetch_each_archive_once(self, releases: Path) -> None:
        slow = Upstream(rate=2_000_000.0)
        with serve(slow):
            archives = [slow.archive(f"x{n}", f"x{n}.zip", {f"x{n}": os.urandom(400_000)}) for n in range(3)]
            with start(releases, archives) as first, start(releases, archives) as second:
                answers = [process.communicate(timeout=60)[0] for process in (first, second)]
        assert [json.loads(answer)["failures"] for answer in answers] == [{}, {}]
        assert [slow.gets(f"x{n}.zip") for n in range(3)] == [[None]] * 3
        assert left_behind(releases) == ["x0-1.0", "x1-1.0", "x2-1.0"]


@contextlib.contextmanager
def start(releases: Path, archives: list[Archive], *before: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process of its own that fetches them."""
    wanted = json.dumps([asdict(one) for one in archives])
    with subprocess.Popen(
        [*before, sys.executable, "-c", SCRIPT, str(releases), wanted],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    ) as process:
        yield process


class TestNoNetwork:
    def test_a_closed_port_is_one_reason_for_all(self, get: Fetch, releases: Path) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))  # taken, but nobody listens
            url = f"http://127.0.0.1:{unused.getsockname()[1]}"
            archives = [Archive(f"{n} 1.0", f"{n}-1.0", f"{url}/{n}.zip", "0" * 64, url, {n: n}) for n in ("x", "y")]
            found = get(*archives)
        assert len(set(found.failures.values())) == 1
        assert re.fullmatch(r"127\.0\.0\.1 cannot be reached \(.*refused.*\)", found.failures["x-1.0"])
        assert left_behind(releases) == []

    def test_a_host_that_never_comes_to_the_point_costs_three_seconds(self, get: Fetch) -> None:
        def drip(listener: socket.socket) -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    while True:
                        connection.sendall(b"H")  # often enough for a time-out between two bytes never to end it
                        time.sleep(0.2)

        with socket.create_server(("127.0.0.1", 0)) as listener:
            threading.Thread(target=drip, args=(listener,), daemon=True).start()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            started = time.monotonic()
            found = get(Archive("x 1.0", "x-1.0", f"{url}/x.zip", "0" * 64, url, {"x": "x"}))
            assert 2.5 < time.monotonic() - started < 10
        assert found.failures == {"x-1.0": "127.0.0.1 cannot be reached (no answer in 3 s)"}


class TestWayOut:
    def test_a_mirror_has_the_same_paths(self, upstream: Upstream, get: Fetch) -> None:
        one = upstream.archive("x", "x.zip", {"x": PROGRAM})
        upstream.files["/mirror/grafana/loki/x.zip"] = upstream.files.pop("/x.zip")
        found = get(replace(one, url="https://github.example/grafana/loki/x.zip"), mirror=f"{upstream.url}/mirror/")
        assert found.failures == {}
        assert upstream.gets("mirror/grafana/loki/x.zip") == [None]

    def test_a_proxy_is_asked(self, upstream: Upstream, get: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
        one = replace(upstream.archive("x", "x.zip", {"x": PROGRAM}), url="http://github.example/x.zip")
        monkeypatch.setenv("HTTP_PROXY", upstream.url)
        assert get(one).failures == {}
        assert {seen.host for seen in upstream.seen} == {"github.example"}

    def test_a_proxy_that_is_no_address(self, get: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTPS_PROXY", "carrier://pigeon")
        with pytest.raises(UserError, match=r"HTTPS_PROXY, .* cannot be used"):
            get(Archive("x 1.0", "x-1.0", "https://github.example/x.zip", "0" * 64, "", {"x": "x"}))

    def test_socks_is_spoken(self, upstream: Upstream, get: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
        monkeypatch.setenv("NO_PROXY", "localhost")
        assert get(upstream.archive("x", "x.zip", {"x": PROGRAM})).failures == {}

    @pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
    @pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
    def test_a_companys_certificate(
        self, tmp_path: Path, get: Fetch, monkeypatch: pytest.MonkeyPatch, variable: str
    ) -> None:
        certificate, tls = authority(tmp_path)
        with serve(Upstream(), tls) as secure:
            one = secure.archive("x", "x.zip", {"x": PROGRAM})
            assert "certificate" in get(one).failures["x-1.0"].lower()
            monkeypatch.setenv(variable, str(certificate))
            assert get(one).failures == {}

    def test_a_certificate_that_is_none(self, tmp_path: Path, get: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "empty.pem").write_text("nothing")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "empty.pem"))
        with pytest.raises(UserError, match=r"SSL_CERT_FILE is .*empty\.pem, which holds no certificates"):
            get(Archive("x 1.0", "x-1.0", "https://github.example/x.zip", "0" * 64, "", {"x": "x"}))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
class TestUpstreamsOwnList:
    @pytest.fixture
    def secure(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Upstream]:
        certificate, tls = authority(tmp_path)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with serve(Upstream(), tls) as running:
            yield running

    def test_it_is_trusted_over_tls_and_remembered(
        self, secure: Upstream, get: Fetch, releases: Path, output: io.StringIO
    ) -> None:
        one = secure.archive("x", "x.zip", {"x": PROGRAM})
        assert get(replace(one, sha256=None)).failures == {}
        assert json.loads((releases / fetch.SUMS).read_text()) == {one.url: one.sha256}
        assert "x 1.0: no checksum is pinned, so upstream's own list is trusted and remembered in" in output.getvalue()
        # Another day upstream, or whoever has taken its place, has another content and another list.
        shutil.rmtree(releases / "x-1.0")
        secure.files["/SUMS"] = b""
        secure.archive("x", "x.zip", {"x": b"evil"})
        assert f"instead of {one.sha256}" in get(replace(one, sha256=None)).failures["x-1.0"]

    def test_a_list_without_the_archive(self, secure: Upstream, get: Fetch) -> None:
        one = secure.archive("x", "x.zip", {"x": PROGRAM}, sha256=None)
        secure.files["/SUMS"] = f"{'0' * 64}  other.zip\n".encode()
        assert get(one).failures["x-1.0"].endswith("/SUMS does not name it")
        del secure.files["/SUMS"]
        assert get(one).failures["x-1.0"].endswith("/SUMS has none (status 404)")

    def test_a_list_that_comes_in_the_clear_is_not_trusted(self, upstream: Upstream, get: Fetch) -> None:
        one = upstream.archive("x", "x.zip", {"x": PROGRAM}, sha256=None)
        assert get(one).failures["x-1.0"].endswith("/SUMS does not come over TLS")

    def test_the_forms_of_lists(self) -> None:
        first, second = "a" * 64, "B" * 64
        assert checksum_in(f"{first}  x.zip\n{second} *y.zip\n", "y.zip") == second.lower()
        assert checksum_in(f"{first}\n", "x.zip") == first
        assert checksum_in(f"{first}  ./x.zip\n", "x.zip") == first
        assert checksum_in(f"{first}  xx.zip\n{second}\n", "x.zip") is None


class TestDisk:
    def test_room_is_asked_for_before(
        self, upstream: Upstream, get: Fetch, releases: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one = upstream.archive("x", "x.zip", {"x": os.urandom(100_000)})
        usage = shutil.disk_usage("/")
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=200_000))
        with pytest.raises(UserError, match=r"needs [\d.]+ kB of room and has 200\.0 kB: make room"):
            get(one)
        assert upstream.gets("x.zip") == []

    def test_a_disk_that_fills_meanwhile(self, upstream: Upstream, small_disk: list[str], tmp_path: Path) -> None:
        # Small to fetch, and more than the disk once it is unpacked.
        one = upstream.archive("x", "x.zip", {"x": bytes(30_000_000)})
        said = in_small_disk(small_disk, tmp_path, [one], "size=1m")
        assert re.search(r"said: .*/releases is full: make room, or set SIGHTGLASS_CACHE_DIR", said), said

    def test_a_disk_that_is_read_only(self, upstream: Upstream, small_disk: list[str], tmp_path: Path) -> None:
        one = upstream.archive("x", "x.zip", {"x": PROGRAM})
        said = in_small_disk(small_disk, tmp_path, [one], "size=1m,ro")
        assert re.search(r"said: .*Read-only file system.*: set SIGHTGLASS_CACHE_DIR", said), said

    def test_what_is_there_needs_no_writing(
        self, upstream: Upstream, get: Fetch, releases: Path, small_disk: list[str]
    ) -> None:
        one = upstream.archive("x", "x.zip", {"x": PROGRAM})
        get(one)
        command = [
            *small_disk,
            "sh",
            "-c",
            f'mount --bind "{releases}" "{releases}" && mount -o remount,bind,ro "{releases}" && exec "$@"',
        ]
        with start(releases, [one], *command, "sh") as process:
            answer, said = process.communicate(timeout=60)
        assert json.loads(answer) == {"homes": ["x-1.0"], "failures": {}}, said


@pytest.fixture
def small_disk() -> list[str]:
    """A command in front of another that may mount what it likes, out of everybody's sight."""
    command = ["unshare", "--map-root-user", "--mount"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*command, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("needs unshare and user namespaces")
    return command


def in_small_disk(command: list[str], tmp_path: Path, archives: list[Archive], options: str) -> str:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f'mount -t tmpfs -o {options} none "{disk}" && exec "$@"'
    with start(disk / "releases", archives, *command, "sh", "-c", mount, "sh") as process:
        return process.communicate(timeout=60)[1]


class TestProgress:
    def test_bytes_and_seconds_left_are_shown(self, releases: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        output = io.StringIO()
        slow = Upstream(rate=1_000_000.0)
        with serve(slow):
            one = slow.archive("x", "x.zip", {"x": os.urandom(4_000_000)})
            console = Console(file=output, width=200, force_terminal=True)
            found = Fetcher(releases, console).fetch([one])
        assert found.failures == {}
        assert re.search(r"\d+% of 4\.0 MB, \d+ s left", output.getvalue())


def test_complete_means_to_the_end(tmp_path: Path) -> None:
    assert not complete(tmp_path)
    (tmp_path / fetch.ORIGIN).write_text("{}")
    assert complete(tmp_path)


def test_addresses_are_upstreams_own() -> None:
    hosts = {"github.com", "dl.grafana.com"}
    for name, server in versions.load().servers.items():
        for platform in server.release.platforms if server.release else ():
            found = archive(name, *platform.split("-"))
            assert found is not None
            for url in (found.url, found.checksums):
                assert url.startswith("https://")
                assert url.split("/")[2] in hosts
                assert not re.search(r"[{}\s]", url)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_all_servers_come_within_90_seconds_at_100_mbit(
    programs: Mapping[str, Path], releases: Path, output: io.StringIO
) -> None:
    """The real servers as they were built here, in upstream's names, layouts and formats."""
    line = Upstream(rate=100e6 / 8)
    with serve(line):
        wanted = []
        for server in SERVERS:
            known = archive(server.name, *host())
            assert known is not None
            contents = {path: programs[program].read_bytes() for program, path in known.members.items()}
            wanted.append(line.archive(server.name, known.file, contents, members=dict(known.members)))
        # Grafana cannot be built: as much as its archive had for one system, of what does not get smaller.
        files = {f"grafana/public/{n}": os.urandom(45_000_000) for n in range(10)}
        wanted.append(line.archive("grafana", "grafana.tar.gz", files, members={}))
        del files, contents
        started = time.monotonic()
        found = Fetcher(releases, Console(file=output, width=200)).fetch(wanted)
        seconds = time.monotonic() - started
    assert found.failures == {}
    print(f"{found.fetched / 1e6:.0f} MB in {seconds:.1f} s")
    assert seconds < 90
    for server in SERVERS:
        for program in server.programs:
            fetched = found.homes[f"{server.name}-1.0"] / "bin" / program
            assert subprocess.run([fetched, "--version"], capture_output=True, check=False).returncode == 0, program
