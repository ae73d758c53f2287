"""The servers' lock files, and the builder on a tiny server that compiles in a second."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import filelock
import pytest
import yaml
from rich.console import Console

from sightglass.clients.polling import NotYet, until
from sightglass.facts.errors import UserError
from sightglass.local import build as builder
from sightglass.local import fetch
from sightglass.local.build import built_binaries, ensure_binaries, lock, server_versions
from sightglass.local.fetch import Archive
from sightglass.local.servers import SERVERS, SERVERS_DIR, Pin, Server, host
from tests.unit.upstream import Upstream, serve

needs_go = pytest.mark.skipif(shutil.which("go") is None, reason="needs Go")
COLLECTOR = next(server for server in SERVERS if server.name == "collector")
LOCK_FOLDERS = sorted(path.parent for path in SERVERS_DIR.glob("*/go.mod"))

MAIN = """package main

import (
	"os"

	"example.test/words"
)

var version = "unset"

func main() { os.Stdout.WriteString(words.Prefix + version) }
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Server:
    """A server of one program that depends on one module, both on this disk."""
    folder = tmp_path / "checkout" / "tiny"
    words = folder / "words"
    words.mkdir(parents=True)
    (words / "go.mod").write_text("module example.test/words\n\ngo 1.21\n")
    (words / "words.go").write_text('package words\n\nvar Prefix = "tiny "\n')
    (words / "blue.go").write_text('//go:build blue\n\npackage words\n\nfunc init() { Prefix = "blue " }\n')
    (folder / "go.mod").write_text(
        "module example.test/tiny\n\ngo 1.21\n\n"
        "require example.test/words v1.2.3\n\nreplace example.test/words => ./words\n"
    )
    (folder / "go.sum").write_text("")
    (folder / "main.go").write_text(MAIN)
    return Server(
        name="tiny",
        folder=folder,
        module="example.test/words",
        programs={"tinyd": "."},
        stamp={"main.version": "{release}"},
    )


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


Build = Callable[..., dict[str, Path]]


@pytest.fixture
def output() -> StringIO:
    return StringIO()


@pytest.fixture
def build(tiny: Server, cache: Path, output: StringIO) -> Build:
    """``ensure_binaries`` for the tiny server; keyword arguments replace the defaults."""

    def call(**changes: object) -> dict[str, Path]:
        console = Console(file=output, width=200)
        arguments = {"bin_dir": None, "cache_dir": cache, "console": console, "servers": [tiny]} | changes
        return ensure_binaries(**arguments)  # type: ignore[arg-type]

    return call


@pytest.fixture
def no_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes away every program, so that a build would fail."""
    monkeypatch.setenv("PATH", "")


def run(program: Path) -> str:
    return subprocess.run([program], capture_output=True, text=True, check=True).stdout


def fake_go(folder: Path, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "go").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "go").chmod(0o755)


def in_cache(cache: Path) -> list[str]:
    """What a person sees in the cache, without locks and logs."""
    return sorted(path.name for path in (cache / "servers").iterdir() if path.suffix not in (".lock", ".log", ".json"))


@needs_go
class TestBuilding:
    def test_builds_a_program_that_knows_its_version(self, build: Build, cache: Path, output: StringIO) -> None:
        paths = build()
        assert paths.keys() == {"tinyd"}
        assert paths["tinyd"].is_absolute()
        assert paths["tinyd"].is_relative_to(cache)
        assert run(paths["tinyd"]) == "tiny 1.2.3"
        assert "building server 1 of 1: tiny 1.2.3" in output.getvalue()

    def test_what_is_there_is_found_without_building(
        self, build: Build, tiny: Server, cache: Path, tmp_path: Path
    ) -> None:
        assert built_binaries(bin_dir=None, cache_dir=cache, servers=[tiny]) == {}
        paths = build()
        assert built_binaries(bin_dir=None, cache_dir=cache, servers=[tiny]) == paths
        ready = tmp_path / "tinyd"
        ready.touch(0o755)
        assert built_binaries(bin_dir=tmp_path, cache_dir=cache, servers=[tiny]) == {"tinyd": ready}

    def test_a_second_call_starts_no_go_and_is_quick(
        self, build: Build, output: StringIO, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = build()
        said = output.getvalue()
        monkeypatch.setenv("PATH", "")
        started = time.monotonic()
        assert build() == first
        assert time.monotonic() - started < 0.3
        assert output.getvalue() == said

    def test_a_second_checkout_builds_nothing(
        self, build: Build, tiny: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = build()
        second = tmp_path / "another" / "tiny"
        shutil.copytree(tiny.folder, second)
        monkeypatch.setenv("PATH", "")
        assert build(servers=[replace(tiny, folder=second)]) == first

    def test_a_ready_program_wins_over_one_that_is_built_with_another(
        self, build: Build, tiny: Server, tmp_path: Path
    ) -> None:
        ready = tmp_path / "bin" / "tinyd"
        ready.parent.mkdir()
        ready.write_text("#!/bin/sh\n")
        ready.chmod(0o755)
        paths = build(bin_dir=ready.parent, servers=[replace(tiny, programs={"tinyd": ".", "tinytool": "."})])
        assert paths["tinyd"] == ready
        assert run(paths["tinytool"]) == "tiny 1.2.3"

    def test_a_changed_lock_file_is_built_beside_the_old_one(self, build: Build, tiny: Server, cache: Path) -> None:
        first = build()
        (tiny.folder / "go.sum").write_text(f"example.test/other v1.0.0/go.mod h1:{'A' * 43}=\n")
        second = build()
        assert second["tinyd"] != first["tinyd"]
        assert [run(first["tinyd"]), run(second["tinyd"])] == ["tiny 1.2.3", "tiny 1.2.3"]
        assert len(in_cache(cache)) == 2

    def test_a_lost_program_is_built_again(self, build: Build) -> None:
        program = build()["tinyd"]
        program.unlink()
        assert build()["tinyd"] == program
        assert run(program) == "tiny 1.2.3"

    def test_what_a_killed_build_left_is_removed(self, build: Build, tiny: Server, cache: Path) -> None:
        name = f"tiny-{tiny.key(*host())}"
        leftover = cache / "servers" / f".{name}.killed"
        leftover.mkdir(parents=True)
        other = cache / "servers" / ".other-0123.killed"
        other.mkdir()
        build()
        assert in_cache(cache) == [other.name, name]

    def test_the_persons_go_settings_stay_but_the_lock_files_win(
        self, build: Build, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GOFLAGS", "-mod=vendor -tags=blue")
        monkeypatch.setenv("GOWORK", "/nowhere/go.work")
        assert run(build()["tinyd"]) == "blue 1.2.3"

    def test_on_a_terminal_a_bar_ends_at_all_packages(self, build: Build, tiny: Server, output: StringIO) -> None:
        for path in (tiny.folder / "main.go", tiny.folder / "words" / "words.go"):
            with path.open("a") as file:
                file.write(f"\n// {uuid.uuid4()}: not in Go's build cache\n")
        build(console=Console(file=output, width=200, force_terminal=True))
        assert "100% of 2 packages" in output.getvalue()

    def test_waits_for_another_process_and_takes_what_it_built(
        self, build: Build, tiny: Server, cache: Path, output: StringIO
    ) -> None:
        home = cache / "servers" / f"tiny-{tiny.key(*host())}"
        home.parent.mkdir(parents=True)
        found: list[dict[str, Path]] = []
        with filelock.FileLock(home.with_name(f"{home.name}.lock")):
            second = threading.Thread(target=lambda: found.append(build()))
            second.start()

            def waiting() -> None:
                if "waiting for another process that builds tiny" not in output.getvalue():
                    raise NotYet(output.getvalue())

            until(waiting, timeout=30, what="the second build to wait")
            (home / "bin").mkdir(parents=True)
            (home / "bin" / "tinyd").write_text("built by the first process")
        second.join(timeout=30)
        assert found[0]["tinyd"].read_text() == "built by the first process"

    def test_a_compile_error_is_told_and_leaves_nothing(self, build: Build, tiny: Server, cache: Path) -> None:
        (tiny.folder / "main.go").write_text(MAIN.replace("words.Prefix", "words.Suffix"))
        with pytest.raises(UserError) as caught:
            build()
        sentence, *tail = str(caught.value).splitlines()
        log = cache / "servers" / f"tiny-{tiny.key(*host())}.log"
        assert sentence == (
            f"Building tiny 1.2.3 failed (go ended with status 1); the whole log is {log}; it ends with:"
        )
        assert any("undefined: words.Suffix" in line for line in tail)
        assert len(tail) <= 20
        assert in_cache(cache) == []
        (tiny.folder / "main.go").write_text(MAIN)
        assert run(build()["tinyd"]) == "tiny 1.2.3"

    def test_an_old_go_that_refuses_the_module(
        self, build: Build, tiny: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GOTOOLCHAIN", "local")
        go_mod = tiny.folder / "go.mod"
        go_mod.write_text(go_mod.read_text().replace("go 1.21", "go 1.999.0"))
        with pytest.raises(UserError, match=r"tiny needs Go 1\.999\.0 or newer, not this one .*SIGHTGLASS_BIN_DIR"):
            build()

    def test_an_interrupted_build_leaves_nothing(self, build: Build, tiny: Server, cache: Path, tmp_path: Path) -> None:
        fake_go(tmp_path / "slow", 'case "$1" in env) exec "$REAL_GO" "$@";; esac; touch "$STARTED"; exec sleep 60')
        script = (
            "import signal, sys; from pathlib import Path; from rich.console import Console\n"
            "from sightglass.local.build import ensure_binaries; from sightglass.local.servers import Server\n"
            # A shell's background job would ignore it.
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "tiny = Server('tiny', Path(sys.argv[1]), 'example.test/words', {'tinyd': '.'})\n"
            "ensure_binaries(bin_dir=None, cache_dir=Path(sys.argv[2]), console=Console(), servers=[tiny])\n"
        )
        started = tmp_path / "started"
        environment = os.environ | {
            "PATH": f"{tmp_path / 'slow'}:{os.environ['PATH']}",
            "REAL_GO": str(shutil.which("go")),
            "STARTED": str(started),
        }
        with subprocess.Popen([sys.executable, "-c", script, tiny.folder, cache], env=environment) as process:

            def building() -> None:
                if not started.exists():
                    raise NotYet(f"status {process.poll()}")

            until(building, timeout=30, what="the build to start")
            assert len(in_cache(cache)) == 1
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) != 0
        assert in_cache(cache) == []
        assert run(build()["tinyd"]) == "tiny 1.2.3"


class TestWhereItComesFrom:
    """Upstream's archive first, then a build; what is in the cache before both."""

    @pytest.fixture
    def upstream(self) -> Iterator[Upstream]:
        with serve(Upstream()) as running:
            yield running

    @pytest.fixture(autouse=True)
    def archives(self, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> dict[str, Archive]:
        """Upstream has one archive of the tiny server."""
        known = {"tiny": upstream.archive("tiny", "tiny.zip", {"tinyd": b"#!/bin/sh\nprintf fetched\n"})}
        monkeypatch.setattr(builder, "archive", lambda name, _system, _machine: known.get(name))
        versions_of = SimpleNamespace(servers={name: SimpleNamespace(version="9.9.9") for name in ("tiny", "other")})
        monkeypatch.setattr("sightglass.facts.versions.load", lambda: versions_of)
        monkeypatch.setattr(fetch, "FIRST_WAIT_SECONDS", 0.01)
        return known

    @pytest.fixture
    def other(self, tiny: Server) -> Server:
        """A second server, of which upstream has no archive."""
        return replace(tiny, name="other", programs={"otherd": "."})

    @pytest.mark.usefixtures("no_go")
    def test_an_archive_needs_no_go(self, build: Build, cache: Path, output: StringIO) -> None:
        assert run(build()["tinyd"]) == "fetched"
        assert not (cache / "servers").exists()
        assert re.search(r"fetched \d+ bytes in \d+ s, from upstream", output.getvalue())

    @needs_go
    def test_what_was_built_is_taken_without_asking(self, build: Build, upstream: Upstream) -> None:
        built = build(origin="build")
        assert run(built["tinyd"]) == "tiny 1.2.3"
        assert build() == built
        assert upstream.seen == []
        assert run(build(origin="release")["tinyd"]) == "fetched"
        # From here on both are there, and the archive comes first.
        assert run(build()["tinyd"]) == "fetched"
        assert build(origin="build") == built

    @needs_go
    def test_one_that_upstream_lacks_is_built_and_the_others_fetched(
        self, build: Build, tiny: Server, other: Server, output: StringIO
    ) -> None:
        paths = build(servers=[tiny, other])
        assert (run(paths["tinyd"]), run(paths["otherd"])) == ("fetched", "tiny 1.2.3")
        assert re.search(
            r"to be built, with Go: other 1\.2\.3 \(there is no archive for \w+ on \w+\)", output.getvalue()
        )
        said = output.getvalue()
        assert said.index("to be built") < said.index("fetching tiny")

    @needs_go
    def test_a_404_is_said_and_that_one_is_built(self, build: Build, upstream: Upstream, output: StringIO) -> None:
        upstream.files.clear()
        assert run(build()["tinyd"]) == "tiny 1.2.3"
        line = "to be built, with Go: tiny 1.2.3 (localhost does not have tiny.zip (status 404))"
        assert line in output.getvalue().splitlines()

    @needs_go
    def test_another_content_is_said_and_that_one_is_built(
        self, build: Build, upstream: Upstream, output: StringIO
    ) -> None:
        upstream.files["/tiny.zip"] = b"evil"
        assert run(build()["tinyd"]) == "tiny 1.2.3"
        assert "to be built, with Go: tiny 1.2.3 (tiny.zip hashes to" in output.getvalue()

    @needs_go
    def test_no_network_is_one_line_and_then_all_is_built(
        self, build: Build, tiny: Server, archives: dict[str, Archive], output: StringIO
    ) -> None:
        second = replace(tiny, name="second", programs={"secondd": "."})
        archives |= {
            name: replace(archives["tiny"], name=name, url="http://127.0.0.1:1/x.zip") for name in ("tiny", "second")
        }
        paths = build(servers=[tiny, second])
        assert {run(path) for path in paths.values()} == {"tiny 1.2.3"}
        lines = [line for line in output.getvalue().splitlines() if "cannot be reached" in line]
        assert len(lines) == 1
        assert lines[0].startswith("to be built, with Go: tiny 1.2.3, second 1.2.3 (127.0.0.1 cannot be reached (")

    @pytest.mark.usefixtures("no_go")
    def test_without_go_it_says_so_before_it_fetches(
        self, build: Build, tiny: Server, other: Server, upstream: Upstream
    ) -> None:
        with pytest.raises(UserError, match="there is no go on the PATH"):
            build(servers=[tiny, other])
        assert upstream.gets("tiny.zip") == []

    def test_only_archives_builds_nothing(self, build: Build, upstream: Upstream, cache: Path) -> None:
        upstream.files.clear()
        with pytest.raises(UserError, match=r"tiny cannot be fetched, and nothing is to be built: .*status 404"):
            build(origin="release")
        assert not (cache / "servers").exists()

    @pytest.mark.usefixtures("no_go")
    def test_a_mirror_is_asked(self, build: Build, upstream: Upstream, archives: dict[str, Archive]) -> None:
        archives["tiny"] = replace(archives["tiny"], url="https://github.example/tiny.zip")
        assert run(build(mirror=upstream.url)["tinyd"]) == "fetched"

    @pytest.mark.usefixtures("no_go")
    def test_the_versions_of_what_was_taken(
        self, tiny: Server, other: Server, cache: Path, tmp_path: Path, archives: dict[str, Archive]
    ) -> None:
        archives["other"] = replace(archives["tiny"], name="other-1", members={"otherd": "tinyd"})
        ready = tmp_path / "bin"
        ready.mkdir()
        (ready / "otherd").write_text("#!/bin/sh\n")
        (ready / "otherd").chmod(0o755)
        found = builder.supply(bin_dir=ready, cache_dir=cache, console=Console(file=StringIO()), servers=[tiny, other])
        assert found.versions == {"tiny": "9.9.9", "other": builder.GIVEN}
        assert list(found.builds) == []

    @needs_go
    def test_how_long_it_took_is_kept_for_the_next_time(self, build: Build, cache: Path) -> None:
        build(origin="build")
        kept = json.loads((cache / "servers" / builder.DURATIONS).read_text())
        assert kept.keys() == {"tiny"}
        assert kept["tiny"] > 0


@needs_go
class TestLocking:
    def test_the_lock_follows_the_sources_and_the_build_takes_it(self, build: Build, tiny: Server) -> None:
        more = tiny.folder / "more"
        more.mkdir()
        (more / "go.mod").write_text("module example.test/more\n\ngo 1.21\n")
        (more / "more.go").write_text('package more\n\nvar Suffix = " and more"\n')
        (tiny.folder / "main.go").write_text(
            MAIN.replace('"example.test/words"', '"example.test/more"\n\t"example.test/words"').replace(
                "version)", "version + more.Suffix)"
            )
        )
        with (tiny.folder / "go.mod").open("a") as go_mod:
            go_mod.write("\nrequire example.test/stale v1.0.0 // indirect\n\nreplace example.test/more => ./more\n")
        with pytest.raises(UserError, match=r"Building tiny 1\.2\.3 failed"):
            build()
        lock(tiny, Console(file=StringIO()))
        assert requirements((tiny.folder / "go.mod").read_text()).keys() == {"example.test/words", "example.test/more"}
        assert run(build()["tinyd"]) == "tiny 1.2.3 and more"

    def test_a_version_that_does_not_exist(self, tiny: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GOPROXY", "off")
        go_mod = tiny.folder / "go.mod"
        before = go_mod.read_text().replace("=> ./words", "=> example.test/elsewhere v1.9.9")
        go_mod.write_text(before)
        with pytest.raises(UserError, match=r"(?s)tiny cannot be resolved .*example\.test/elsewhere(@| )v1\.9\.9"):
            lock(tiny, Console(file=StringIO()))
        assert go_mod.read_text() == before


class TestWithoutBuilding:
    @pytest.fixture
    def bin_dir(self, tmp_path: Path) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir()
        (folder / "tinyd").write_text("#!/bin/sh\necho ready made\n")
        (folder / "tinyd").chmod(0o755)
        return folder

    @pytest.mark.usefixtures("no_go")
    def test_a_ready_program_wins(self, build: Build, bin_dir: Path, cache: Path) -> None:
        assert build(bin_dir=bin_dir) == {"tinyd": bin_dir / "tinyd"}
        assert not cache.exists()

    @pytest.mark.usefixtures("no_go")
    def test_only_what_was_asked_for_is_built(self, build: Build, tiny: Server, bin_dir: Path) -> None:
        servers = [tiny, replace(tiny, name="huge", programs={"huged": "."})]
        assert build(bin_dir=bin_dir, servers=servers, names=["tinyd"]) == {"tinyd": bin_dir / "tinyd"}
        with pytest.raises(UserError, match="there is no go on the PATH"):
            build(bin_dir=bin_dir, servers=servers)

    def test_an_unknown_name(self, build: Build) -> None:
        with pytest.raises(ValueError, match="no server has the program nosuchd; there are tinyd"):
            build(names=["nosuchd"])

    def test_a_bin_dir_that_is_no_folder(self, build: Build, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"SIGHTGLASS_BIN_DIR is .*missing, which is no folder: correct it"):
            build(bin_dir=tmp_path / "missing")

    def test_a_ready_program_that_may_not_be_executed(self, build: Build, bin_dir: Path) -> None:
        (bin_dir / "tinyd").chmod(stat.S_IRUSR)
        with pytest.raises(UserError, match=r"tinyd may not be executed: run chmod \+x"):
            build(bin_dir=bin_dir)

    @pytest.mark.usefixtures("no_go")
    def test_no_go(self, build: Build) -> None:
        with pytest.raises(UserError) as caught:
            build()
        assert str(caught.value) == (
            "Building the servers needs Go 1.21 or newer and there is no go on the PATH: install it from "
            "https://go.dev/dl/, or set SIGHTGLASS_BIN_DIR to a folder that holds ready programs."
        )

    def test_a_go_so_old_that_it_does_not_refuse(
        self, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake_go(tmp_path / "old", """echo '{"GOVERSION": "go1.20.14", "GOFLAGS": ""}'""")
        monkeypatch.setenv("PATH", str(tmp_path / "old"))
        with pytest.raises(UserError, match=r"tiny needs Go 1\.21 or newer, not this one \(go1\.20\.14\): install it"):
            build()

    def test_a_cache_that_is_no_folder(self, build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_go(tmp_path / "new", """echo '{"GOVERSION": "go1.30", "GOFLAGS": ""}'""")
        monkeypatch.setenv("PATH", str(tmp_path / "new"))
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="set SIGHTGLASS_CACHE_DIR to a folder that can be written"):
            build(cache_dir=tmp_path / "file" / "cache")


class TestKey:
    def test_every_input_counts_and_the_checkout_does_not(self, tiny: Server, tmp_path: Path) -> None:
        moved = tmp_path / "moved" / "tiny"
        shutil.copytree(tiny.folder, moved)
        key = tiny.key("linux", "amd64")
        assert replace(tiny, folder=moved).key("linux", "amd64") == key
        (moved / "go.sum").write_text("\n")
        others = {
            replace(tiny, folder=moved).key("linux", "amd64"),
            replace(tiny, programs={"tinyd": "./cmd"}).key("linux", "amd64"),
            replace(tiny, tags=("netgo",)).key("linux", "amd64"),
            replace(tiny, stamp={}).key("linux", "amd64"),
            tiny.key("linux", "arm64"),
            tiny.key("darwin", "amd64"),
        }
        assert len(others - {key}) == 6

    def test_the_collectors_manifest_and_builder_count(self, tmp_path: Path) -> None:
        shutil.copytree(SERVERS_DIR / "collector", tmp_path / "collector")
        shutil.copytree(SERVERS_DIR / "collector-builder", tmp_path / "collector-builder")
        copy = replace(COLLECTOR, folder=tmp_path / "collector", builder=tmp_path / "collector-builder")
        keys = [copy.key("linux", "amd64")]
        assert keys == [COLLECTOR.key("linux", "amd64")]
        for name in ("collector/builder.yaml", "collector-builder/go.sum"):
            with (tmp_path / name).open("a") as file:
                file.write("\n")
            keys.append(copy.key("linux", "amd64"))
        assert len(set(keys)) == 3


class TestVersions:
    def test_each_server_has_one(self) -> None:
        versions = server_versions()
        assert versions.keys() == {server.name for server in SERVERS}
        for name in versions.keys() - {"minio"}:
            assert re.fullmatch(r"\d+\.\d+\.\d+(-rc\.\d+)?", versions[name]), name
        assert re.fullmatch(r"RELEASE\.\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ", versions["minio"])

    def test_they_come_from_the_lock_file(self, tiny: Server) -> None:
        go_mod = tiny.folder / "go.mod"
        go_mod.write_text(go_mod.read_text().replace("v1.2.3", "v2.0.1"))
        assert server_versions([tiny]) == {"tiny": "2.0.1"}
        go_mod.write_text("module example.test/tiny\n")
        with pytest.raises(ValueError, match=r"go\.mod does not require example\.test/words"):
            server_versions([tiny])

    def test_a_commit_is_told_by_its_time(self) -> None:
        pin = Pin("v0.0.0-20250102030405-0123456789ab")
        assert (pin.revision, f"{pin.committed:%Y-%m-%dT%H:%M:%SZ}") == ("0123456789ab", "2025-01-02T03:04:05Z")


# The lock files

REQUIREMENT = re.compile(r"^\s*(?:require\s+)?([^\s()]+\.[^\s()]+) (v\S+)(?: //.*)?$", re.MULTILINE)
REPLACEMENT = re.compile(r"^\s*(?:replace\s+)?(\S+)(?: v\S+)? => (\S+) (v\S+)$", re.MULTILINE)


def requirements(go_mod: str) -> dict[str, str]:
    """Version by module, as required."""
    return {match[1]: match[2] for match in REQUIREMENT.finditer(go_mod)}


def missing_checksums(go_mod: str, go_sum: str) -> list[str]:
    """Modules that a build would have to ask the checksum database about."""
    have = {tuple(line.split()[:2]) for line in go_sum.splitlines()}
    replaced = {match[1]: (match[2], match[3]) for match in REPLACEMENT.finditer(go_mod)}
    wanted = [replaced.get(module, (module, version)) for module, version in requirements(go_mod).items()]
    return [f"{module} {version}" for module, version in wanted if (module, f"{version}/go.mod") not in have]


@pytest.mark.parametrize("folder", LOCK_FOLDERS, ids=lambda folder: folder.name)
class TestLockFiles:
    def test_every_module_has_a_checksum(self, folder: Path) -> None:
        go_mod, go_sum = (folder / "go.mod").read_text(), (folder / "go.sum").read_text()
        assert len(requirements(go_mod)) > 10
        assert missing_checksums(go_mod, go_sum) == []
        lost = next(name for name in requirements(go_mod).items() if f"{' '.join(name)}/go.mod h1:" in go_sum)
        shorter = re.sub(rf"^{re.escape(' '.join(lost))}/go.mod h1:.*$", "", go_sum, flags=re.MULTILINE)
        assert missing_checksums(go_mod, shorter) == [" ".join(lost)]

    def test_no_file_is_large(self, folder: Path) -> None:
        assert {path.name: path.stat().st_size for path in folder.iterdir() if path.stat().st_size > 700_000} == {}


def offline(folder: Path, packages: list[str], tags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Load packages from Go's module cache alone, with nothing but the lock files to trust."""
    environment = os.environ | {
        "CGO_ENABLED": "0",
        "GOFLAGS": "-mod=readonly",
        "GOPROXY": "off",
        "GOWORK": "off",
        "GONOSUMDB": "",
        "GOPRIVATE": "",
    }
    command = ["go", "list", "-deps", "-tags", ",".join(tags), "-f", "{{.ImportPath}}", *packages]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@needs_go
@pytest.mark.parametrize("server", [server for server in SERVERS if not server.builder], ids=lambda server: server.name)
def test_go_accepts_the_lock_files_offline(server: Server, tmp_path: Path) -> None:
    packages = list(server.programs.values())
    answer = offline(server.folder, packages, server.tags)
    if "GOPROXY=off" in answer.stderr:
        pytest.skip("the modules were not fetched on this machine")
    assert answer.returncode == 0, answer.stderr
    assert set(packages) <= set(answer.stdout.split())
    copy = tmp_path / server.name
    shutil.copytree(server.folder, copy)
    pin = server.pin()
    go_sum = (copy / "go.sum").read_text()
    own = re.compile(rf"^{re.escape(f'{server.module} {pin.version}')} h1:.*\n", re.MULTILINE)
    (copy / "go.sum").write_text(own.sub("", go_sum))
    assert "missing go.sum entry" in offline(copy, packages, server.tags).stderr


COMPONENT = re.compile(r"/(receiver|processor|exporter|connector|extension|extension/storage|provider)/[^/]+$")


def manifest_components(manifest: str) -> dict[str, str]:
    """Version by module of every component in the Collector's manifest."""
    sections = ("receivers", "processors", "connectors", "exporters", "extensions", "providers")
    content = yaml.safe_load(manifest)
    lines = [entry["gomod"] for section in sections for entry in content.get(section, [])]
    return dict(line.split() for line in lines)


def locked_components(go_mod: str) -> dict[str, str]:
    """Version by module of every component that the Collector's own sources import."""
    direct = "\n".join(line for line in go_mod.splitlines() if "// indirect" not in line)
    return {module: version for module, version in requirements(direct).items() if COMPONENT.search(module)}


class TestCollectorLock:
    manifest = COLLECTOR.manifest.read_text()
    go_mod = (COLLECTOR.folder / "go.mod").read_text()

    def test_is_what_the_manifest_says(self) -> None:
        assert manifest_components(self.manifest) == locked_components(self.go_mod)

    def test_a_component_that_was_not_locked_is_noticed(self) -> None:
        line = next(line for line in self.manifest.splitlines() if "intervalprocessor" in line)
        for changed in ("", re.sub(r"v0\.\d+", "v0.1", line), f"{line}\n{line.replace('interval', 'span')}"):
            assert manifest_components(self.manifest.replace(line, changed)) != locked_components(self.go_mod)

    @needs_go
    def test_go_accepts_the_lock_files_offline(self, tmp_path: Path) -> None:
        for name in ("go.mod", "go.sum"):
            shutil.copyfile(COLLECTOR.folder / name, tmp_path / name)
        modules = [*manifest_components(self.manifest), COLLECTOR.module]
        imports = "\n".join(f'import _ "{module}"' for module in modules)
        (tmp_path / "main.go").write_text(f"package main\n\n{imports}\n\nfunc main() {{}}\n")
        answer = offline(tmp_path, ["."])
        if "GOPROXY=off" in answer.stderr:
            pytest.skip("the modules were not fetched on this machine")
        assert answer.returncode == 0, answer.stderr
        assert set(modules) <= set(answer.stdout.split())

    def test_name_version_and_replacements_agree(self) -> None:
        manifest = yaml.safe_load(self.manifest)
        assert f"module {manifest['dist']['module']}\n" in self.go_mod
        assert manifest["dist"]["version"] == COLLECTOR.version()
        assert [manifest["dist"]["name"]] == list(COLLECTOR.programs)
        replaced = [f"{match[1]} => {match[2]} {match[3]}" for match in REPLACEMENT.finditer(self.go_mod)]
        assert replaced == manifest["replaces"]
