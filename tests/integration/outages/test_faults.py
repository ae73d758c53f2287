"""Servers stopped on purpose: exactly their rows go red, and nothing that was sent meanwhile is lost."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sightglass.clients import http, polling
from sightglass.clients.backends import Span
from sightglass.clients.polling import NotYet
from sightglass.facts.settings import CANARY, SERVICE, SERVICES
from sightglass.local.supervise import Supervisor
from sightglass.measure.latency import GOALS
from sightglass.verify.link_checks import LINKS
from sightglass.verify.predictions import predict
from sightglass.verify.run import checks_of, of_services
from sightglass.verify.signal_checks import HTTP_COUNT, SECOND, SIGNALS, THE_SERVICE
from tests.integration.running import Running

OBSERVED = [service.name for service in SERVICES]
COMPONENTS = sorted(
    {component for check in (*SIGNALS, *LINKS) for component in check.needs if component != THE_SERVICE}
)
COMPONENTS = sorted({*COMPONENTS, *OBSERVED})
OFTEN = {"collector", "loki", "prometheus", SERVICE}
"""Where signals begin, what all pass, and two stores. The others are long: red rows wait for all of their time."""
WAIT = 30.0
EXPORT_SECONDS = 1.0


@pytest.fixture(autouse=True)
def whole(stack: Running) -> Iterator[None]:
    """Whatever a test stopped runs again after it."""
    yield
    for name, state in Supervisor(stack.settings.state_dir).states().items():
        if not state.pid:
            start(stack, name)


def stop(stack: Running, name: str) -> None:
    done = stack.command("stop", name)
    assert done.returncode == 0, done.stderr


def start(stack: Running, name: str) -> None:
    done = stack.command("start", name)
    assert done.returncode == 0, done.stderr


def planned(stack: Running) -> list[tuple[str, str, str, tuple[str, ...]]]:
    """Kind, name, service and needs of every row."""
    found = of_services(checks_of(stack.target), stack.target)
    return [(check.kind, check.name, "" if check.once else service, check.needs) for check, service in found]


def key(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["kind"], row["name"], row["service"]


def test_every_row_is_green_when_all_runs(stack: Running) -> None:
    done = stack.command("verify", "--json")
    report = json.loads(done.stdout)
    assert [key(row) for row in report["rows"]] == [(kind, name, of) for kind, name, of, _ in planned(stack)]
    assert {row["service"] for row in report["rows"]} == {"", *OBSERVED}
    assert [row for row in report["rows"] if not row["ok"]] == []
    assert (done.returncode, report["ok"]) == (0, True)


@pytest.mark.parametrize(
    "component", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.long) for name in COMPONENTS]
)
def test_with_one_server_stopped_exactly_its_rows_are_red(stack: Running, component: str) -> None:
    stop(stack, component)
    done = stack.command("verify", "--json", "--timeout", "15")
    report = json.loads(done.stdout)
    red = {key(row): row["detail"] for row in report["rows"] if not row["ok"]}
    expected = {(kind, name, of) for kind, name, of, needs in planned(stack) if component in needs}
    assert set(red) == expected, red
    assert set(COMPONENTS) >= OFTEN
    assert (done.returncode, report["ok"]) == (1, False)
    status = stack.command("status", "--json")
    components = json.loads(status.stdout)["components"]
    assert [name for name, state in components.items() if not state["ready"]] == [component]
    assert status.returncode == 1


def line(stack: Running, service: str = SERVICE, message: str = "written by a test", **more: Any) -> str:
    """Append a line to a service's log, as the service would; returns its trace id."""
    trace_id = secrets.token_hex(16)
    record = {
        "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "severity": "INFO",
        "event.name": "test",
        "message": message,
        "trace_id": trace_id,
        "span_id": secrets.token_hex(8),
        "trace_flags": "01",
        **more,
    }
    file = stack.settings.service_logs_dir / f"{service}.log"
    with file.open("a") as log:
        log.write(json.dumps(record) + "\n")
    return trace_id


def test_collector_redacts_lines(stack: Running) -> None:
    since = datetime.now(UTC).timestamp()
    cards = "4111 1111 1111 1111 and 5105105105105100"
    # Sixteen digits that begin like a card's, as every twentieth figure has them.
    figures: dict[str, Any] = {
        "confidence": 0.4111111111111111,
        "probabilities": [0.5105105105105101, 4.123456789012345],
    }
    trace_id = line(stack, message=f"mail someone@example.org, token Bearer abcdefgh12345678, {cards}", **figures)
    expect_lines(stack, [trace_id], since)
    query = f'{{service_name="{SERVICE}"}} | trace_id="{trace_id}"'
    (found,) = stack.loki.lines(query, start=int((since - 60) * SECOND), end=int((since + 600) * SECOND))
    kept = json.loads(found.line)
    assert kept["message"] == "mail ****, token ****, **** and ****"
    assert {name: kept[name] for name in figures} == figures


def expect_lines(stack: Running, trace_ids: list[str], since: float, service: str = SERVICE) -> None:
    """Every line is in Loki exactly once, and stays so."""

    def counts() -> None:
        start_, end = int((since - 60) * SECOND), int((since + 600) * SECOND)
        found = stack.loki.lines(f'{{service_name="{service}"}} | event_name="test"', start=start_, end=end)
        ids = [item.labels["trace_id"] for item in found]
        wrong = {trace_id: ids.count(trace_id) for trace_id in trace_ids if ids.count(trace_id) != 1}
        if wrong:
            raise NotYet(f"{len(wrong)} of {len(trace_ids)} lines are not there exactly once: {wrong}")

    polling.until(counts, timeout=WAIT, what="every line exactly once")
    polling.stays(counts, duration=1, what="every line exactly once")


@pytest.mark.parametrize("component", ["loki", "collector", "promtail"])
def test_lines_printed_during_an_outage_arrive_once(stack: Running, component: str) -> None:
    since = datetime.now(UTC).timestamp()
    ids = [line(stack)]
    stop(stack, component)
    ids += [line(stack) for _ in range(20)]
    start(stack, component)
    ids.append(line(stack))
    expect_lines(stack, ids, since)


def test_no_line_is_lost_when_the_log_is_rotated(stack: Running, logs: Path) -> None:
    since = datetime.now(UTC).timestamp()
    file = logs / "rotating.log"
    ids = []
    for _ in range(4):
        ids += [line(stack, "rotating") for _ in range(50)]
        expect_lines(stack, ids[:1], since, "rotating")  # Promtail has the file open
        ids += [line(stack, "rotating") for _ in range(50)]
        file.rename(logs / "rotating.log.1")
    ids.append(line(stack, "rotating"))
    expect_lines(stack, ids, since, "rotating")
    for left in logs.glob("rotating.log*"):
        left.unlink()


def test_lines_survive_a_killed_collector_that_could_not_deliver(stack: Running) -> None:
    since = datetime.now(UTC).timestamp()
    before = accepted(stack)
    stop(stack, "loki")
    ids = [line(stack) for _ in range(20)]

    def taken() -> None:
        if accepted(stack) < before + 20:
            raise NotYet(f"{accepted(stack):g} lines, {before:g} before")

    polling.until(taken, timeout=WAIT, what="the collector to have taken the lines")
    components = json.loads(stack.command("status", "--json").stdout)["components"]
    os.kill(components["collector"]["pid"], signal.SIGKILL)
    start(stack, "loki")
    expect_lines(stack, ids, since)


def accepted(stack: Running) -> float:
    """Lines that the running Collector took from Promtail, by its own count."""
    metrics = http.session.get(f"{stack.settings.url('collector_metrics')}/metrics").text
    counts = re.findall(r'^otelcol_receiver_accepted_log_records.*receiver="loki".* (\d+)$', metrics, re.MULTILINE)
    return sum(float(count) for count in counts)


def test_spans_and_points_sent_during_an_outage_arrive(stack: Running) -> None:
    stop(stack, "tempo")
    stop(stack, "prometheus")
    stopped = time.time()
    made = [predict(stack.target.endpoint()) for _ in range(5)]
    time.sleep(3 * EXPORT_SECONDS)  # that is the outage
    started = time.time()
    start(stack, "prometheus")
    start(stack, "tempo")

    def traces() -> list[list[Span]]:
        return [stack.tempo.trace(prediction.trace_id) for prediction in made]

    assert all(len(spans) == 6 for spans in polling.until(traces, timeout=WAIT, what="all five traces"))

    def counted() -> None:
        # Points keep the time at which they were made: each second of the outage has its own, or was lost.
        times = stack.prometheus.times(f'{HTTP_COUNT}{{service_name="{SERVICE}"}}', start=stopped, end=started)
        gap = max(later - earlier for earlier, later in pairwise([stopped, *times, started]))
        if gap > 2 * EXPORT_SECONDS:
            raise NotYet(f"{gap:.1f} s of the outage of {started - stopped:.1f} s have no point; there are {times}")

    polling.until(counted, timeout=WAIT, what="the points of the outage")


def test_trace_outlives_tempo_stopped_right_after_a_query(stack: Running) -> None:
    prediction = predict(stack.target.endpoint())
    polling.until(lambda: stack.tempo.trace(prediction.trace_id), timeout=WAIT, what="the trace")
    stop(stack, "tempo")
    start(stack, "tempo")
    spans = polling.until(lambda: stack.tempo.trace(prediction.trace_id), timeout=WAIT, what="the trace again")
    assert len(spans) == 6


def test_second_up_changes_nothing(stack: Running) -> None:
    before = stack.supervisor_pids()
    done = stack.command("up")
    assert done.returncode == 0, done.stdout + done.stderr
    assert stack.supervisor_pids() == before


def test_a_killed_server_comes_back_by_itself(stack: Running) -> None:
    components = json.loads(stack.command("status", "--json").stdout)["components"]
    killed = components["promtail"]["pid"]
    os.kill(killed, signal.SIGKILL)

    def back() -> None:
        state = json.loads(stack.command("status", "--json").stdout)["components"]["promtail"]
        if not state["ready"] or state["pid"] == killed:
            raise NotYet(str(state))

    polling.until(back, timeout=WAIT, what="promtail to come back")


def latency(stack: Running, *arguments: str) -> tuple[int, dict[str, list[str]]]:
    """Status of the benchmark, and its table by signal."""
    command = [sys.executable, "-m", "sightglass.measure.latency", *arguments]
    done = subprocess.run(command, env=stack.environment, capture_output=True, text=True, timeout=120, check=False)
    rows = [[cell.strip() for cell in row.strip("│").split("│")] for row in done.stdout.splitlines() if row[:1] == "│"]
    assert [row[0] for row in rows] == list(GOALS), done.stderr
    return done.returncode, {row[0]: row[1:] for row in rows}


def test_latency_benchmark_finds_every_signal(stack: Running) -> None:
    status, rows = latency(stack, "--requests", "5", "--every", "0.2")
    assert [row[-1] for row in rows.values()] == ["0", "0", "0", "0"], rows
    # A busy machine may miss a goal, and the benchmark then says so.
    assert (status == 0) == all(row[-2] == "met" for row in rows.values()), rows


def test_latency_benchmark_fails_when_a_signal_is_lost(stack: Running) -> None:
    stop(stack, "loki")
    status, rows = latency(stack, "--requests", "1", "--timeout", "5")
    assert rows["log line"][-2:] == ["missed", "1"]
    assert [rows[name][-1] for name in GOALS if name != "log line"] == ["0", "0", "0"], rows
    assert status == 1


def test_logs_of_the_service_are_the_only_ones_tailed(logs: Path) -> None:
    # Behind its service's name a file has the time of its beginning.
    assert {file.name.split(".")[0] for file in logs.iterdir()} == {*OBSERVED, CANARY}
