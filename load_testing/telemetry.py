"""Locust's own view of a load test as OpenTelemetry metrics, to stand beside the server's."""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import requests
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.environment_variables import OTEL_METRIC_EXPORT_INTERVAL
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, PeriodicExportingMetricReader
from opentelemetry.sdk.metrics.export import Metric as MetricData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from ml_telemetry.histograms import BulkHistogram, MergingExporter, Rows, Traces
from ml_telemetry.signals import HTTP_DURATION, SERVICE_INSTANCE_ID, SERVICE_NAME, Attribute, Instrument, Metric

SERVICE: Final = "locust"
"""``service.name`` of everything that is published here."""
REQUEST: Final = Attribute("request", "Kind of request: its method, its path and, in brackets, its mistake.", (), 16)
REQUESTS: Final = Metric(
    "locust.requests", Instrument.COUNTER, "{request}", "Requests that ended, as their caller saw it.", (REQUEST,)
)
FAILURES: Final = Metric(
    "locust.failures", Instrument.COUNTER, "{request}", "Requests with a wrong answer or none.", (REQUEST,)
)
DURATION: Final = Metric(
    "locust.request.duration",
    Instrument.HISTOGRAM,
    "s",
    "Duration of requests, as their caller saw it.",
    (REQUEST,),
    HTTP_DURATION.bounds,
)
USERS: Final = Metric("locust.users", Instrument.GAUGE, "{user}", "Users that send requests.")
METRICS: Final = (REQUESTS, FAILURES, DURATION, USERS)

INTERVAL_SECONDS: Final = 2
EXPORT_SECONDS: Final = 2.0
"""How long one export may take, and how long the end of a run waits for the last one."""
PROBE_SECONDS: Final = 1.0
"""In which the Collector has to say that it is there."""


@contextlib.contextmanager
def published(otlp_http_url: str, environment: Any, complain: Callable[[str], None]) -> Iterator[None]:
    """Publish what that locust environment sees until the end of the block.

    A Collector that does not answer is said once, as a sentence to ``complain``; the load goes on without it.
    """
    endpoint = f"{otlp_http_url}/v1/metrics"
    session = requests.Session()
    session.trust_env = False  # the stack's own address: never through a proxy
    try:
        # An empty request is a valid one.
        kind = {"Content-Type": "application/x-protobuf"}
        session.post(endpoint, data=b"", headers=kind, timeout=PROBE_SECONDS).raise_for_status()
    except requests.RequestException as error:
        complain(f"The Collector does not take metrics at {endpoint} ({type(error).__name__}): none of this run.")
        yield
        return
    publisher = Publisher(endpoint, session, lambda: environment.runner.user_count)
    environment.events.request.add_listener(publisher.seen)
    try:
        yield
    finally:
        environment.events.request.remove_listener(publisher.seen)
        publisher.close()


class Publisher:
    """Counts requests and exports the counts every two seconds.

    A request costs one appended row; the exporting thread (a greenlet, where locust is) sorts the rows into buckets
    as the service's own telemetry does. A Collector that fails or goes is never an error of the run, and the values
    are totals, so the next export makes up for a lost one.
    """

    def __init__(self, endpoint: str, session: requests.Session, users: Callable[[], int]) -> None:
        # The exporter would say every two seconds what is not the load's problem.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        # The reader takes its interval from here.
        os.environ.setdefault(OTEL_METRIC_EXPORT_INTERVAL, str(1000 * INTERVAL_SECONDS))
        self._users = users
        self._rows = Rows(2)
        self._numbers: dict[str, int] = {}
        self._requests: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._duration = BulkHistogram(DURATION)
        scope = InstrumentationScope(__name__)
        exporter = OTLPMetricExporter(endpoint, session=session, timeout=EXPORT_SECONDS)
        reader = PeriodicExportingMetricReader(MergingExporter(exporter, scope, self._collect))
        origin = Resource({SERVICE_NAME.name: SERVICE, SERVICE_INSTANCE_ID.name: str(uuid.uuid4())})
        self._provider = MeterProvider([reader], origin, shutdown_on_exit=False)
        self._instrument(scope)

    def seen(self, *, request_type: str, name: str, response_time: float, exception: object, **_: object) -> None:
        """Count a request that ended; a listener of locust's ``request`` event (``response_time`` in ms)."""
        kind = f"{request_type} {name}"
        self._requests[kind] += 1
        # From its first request on a kind has a count of failures, so that none is a 0 and not a gap.
        self._failures[kind] += exception is not None
        self._rows.append((self._numbers.setdefault(kind, len(self._numbers)), response_time / 1000), None)

    def close(self) -> None:
        """Export what is left and stop, within a few seconds whatever the Collector does."""
        with contextlib.suppress(Exception):  # the SDK raises whatever its parts raise
            self._provider.shutdown(timeout_millis=1000 * EXPORT_SECONDS)

    def _collect(self, now: int, temporality: AggregationTemporality) -> Iterable[MetricData]:
        values, _ = self._rows.take()
        for kind, number in list(self._numbers.items()):
            chosen = [seconds for kept, seconds in zip(*values, strict=True) if kept == number]
            self._duration.series({REQUEST.name: kind}).add(chosen, Traces([None] * len(chosen)))
        data = self._duration.data(now, temporality)
        return () if data is None else (data,)

    def _instrument(self, scope: InstrumentationScope) -> None:
        meter = self._provider.get_meter(scope.name)

        def counted(counts: Counter[str]) -> Callable[[CallbackOptions], Iterable[Observation]]:
            return lambda _: [Observation(count, {REQUEST.name: kind}) for kind, count in list(counts.items())]

        for metric, create, observe in (
            (REQUESTS, meter.create_observable_counter, counted(self._requests)),
            (FAILURES, meter.create_observable_counter, counted(self._failures)),
            (USERS, meter.create_observable_gauge, lambda _: [Observation(self._users())]),
        ):
            create(metric.name, [observe], unit=metric.unit, description=metric.description)
