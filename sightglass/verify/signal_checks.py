"""One check a signal: given predictions that were just made, find their traces in the server they belong to."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from ml_telemetry import signals
from ml_telemetry.contract import Contract
from ml_telemetry.synthetic import Source
from sightglass.clients.backends import Alertmanager, LogLine, Loki, Prometheus, Span, Tempo
from sightglass.clients.polling import GiveUp, NotYet
from sightglass.facts.provisioning import DASHBOARDS, DATA_SOURCES
from sightglass.facts.target import Endpoint, Target
from sightglass.verify import objects, sources
from sightglass.verify.predictions import CLIENT, Prediction, bodies, predict, send_client_spans
from sightglass.verify.sources import Sources

SECOND = 1_000_000_000
PROMISED = 30.0
"""Seconds from emission after which a signal counts as lost."""
T = TypeVar("T")
HTTP_COUNT = f"{signals.HTTP_DURATION.prometheus_name}_count"
HTTP_BUCKET = f"{signals.HTTP_DURATION.prometheus_name}_bucket"
PREDICTIONS = signals.PREDICTIONS.prometheus_name
OBJECTS_INTERVAL = 0.5
"""Seconds between two looks into a bucket: a server writes no object within less."""
EDGES = "traces_service_graph_request_total"
"""Requests by caller and service, which the Collector counts from pairs of spans."""
THE_SERVICE = "service"
"""In what a check needs: the service whose signals it looks for."""


class Evidence:
    """What the checks of a service share: its predictions of this run, and what the counters were before them."""

    def __init__(
        self,
        target: Target,
        endpoint: Endpoint | None = None,
        *,
        data_sources: Path = DATA_SOURCES,
        dashboards: Path = DASHBOARDS,
    ) -> None:
        self.target = target
        self.endpoint = endpoint or target.endpoint()
        self.service = self.endpoint.name
        self.provisioned: Sources = sources.provisioned(target, data_sources, dashboards)
        self.tempo = Tempo(target.tempo_url)
        self.loki = Loki(target.loki_url)
        self.prometheus = Prometheus(target.prometheus_url)
        self.alertmanager = Alertmanager(target.alertmanager_url)
        self.began = time.time_ns()
        self.predictions: list[Prediction] = []
        self.problem = "no prediction was made"
        self.blocks = objects.Blocks(target, self.began)
        self._done: set[str] = set()
        self._found: dict[str, Any] = {}
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    def predict(self, *chosen: str) -> None:
        """Send these bodies, or each sample that the model declares; :class:`NotYet` without an answer."""
        sent = chosen or tuple(bodies(self.endpoint))
        if not sent:
            raise NotYet(f"the declaration of {self.service} has no samples: declare two or three requests")
        self.predictions += [predict(self.endpoint, body, source=Source.PROOF) for body in sent]

    @cached_property
    def contract(self) -> Contract:
        """The signals that follow from the declaration."""
        return Contract(self.endpoint.declaration)

    def of_service(self, name: str) -> str:
        """The series of a metric that are the service's own."""
        return f'{name}{{service_name="{self.service}"}}'

    @property
    def window(self) -> tuple[float, float]:
        """Seconds since the epoch between which everything of this run is."""
        return self.began / SECOND - 60, time.time() + 60

    @property
    def through_grafana(self) -> Sources:
        """The target's Grafana."""
        return sources.GrafanaSources(self.target.grafana_url, ("admin", self.target.grafana_password))

    def made(self) -> list[Prediction]:
        """The predictions of this run, of which there is at least one."""
        if not self.predictions:
            raise GiveUp(self.problem)
        return self.predictions

    def counted(self, name: str) -> str:
        """Require that one instance's counter grew by at least our predictions."""
        count = len(self.made())
        if (grown := self.grown(name)) < count:
            raise NotYet(f"{name} grew by {grown:g}, not by {count}")
        return f"{name} +{grown:g}"

    def grown(self, name: str) -> float:
        """By how much the counter of one instance grew since the run began.

        A sum would fall when an earlier instance's series ends. Both values are asked for now: a counter that began
        anew in the meantime, because its process was restarted, is then known to have been 0.
        """
        now, before = self._by_instance(name), self._by_instance(name, f" @ {self.began / SECOND:.3f}")
        return max((value - before.get(key, 0.0) for key, value in now.items()), default=0.0)

    def once(self, name: str, *steps: Callable[[], object]) -> None:
        """Take the steps unless they were all taken before; a step that raises is taken again the next time."""
        with self._locks[name]:
            if name not in self._done:
                for step in steps:
                    step()
                self._done.add(name)

    def remember(self, name: str, find: Callable[[], T]) -> T:
        """What ``find`` returned the first time that it did not raise."""
        with self._locks[name]:
            if name not in self._found:
                self._found[name] = find()
            found: T = self._found[name]
            return found

    def sent_client_spans(self) -> None:
        """Send the caller's span of each prediction, so that the service map can pair it with the service's."""
        url = self.target.otlp_http_url
        self.once("client spans", lambda: send_client_spans(url, self.made()))

    def service_spans(self, prediction: Prediction) -> list[Span]:
        """The service's own spans of a prediction, all that belong to a request; many rows begin at them."""

        def whole() -> list[Span]:
            found = self.tempo.trace(prediction.trace_id, mode="ingesters")
            expect_tree(found, prediction, self.contract)
            return [span for span in found if span.resource.get("service.name") == self.service]

        return self.remember(f"spans of {prediction.trace_id}", whole)

    def log_lines(self, prediction: Prediction) -> list[LogLine]:
        """All lines of the service that carry the prediction's trace id."""
        query = f'{{service_name="{self.service}"}} | trace_id="{prediction.trace_id}"'
        # The window starts where the prediction was sent: an older chunk would have to be read from object storage.
        return self.loki.lines(query, start=prediction.sent - 2 * SECOND, end=time.time_ns() + 60 * SECOND)

    def _by_instance(self, name: str, moment: str = "") -> dict[str, float]:
        edge = f'{name}{{client="{CLIENT}", server="{self.service}"}}'
        selector = edge if name == EDGES else self.of_service(name)
        query = f"sum by (service_instance_id) ({selector}{moment})"
        return {sample.labels.get("service_instance_id", ""): sample.value for sample in self.prometheus.query(query)}


@dataclass(frozen=True)
class Check:
    """A row of ``verify``: raises :class:`NotYet` until the signal is there, then returns a detail."""

    kind: str
    name: str
    backend: str
    needs: tuple[str, ...]
    """Components whose failure turns this row red, and no other's."""
    find: Callable[[Evidence], str]
    interval: float = 0.1
    """Seconds between the first looks."""
    once: bool = False
    """Whether one look is enough however many services there are."""

    def of(self, service: str) -> "Check":
        """The check of one service."""
        return replace(self, needs=tuple(service if name == THE_SERVICE else name for name in self.needs))


def request_spans(contract: Contract) -> set[tuple[str, str | None]]:
    """Name and parent's name of every span that a prediction's trace has."""
    return {(span.name, span.parent) for span in contract.spans if span.name != signals.BATCH_SPAN}


def expect_tree(spans: list[Span], prediction: Prediction, contract: Contract) -> str:
    """Require the contract's span tree under the caller's own span."""
    # The caller may have sent its own span as well.
    by_id = {span.span_id: span for span in spans if span.span_id != prediction.parent_id}
    found = {(span.name, by_id[span.parent_id].name if span.parent_id in by_id else None) for span in spans}
    missing = request_spans(contract) - found
    if missing:
        raise NotYet(f"trace {prediction.trace_id} lacks {sorted(missing, key=str)}")
    root = next(span for span in spans if span.name == contract.request_span)
    if root.parent_id != prediction.parent_id:
        raise NotYet(f"the parent of {root.name} is {root.parent_id}, not the caller's {prediction.parent_id}")
    return f"{len(spans)} spans"


def trace_by_id(evidence: Evidence) -> str:
    """Tempo returns the span tree of each prediction."""
    return f"{[len(evidence.service_spans(prediction)) for prediction in evidence.made()][-1]} spans"


def trace_by_search(evidence: Evidence) -> str:
    """TraceQL finds each prediction's trace by its prediction id."""
    for prediction in evidence.made():
        second = prediction.sent // SECOND
        query = f'{{ span.ml.prediction.id = "{prediction.prediction_id}" }}'
        found = evidence.tempo.search(query, start=second - 5, end=second + 60)
        if found != [prediction.trace_id]:
            raise NotYet(f"tempo's search found {found} for prediction {prediction.prediction_id}")
    return "TraceQL by ml.prediction.id"


def log_line(evidence: Evidence) -> str:
    """Loki has exactly one line of each prediction, with the ids in its structured metadata."""
    for prediction in evidence.made():
        lines = evidence.log_lines(prediction)
        if len(lines) != 1:
            raise NotYet(f"loki has {len(lines)} lines of trace {prediction.trace_id}, not 1")
        found = lines[0].labels.get("ml_prediction_id")
        if found != prediction.prediction_id:
            raise NotYet(f"the line's ml_prediction_id is {found}, not {prediction.prediction_id}")
    return "once, by trace_id"


def exemplar(evidence: Evidence) -> str:
    """An exemplar of the request histogram carries the trace id of one of the predictions."""
    ours = {prediction.trace_id for prediction in evidence.made()}
    selector = evidence.of_service(HTTP_BUCKET)
    start, end = evidence.window
    found = evidence.prometheus.exemplars(selector, start=start, end=end)
    ids = {item.labels.get("trace_id") for item in found}
    if not ids & ours:
        raise NotYet(f"none of {len(ids)} exemplars is of this run")
    return f"{len(ids & ours)} of {len(ours)} traces"


def fresh_series(name: str, labels: str) -> Callable[[Evidence], str]:
    """A check that a series' newest sample is younger than this run."""

    def find(evidence: Evidence) -> str:
        newest = evidence.prometheus.query(f"max(timestamp({name}{labels}))")
        if not newest:
            raise NotYet(f"prometheus has no {name}{labels} within five minutes")
        age = time.time() - newest[0].value
        if newest[0].value * SECOND < evidence.began:
            raise NotYet(f"the newest {name} is {age:.0f} s old, from before this run")
        return name

    return find


def trace_block(evidence: Evidence) -> str:
    """Tempo wrote a block that covers the predictions to its bucket."""
    evidence.once("flush tempo", lambda: trace_by_id(evidence), evidence.tempo.flush)
    return evidence.blocks.covering(evidence.predictions[-1].sent)


def log_chunk(evidence: Evidence) -> str:
    """Loki wrote a chunk that covers the predictions to its bucket."""
    evidence.once("flush loki", lambda: log_line(evidence), evidence.loki.flush)
    return objects.chunk_covering(evidence.target, evidence.predictions[-1].sent)


def watchdog(evidence: Evidence) -> str:
    """The alert that always fires went from Prometheus to Alertmanager since this run began."""
    return str(fresh_watchdog(evidence)["labels"]["alertname"])


def fresh_watchdog(evidence: Evidence) -> dict[str, Any]:
    """The Watchdog as Alertmanager has it, heard of since this run began."""
    for alert in evidence.alertmanager.alerts():
        if alert["labels"].get("alertname") == "Watchdog":
            heard = int(datetime.fromisoformat(alert["updatedAt"]).timestamp() * SECOND)
            if heard < evidence.began:
                age = (time.time_ns() - heard) / SECOND
                raise NotYet(f"alertmanager last heard of the Watchdog {age:.0f} s ago: prometheus sends nothing")
            return alert
    raise NotYet("alertmanager has no Watchdog alert")


TRACES = (THE_SERVICE, "collector", "tempo")
"""Components on a trace's way, and below on a log line's and on a metric's."""
LOGS = (THE_SERVICE, "promtail", "collector", "loki")
METRICS = (THE_SERVICE, "collector", "prometheus")

SIGNALS = (
    Check("signal", "traces by id", "tempo", TRACES, trace_by_id),
    Check("signal", "traces by search", "tempo", TRACES, trace_by_search),
    Check("signal", "logs", "loki", LOGS, log_line),
    Check("signal", "metrics: counter", "prometheus", METRICS, lambda evidence: evidence.counted(PREDICTIONS)),
    Check("signal", "metrics: histogram", "prometheus", METRICS, lambda evidence: evidence.counted(HTTP_COUNT)),
    Check("signal", "metrics: exemplar", "prometheus", METRICS, exemplar),
    Check(
        *("signal", "host metrics", "prometheus"),
        ("collector", "prometheus"),
        fresh_series("system_memory_usage_bytes", '{service_name="host"}'),
        once=True,
    ),
    Check(
        *("signal", "collector metrics", "prometheus"),
        ("collector", "prometheus"),
        fresh_series("otelcol_process_uptime_total", '{service_name="otel-collector"}'),
        once=True,
    ),
    Check("signal", "alerts", "alertmanager", ("prometheus", "alertmanager"), watchdog, once=True),
    Check("signal", "trace blocks", "minio", (*TRACES, "minio"), trace_block, OBJECTS_INTERVAL, once=True),
    Check("signal", "log chunks", "minio", (*LOGS, "minio"), log_chunk, OBJECTS_INTERVAL, once=True),
)
