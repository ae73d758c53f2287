"""Alertmanager as the stack starts it, alone, with every channel leading to a receiver of the test's own.

PagerDuty has one address in the world, so only its configuration is checked, by Alertmanager's tool in the unit tests.
"""

import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from sightglass.clients import http, polling
from sightglass.clients.backends import Alertmanager
from sightglass.clients.polling import NotYet
from sightglass.facts import credentials, settings
from sightglass.local import build, components
from tests.integration.mail import MailServer
from tests.integration.receiver import Receiver

WAIT = 20.0
LINKS = {
    "runbook_url": "http://127.0.0.1/runbooks/Test.md",
    "dashboard_url": "http://127.0.0.1/d/sightglass-service?var-service=test",
    "traces_url": "http://127.0.0.1/explore?panes=%7B%22a%22%3A%22b%22%7D",
}


@dataclass(frozen=True)
class Bench:
    """A running Alertmanager, and where its notifications go."""

    url: str
    receiver: Receiver
    mail: MailServer

    def post(self, alertname: str, severity: str, labels: Mapping[str, str], *, over: bool = False) -> None:
        """Tell Alertmanager of an alert, as Prometheus does."""
        now = datetime.now(UTC)
        alert = {
            "labels": {"alertname": alertname, "severity": severity, **labels},
            "annotations": {"summary": f"{alertname} is tested.", "description": "More of it.", **LINKS},
            "startsAt": (now - timedelta(seconds=10)).isoformat(),
            "endsAt": (now if over else now + timedelta(minutes=5)).isoformat(),
        }
        http.session.post(f"{self.url}/api/v2/alerts", json=[alert], timeout=5).raise_for_status()

    def told(self, path: str) -> set[str]:
        """Names of the alerts that came to a path."""
        return {alert["labels"]["alertname"] for n in self.receiver.at(path) for alert in n.body["alerts"]}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("notifications")
    with Receiver() as own, MailServer() as mail, pytest.MonkeyPatch.context() as patch:
        environment = {
            "STATE_DIR": str(folder),
            "PORT_OFFSET": "14000",
            "COLLECTOR_ALERTS_PORT": str(own.port),
            "ALERT_PACE": "10",
            "ALERT_WEBHOOK_URL": own.url("/webhook"),
            "ALERT_SLACK_URL": own.url("/slack"),
            "ALERT_EMAIL_TO": "people@example.org",
            "ALERT_EMAIL_FROM": "alerts@example.org",
            "ALERT_SMTP": mail.address,
            "ALERT_SMTP_USER": "alerts",
            "ALERT_SMTP_PASSWORD": "secret-of-smtp",
        }
        for name, value in environment.items():
            patch.setenv(settings.PREFIX + name, value)
        loaded = settings.load()
        programs = build.ensure_binaries(
            bin_dir=loaded.bin_dir, cache_dir=loaded.cache_dir, console=Console(stderr=True)
        )
        plan = components.build(loaded, credentials.Credentials(), programs, None)
        component = next(component for component in plan if component.name == "alertmanager")
        assert component.prepare
        component.prepare()
        with (folder / "alertmanager.log").open("wb") as log:
            process = subprocess.Popen(
                component.command, cwd=component.directory, env={}, stdout=log, stderr=subprocess.STDOUT
            )
        try:

            def ready() -> None:
                try:
                    http.session.get(component.ready_url, timeout=1).raise_for_status()
                except http.Error as error:
                    raise NotYet(str(error)) from None

            polling.until(ready, timeout=WAIT, what="Alertmanager")
            yield Bench(component.url, own, mail)
        finally:
            process.terminate()
            process.wait(10)


def test_alert_reaches_every_channel_and_so_does_its_end(bench: Bench) -> None:
    labels = {"service_name": "everywhere"}
    bench.post("EverywhereDown", "page", labels)
    for path in ("/alerts", "/webhook"):
        arrival = bench.receiver.wait_for("EverywhereDown", "firing", labels, WAIT, path=path)
        assert arrival.alert["annotations"]["summary"] == "EverywhereDown is tested."
    bench.post("EverywhereDown", "page", labels, over=True)
    for path in ("/alerts", "/webhook"):
        bench.receiver.wait_for("EverywhereDown", "resolved", labels, WAIT, path=path)

    def in_words() -> None:
        titles = [n.body["attachments"][0]["title"] for n in bench.receiver.at("/slack")]
        subjects = [mail.message["subject"] for mail in bench.mail.mails]
        wanted = ["FIRING: EverywhereDown (everywhere)", "RESOLVED: EverywhereDown (everywhere)"]
        for seen in (titles, subjects):
            if [title for title in seen if "Everywhere" in title] != wanted:
                raise NotYet(f"{titles}, {subjects}")

    polling.until(in_words, timeout=WAIT, what="both messages in Slack and by e-mail")
    message = bench.receiver.at("/slack")[0].body["attachments"][0]
    mail = bench.mail.mails[0]
    assert (mail.sender, mail.recipients, mail.password) == (
        "alerts@example.org",
        ("people@example.org",),
        "secret-of-smtp",
    )
    assert [part.get_content_type() for part in mail.message.iter_parts()] == ["text/plain"]
    (text_part,) = mail.message.iter_parts()
    for text in (message["text"], text_part.get_content()):
        for part in ("EverywhereDown is tested.", "More of it.", *LINKS.values()):
            assert part in text


def test_people_are_never_told_of_the_watchdog(bench: Bench) -> None:
    bench.post("Watchdog", "none", {})
    bench.post("AfterTheWatchdog", "ticket", {"service_name": "after"})
    bench.receiver.wait_for("Watchdog", "firing", {}, WAIT, path="/alerts")
    # What came later arrived, so the Watchdog would have.
    bench.receiver.wait_for("AfterTheWatchdog", "firing", {}, WAIT)

    def kept() -> None:
        if "Watchdog" in bench.told("/webhook"):
            raise NotYet("people were told of the Watchdog")

    polling.stays(kept, duration=2, what="people not to be told of the Watchdog")


def inhibited(bench: Bench) -> dict[str, bool]:
    """Whether each alert that Alertmanager holds is kept back, by what tells it apart in these tests."""
    return {
        alert["labels"]["id"]: bool(alert["status"]["inhibitedBy"])
        for alert in Alertmanager(bench.url).alerts()
        if "id" in alert["labels"]
    }


@pytest.mark.parametrize(
    ("source", "alerts", "expected"),
    [
        (
            ("BurnsFast", "page", {"slo": "latency", "service_name": "one"}),
            {
                "same": ("BurnsSlow", "ticket", {"slo": "latency", "service_name": "one"}),
                "other-objective": ("BurnsSlow", "ticket", {"slo": "availability", "service_name": "one"}),
                "other-service": ("BurnsSlow", "ticket", {"slo": "latency", "service_name": "two"}),
                "no-objective": ("Saturation", "ticket", {"service_name": "one"}),
            },
            {"same"},
        ),
        (
            ("ServerDown", "page", {"service_name": "tempo"}),
            {
                "traces": ("SignalLost", "page", {"signal": "traces"}),
                "late": ("IngestDelay", "ticket", {"signal": "traces"}),
                "logs": ("SignalLost", "page", {"signal": "logs"}),
            },
            {"traces", "late"},
        ),
        (
            ("ServerDown", "page", {"service_name": "promtail"}),
            {
                "logs-of-promtail": ("SignalLost", "page", {"signal": "logs"}),
                "traces-of-promtail": ("SignalLost", "page", {"signal": "traces"}),
            },
            {"logs-of-promtail"},
        ),
        (
            ("CollectorDown", "page", {}),
            {
                "metrics": ("SignalLost", "page", {"signal": "metrics"}),
                "disk": ("DiskFills", "page", {}),
            },
            {"metrics"},
        ),
    ],
    ids=["objective", "tempo", "promtail", "collector"],
)
def test_cause_keeps_back_its_effects_and_nothing_else(
    bench: Bench,
    source: tuple[str, str, dict[str, str]],
    alerts: dict[str, tuple[str, str, dict[str, str]]],
    expected: set[str],
) -> None:
    for key, (name, severity, labels) in alerts.items():
        bench.post(name, severity, {"id": key, **labels})
    assert {key for key, kept in inhibited(bench).items() if kept and key in alerts} == set()
    bench.post(*source)

    def kept_back() -> None:
        kept = {key for key, is_kept in inhibited(bench).items() if is_kept and key in alerts}
        if kept != expected:
            raise NotYet(str(kept))

    polling.until(kept_back, timeout=WAIT, what="exactly its effects to be kept back")
    bench.post(*source, over=True)


def test_the_receiver_waits_for_exactly_what_it_was_asked() -> None:
    with Receiver() as receiver:
        since = time.time()
        alert = {"status": "firing", "labels": {"alertname": "A", "service_name": "x"}}
        http.session.post(receiver.url("/webhook"), json={"alerts": [alert]}, timeout=5)
        assert receiver.wait_for("A", "firing", {"service_name": "x"}, 1, since=since).alert == alert
        others: list[tuple[str, str, dict[str, str], float]] = [
            ("B", "firing", {}, since),
            ("A", "resolved", {}, since),
            ("A", "firing", {"service_name": "y"}, since),
            ("A", "firing", {}, since + 60),
        ]
        for name, status, labels, later in others:
            with pytest.raises(polling.DeadlineError, match="1 alerts came to /webhook"):
                receiver.wait_for(name, status, labels, 0.2, since=later)
        with pytest.raises(polling.DeadlineError, match="0 alerts came to /elsewhere"):
            receiver.wait_for("A", "firing", {}, 0.2, path="/elsewhere")
