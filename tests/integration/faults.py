"""Faults that tests cause on the running stack; each is repaired when its context ends."""

import os
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from http import HTTPStatus
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest

from sightglass.clients import http, polling
from sightglass.clients.polling import NotYet
from sightglass.facts.settings import REPOSITORY, SERVICE
from sightglass.facts.target import Endpoint
from sightglass.local import components, logfiles, processes
from sightglass.local.supervise import Supervisor
from sightglass.local.up import PLANNED_PROGRAMS
from sightglass.measure import bad_telemetry
from sightglass.verify.predictions import bodies, predict
from tests.integration.running import Running

MEGABYTE = 2**20


@contextmanager
def stopped(stack: Running, name: str) -> Iterator[None]:
    """One component does not run."""
    done = stack.command("stop", name)
    assert done.returncode == 0, done.stderr
    try:
        yield
    finally:
        done = stack.command("start", name)
        assert done.returncode == 0, done.stderr


@contextmanager
def traffic(stack: Running, *, rate: float = 20, users: int = 10, endpoint: Endpoint | None = None) -> Iterator[None]:
    """Users ask a service for predictions all the time, about ``rate`` a second; the answers do not matter."""
    asked = endpoint or stack.target.endpoint()

    def ask() -> None:
        with suppress(NotYet):
            predict(asked, secrets.choice(bodies(asked)), source=None)

    with repeated(ask, every=users / rate, threads=users):
        yield


@contextmanager
def repeated(act: Callable[[], object], *, every: float, threads: int = 1) -> Iterator[None]:
    """Do a thing again and again, in so many threads, until the context ends or it says ``False``."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(every) and act() is not False:
            pass

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        over.set()
        for worker in workers:
            worker.join()


@contextmanager
def served_instead(stack: Running, module: str, environment: dict[str, str]) -> Iterator[None]:
    """Another service runs in the place of the classifier: same port, same log file, same telemetry."""
    planned = components.build(stack.settings, stack.credentials, PLANNED_PROGRAMS, None)
    service = next(component for component in planned if component.name == SERVICE)
    command = [part.replace("text_classifier.service", module) for part in service.command]
    # With the stack's marker it ends with the stack, whatever becomes of the test.
    marker = psutil.Process(Supervisor(stack.settings.state_dir).pid()).environ()[processes.MARKER]
    own = {"PYTHONPATH": os.pathsep.join((str(REPOSITORY), str(service.directory))), processes.MARKER: marker}
    everything = {**os.environ, **service.environment, **environment, **own}
    with ExitStack() as exits:
        exits.enter_context(stopped(stack, SERVICE))
        log = exits.enter_context(service.log.open("a"))
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=everything, stdout=log, stderr=log, start_new_session=True
        )
        exits.callback(end, process)
        polling.until(lambda: ready(service.ready_url), timeout=60, what=f"{module} with {environment}")
        yield


def ready(url: str) -> None:
    try:
        status = http.session.get(url, timeout=2).status_code
    except http.Error as error:
        raise NotYet(type(error).__name__) from None
    if status != 200:
        raise NotYet(f"{status}")


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def broken(stack: Running, fault: str) -> Iterator[None]:
    """The classifier has one of the faults of :mod:`tests.integration.broken_service`."""
    with served_instead(stack, "tests.integration.broken_service", {"BROKEN": fault}):
        yield


def send(stack: Running, signal: str, body: Mapping[str, object]) -> int:
    """Post OTLP JSON to the Collector and return the status."""
    url = f"{stack.target.otlp_http_url}/v1/{signal}"
    try:
        return http.session.post(url, json=body, timeout=60).status_code
    except http.Error:
        return 0


@contextmanager
def renamed_log(stack: Running, service: str) -> Iterator[None]:
    """A service's log goes on under a name that Promtail does not read."""
    log = logfiles.newest(stack.settings.service_logs_dir, service)
    assert log is not None
    away = log.with_suffix(".away")
    log.rename(away)
    try:
        yield
    finally:
        away.rename(log)


@contextmanager
def points_refused(stack: Running) -> Iterator[None]:
    """Points come in that Prometheus refuses for good, and nobody can know it before: of one time, with two values."""
    when, values = time.time_ns(), count(1.0)
    send(stack, "metrics", _gauge(when, next(values)))
    with repeated(lambda: send(stack, "metrics", _gauge(when, next(values))), every=1):
        yield


@contextmanager
def points_left_out(stack: Running) -> Iterator[None]:
    """A service sends points that Prometheus would refuse."""
    body = {
        "resourceMetrics": [
            {
                "resource": bad_telemetry.resource("foreign", "faults"),
                "scopeMetrics": [{"metrics": [bad_telemetry.gauge("test.old", 1, bad_telemetry.SECOND)]}],
            }
        ]
    }
    with repeated(lambda: send(stack, "metrics", body), every=1):
        yield


def _gauge(when: int, value: float) -> dict[str, Any]:
    point = {"timeUnixNano": str(when), "asDouble": value}
    metric = {"name": "test.twice", "gauge": {"dataPoints": [point]}}
    return {"resourceMetrics": [{"resource": {}, "scopeMetrics": [{"metrics": [metric]}]}]}


@contextmanager
def flood(stack: Running, *, users: int = 8, megabytes: int = 12) -> Iterator[None]:
    """More comes in at once than the Collector may hold in memory; each sender ends when it is refused."""
    span = _span("x" * 1000)
    # One trace larger than Tempo takes, so that nothing of it is left to wait for.
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [span] * (megabytes * 1000)}]}]}
    with repeated(lambda: send(stack, "traces", body) == HTTPStatus.OK, every=0, threads=users):
        yield


def _span(filler: str) -> dict[str, Any]:
    now = str(time.time_ns())
    return {
        "traceId": secrets.token_hex(16),
        "spanId": secrets.token_hex(8),
        "name": "filler",
        "kind": 1,
        "startTimeUnixNano": now,
        "endTimeUnixNano": now,
        "attributes": [{"key": "filler", "value": {"stringValue": filler}}],
    }


@contextmanager
def full_queue(stack: Running, *, megabytes: int = 300) -> Iterator[None]:
    """Tempo is away while spans of that size come in."""
    with stopped(stack, "tempo"):
        for _ in range(megabytes // 10):
            spans = [_span("x" * 100_000) for _ in range(100)]
            status = send(stack, "traces", {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]})
            assert status == HTTPStatus.OK
        yield


@contextmanager
def small_disk(stack: Running, folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of that size, mounted at ``folder``; skips where that is not allowed. Returns a way to it for us.

    The stack's programs see it, and nobody else: it ends with the last of them, whatever becomes of this test.
    """
    runner = Supervisor(stack.settings.state_dir).pid()
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4") or not shutil.which("nsenter"):
        pytest.skip("needs root, mkfs.ext4 and nsenter to mount a small disk")
    if Path(f"/proc/{runner}/ns/mnt").readlink() == Path("/proc/self/ns/mnt").readlink():
        pytest.skip("needs unshare --mount, so that the small disk is the stack's alone")
    inside = ["nsenter", f"--target={runner}", "--mount", "--"]
    image = folder.with_name(f"{folder.name}.img")
    folder.mkdir(exist_ok=True)
    with image.open("wb") as file:
        file.truncate(megabytes * MEGABYTE)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    mount = [*inside, "mount", "-o", "loop", str(image), str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    # The loop device has it open as long as it is mounted.
    image.unlink()
    if done.returncode:
        pytest.skip(f"needs a loop device to mount a small disk: {done.stderr.strip()}")
    try:
        yield Path(f"/proc/{runner}/root") / folder.relative_to("/")
    finally:
        subprocess.run([*inside, "umount", str(folder)], check=True)


def fill(folder: Path, share: float = 0.95) -> Path:
    """Fill the file system of ``folder`` up to that share of its size; returns the file that does."""
    usage = shutil.disk_usage(folder)
    filler = folder / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, int(usage.total * share) - usage.used)
    return filler


@contextmanager
def full_disk(stack: Running, tmp_path: Path) -> Iterator[None]:
    """A disk of this machine is full; it stays mounted until its new state was seen."""
    folder = tmp_path / "disk"
    with small_disk(stack, folder, 64) as inside:
        filler = fill(inside)
        try:
            yield
        finally:
            filler.unlink()
            query = f'system_filesystem_usage_bytes{{mountpoint="{folder}", state="free"}} > {32 * MEGABYTE}'
            polling.until(partial(_holds, stack, query), timeout=30, what="the disk seen empty")


def _holds(stack: Running, query: str) -> None:
    if not stack.prometheus.query(query):
        raise NotYet(f"{query} holds for nothing")


@contextmanager
def full_object_store(stack: Running, tmp_path: Path) -> Iterator[None]:
    """MinIO's data lie on a small disk, which is full; its data go with it and come back."""
    data = stack.settings.data_dir("minio")
    kept = tmp_path / "kept"
    with ExitStack() as exits:
        with stopped(stack, "minio"):
            shutil.copytree(data, kept)
            inside = exits.enter_context(small_disk(stack, data, 256))
            shutil.copytree(kept, inside, dirs_exist_ok=True)
        try:
            filler = fill(inside / "lost+found")
            yield
        finally:
            filler.unlink()
            with stopped(stack, "minio"):
                shutil.rmtree(kept)
                shutil.copytree(inside, kept, ignore=shutil.ignore_patterns("lost+found"))
                exits.close()
                shutil.rmtree(data)
                shutil.copytree(kept, data)
