"""Each kind of fault, caused on the running stack: its alert reaches Alertmanager and the receiver, and clears."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from sightglass.clients import polling
from sightglass.clients.backends import Alertmanager
from sightglass.clients.polling import NotYet
from sightglass.facts.settings import CANARY, SERVICE
from tests.integration import faults
from tests.integration.receiver import Receiver
from tests.integration.running import Running

FIRES, CLEARS = 90.0, 300.0
"""Seconds, at the tests' pace; how long each really took is printed."""
Cause = Callable[[Running, Path], AbstractContextManager[None]]


SLOW = {f"{objective}BudgetBurnsSlow" for objective in ("Availability", "Latency")}
"""They look back over hours, also at the tests' pace: after the faults they rightly go on firing."""


@dataclass(frozen=True)
class Fault:
    """What is broken, under which traffic, and the alerts that say so."""

    cause: Cause
    alerts: tuple[tuple[str, dict[str, str]], ...]
    busy: bool = True
    diluted: bool = False
    """Whether the alert is about a share of the requests, and clears when many good ones have followed."""
    leaves_traces: bool = True
    """Whether the alert's search finds traces of the fault itself."""


def stopped(name: str) -> Cause:
    return lambda stack, _: faults.stopped(stack, name)


def broken(fault: str) -> Cause:
    return lambda stack, _: faults.broken(stack, fault)


def unsampled(stack: Running, _: Path) -> AbstractContextManager[None]:
    """The service serves, and sends no spans."""
    environment = {"OTEL_TRACES_SAMPLER": "always_off"}
    return faults.served_instead(stack, "text_classifier.service", environment)


@contextmanager
def poor(stack: Running, _: Path) -> Iterator[None]:
    """Many answers are errors, and those that are right are late."""
    with faults.broken(stack, "poor"), faults.traffic(stack, rate=100, users=40):
        yield


@contextmanager
def overloaded(stack: Running, _: Path) -> Iterator[None]:
    """More requests come in than a slow service can answer."""
    with faults.broken(stack, "busy"), faults.traffic(stack, rate=1000, users=150):
        yield


OF_SERVICE = {"service_name": SERVICE}
FAULTS = {
    "a server is down": Fault(stopped("loki"), (("ServerDown", {"service_name": "loki"}),)),
    "the service is down": Fault(stopped(SERVICE), (("ServiceDown", OF_SERVICE),), leaves_traces=False),
    "the collector is down": Fault(stopped("collector"), (("CollectorDown", {}),), leaves_traces=False),
    "the canary is down": Fault(stopped(CANARY), (("CanaryDown", {}),)),
    "log lines do not arrive": Fault(
        stopped("promtail"),
        (("LogsSilent", OF_SERVICE), ("ServerDown", {"service_name": "promtail"})),
    ),
    "spans do not arrive": Fault(unsampled, (("SpansSilent", OF_SERVICE),), leaves_traces=False),
    "requests fail or are slow": Fault(
        poor, (("AvailabilityBudgetBurnsFast", {}), ("LatencyBudgetBurnsFast", {})), diluted=True
    ),
    "answers are empty": Fault(
        broken("empty"), (("AnswerWithoutPrediction", OF_SERVICE), ("AnswerTooSmall", OF_SERVICE))
    ),
    "the model is unsure": Fault(broken("unsure"), (("ConfidenceCollapse", OF_SERVICE),)),
    "too many requests": Fault(overloaded, (("Saturation", OF_SERVICE),), busy=False),
    "data are refused for good": Fault(
        lambda stack, _: faults.points_refused(stack), (("CollectorDrops", {"signal": "metrics"}),)
    ),
    "somebody sends what a server would refuse": Fault(
        lambda stack, _: faults.points_left_out(stack),
        (("TelemetryRefused", {"service_name": "foreign", "signal": "metrics", "reason": "time_behind"}),),
    ),
    "more than the collector can hold": Fault(
        lambda stack, _: faults.flood(stack), (("CollectorRefuses", {"signal": "traces"}),), busy=False
    ),
    "a queue fills": Fault(
        lambda stack, _: faults.full_queue(stack),
        (("CollectorQueueFills", {"exporter": "otlp_grpc/tempo"}),),
        leaves_traces=False,
    ),
    "a log file is taken away": Fault(
        lambda stack, _: faults.renamed_log(stack, CANARY),
        (("IngestDelay", {"signal": "logs"}), ("SignalLost", {"signal": "logs"})),
    ),
    "a disk is full": Fault(
        lambda stack, folder: faults.full_disk(stack, folder), (("DiskFills", {}),), leaves_traces=False
    ),
    "the object store is full": Fault(faults.full_object_store, (("ObjectStoreFills", {}),), leaves_traces=False),
}


ROUNDS = (
    (
        *("a server is down", "the canary is down", "a disk is full", "data are refused for good"),
        "somebody sends what a server would refuse",
    ),
    ("the collector is down",),
    ("log lines do not arrive", "spans do not arrive"),
    ("requests fail or are slow",),
    ("answers are empty", "a log file is taken away"),
    ("the model is unsure", "the object store is full"),
    ("too many requests",),
    ("more than the collector can hold",),
    ("the service is down", "a queue fills"),
)
"""Faults that do not hide each other are caused together, which takes less time."""


def test_nothing_fires_while_all_is_well(stack: Running, receiver: Receiver) -> None:
    """The twin of all below, and before them: traffic without a fault wakes nobody."""
    polling.until(lambda: expect_quiet(stack), timeout=CLEARS, what="earlier alerts to clear")
    began = time.time()
    with faults.traffic(stack):
        polling.stays(lambda: expect_quiet(stack), duration=20, what="silence")
    fired = [
        alert["labels"]["alertname"]
        for notification in receiver.at("/webhook")
        for alert in notification.body["alerts"]
        if notification.time >= began and alert["status"] == "firing" and alert["labels"]["alertname"] not in SLOW
    ]
    assert fired == []


def test_every_fault_is_caused_once() -> None:
    assert sorted(name for round_ in ROUNDS for name in round_) == sorted(FAULTS)


@pytest.mark.parametrize("names_", ROUNDS, ids=", ".join)
def test_fault_fires_its_alert_and_the_repair_clears_it(
    stack: Running, receiver: Receiver, tmp_path: Path, names_: tuple[str, ...]
) -> None:
    together = {name: FAULTS[name] for name in names_}
    with ExitStack() as exits:
        if any(fault.busy for fault in together.values()):
            exits.enter_context(faults.traffic(stack))
        began = time.time()
        with ExitStack() as causes:
            for fault in together.values():
                causes.enter_context(fault.cause(stack, tmp_path))
            for name, fault in together.items():
                expect_firing(stack, receiver, name, fault, began)
            repair = time.time()
        repaired = time.time()
        if any(fault.diluted for fault in together.values()):
            exits.enter_context(faults.traffic(stack, rate=400, users=8))
        for fault in together.values():
            for alert, labels in fault.alerts:
                arrival = receiver.wait_for(alert, "resolved", labels, CLEARS, since=repair)
                print(f"{alert} cleared {arrival.time - repaired:.1f} s after the repair")
                polling.until(partial(expect_gone, stack, alert, labels), timeout=30, what=f"no {alert} any more")


def expect_firing(stack: Running, receiver: Receiver, name: str, fault: Fault, began: float) -> None:
    """Each alert of the fault is at the receiver and at Alertmanager, and its links lead somewhere."""
    for alert, labels in fault.alerts:
        arrival = receiver.wait_for(alert, "firing", labels, FIRES, since=began)
        print(f"{alert} fired {arrival.time - began:.1f} s after: {name}")
        # Another fault that is caused after this one may clear it for a moment, as a service that is replaced does.
        polling.until(partial(expect_held, stack, alert), timeout=FIRES, what=f"{alert} at Alertmanager")
        expect_annotations(arrival.alert["annotations"], alert)
        if fault.leaves_traces:
            expect_traces(stack, arrival.alert["annotations"]["traces_query"])


def held(stack: Running) -> dict[str, dict[str, str]]:
    """Labels of the alerts that Alertmanager holds, by name."""
    alerts = Alertmanager(stack.target.alertmanager_url).alerts()
    return {alert["labels"]["alertname"]: alert["labels"] for alert in alerts}


def expect_held(stack: Running, alert: str) -> None:
    if alert not in (found := held(stack)):
        raise NotYet(f"the receiver has it, Alertmanager has {sorted(found)}")


def expect_gone(stack: Running, alert: str, labels: dict[str, str]) -> None:
    for found in Alertmanager(stack.target.alertmanager_url).alerts():
        if found["labels"]["alertname"] == alert and labels.items() <= found["labels"].items():
            raise NotYet(f"alertmanager still has {found['labels']}")


def expect_annotations(annotations: dict[str, str], alert: str) -> None:
    """The page exists, and the addresses are whole: no template is left, and both name the same search."""
    page = Path(unquote(urlsplit(annotations["runbook_url"]).path))
    assert page.name == f"{alert}.md"
    assert page.is_file()
    assert urlsplit(annotations["dashboard_url"]).path.startswith("/d/sightglass-")
    (pane,) = json.loads(parse_qs(urlsplit(annotations["traces_url"]).query)["panes"][0]).values()
    assert pane["queries"][0]["query"] == annotations["traces_query"]
    assert not [text for text in annotations.values() if "{{" in text or "<no value>" in text or "<error" in text]


def expect_traces(stack: Running, query: str) -> None:
    """The alert's search finds traces of the last minutes."""

    def found() -> None:
        now = int(time.time())
        if not stack.tempo.search(query, start=now - 300, end=now + 5):
            raise NotYet(f"{query} finds no trace")

    polling.until(found, timeout=20, what="traces behind the alert")


def expect_quiet(stack: Running) -> None:
    firing = sorted(set(held(stack)) - {"Watchdog", *SLOW})
    if firing:
        raise NotYet(f"firing: {', '.join(firing)}")
