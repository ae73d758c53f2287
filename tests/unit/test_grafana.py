"""Finding and fetching Grafana, against a real HTTP server on this machine with a small archive."""

import contextlib
import hashlib
import io
import re
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console

from sightglass import grafana
from sightglass.errors import UserError
from sightglass.grafana import SHA256, Archive, GrafanaHome, Unavailable, find_grafana, release

PROGRAM = "#!/bin/sh\necho fake grafana\n"
FILES = {"bin/grafana": PROGRAM, "conf/defaults.ini": "[server]\n", "public/index.html": "<html></html>\n"}


def archive_of(files: dict[str, str], top: str = "grafana-v0.0.0/") -> bytes:
    """A gzipped tar archive with these files; programs are executable."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(top + name)
            member.size = len(text)
            member.mode = 0o755 if "bin/" in name else 0o644
            tar.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


class ReleaseServer(ThreadingHTTPServer):
    """Serves one archive at every path, and breaks off as often as it is told to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = archive_of(FILES)
        self.breaks = 0
        self.seen: list[tuple[str, str | None]] = []

    def archive(self, sha256: str | None = None) -> Archive:
        """What to fetch from here, with the right checksum unless another one is given."""
        checksum = sha256 or hashlib.sha256(self.content).hexdigest()
        url = f"http://127.0.0.1:{self.server_address[1]}/grafana.tar.gz"
        return Archive("grafana-0.0.0-test", url, checksum)

    def gets(self) -> list[str | None]:
        """The Range header of every GET."""
        return [header for method, header in self.seen if method == "GET"]


class _Handler(BaseHTTPRequestHandler):
    server: ReleaseServer

    def do_HEAD(self) -> None:
        self._answer(send=False)

    def do_GET(self) -> None:
        self._answer(send=True)

    def _answer(self, *, send: bool) -> None:
        wanted = self.headers.get("Range")
        self.server.seen.append((self.command, wanted))
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        body = self.server.content[start:]
        if not body:
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if send and self.server.breaks:
            self.server.breaks -= 1
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif send:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server() -> Iterator[ReleaseServer]:
    with ReleaseServer() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def output() -> io.StringIO:
    return io.StringIO()


def find(
    cache: Path, archive: Archive | None = None, output: io.StringIO | None = None, home: Path | None = None
) -> GrafanaHome | Unavailable:
    console = Console(file=output or io.StringIO(), width=200)
    return find_grafana(grafana_home=home, cache_dir=cache, console=console, archive=archive)


def left_behind(cache: Path) -> list[str]:
    """Everything in the cache but locks."""
    return sorted(path.name for path in (cache / "grafana").iterdir() if path.suffix != ".lock")


def unpacked(folder: Path, files: dict[str, str] = FILES) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o755 if "bin/" in name else 0o644)
    return folder


class TestFetching:
    def test_the_right_archive_is_unpacked(self, server: ReleaseServer, cache: Path, output: io.StringIO) -> None:
        found = find(cache, server.archive(), output)
        home = cache / "grafana" / "grafana-0.0.0-test"
        assert found == GrafanaHome(home, (str(home / "bin" / "grafana"), "server"))
        assert (home / "bin" / "grafana").read_text() == PROGRAM
        assert left_behind(cache) == [home.name]
        assert "fetching grafana.tar.gz: done after" in output.getvalue()

    def test_the_second_time_nothing_is_asked(self, server: ReleaseServer, cache: Path) -> None:
        first = find(cache, server.archive())
        asked = len(server.seen)
        assert find(cache, server.archive()) == first
        assert len(server.seen) == asked

    def test_another_content_is_refused(self, server: ReleaseServer, cache: Path) -> None:
        right = server.archive().sha256
        server.content = archive_of(FILES | {"bin/grafana": "#!/bin/sh\necho evil\n"})
        found = find(cache, server.archive(sha256=right))
        assert isinstance(found, Unavailable)
        got = hashlib.sha256(server.content).hexdigest()
        assert f"hashes to {got} instead of {right}, so it was deleted. To have dashboards," in found.reason
        assert found.reason.endswith("and set GRAFANA_HOME to its folder.")
        assert left_behind(cache) == []

    def test_a_broken_download_goes_on_where_it_was(self, server: ReleaseServer, cache: Path) -> None:
        server.breaks = 1
        assert isinstance(find(cache, server.archive()), GrafanaHome)
        assert server.gets() == [None, f"bytes={len(server.content) // 2}-"]

    def test_a_later_run_goes_on(self, server: ReleaseServer, cache: Path) -> None:
        part = cache / "grafana" / "grafana-0.0.0-test.tar.gz.part"
        part.parent.mkdir(parents=True)
        part.write_bytes(server.content[:100])
        assert isinstance(find(cache, server.archive()), GrafanaHome)
        assert server.gets() == ["bytes=100-"]

    def test_a_complete_download_of_a_run_that_died_is_used(self, server: ReleaseServer, cache: Path) -> None:
        part = cache / "grafana" / "grafana-0.0.0-test.tar.gz.part"
        part.parent.mkdir(parents=True)
        part.write_bytes(server.content)
        assert isinstance(find(cache, server.archive()), GrafanaHome)
        assert left_behind(cache) == ["grafana-0.0.0-test"]

    def test_a_download_that_never_ends_well(
        self, server: ReleaseServer, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(grafana, "FIRST_WAIT_SECONDS", 0.01)
        server.breaks = 1000
        found = find(cache, server.archive())
        assert isinstance(found, Unavailable)
        assert re.search(r"the download broke off after \d+ bytes .*; the next run goes on\.", found.reason)
        assert left_behind(cache) == ["grafana-0.0.0-test.tar.gz.part"]

    def test_nothing_lands_outside_of_the_cache(self, server: ReleaseServer, cache: Path, tmp_path: Path) -> None:
        server.content = archive_of(FILES | {"../../../escaped": "outside"})
        found = find(cache, server.archive())
        assert isinstance(found, Unavailable)
        assert "is no archive that can be unpacked" in found.reason
        assert not list(tmp_path.rglob("escaped"))
        assert left_behind(cache) == []

    def test_an_archive_of_something_else(self, server: ReleaseServer, cache: Path) -> None:
        server.content = archive_of({"readme": "no Grafana"})
        found = find(cache, server.archive())
        assert isinstance(found, Unavailable)
        assert "holds no Grafana release" in found.reason
        assert left_behind(cache) == []

    def test_what_a_killed_run_left_is_removed(self, server: ReleaseServer, cache: Path) -> None:
        (cache / "grafana" / ".grafana-0.0.0-test.killed").mkdir(parents=True)
        find(cache, server.archive())
        assert left_behind(cache) == ["grafana-0.0.0-test"]


class TestNoNetwork:
    def test_a_closed_port_is_told_and_remembered(self, cache: Path) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))  # taken, but nobody listens
            archive = Archive("grafana-0.0.0-test", f"http://127.0.0.1:{unused.getsockname()[1]}/x.tar.gz", "0" * 64)
            found = find(cache, archive)
        assert isinstance(found, Unavailable)
        assert re.fullmatch(
            r"Grafana could not be fetched: 127\.0\.0\.1 cannot be reached \(.*refused.*\)\. "
            r"To have dashboards, unpack a release of Grafana .* and set GRAFANA_HOME to its folder\.",
            found.reason,
        )
        assert find(cache, archive) is found
        assert left_behind(cache) == []

    def test_a_server_that_never_comes_to_the_point_costs_three_seconds_once(self, cache: Path) -> None:
        def drip(listener: socket.socket) -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                while True:
                    connection.sendall(b"H")  # often enough for a timeout between two bytes never to end it
                    time.sleep(0.2)

        with socket.create_server(("127.0.0.1", 0)) as listener:
            threading.Thread(target=drip, args=(listener,), daemon=True).start()
            archive = Archive("grafana-0.0.0-test", f"http://127.0.0.1:{listener.getsockname()[1]}/x.tar.gz", "0" * 64)
            started = time.monotonic()
            found = find(cache, archive)
            assert 2.5 < time.monotonic() - started < 10
            assert isinstance(found, Unavailable)
            assert "cannot be reached (no answer)" in found.reason
            started = time.monotonic()
            assert find(cache, archive) is found
            assert time.monotonic() - started < 0.5

    def test_a_server_without_the_archive(self, server: ReleaseServer, cache: Path) -> None:
        archive = server.archive()
        server.content = b""
        found = find(cache, archive)
        assert isinstance(found, Unavailable)
        assert "cannot be reached (status 416)" in found.reason
        assert server.gets() == []


class TestGivenHome:
    def test_it_wins_over_the_network(self, server: ReleaseServer, cache: Path, tmp_path: Path) -> None:
        home = unpacked(tmp_path / "mine")
        found = find(cache, server.archive(), home=home)
        assert found == GrafanaHome(home, (str(home / "bin" / "grafana"), "server"))
        assert server.seen == []

    def test_the_old_name_of_the_program(self, cache: Path, tmp_path: Path) -> None:
        home = unpacked(tmp_path / "old", FILES | {"bin/grafana-server": PROGRAM})
        (home / "bin" / "grafana").unlink()
        assert find(cache, home=home) == GrafanaHome(home, (str(home / "bin" / "grafana-server"),))

    @pytest.mark.parametrize("lost", sorted(FILES))
    def test_an_incomplete_one_is_an_error(self, cache: Path, tmp_path: Path, lost: str) -> None:
        home = unpacked(tmp_path / "half", {name: text for name, text in FILES.items() if name != lost})
        with pytest.raises(UserError) as caught:
            find(cache, home=home)
        assert str(caught.value) == (
            f"GRAFANA_HOME is {home}, which is no unpacked Grafana release: it has to hold bin/grafana "
            "(or bin/grafana-server), conf/defaults.ini and public. Correct it or unset it."
        )


class TestRelease:
    @pytest.mark.parametrize(("system", "machine"), sorted(SHA256))
    def test_each_pin_is_a_checksum_of_its_own(self, system: str, machine: str) -> None:
        archive = release(system, machine)
        assert archive is not None
        assert re.fullmatch(r"[0-9a-f]{64}", archive.sha256)
        assert archive.url.startswith("https://dl.grafana.com/")
        assert archive.url.endswith(f"_{system}_{machine}.tar.gz")
        assert [other for other in SHA256.values() if other == archive.sha256] == [archive.sha256]

    def test_there_is_none_for_other_machines(self) -> None:
        assert release("plan9", "amd64") is None
