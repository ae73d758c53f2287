"""An alert from what causes it to whom it concerns: Prometheus, Alertmanager, a webhook and Loki."""

import json
import time
from collections.abc import Iterator

import pytest

from sightglass.clients import polling
from sightglass.clients.backends import Alertmanager
from sightglass.clients.polling import NotYet
from sightglass.verify.signal_checks import SECOND
from tests.integration.receiver import Receiver
from tests.integration.running import Running

WAIT = 40.0
STOPPED = "promtail"
LABELS = {"service_name": STOPPED}


@pytest.fixture
def stopped(stack: Running) -> Iterator[float]:
    """Promtail stopped, once Prometheus knows it alive; the time at which it was."""

    def known() -> None:
        if not stack.prometheus.query(f'up{{service_name="{STOPPED}"}} == 1'):
            raise NotYet("not scraped yet")

    polling.until(known, timeout=WAIT, what=f"a scrape of {STOPPED}")
    since = time.time()
    done = stack.command("stop", STOPPED)
    assert done.returncode == 0, done.stderr
    yield since
    done = stack.command("start", STOPPED)
    assert done.returncode == 0, done.stderr


def listed(stack: Running) -> list[str]:
    """States of our alert in Alertmanager; empty when it does not have it."""
    alerts = Alertmanager(stack.target.alertmanager_url).alerts()
    wanted = {"alertname": "ServerDown", **LABELS}.items()
    return [alert["status"]["state"] for alert in alerts if wanted <= alert["labels"].items()]


def stored(stack: Running, status: str, since: float) -> float:
    """Wait for Alertmanager's notification in Loki; the time at which it was made (Unix seconds)."""
    query = '{service_name="alertmanager"} | event_name="alert.notification" | alert_name="ServerDown"'

    def found() -> float:
        lines = stack.loki.lines(query, start=int(since * SECOND), end=time.time_ns() + SECOND)
        for line in lines:
            for alert in json.loads(line.line)["alerts"]:
                if alert["status"] == status and LABELS.items() <= alert["labels"].items():
                    return line.timestamp / SECOND
        raise NotYet(f"{len(lines)} notifications, none of them {status} for {STOPPED}")

    return polling.until(found, timeout=WAIT, what=f"the {status} alert in Loki")


def test_alert_of_a_stopped_server_reaches_everyone_and_so_does_its_end(
    stack: Running, receiver: Receiver, stopped: float
) -> None:
    def fires() -> None:
        if listed(stack) != ["active"]:
            raise NotYet(f"Alertmanager has {listed(stack)}")

    polling.until(fires, timeout=WAIT, what="the alert in Alertmanager")
    times = {"in Alertmanager": time.time()}
    arrival = receiver.wait_for("ServerDown", "firing", LABELS, WAIT, since=stopped)
    times["at the webhook"] = arrival.time
    times["in Loki"] = stored(stack, "firing", stopped)
    # No other server is said to be down.
    others = receiver.arrivals("ServerDown", "firing", {"service_name": "loki"}, path="/webhook", since=stopped)
    assert list(others) == []
    alerts = Alertmanager(stack.target.alertmanager_url).alerts()
    assert {a["labels"]["service_name"] for a in alerts if a["labels"]["alertname"] == "ServerDown"} == {STOPPED}
    assert {"summary", "description", "runbook_url", "dashboard_url", "traces_url"} <= set(arrival.alert["annotations"])

    answer = json.loads(stack.command("alerts", "--json").stdout)
    (shown,) = [a for a in answer["alerts"] if a["name"] == "ServerDown" and a["labels"]["service_name"] == STOPPED]
    assert (shown["state"], shown["receivers"]) == ("firing", ["people", "log"])
    assert set(shown["links"]) == {"runbook", "dashboard", "traces"}
    assert answer["watchdog"]["heard"] is True

    begun = time.time()
    done = stack.command("start", STOPPED)
    assert done.returncode == 0, done.stderr

    def over() -> None:
        if listed(stack):
            raise NotYet(f"Alertmanager has {listed(stack)}")

    ends = {"webhook": receiver.wait_for("ServerDown", "resolved", LABELS, WAIT, since=begun).time}
    ends["Loki"] = stored(stack, "resolved", begun)
    polling.until(over, timeout=WAIT, what="the alert to leave Alertmanager")
    for name, at in times.items():
        print(f"firing {name} {at - stopped:.1f} s after the stop")
    for name, at in ends.items():
        print(f"resolved, {name}: {at - begun:.1f} s after the start")


def test_people_are_not_told_of_the_watchdog_which_alertmanager_has(stack: Running, receiver: Receiver) -> None:
    alerts = Alertmanager(stack.target.alertmanager_url).alerts()
    (watchdog,) = [alert for alert in alerts if alert["labels"]["alertname"] == "Watchdog"]
    assert [one["name"] for one in watchdog["receivers"]] == ["log"]
    assert list(receiver.arrivals("Watchdog", "firing", {}, path="/webhook")) == []
