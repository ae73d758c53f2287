"""Starts and stops the telemetry of a worker, and takes every finished request and batch.

All ``OTEL_*`` environment variables keep the meaning they have for OpenTelemetry's own distro; only the defaults differ
where a service that must prove its signals within seconds needs others.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points, version
from typing import Any, Final, Literal

from opentelemetry.distro import OpenTelemetryDistro
from opentelemetry.environment_variables import OTEL_METRICS_EXPORTER, OTEL_TRACES_EXPORTER
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.environment_variables import (
    OTEL_BSP_MAX_QUEUE_SIZE,
    OTEL_BSP_SCHEDULE_DELAY,
    OTEL_EXPORTER_OTLP_METRICS_PROTOCOL,
    OTEL_EXPORTER_OTLP_PROTOCOL,
    OTEL_EXPORTER_OTLP_TRACES_PROTOCOL,
    OTEL_METRIC_EXPORT_INTERVAL,
    OTEL_SDK_DISABLED,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import DEFAULT_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.semconv.schemas import Schemas
from opentelemetry.trace import set_tracer_provider

from ml_telemetry import signals
from ml_telemetry.context import Parent, SamplingDecision
from ml_telemetry.events import log_failure, log_prediction
from ml_telemetry.histograms import MergingMetricReader
from ml_telemetry.logs import log_event
from ml_telemetry.metrics import RequestMetrics
from ml_telemetry.record import BatchRecord, RequestRecord
from ml_telemetry.spans import RecordExporter, RecordProcessor, SpanEncoder

logger = logging.getLogger(__name__)

DISTRIBUTION: Final = "sightglass"
NAMESPACE: Final = "sightglass"
SCOPE_NAME: Final = "ml_telemetry"

# A proof within seconds needs a short way to the Collector; the queue holds requests, seven spans each.
DEFAULTS: Final = {
    OTEL_EXPORTER_OTLP_PROTOCOL: "http/protobuf",
    OTEL_BSP_SCHEDULE_DELAY: "200",
    OTEL_BSP_MAX_QUEUE_SIZE: "8192",
    OTEL_METRIC_EXPORT_INTERVAL: "1000",
}
_PROTOCOLS: Final = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}
Signal = Literal["traces", "metrics"]
_SIGNALS: Final[dict[Signal, tuple[str, str]]] = {
    "traces": (OTEL_TRACES_EXPORTER, OTEL_EXPORTER_OTLP_TRACES_PROTOCOL),
    "metrics": (OTEL_METRICS_EXPORTER, OTEL_EXPORTER_OTLP_METRICS_PROTOCOL),
}
SHUTDOWN_SECONDS: Final = 3.0
_DROP_LOG_SECONDS: Final = 60.0
_SERVER_ERROR: Final = 500


class TelemetryConfigurationError(Exception):
    """An ``OTEL_*`` variable has a value that cannot work; the message says which and what to set."""


def disabled() -> bool:
    """Whether ``OTEL_SDK_DISABLED`` turns all telemetry off."""
    return os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true"


def resource(service_name: str) -> Resource:
    """Build the resource; ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES`` win over the defaults here."""
    defaults = {
        signals.SERVICE_NAME.name: service_name,
        signals.SERVICE_NAMESPACE.name: NAMESPACE,
        signals.SERVICE_VERSION.name: version(DISTRIBUTION),
        signals.SERVICE_INSTANCE_ID.name: str(uuid.uuid4()),
        signals.DEPLOYMENT_ENVIRONMENT.name: "development",
    }
    given = OTELResourceDetector().detect().attributes
    return Resource.create({name: value for name, value in defaults.items() if name not in given})


def check_environment() -> None:
    """Raise ``TelemetryConfigurationError`` if ``start`` would, without starting anything."""
    if not disabled():
        _apply_defaults()
        _positive(OTEL_BSP_MAX_QUEUE_SIZE)
        for signal in _SIGNALS:
            _exporter_component(signal)


def _apply_defaults() -> None:
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    OpenTelemetryDistro().configure()


def _exporter_component(signal: Signal) -> str | None:
    """Return the name of the exporter that the environment asks for, or None for ``none``."""
    choice, protocol_variable = _SIGNALS[signal]
    name = os.environ[choice].strip().lower()
    if name == "none":
        return None
    protocol = (os.environ.get(protocol_variable) or os.environ[OTEL_EXPORTER_OTLP_PROTOCOL]).strip()
    component = _PROTOCOLS.get(protocol) if name == "otlp" else name if name in _PROTOCOLS.values() else None
    if component is None:
        raise TelemetryConfigurationError(
            f"{choice}={name} with protocol {protocol} is not supported: set {choice} to 'otlp' or 'none' and "
            f"{OTEL_EXPORTER_OTLP_PROTOCOL} to one of {', '.join(_PROTOCOLS)}."
        )
    return component


def _exporter(signal: Signal) -> Any | None:
    """Create the exporter of a signal; it reads its endpoint, headers and time-outs from the environment itself."""
    component = _exporter_component(signal)
    if component is None:
        return None
    (entry_point,) = entry_points(group=f"opentelemetry_{signal}_exporter", name=component)
    return entry_point.load()()


def _positive(variable: str) -> int:
    value = os.environ[variable].strip()
    if not value.isdigit() or not int(value):
        raise TelemetryConfigurationError(f"{variable}={value} cannot work: set it to a whole number above zero.")
    return int(value)


class Telemetry:
    """The telemetry of one process; before ``start``, and when disabled, every method does nothing."""

    def __init__(self) -> None:
        self.enabled = False
        self._decide: Callable[[str, Parent | None], bool] = SamplingDecision(DEFAULT_ON)
        self._metrics: RequestMetrics | None = None
        self._processor: RecordProcessor | None = None
        self._stop: list[Callable[[], None]] = []
        self._abort: list[Callable[[], None]] = []
        self._model: dict[str, str] = {}
        self._finished: list[RequestRecord] = []
        self._track = ""
        self._logged_drops = 0
        self._drop_line_at = float("-inf")
        self._drop_lock = threading.Lock()

    def start(self, service_name: str, model_info: Mapping[str, str], track: str) -> None:
        """Start exporting; ``model_info`` has the labels of ``ml_model_info``.

        Raises ``TelemetryConfigurationError`` for an environment that cannot work. Call it once, in a worker.
        """
        if self.enabled or disabled():
            return
        _apply_defaults()
        origin = resource(service_name)
        scope = InstrumentationScope(SCOPE_NAME, version(DISTRIBUTION), Schemas.V1_36_0.value)
        self._track = track
        self._model = {
            signals.MODEL_NAME.name: model_info[signals.NAME.name],
            signals.MODEL_VERSION.name: model_info[signals.VERSION.name],
        }
        self._metrics = RequestMetrics(track)
        self._start_traces(origin, scope)
        self._start_metrics(origin, scope, dict(model_info))
        self.enabled = True

    def _start_traces(self, origin: Resource, scope: InstrumentationScope) -> None:
        # The SDK reads OTEL_TRACES_SAMPLER here; code that traces its own steps gets this provider too.
        provider = TracerProvider(resource=origin, shutdown_on_exit=False)
        set_tracer_provider(provider)
        self._decide = SamplingDecision(provider.sampler)
        exporter = _exporter("traces")
        if exporter is None:
            return
        encoder = SpanEncoder(origin, scope, self._model, self._track)
        records = RecordExporter(exporter, encoder, lambda count: self._dropped("traces", "export_failed", count))
        limit = _positive(OTEL_BSP_MAX_QUEUE_SIZE)
        self._processor = RecordProcessor(records, limit, lambda count: self._dropped("traces", "queue_full", count))
        provider.add_span_processor(self._processor)
        self._stop.append(provider.shutdown)
        self._abort.append(records.shutdown)

    def _start_metrics(self, origin: Resource, scope: InstrumentationScope, model_info: dict[str, str]) -> None:
        exporter = _exporter("metrics")
        if exporter is None or self._metrics is None:
            return
        reader = MergingMetricReader(exporter, scope, self._metrics.collect)
        provider = MeterProvider([reader], origin, shutdown_on_exit=False)
        set_meter_provider(provider)
        self._metrics.instrument(provider.get_meter(scope.name, scope.version, scope.schema_url), model_info)
        self._stop.append(provider.shutdown)
        self._abort.append(exporter.shutdown)

    def sampled(self, trace_id: str, parent: Parent | None) -> bool:
        """Say whether a new request is sampled, by the sampler that ``OTEL_TRACES_SAMPLER`` names."""
        return self._decide(trace_id, parent)

    def request_started(self, method: str) -> None:
        """Count a request that begins."""
        if self._metrics is not None:
            self._metrics.started(method)

    def request_finished(self, record: RequestRecord) -> None:
        """Take the finished record of a request.

        What follows from it is done when the event loop comes round again: until then the rest of the batch has its
        answers, and none of them waits for another's telemetry.
        """
        if not self._finished:
            asyncio.get_running_loop().call_soon(self._drain)
        self._finished.append(record)

    def _drain(self) -> None:
        finished, self._finished = self._finished, []
        for record in finished:
            try:
                self._emit(record)
            except Exception:
                logger.exception("The telemetry of a request could not be made.")

    def _emit(self, record: RequestRecord) -> None:
        """Make a request's metrics, its spans and its log line."""
        if self._metrics is None:
            # An error in the service is logged even without telemetry.
            if record.status >= _SERVER_ERROR:
                log_failure(record)
            return
        self._metrics.finished(record)
        if record.sampled and self._processor is not None:
            self._processor.submit(record)
        if record.failure is not None:
            written = log_failure(record)
        elif record.prediction is not None:
            written = log_prediction(record, self._model, self._track)
        else:
            return
        if not written:
            self._dropped("logs", "write_failed", 1)

    def batch_finished(self, batch: BatchRecord) -> None:
        """Take the finished record of a batch."""
        if self._metrics is None:
            return
        self._metrics.batch_finished(batch)
        if batch.sampled and self._processor is not None:
            self._processor.submit(batch)

    def _dropped(self, signal: str, reason: str, count: int) -> None:
        if self._metrics is None:
            return
        self._metrics.dropped(signal, reason, count)
        with self._drop_lock:
            now = time.monotonic()
            if now - self._drop_line_at < _DROP_LOG_SECONDS:
                return
            self._drop_line_at = now
            total = self._metrics.dropped_total
            new, self._logged_drops = total - self._logged_drops, total
        message = f"telemetry of the signal {signal} was lost ({reason}): check the Collector"
        log_event(signals.TELEMETRY_DROPPED_EVENT, message, {signals.DROPPED_COUNT.name: new})

    def shutdown(self, seconds: float = SHUTDOWN_SECONDS) -> None:
        """Send what is left and stop; returns within ``seconds`` even when nobody listens."""
        if not self.enabled:
            return
        self._drain()
        self.enabled = False
        deadline = time.monotonic() + seconds
        threads = [threading.Thread(target=stop, daemon=True) for stop in self._stop]
        for thread in threads:
            thread.start()
        # Leave time for the exporters to give up their retries once they are told to.
        _join(threads, deadline - seconds / 5)
        if any(thread.is_alive() for thread in threads):
            logger.warning("The Collector did not take the last telemetry in time: giving up.")
            aborts = [threading.Thread(target=abort, daemon=True) for abort in self._abort]
            for thread in aborts:
                thread.start()
            _join([*aborts, *threads], deadline)


def _join(threads: list[threading.Thread], deadline: float) -> None:
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))


# The telemetry of this process.
telemetry: Final = Telemetry()
