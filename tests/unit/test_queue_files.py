"""Whatever a power cut leaves of the queue, the real Collector starts again."""

import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from sightglass.clients import http, polling
from sightglass.clients.polling import GiveUp, NotYet
from sightglass.facts import environments, settings
from sightglass.local import components
from sightglass.measure import bad_telemetry
from sightglass.runtime import queue_files
from tests.unit.conftest import Built
from tests.unit.ports import free_port

PAGE = 4096
NOBODY = "http://127.0.0.1:1"
PLACES = ("OTLP_GRPC", "OTLP_HTTP", "LOKI", "ALERTS", "HEALTH", "METRICS")


@dataclass(frozen=True)
class Collector:
    """A Collector whose servers are all away, so that everything waits in its queue."""

    process: subprocess.Popen[bytes]
    url: str

    def send(self, requests: int) -> None:
        """Lines and spans."""
        for number in range(requests):
            at = bad_telemetry.Origin(f"waits {number}", time.time_ns(), secrets.token_hex(16))
            for shape in (bad_telemetry.LOGS[0], bad_telemetry.TRACES[0]):
                (body,) = bad_telemetry.requests(shape, "waits", at, 20)
                bad_telemetry.send(self.url, shape.signal, body)


@contextmanager
def collector(program: Path, folder: Path, *before: str) -> Iterator[Collector]:
    """The real one with the real configuration, ready; it ends as by a power cut."""
    ports = {name: free_port() for name in PLACES}
    environment = {
        **os.environ,
        **environments.collector(components.LocalTopology(settings.load())),
        **{f"COLLECTOR_{name}_PORT": str(port) for name, port in ports.items()},
        **dict.fromkeys(("LOKI_URL", "PROMETHEUS_URL"), NOBODY),
        "TEMPO_OTLP_GRPC_ADDRESS": NOBODY.removeprefix("http://"),
        "COLLECTOR_QUEUE_DIR": str(folder),
        **dict.fromkeys(("POD_UID", "KUBE_NODE_NAME"), ""),
    }
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        command = [*before, str(program), *components.COLLECTOR_OPTIONS, f"--config={components.COLLECTOR_CONFIG}"]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:

        def ready() -> None:
            if process.poll() is not None:
                raise GiveUp(f"it ended with {process.returncode}")
            try:
                http.session.get(f"http://127.0.0.1:{ports['HEALTH']}", timeout=5).raise_for_status()
            except http.Error as error:
                raise NotYet(str(error)) from None

        polling.until(ready, timeout=30, what="the Collector to be ready")
        yield Collector(process, f"http://127.0.0.1:{ports['OTLP_HTTP']}")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)


@pytest.fixture(scope="module")
def moments(programs: Built, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of a queue at two moments: what is on the disk for sure, and what was written after it."""
    folder = tmp_path_factory.mktemp("moments")
    queue, early, late = (folder / name for name in ("queue", "early", "late"))
    queue.mkdir()
    with collector(programs["otelcol"], queue) as running:
        running.send(10)
        shutil.copytree(queue, early)
        running.send(10)
        shutil.copytree(queue, late)
    assert not queue_files.set_aside(late)
    return early, late


Break = Callable[[bytearray, bytes, random.Random], None]


def _torn(new: bytearray, old: bytes, chance: random.Random) -> None:
    """Of what was written since, any pages are on the disk and any are not: nothing orders them without fsync."""
    for at in range(0, len(new), PAGE):
        before = old[at : at + PAGE].ljust(PAGE, b"\0")
        if before != new[at : at + PAGE] and chance.random() < 0.5:
            new[at : at + PAGE] = before


def _zeroed(new: bytearray, _: bytes, chance: random.Random) -> None:
    at = chance.randrange(2, len(new) // PAGE // 2) * PAGE
    new[at:] = bytes(len(new) - at)


def _garbage(new: bytearray, _: bytes, chance: random.Random) -> None:
    for _unused in range(5):
        at = chance.randrange(len(new) // PAGE) * PAGE
        new[at : at + PAGE] = chance.randbytes(PAGE)


def _cut(new: bytearray, _: bytes, chance: random.Random) -> None:
    del new[chance.randrange(len(new)) :]


def _flipped(new: bytearray, _: bytes, chance: random.Random) -> None:
    for _unused in range(200):
        new[chance.randrange(len(new))] ^= 1 << chance.randrange(8)


def _foreign(new: bytearray, _: bytes, chance: random.Random) -> None:
    new[:] = chance.randbytes(len(new))


BREAKS: dict[str, Break] = {
    "torn": _torn,
    "zeroed": _zeroed,
    "garbage": _garbage,
    "cut": _cut,
    "flipped": _flipped,
    "foreign": _foreign,
}


def broken(moments: tuple[Path, Path], folder: Path, kind: Break, seed: int) -> None:
    """The later moment, damaged."""
    early, late = moments
    chance = random.Random(seed)
    folder.mkdir()
    for file in sorted(late.iterdir()):
        new, before = bytearray(file.read_bytes()), early / file.name
        kind(new, before.read_bytes() if before.exists() else b"", chance)
        (folder / file.name).write_bytes(new)


WRAPPED = (sys.executable, "-m", queue_files.__name__)


@pytest.mark.parametrize("kind", BREAKS)
def test_the_collector_starts_on_any_damage(
    programs: Built, moments: tuple[Path, Path], tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "queue"
    broken(moments, folder, BREAKS[kind], seed=1)
    with collector(programs["otelcol"], folder, *WRAPPED, str(folder)) as running:
        running.send(2)
        assert running.process.poll() is None


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 12))
@pytest.mark.parametrize("kind", BREAKS)
def test_the_collector_starts_on_more_damage(
    programs: Built, moments: tuple[Path, Path], tmp_path: Path, kind: str, seed: int
) -> None:
    folder = tmp_path / "queue"
    broken(moments, folder, BREAKS[kind], seed)
    with collector(programs["otelcol"], folder, *WRAPPED, str(folder)) as running:
        running.send(2)
        assert running.process.poll() is None


def test_without_it_the_collector_does_not_start(programs: Built, moments: tuple[Path, Path], tmp_path: Path) -> None:
    """The twin: the same damage, and nobody looks first."""
    folder = tmp_path / "queue"
    broken(moments, folder, _torn, seed=1)
    with pytest.raises(polling.DeadlineError, match="it ended with"), collector(programs["otelcol"], folder):
        pass


def test_a_sound_queue_is_kept_and_a_damaged_one_set_aside(moments: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "queue"
    shutil.copytree(moments[1], folder)
    lost, kept, *_ = sorted(folder.iterdir())
    (folder / "new").touch()
    (folder / "tempdb1").write_bytes(b"left by a compaction")
    lost.write_bytes(b"\1" * PAGE)
    before = kept.read_bytes()
    assert queue_files.set_aside(folder) == {lost.with_name(f"{lost.name}.damaged"): "it has no valid meta page"}
    assert not lost.exists()
    assert kept.read_bytes() == before
    assert queue_files.set_aside(folder) == {}
    # The next one of the same queue takes its place: they never fill the disk.
    lost.write_bytes(b"\2" * PAGE)
    (aside,) = queue_files.set_aside(folder)
    assert aside.read_bytes() == b"\2" * PAGE


def test_it_says_what_is_lost_and_goes_on_as_the_command(tmp_path: Path) -> None:
    (tmp_path / "exporter").write_bytes(b"\1" * PAGE)
    command = [*WRAPPED, str(tmp_path), sys.executable, "-c", "print('started')"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "started\n"
    assert "what waited in it is lost" in done.stderr
    assert "exporter.damaged" in done.stderr
