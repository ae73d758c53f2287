"""The real service whose standard output nobody reads for a while."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.unit.otlp import Receiver, until
from tests.unit.test_service_http import TEXT, Service, serving

# More lines than a pipe holds, so that each run has the reader's stand-still in its middle.
REQUESTS = 300
SMALL_BUFFER = 20_000


@contextmanager
def reader(file: Path) -> Iterator[tuple[int, int]]:
    """A program that copies what it reads into a file: its process id, and the end to write to."""
    with file.open("wb") as output:
        process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=output)
    assert process.stdin is not None
    try:
        yield process.pid, process.stdin.fileno()
    finally:
        os.kill(process.pid, signal.SIGCONT)
        process.stdin.close()
        process.wait(10)


def predict(client: httpx.Client) -> str:
    """Make a prediction and return its trace."""
    response = client.post("/predict", json={"text": TEXT})
    assert response.status_code == 200
    return str(response.json()["trace_id"])


def predicted(service: Service) -> list[str]:
    """The traces of all predictions that were logged so far, in the order of their lines."""
    return [line["trace_id"] for line in service.lines() if line["event.name"] == "ml.prediction"]


@pytest.mark.parametrize("buffer", [None, SMALL_BUFFER], ids=["room for all", "room for few"])
def test_requests_are_answered_while_the_reader_stands_still(tmp_path: Path, home: Path, buffer: int | None) -> None:
    environment = {"OTEL_METRIC_EXPORT_INTERVAL": "200"}
    if buffer is not None:
        environment["SIGHTGLASS_LOG_BUFFER_BYTES"] = str(buffer)
    file = tmp_path / "lines"
    with Receiver().serving() as receiver, reader(file) as (pid, pipe):
        with (
            serving(tmp_path, home, receiver.url, stdout=pipe, **environment) as running,
            httpx.Client(base_url=running.url, timeout=20) as client,
        ):
            service = Service(running.process, running.url, file)
            os.kill(pid, signal.SIGSTOP)
            sent: list[str] = []
            slowest = 0.0
            for _ in range(REQUESTS):
                start = time.monotonic()
                sent.append(predict(client))
                slowest = max(slowest, time.monotonic() - start)
            assert slowest < 5
            counted = f"{REQUESTS} predictions counted"
            until(lambda: receiver.value("ml.predictions") == REQUESTS, counted)
            # The pipe holds 64 KiB, and a line is a kilobyte.
            assert len(predicted(service)) < REQUESTS
            os.kill(pid, signal.SIGCONT)

            def lines_go_on() -> bool:
                sent.append(predict(client))
                return sent[-2] in predicted(service)

            until(lines_go_on, "lines once the reader goes on")
        found = predicted(service)
        assert found == [one for one in sent if one in set(found)]
        lost = len(sent) - len(found)
        assert (lost == 0) == (buffer is None)
        # The worker said at its end what it had not said yet.
        notices = [line for line in service.lines() if line["event.name"] == "ml.telemetry.dropped"]
        assert sum(line["ml.telemetry.dropped.count"] for line in notices) == lost
        assert receiver.value("ml.telemetry.dropped", signal="logs", reason="queue_full") == lost
