"""Faults that tests cause on the running stack; each is repaired when its context ends."""

import os
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import psutil
import pytest

from sightglass import components, http, polling, processes
from sightglass import settings as names
from sightglass.polling import NotYet
from sightglass.settings import REPOSITORY
from sightglass.supervise import Supervisor
from sightglass.up import PLANNED_PROGRAMS
from sightglass.verify.predictions import TEXTS, predict
from tests.integration.running import Running

OLD_SECONDS = 6 * 3600
"""Age of points that Prometheus no longer takes: its window for late ones is an hour."""
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
def traffic(stack: Running, *, rate: float = 20, users: int = 10) -> Iterator[None]:
    """Predictions are asked for all the time, about ``rate`` a second; what is answered does not matter."""
    over = threading.Event()

    def user() -> None:
        while not over.wait(users / rate):
            try:
                predict(stack.target.service_url, TEXTS[secrets.randbelow(len(TEXTS))])
            except NotYet:
                continue

    threads = [threading.Thread(target=user, daemon=True) for _ in range(users)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


@contextmanager
def served_instead(stack: Running, module: str, environment: dict[str, str]) -> Iterator[None]:
    """Another service runs in the place of the classifier: same port, same log file, same telemetry."""
    planned = components.build(stack.settings, stack.credentials, PLANNED_PROGRAMS, None)
    service = next(component for component in planned if component.name == names.SERVICE)
    command = [part.replace("text_classifier.service", module) for part in service.command]
    command[command.index("--working-dir") + 1] = str(REPOSITORY)
    # With the stack's marker it ends with the stack, whatever becomes of the test.
    marker = psutil.Process(Supervisor(stack.settings.state_dir).pid()).environ()[processes.MARKER]
    own = {"PYTHONPATH": str(REPOSITORY), processes.MARKER: marker}
    everything = {**os.environ, **service.environment, **environment, **own}
    with ExitStack() as exits:
        exits.enter_context(stopped(stack, names.SERVICE))
        log = exits.enter_context(service.log.open("a"))
        process = subprocess.Popen(command, env=everything, stdout=log, stderr=log, start_new_session=True)
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
    log = stack.settings.service_logs_dir / f"{service}.log"
    away = log.with_suffix(".away")
    log.rename(away)
    try:
        yield
    finally:
        away.rename(log)


@contextmanager
def points_too_old(stack: Running) -> Iterator[None]:
    """Points come in that Prometheus refuses for good."""
    over = threading.Event()

    def sender() -> None:
        while not over.wait(1):
            send(stack, "metrics", _gauge(time.time_ns() - OLD_SECONDS * 1_000_000_000))

    thread = threading.Thread(target=sender, daemon=True)
    # A newest point first, against which the others are too old.
    send(stack, "metrics", _gauge(time.time_ns()))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _gauge(when: int) -> dict[str, Any]:
    point = {"timeUnixNano": str(when), "asDouble": 1.0}
    metric = {"name": "test.old", "gauge": {"dataPoints": [point]}}
    return {"resourceMetrics": [{"resource": {}, "scopeMetrics": [{"metrics": [metric]}]}]}


@contextmanager
def flood(stack: Running, *, users: int = 8, megabytes: int = 12) -> Iterator[None]:
    """More comes in at once than the Collector may hold in memory; each sender ends when it is refused."""
    span = _span("x" * 1000)
    # One trace larger than Tempo takes, so that nothing of it is left to wait for.
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [span] * (megabytes * 1000)}]}]}
    over = threading.Event()

    def sender() -> None:
        while not over.is_set() and send(stack, "traces", body) == HTTPStatus.OK:
            pass

    threads = [threading.Thread(target=sender, daemon=True) for _ in range(users)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


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
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A file system of that size, mounted at ``folder``; skips where that is not allowed."""
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
        pytest.skip("needs root and mkfs.ext4 to mount a small disk")
    image = folder.with_name(f"{folder.name}.img")
    folder.mkdir(exist_ok=True)
    with image.open("wb") as file:
        file.truncate(megabytes * MEGABYTE)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
    done = subprocess.run(["mount", "-o", "loop", str(image), str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        image.unlink()
        pytest.skip(f"needs a loop device to mount a small disk: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
        image.unlink()


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
    with small_disk(tmp_path / "disk", 64) as folder:
        filler = fill(folder)
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
            exits.enter_context(small_disk(data, 256))
            shutil.copytree(kept, data, dirs_exist_ok=True)
        try:
            filler = fill(data / "lost+found")
            yield
        finally:
            filler.unlink()
            with stopped(stack, "minio"):
                shutil.rmtree(kept)
                shutil.copytree(data, kept, ignore=shutil.ignore_patterns("lost+found"))
                exits.close()
                shutil.rmtree(data)
                shutil.copytree(kept, data)
