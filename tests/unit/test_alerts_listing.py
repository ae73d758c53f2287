"""What `make alerts` makes of the two servers' answers."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from rich.console import Console

from sightglass.alerting import listing
from sightglass.facts import credentials, settings
from sightglass.facts.settings import REPOSITORY

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LABELS = {"alertname": "ServerDown", "severity": "page", "service_name": "loki", "service_namespace": "sightglass"}
NOTES = {
    "summary": "loki does not answer. [bold]",
    "description": "Prometheus could not scrape it.",
    "runbook_url": "http://127.0.0.1/ServerDown.md",
    "dashboard_url": "http://127.0.0.1/d/sightglass-pipeline",
    "traces_url": f"http://127.0.0.1/explore?panes={'x' * 300}",  # longer than a line
}


def rule(name: str, *alerts: dict[str, Any], error: str = "") -> dict[str, Any]:
    """An alerting rule as Prometheus' API has it."""
    return {"type": "alerting", "name": name, "query": f"{name.lower()}\n== 0", "alerts": alerts, "lastError": error}


def found(labels: dict[str, str], state: str = "firing", value: str = "0e+00") -> dict[str, Any]:
    """An alert of a rule as Prometheus' API has it."""
    since = "2026-01-02T03:00:05.123456789Z"
    return {"labels": labels, "annotations": NOTES, "state": state, "activeAt": since, "value": value}


def heard(labels: dict[str, str], *, ends: str = "2026-01-02T03:08:00.000Z", **status: list[str]) -> dict[str, Any]:
    """An alert as Alertmanager's API has it, heard three seconds ago."""
    return {
        "labels": labels,
        "updatedAt": "2026-01-02T03:04:02.000Z",
        "endsAt": ends,
        "receivers": [{"name": "people"}, {"name": "log"}],
        "status": {"state": "active", "silencedBy": [], "inhibitedBy": [], **status},
    }


WATCHDOG = {"alertname": "Watchdog", "severity": "none"}
WATCHDOG_RULE = rule("Watchdog", found(WATCHDOG))


def combine(*rules: dict[str, Any], alerts: tuple[dict[str, Any], ...] = ()) -> listing.Listing:
    recording = {"type": "recording", "name": "job:up:sum", "query": "sum(up)"}
    return listing.combine([{"rules": [recording, *rules]}], alerts, NOW)


def printed(made: listing.Listing) -> str:
    console = Console(file=io.StringIO(), width=150)
    listing.show(made, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_nothing_but_the_watchdog_is_clear() -> None:
    made = combine(WATCHDOG_RULE, rule("ServerDown"), alerts=(heard(WATCHDOG),))
    assert (made.alerts, made.watchdog) == ([], 3.0)
    assert printed(made).splitlines() == [
        "alerting works: Watchdog heard 3 s ago",
        "Clear: nothing is firing or pending.",
    ]


@pytest.mark.parametrize("alerts", [(), (heard(WATCHDOG, ends="2026-01-02T03:04:00.000Z"),)])
def test_silent_watchdog_is_said(alerts: tuple[dict[str, Any], ...]) -> None:
    made = combine(WATCHDOG_RULE, alerts=alerts)
    assert made.watchdog is None
    assert "alerting does not work" in printed(made)


def test_firing_alert_is_shown_with_its_reason_and_links() -> None:
    made = combine(rule("ServerDown", found(LABELS)), alerts=(heard(WATCHDOG), heard(LABELS)))
    (alert,) = made.alerts
    assert (alert.state, alert.value, alert.receivers) == ("firing", 0.0, ["people", "log"])
    assert alert.labels == {"service_name": "loki"}
    text = printed(made)
    for part in (*NOTES.values(), "firing ServerDown (page) since", "service_name=loki", "serverdown == 0"):
        assert part in text
    assert "Clear" not in text
    assert "kept back" not in text


def test_pending_alert_comes_after_firing_ones_and_has_no_receiver_yet() -> None:
    other = {**LABELS, "alertname": "IngestDelay", "severity": "ticket"}
    made = combine(
        rule("IngestDelay", found(other, "pending", "NaN")), rule("ServerDown", found(LABELS)), alerts=(heard(LABELS),)
    )
    assert [(alert.name, alert.state) for alert in made.alerts] == [
        ("ServerDown", "firing"),
        ("IngestDelay", "pending"),
    ]
    assert (made.alerts[1].receivers, made.alerts[1].value) == ([], None)


def test_silenced_and_inhibited_alerts_say_so() -> None:
    silenced = heard(LABELS, silencedBy=["3c5e"], inhibitedBy=["fe01"])
    made = combine(rule("ServerDown", found(LABELS)), alerts=(silenced,))
    assert (made.alerts[0].silenced, made.alerts[0].inhibited) == (["3c5e"], ["fe01"])
    assert "silenced by 3c5e; inhibited by fe01" in printed(made)
    # Another alert's silence is not this one's.
    other = combine(rule("ServerDown", found({**LABELS, "service_name": "tempo"})), alerts=(silenced,))
    assert other.alerts[0].silenced == []


def test_rule_that_cannot_be_evaluated_is_said() -> None:
    made = combine(rule("ServerDown", error="many-to-many matching"), rule("IngestDelay"))
    assert made.broken == ["ServerDown cannot be evaluated: many-to-many matching"]
    assert made.broken[0] in printed(made)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Runs ``alerts`` against the two answers of :func:`combine`'s kind; without an answer nothing listens."""
    servers: list[ThreadingHTTPServer] = []

    def run(*arguments: str, **answers: Any) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "SIGHTGLASS_STATE_DIR": str(tmp_path), "SIGHTGLASS_PORT_OFFSET": "33000"}
        for name, body in answers.items():
            payload = json.dumps(body).encode()

            class Handler(BaseHTTPRequestHandler):
                body = payload

                def do_GET(self) -> None:
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(self.body)

                def log_message(self, *_: Any) -> None:
                    return

            servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
            Thread(target=servers[-1].serve_forever, daemon=True).start()
            environment[f"SIGHTGLASS_{name.upper()}_PORT"] = str(servers[-1].server_port)
        monkeypatch.setenv("SIGHTGLASS_STATE_DIR", str(tmp_path))
        credentials.load_or_create(credentials.file_in(settings.load().state_dir))
        return subprocess.run(
            [sys.executable, "-m", "sightglass", "alerts", *arguments],
            cwd=REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    yield run
    for server in servers:
        server.shutdown()
        server.server_close()


def test_command_answers_as_text_and_as_json(command: Any) -> None:
    rules = {"data": {"groups": [{"rules": [rule("ServerDown", found(LABELS))]}]}}
    done = command(prometheus=rules, alertmanager=[heard(LABELS)])
    assert (done.returncode, done.stderr) == (0, "")
    assert "firing ServerDown (page)" in done.stdout
    done = command("--json", prometheus=rules, alertmanager=[heard(LABELS)])
    answer = json.loads(done.stdout)
    assert answer["watchdog"] == {"heard": False, "seconds": None}
    assert [alert["name"] for alert in answer["alerts"]] == ["ServerDown"]


@pytest.mark.parametrize("up_is", ["alertmanager", "prometheus"])
def test_server_that_cannot_be_asked_is_named_in_one_sentence(command: Any, up_is: str) -> None:
    answers = {"alertmanager": [], "prometheus": {"data": {"groups": []}}}
    down = next(name for name in answers if name != up_is)
    done = command(**{up_is: answers[up_is]})
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(f"sightglass: {down} does not answer at")
