"""A small OTLP/HTTP receiver for tests that look at what a real program sends."""

from __future__ import annotations

import gzip
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import ExponentialHistogramDataPoint, HistogramDataPoint, Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from sightglass.clients import polling
from sightglass.clients.polling import NotYet

T = TypeVar("T")


def until(probe: Callable[[], T | None], what: str, seconds: float = 20.0) -> T:
    """Poll until the probe gives something; fail with what was awaited."""

    def given() -> T:
        if found := probe():
            return found
        raise NotYet("nothing yet")

    return polling.until(given, timeout=seconds, interval=0.02, what=what)


def plain(message: Any) -> dict[str, str]:
    """Attributes of a message as text, those without a value as an empty one."""
    kinds = [(item, item.value.WhichOneof("value")) for item in message.attributes]
    return {item.key: str(getattr(item.value, kind)) if kind else "" for item, kind in kinds}


@dataclass(frozen=True)
class Logged:
    """A log record with the attributes of its resource."""

    record: LogRecord
    resource: dict[str, str]

    @property
    def body(self) -> str:
        """The line."""
        return str(self.record.body.string_value)

    @property
    def attributes(self) -> dict[str, str]:
        """The record's own attributes."""
        return plain(self.record)


Points = HistogramDataPoint | ExponentialHistogramDataPoint


def histogram_points(metric: Metric) -> list[Points]:
    """Points of a histogram, with buckets of its own or exponential ones."""
    return [*metric.histogram.data_points, *metric.exponential_histogram.data_points]


@dataclass
class Receiver:
    """A small OTLP/HTTP server that keeps what it decodes; a path may stand before ``/v1/...``."""

    spans: list[Span] = field(default_factory=list)
    metrics: dict[str, Metric] = field(default_factory=dict)
    exemplars: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Trace ids of all exemplars so far, by the metric's name."""
    counted: dict[tuple[str, str, str], float] = field(default_factory=dict)
    """Sums with a label `reason`: the last value by the metric's name, the service and the reason."""
    logs: list[Logged] = field(default_factory=list)
    resources: list[dict[str, str]] = field(default_factory=list)
    raw: bytearray = field(default_factory=bytearray)
    url: str = ""

    @contextmanager
    def serving(self) -> Iterator[Receiver]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers["content-encoding"] == "gzip":
                    body = gzip.decompress(body)
                receiver.take(self.path, body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def take(self, path: str, body: bytes) -> None:
        self.raw += body
        if path.endswith("/v1/traces"):
            for resource_spans in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resources.append(plain(resource_spans.resource))
                for scope in resource_spans.scope_spans:
                    self.spans += scope.spans
        elif path.endswith("/v1/metrics"):
            for resource_metrics in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                self.resources.append(plain(resource_metrics.resource))
                for scope_metrics in resource_metrics.scope_metrics:
                    self.metrics |= {metric.name: metric for metric in scope_metrics.metrics}
                    for metric in scope_metrics.metrics:
                        for count in metric.sum.data_points:
                            if reason := plain(count).get("reason"):
                                key = metric.name, self.resources[-1].get("service.name", ""), reason
                                self.counted[key] = float(count.as_int or count.as_double)
                        for point in histogram_points(metric):
                            self.exemplars[metric.name] |= {exemplar.trace_id.hex() for exemplar in point.exemplars}
        elif path.endswith("/v1/logs"):
            for resource_logs in ExportLogsServiceRequest.FromString(body).resource_logs:
                resource = plain(resource_logs.resource)
                for scope_logs in resource_logs.scope_logs:
                    self.logs += [Logged(record, resource) for record in scope_logs.log_records]

    def trace(self, trace_id: str) -> dict[str, Span]:
        return {span.name: span for span in list(self.spans) if span.trace_id.hex() == trace_id}

    def span(self, trace_id: str, name: str) -> Span:
        return until(lambda: self.trace(trace_id).get(name), f"span {name} of trace {trace_id}")

    def span_of(self, span_id: str) -> Span:
        return until(
            lambda: next((span for span in list(self.spans) if span.span_id.hex() == span_id), None), f"span {span_id}"
        )

    def value(self, name: str, /, **labels: str) -> float:
        """The value of the counter or gauge with these labels, 0 if there is none."""
        metric = self.metrics.get(name)
        if metric is None:
            return 0.0
        data = metric.gauge if metric.HasField("gauge") else metric.sum
        for point in data.data_points:
            if labels.items() <= plain(point).items():
                return float(point.as_int or point.as_double)
        return 0.0

    def points(self, name: str, /, **labels: str) -> list[Points]:
        metric = self.metrics.get(name)
        found = histogram_points(metric) if metric else []
        return [point for point in found if labels.items() <= plain(point).items()]
