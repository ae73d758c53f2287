"""The canary's own reckoning, and the program where every server is down or silent."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from opentelemetry.sdk.trace import TracerProvider

from ml_telemetry.signals import LOG_KEYS
from sightglass.clients import http, polling
from sightglass.clients.polling import NotYet
from sightglass.runtime import canary
from sightglass.runtime.canary import Probe, Watch
from tests.unit.ports import free_port

TIMEOUT = 1.5
TRACER = TracerProvider(shutdown_on_exit=False).get_tracer("test")


def probe() -> Probe:
    return Probe(TRACER.start_span("probe"), round(time.time(), 3), time.monotonic())


class Road:
    """A road that can be closed: what is sent is found once it is open."""

    def __init__(self) -> None:
        self.open = True
        self.sends = 0
        self.error: Exception = NotYet("the server does not answer")
        self.stop = threading.Event()
        self.watch = Watch("traces", TIMEOUT, self.send, self.find, self.stop)

    def send(self, _: Probe) -> None:
        self.sends += 1

    def find(self, _: Probe) -> None:
        if not self.open:
            raise self.error

    def over(self) -> float:
        """Wait for the end of the probe that is being looked for; the delay after it."""

        def ended() -> float:
            if self.watch._started is not None:
                raise NotYet("still looked for")
            delay = self.watch.delay()
            assert delay is not None
            return delay

        return polling.until(ended, timeout=5, interval=0.02, what="the end of the probe")


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_names_are_those_that_queries_use() -> None:
    assert [metric.prometheus_name for metric in canary.METRICS] == [
        *("canary_delay_seconds", "canary_lost_total", "canary_probes_total", "canary_probe_time_seconds")
    ]
    assert canary.SIGNAL.values == ("traces", "logs", "metrics")


def test_found_probe_has_its_delay_and_a_missing_one_is_lost() -> None:
    road = Road()
    assert road.watch.delay() is None
    road.watch.offer(probe())
    assert road.over() < TIMEOUT / 2
    assert (road.watch.probes, road.watch.lost) == (1, 0)
    road.open = False
    road.watch.offer(probe())
    assert road.over() == TIMEOUT
    assert (road.watch.probes, road.watch.lost) == (2, 1)


def test_delay_grows_while_a_signal_is_missing_and_falls_only_when_one_is_found() -> None:
    road = Road()
    road.open = False
    road.watch.offer(probe())
    seen = []

    def grown() -> None:
        seen.append(road.watch.delay())
        if road.watch._started is not None:
            raise NotYet(str(seen[-1]))

    polling.until(grown, timeout=5, interval=0.05, what="the end of the probe")
    delays = [delay for delay in seen if delay is not None]
    assert delays == sorted(delays)
    assert len(set(delays)) > 5
    assert delays[-1] == TIMEOUT
    # The next probe must not hide that the signal is still missing.
    road.watch.offer(probe())
    assert road.watch.delay() == TIMEOUT
    road.open = True
    assert road.over() < TIMEOUT


def test_outage_is_said_once_and_so_is_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    road = Road()
    for is_open in (True, False, False, True, True):
        road.open = is_open
        road.watch.offer(probe())
        road.over()
    said = lines(capsys)
    assert [line["event.name"] for line in said] == [canary.LOST_EVENT, canary.FOUND_EVENT]
    assert said[0]["message"] == "traces were not found within 1.5 s: the server does not answer"
    assert [line["severity"] for line in said] == ["WARN", "INFO"]
    assert {line["signal"] for line in said} == {"traces"}


def test_odd_answer_does_not_end_the_watch(capsys: pytest.CaptureFixture[str]) -> None:
    road = Road()
    road.open, road.error = False, KeyError("data")
    road.watch.offer(probe())
    assert road.over() == TIMEOUT
    assert "KeyError while" in lines(capsys)[0]["message"]
    road.open = True
    road.watch.offer(probe())
    assert road.over() < TIMEOUT


def test_what_could_not_be_sent_is_sent_again_and_what_was_sent_is_not() -> None:
    road = Road()
    tries: list[float] = []

    def send(_: Probe) -> None:
        tries.append(time.monotonic())
        if len(tries) < 3:
            raise NotYet("refused")

    looks: list[float] = []

    def find(_: Probe) -> None:
        looks.append(time.monotonic())
        if len(looks) < 3:
            raise NotYet("not there")

    road.watch = Watch("traces", 5, send, find, road.stop)
    road.watch.offer(probe())
    assert road.over() < 5
    assert (len(tries), len(looks)) == (3, 3)
    assert tries[-1] < looks[0]


def test_one_probe_at_a_time() -> None:
    road = Road()
    road.open = False
    assert road.watch.offer(probe())
    assert not road.watch.offer(probe())
    assert (road.sends, road.watch.probes) == (1, 1)
    road.over()
    assert road.watch.offer(probe())


@pytest.fixture(params=["down", "silent"])
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    """The canary where no server listens, or where servers take connections and never answer; its address and log."""
    log = tmp_path / "canary.log"
    with ExitStack() as stack:
        output = stack.enter_context(log.open("wb"))
        port, at = free_port(), free_port()
        if request.param == "silent":
            stack.enter_context(socket.create_server(("127.0.0.1", at)))
        servers = f"http://127.0.0.1:{at}"
        environment = {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            **{"LISTEN_ADDRESS": "127.0.0.1", "CANARY_PORT": str(port)},
            **dict.fromkeys(("TEMPO_URL", "LOKI_URL", "PROMETHEUS_URL", "OTEL_EXPORTER_OTLP_ENDPOINT"), servers),
            **{"OTEL_SERVICE_NAME": "canary", "CANARY_INTERVAL_SECONDS": "0.3", "CANARY_TIMEOUT_SECONDS": "0.6"},
        }
        command = [sys.executable, "-m", "sightglass.runtime.canary"]
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield process, f"http://127.0.0.1:{port}", log
        finally:
            process.kill()
            process.wait()


def test_program_survives_without_servers_and_stops_at_once(
    program: tuple[subprocess.Popen[bytes], str, Path],
) -> None:
    process, url, log = program

    def ready() -> None:
        try:
            answer = http.session.get(url, timeout=1)
        except http.Error as error:
            raise NotYet(type(error).__name__) from None
        if answer.status_code != 200:
            raise NotYet(str(answer.status_code))

    polling.until(ready, timeout=20, what="the canary to be ready")

    def written() -> list[dict[str, str]]:
        return [json.loads(line) for line in log.read_text().splitlines()]

    def missed_again() -> None:
        # The second line of each kind would have been written with the second probe's end.
        if sum(line["event.name"] == canary.PROBE_EVENT for line in written()) < 3:
            raise NotYet(log.read_text())

    polling.until(missed_again, timeout=40, what="two probes to be lost")
    ready()
    assert process.poll() is None
    assert psutil.Process(process.pid).memory_info().rss < 60 * 2**20
    process.terminate()
    # What a cluster gives it; whoever is killed ends with another status.
    assert process.wait(5) == 0
    assert all(set(LOG_KEYS) <= set(line) for line in written())
    missing = [line for line in written() if line["event.name"] != canary.PROBE_EVENT]
    assert sorted(line["signal"] for line in missing) == sorted(canary.SIGNAL.values)
    assert {line["event.name"] for line in missing} == {canary.LOST_EVENT}


def test_missing_address_is_named() -> None:
    environment = {"OTEL_SERVICE_NAME": "canary", "CANARY_INTERVAL_SECONDS": "15", "CANARY_TIMEOUT_SECONDS": "30"}
    command = [sys.executable, "-m", "sightglass.runtime.canary"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == "'TEMPO_URL' is not set: `make up` starts the canary with all that it needs.\n"
