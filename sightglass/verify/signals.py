"""One check a signal: given predictions that were just made, find their traces in the server they belong to."""

import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from minio.error import MinioException
from urllib3.exceptions import HTTPError

from ml_telemetry import signals
from sightglass import settings as names
from sightglass.backends import Alertmanager, LogLine, Loki, Prometheus, Span, Tempo
from sightglass.polling import Never, NotYet
from sightglass.provisioning import DASHBOARDS, DATA_SOURCES
from sightglass.target import Target
from sightglass.verify import sources
from sightglass.verify.predictions import CLIENT, Prediction, send_client_spans
from sightglass.verify.sources import Sources

SECOND = 1_000_000_000
HTTP_COUNT = f"{signals.HTTP_DURATION.prometheus_name}_count"
HTTP_BUCKET = f"{signals.HTTP_DURATION.prometheus_name}_bucket"
PREDICTIONS = signals.PREDICTIONS.prometheus_name
EDGES = "traces_service_graph_request_total"
"""Requests by caller and service, which the Collector counts from pairs of spans."""
REQUEST_SPANS = {(span.name, span.parent) for span in signals.SPANS if span.emitted and span is not signals.BATCH_SPAN}
"""Name and parent's name of every span that a prediction's trace has."""


class Evidence:
    """What the checks share: the predictions of this run, and what the counters were before them."""

    def __init__(self, target: Target, *, data_sources: Path = DATA_SOURCES, dashboards: Path = DASHBOARDS) -> None:
        self.target = target
        self.provisioned: Sources = sources.provisioned(target, data_sources, dashboards)
        self.tempo = Tempo(target.tempo_url)
        self.loki = Loki(target.loki_url)
        self.prometheus = Prometheus(target.prometheus_url)
        self.alertmanager = Alertmanager(target.alertmanager_url)
        self.began = time.time_ns()
        self.predictions: list[Prediction] = []
        self.problem = "no prediction was made"
        self._done: set[str] = set()
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)

    @property
    def through_grafana(self) -> Sources:
        """The target's Grafana."""
        return sources.GrafanaSources(self.target.grafana_url, ("admin", self.target.grafana_password))

    def made(self) -> list[Prediction]:
        """The predictions of this run, of which there is at least one."""
        if not self.predictions:
            raise Never(self.problem)
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

    def sent_client_spans(self) -> None:
        """Send the caller's span of each prediction, so that the service map can pair it with the service's."""
        url = self.target.otlp_http_url
        self.once("client spans", lambda: send_client_spans(url, self.made()))

    def service_spans(self, prediction: Prediction) -> list[Span]:
        """The service's own spans of a prediction, all that belong to a request."""
        found = self.tempo.trace(prediction.trace_id, mode="ingesters")
        expect_tree(found, prediction)
        return [span for span in found if span.resource.get("service.name") == names.SERVICE]

    def log_lines(self, prediction: Prediction) -> list[LogLine]:
        """All lines of the service that carry the prediction's trace id."""
        query = f'{{service_name="{names.SERVICE}"}} | trace_id="{prediction.trace_id}"'
        # The window starts where the prediction was sent: an older chunk would have to be read from object storage.
        return self.loki.lines(query, start=prediction.sent - 2 * SECOND, end=time.time_ns() + 60 * SECOND)

    def _by_instance(self, name: str, moment: str = "") -> dict[str, float]:
        selector = f'{name}{{client="{CLIENT}", server="{names.SERVICE}"}}' if name == EDGES else _of_service(name)
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


def _of_service(name: str) -> str:
    return f'{name}{{service_name="{names.SERVICE}"}}'


def expect_tree(spans: list[Span], prediction: Prediction) -> str:
    """Require the contract's span tree under the caller's own span."""
    # The caller may have sent its own span as well.
    by_id = {span.span_id: span for span in spans if span.span_id != prediction.parent_id}
    found = {(span.name, by_id[span.parent_id].name if span.parent_id in by_id else None) for span in spans}
    missing = REQUEST_SPANS - found
    if missing:
        raise NotYet(f"trace {prediction.trace_id} lacks {sorted(missing, key=str)}")
    root = next(span for span in spans if span.name == signals.REQUEST_SPAN.name)
    if root.parent_id != prediction.parent_id:
        raise NotYet(f"the parent of {root.name} is {root.parent_id}, not the caller's {prediction.parent_id}")
    return f"{len(spans)} spans"


def trace_by_id(evidence: Evidence) -> str:
    """Tempo returns the span tree of each prediction."""
    return [expect_tree(evidence.tempo.trace(p.trace_id, mode="ingesters"), p) for p in evidence.made()][-1]


def trace_by_search(evidence: Evidence) -> str:
    """TraceQL finds each prediction's trace by its prediction id."""
    for prediction in evidence.made():
        second = prediction.sent // SECOND
        query = f'{{ span.ml.prediction.id = "{prediction.prediction_id}" }}'
        found = evidence.tempo.search(query, start=second - 60, end=second + 600)
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
    selector = f'{HTTP_BUCKET}{{service_name="{names.SERVICE}"}}'
    now = time.time()
    found = evidence.prometheus.exemplars(selector, start=evidence.began / SECOND - 60, end=now + 60)
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
    bucket = names.TEMPO_BUCKET
    for name, body in _new_objects(evidence, bucket, suffix="/meta.json"):
        meta = json.loads(body)
        if _nanoseconds(meta["endTime"]) // SECOND >= evidence.predictions[-1].sent // SECOND:
            return f"{bucket}/{name}"
    raise NotYet(f"bucket {bucket} has no block of this run yet")


def log_chunk(evidence: Evidence) -> str:
    """Loki wrote a chunk that covers the predictions to its bucket."""
    evidence.once("flush loki", lambda: log_line(evidence), evidence.loki.flush)
    bucket = names.LOKI_BUCKET
    sent = evidence.predictions[-1].sent // 1_000_000
    for name, _ in _new_objects(evidence, bucket, prefix="fake/"):
        # tenant/fingerprint/from:through:checksum, milliseconds since the epoch in hexadecimal
        through = name.rsplit("/", 1)[-1].split(":")
        if len(through) == 3 and int(through[1], 16) >= sent:
            return f"{bucket}/{name}"
    raise NotYet(f"bucket {bucket} has no chunk of this run yet")


def watchdog(evidence: Evidence) -> str:
    """The alert that always fires went from Prometheus to Alertmanager since this run began."""
    return str(fresh_watchdog(evidence)["labels"]["alertname"])


def fresh_watchdog(evidence: Evidence) -> dict[str, Any]:
    """The Watchdog as Alertmanager has it, heard of since this run began."""
    for alert in evidence.alertmanager.alerts():
        if alert["labels"].get("alertname") == "Watchdog":
            heard = _nanoseconds(alert["updatedAt"])
            if heard < evidence.began:
                age = (time.time_ns() - heard) / SECOND
                raise NotYet(f"alertmanager last heard of the Watchdog {age:.0f} s ago: prometheus sends nothing")
            return alert
    raise NotYet("alertmanager has no Watchdog alert")


def _new_objects(evidence: Evidence, bucket: str, *, prefix: str = "", suffix: str = "") -> Iterator[tuple[str, bytes]]:
    """Name and content of the objects that were written since the run began."""
    s3 = evidence.target.s3()
    began = datetime.fromtimestamp(evidence.began // SECOND, tz=UTC)
    try:
        for found in s3.list_objects(bucket_name=bucket, prefix=prefix, recursive=True):
            if found.object_name.endswith(suffix) and found.last_modified >= began:
                answer = s3.get_object(bucket_name=bucket, object_name=found.object_name)
                try:
                    yield found.object_name, answer.read()
                finally:
                    answer.close()
                    answer.release_conn()
    except (MinioException, HTTPError, OSError) as error:
        reason = getattr(error, "code", type(error).__name__)
        raise NotYet(f"minio does not list bucket {bucket} at {evidence.target.s3_endpoint} ({reason})") from None


def _nanoseconds(rfc3339: str) -> int:
    return int(datetime.fromisoformat(rfc3339).timestamp() * SECOND)


_SERVICE = names.SERVICE
TRACES = (_SERVICE, "collector", "tempo")
"""Components on a trace's way, and below on a log line's and on a metric's."""
LOGS = (_SERVICE, "promtail", "collector", "loki")
METRICS = (_SERVICE, "collector", "prometheus")

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
    ),
    Check(
        *("signal", "collector metrics", "prometheus"),
        ("collector", "prometheus"),
        fresh_series("otelcol_process_uptime_total", '{service_name="otel-collector"}'),
    ),
    Check("signal", "alerts", "alertmanager", ("prometheus", "alertmanager"), watchdog),
    Check("signal", "trace blocks", "minio", (*TRACES, "minio"), trace_block),
    Check("signal", "log chunks", "minio", (*LOGS, "minio"), log_chunk),
)
