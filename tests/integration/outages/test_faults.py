"""Servers stopped on purpose: exactly their rows go red, and nothing that was sent meanwhile is lost."""

import json
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sightglass import http, polling
from sightglass import settings as names
from sightglass.backends import Span
from sightglass.polling import NotYet
from sightglass.supervise import Supervisor
from sightglass.verify.links import LINKS
from sightglass.verify.predictions import predict
from sightglass.verify.run import checks_of
from sightglass.verify.signals import HTTP_COUNT, SECOND, SIGNALS
from tests.integration.running import Running

COMPONENTS = sorted({component for check in (*SIGNALS, *LINKS) for component in check.needs})
WAIT = 30.0


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


def test_every_row_is_green_when_all_runs(stack: Running) -> None:
    done = stack.command("verify", "--json")
    report = json.loads(done.stdout)
    assert [row["name"] for row in report["rows"]] == [check.name for check in checks_of(stack.target)]
    assert [row for row in report["rows"] if not row["ok"]] == []
    assert (done.returncode, report["ok"]) == (0, True)


@pytest.mark.parametrize("component", COMPONENTS)
def test_with_one_server_stopped_exactly_its_rows_are_red(stack: Running, component: str) -> None:
    stop(stack, component)
    done = stack.command("verify", "--json", "--timeout", "15")
    report = json.loads(done.stdout)
    red = {(row["kind"], row["name"]): row["detail"] for row in report["rows"] if not row["ok"]}
    expected = {(check.kind, check.name) for check in checks_of(stack.target) if component in check.needs}
    assert set(red) == expected, red
    assert (done.returncode, report["ok"]) == (1, False)
    status = stack.command("status", "--json")
    components = json.loads(status.stdout)["components"]
    assert [name for name, state in components.items() if not state["ready"]] == [component]
    assert status.returncode == 1


def line(stack: Running, service: str = names.SERVICE, message: str = "written by a test", **more: Any) -> str:
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
    query = f'{{service_name="{names.SERVICE}"}} | trace_id="{trace_id}"'
    (found,) = stack.loki.lines(query, start=int((since - 60) * SECOND), end=int((since + 600) * SECOND))
    kept = json.loads(found.line)
    assert kept["message"] == "mail ****, token ****, **** and ****"
    assert {name: kept[name] for name in figures} == figures


def expect_lines(stack: Running, trace_ids: list[str], since: float, service: str = names.SERVICE) -> None:
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
    made = [predict(stack.target.service_url) for _ in range(5)]
    start(stack, "prometheus")
    start(stack, "tempo")

    def traces() -> list[list[Span]]:
        return [stack.tempo.trace(prediction.trace_id) for prediction in made]

    assert all(len(spans) == 6 for spans in polling.until(traces, timeout=WAIT, what="all five traces"))

    def counted() -> None:
        now = stack.prometheus.total(f'{HTTP_COUNT}{{service_name="{names.SERVICE}", http_route="/predict"}}')
        if now < 5:
            raise NotYet(f"{HTTP_COUNT} is {now}")

    polling.until(counted, timeout=WAIT, what="the requests to be counted")


def test_trace_outlives_tempo_stopped_right_after_a_query(stack: Running) -> None:
    prediction = predict(stack.target.service_url)
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


def test_latency_benchmark_finds_every_signal(stack: Running) -> None:
    command = [sys.executable, "-m", "load_testing.latency", "--requests", "5", "--every", "0.2"]
    done = subprocess.run(command, env=stack.environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    rows = [row.split() for row in done.stdout.splitlines() if row.startswith("│")]
    assert [row[-2] for row in rows] == ["0", "0", "0", "0"], done.stdout


def test_logs_of_the_service_are_the_only_ones_tailed(logs: Path) -> None:
    # A rotated file has a number after its name.
    assert {file.name.split(".log")[0] for file in logs.iterdir()} == {names.SERVICE, names.CANARY}
