"""The canary against real servers: it finds what it sent, and notices exactly the signal that does not arrive."""

import time

import psutil
import pytest

from sightglass.clients import polling
from sightglass.clients.polling import NotYet
from sightglass.facts.settings import CANARY, CANARY_TIMEOUT
from sightglass.runtime.canary import DELAY, LOST, PROBE_EVENT, PROBES, SIGNAL, SPAN
from sightglass.verify.signal_checks import SECOND
from tests.integration.running import PACE, Running

WAIT = 30.0
LIMIT = CANARY_TIMEOUT / PACE


def by_signal(stack: Running, name: str) -> dict[str, float]:
    """Value of the canary's metric by signal."""
    samples = stack.prometheus.query(f'{name}{{service_name="{CANARY}"}}')
    return {sample.labels["signal"]: sample.value for sample in samples}


def all_found(stack: Running) -> None:
    """Every signal of the newest probe was found; raises :class:`NotYet`."""
    delays = by_signal(stack, DELAY.prometheus_name)
    if set(delays) != set(SIGNAL.values) or max(delays.values()) >= LIMIT:
        raise NotYet(f"delays are {delays}")


def test_every_signal_is_found_and_probes_go_on(stack: Running) -> None:
    polling.until(lambda: all_found(stack), timeout=WAIT, what="every signal to be found")
    before = by_signal(stack, PROBES.prometheus_name)

    def more() -> None:
        now = by_signal(stack, PROBES.prometheus_name)
        if any(now[signal] < before[signal] + 3 for signal in SIGNAL.values):
            raise NotYet(f"{before}, now {now}")

    polling.until(more, timeout=WAIT, what="three more probes of each signal")
    assert set(by_signal(stack, LOST.prometheus_name)) == set(SIGNAL.values)


def test_line_and_span_of_a_probe_have_one_trace_id(stack: Running) -> None:
    query = f'{{service_name="{CANARY}"}} | event_name="{PROBE_EVENT}"'
    start = int((time.time() - 60) * SECOND)

    def both() -> None:
        ids = [line.labels["trace_id"] for line in stack.loki.lines(query, start=start, end=time.time_ns())]
        if not ids:
            raise NotYet("no line")
        (span,) = stack.tempo.trace(ids[-1])
        assert (span.name, span.resource["service.name"]) == (SPAN, CANARY)

    polling.until(both, timeout=WAIT, what="a line of the canary and its trace")


@pytest.mark.parametrize(
    ("component", "signal"), [("tempo", "traces"), pytest.param("promtail", "logs", marks=pytest.mark.long)]
)
def test_exactly_the_signal_of_a_stopped_server_is_lost(stack: Running, component: str, signal: str) -> None:
    polling.until(lambda: all_found(stack), timeout=WAIT, what="every signal to be found")
    before = by_signal(stack, LOST.prometheus_name)
    done = stack.command("stop", component)
    assert done.returncode == 0, done.stderr
    try:

        def missing() -> dict[str, float]:
            delays = by_signal(stack, DELAY.prometheus_name)
            lost = by_signal(stack, LOST.prometheus_name)
            if delays[signal] < LIMIT or lost[signal] < before[signal] + 2:
                raise NotYet(f"delays {delays}, lost {lost}, before {before}")
            return {name: value for name, value in delays.items() if value >= LIMIT}

        assert set(polling.until(missing, timeout=2 * WAIT, what=f"{signal} to be lost")) == {signal}
        after = by_signal(stack, LOST.prometheus_name)
        assert {name for name in after if after[name] > before[name]} == {signal}
        # It lives, and says of itself that it is ready.
        assert stack.supervisor_pids()[CANARY]
    finally:
        done = stack.command("start", component)
        assert done.returncode == 0, done.stderr
    polling.until(lambda: all_found(stack), timeout=WAIT, what="every signal to be found again")


def test_canary_is_small_and_stops_at_once(stack: Running) -> None:
    process = psutil.Process(stack.supervisor_pids()[CANARY])
    assert process.memory_info().rss < 60 * 2**20
    process.terminate()

    def ended() -> None:
        # The supervisor may take another second to notice.
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            raise NotYet("still running")

    polling.until(ended, timeout=1, interval=0.05, what="the canary to end")

    def back() -> None:
        if stack.supervisor_pids()[CANARY] in (0, process.pid):
            raise NotYet("not started again")

    polling.until(back, timeout=WAIT, what="the canary to be started again")
