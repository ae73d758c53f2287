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
import warnings
from collections.abc import Callable, Mapping
from contextvars import Context
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final, Literal

from opentelemetry.environment_variables import OTEL_METRICS_EXPORTER, OTEL_TRACES_EXPORTER
from opentelemetry.metrics import get_meter_provider, set_meter_provider
from opentelemetry.sdk.environment_variables import (
    OTEL_BSP_MAX_QUEUE_SIZE,
    OTEL_BSP_SCHEDULE_DELAY,
    OTEL_EXPORTER_OTLP_PROTOCOL,
    OTEL_METRIC_EXPORT_INTERVAL,
    OTEL_SDK_DISABLED,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricExporter, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import DEFAULT_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import get_tracer_provider, set_tracer_provider

from ml_telemetry import delivery, hashing, logs, signals, synthetic
from ml_telemetry.context import Parent, SamplingDecision
from ml_telemetry.contract import Contract
from ml_telemetry.events import log_batch_failure, log_failure, log_prediction
from ml_telemetry.hashing import TextHash
from ml_telemetry.histograms import MergingExporter
from ml_telemetry.inference import Hook, InferenceRecord, Served
from ml_telemetry.losses import LossNotice
from ml_telemetry.metrics import RequestMetrics
from ml_telemetry.record import BatchRecord, RequestRecord
from ml_telemetry.spans import RecordExporter, RecordProcessor, SpanEncoder

logger = logging.getLogger(__name__)

DISTRIBUTION: Final = "ml-telemetry"
SCOPE_NAME: Final = "ml_telemetry"

# A proof within seconds needs a short way to the Collector; the queue holds requests, seven spans each.
DEFAULTS: Final = {
    OTEL_TRACES_EXPORTER: "otlp",
    OTEL_METRICS_EXPORTER: "otlp",
    OTEL_EXPORTER_OTLP_PROTOCOL: delivery.HTTP,
    OTEL_BSP_SCHEDULE_DELAY: "200",
    OTEL_BSP_MAX_QUEUE_SIZE: "8192",
    OTEL_METRIC_EXPORT_INTERVAL: "1000",
}
_SCHEMA: Final = "https://opentelemetry.io/schemas/1.36.0"
Signal = Literal["traces", "metrics"]
_SIGNALS: Final[dict[Signal, str]] = {"traces": OTEL_TRACES_EXPORTER, "metrics": OTEL_METRICS_EXPORTER}
SHUTDOWN_SECONDS: Final = 3.0
_SERVER_ERROR: Final = 500


class TelemetryConfigurationError(Exception):
    """An ``OTEL_*`` variable has a value that cannot work; the message says which and what to set."""


def disabled() -> bool:
    """Whether ``OTEL_SDK_DISABLED`` turns all telemetry off."""
    return os.environ.get(OTEL_SDK_DISABLED, "").strip().lower() == "true"


@dataclass(frozen=True, slots=True)
class Service:
    """Which service this is, as its resource says it; what is empty is not said."""

    name: str
    version: str = ""
    namespace: str = ""


def resource(service: Service) -> Resource:
    """Build the resource; ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES`` win over the defaults here."""
    defaults = {
        signals.SERVICE_NAME.name: service.name,
        signals.SERVICE_NAMESPACE.name: service.namespace,
        signals.SERVICE_VERSION.name: service.version,
        signals.SERVICE_INSTANCE_ID.name: str(uuid.uuid4()),
        signals.DEPLOYMENT_ENVIRONMENT.name: "development",
        signals.DEPLOYMENT_TRACK.name: signals.TRACKS[0],
    }
    given = OTELResourceDetector().detect().attributes
    return Resource.create({name: value for name, value in defaults.items() if value and name not in given})


def check_environment() -> None:
    """Raise ``TelemetryConfigurationError`` if ``start`` would, without starting anything."""
    if not disabled():
        _apply_defaults()
        _positive(OTEL_BSP_MAX_QUEUE_SIZE)
        if logs.BUFFER_VARIABLE in os.environ:
            _positive(logs.BUFFER_VARIABLE)
        try:
            for signal in _SIGNALS:
                if _wanted(signal):
                    delivery.protocol_of(signal)
            delivery.target()
            hashing.from_environment()
            _check_track()
        except ValueError as error:
            raise TelemetryConfigurationError(str(error)) from None


def _check_track() -> None:
    name = signals.DEPLOYMENT_TRACK.name
    track = OTELResourceDetector().detect().attributes.get(name, signals.TRACKS[0])
    if track not in signals.TRACKS:
        raise ValueError(f"OTEL_RESOURCE_ATTRIBUTES has {name}={track}: set it to one of {', '.join(signals.TRACKS)}.")


def _apply_defaults() -> None:
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def _wanted(signal: Signal) -> bool:
    """Whether the environment asks for a signal."""
    variable = _SIGNALS[signal]
    name = os.environ[variable].strip().lower()
    if name not in ("otlp", "none"):
        raise TelemetryConfigurationError(f"{variable}={name} is not supported: set {variable} to 'otlp' or 'none'.")
    return name == "otlp"


def _metric_exporter() -> MetricExporter:
    """Create the SDK's exporter; it reads its endpoint, headers and time-outs from the environment itself."""
    # One of the two needs a library that takes a while to load.
    if delivery.protocol_of("metrics") == delivery.GRPC:
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter

        return GrpcExporter()
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    return OTLPMetricExporter()


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
        self._contract: Contract | None = None
        # What the application wants to be called with, and what calls it once the model is known.
        self.on_prediction: Callable[[InferenceRecord], None] | None = None
        self._hook: Hook | None = None
        self._finished: list[RequestRecord] = []
        self._track = signals.TRACKS[0]
        self._synthetic_key = ""
        # Hashes texts for their log lines; None without a key.
        self.text_hash: TextHash | None = None
        self._notices = {signal: LossNotice(signal) for signal in signals.SIGNAL.values}

    def start(self, service: Service, contract: Contract, model_info: Mapping[str, str]) -> None:
        """Start exporting; ``model_info`` has the labels of ``ml_model_info``.

        Raises ``TelemetryConfigurationError`` for an environment that cannot work. Call it once, in a worker.
        """
        if self.enabled or disabled():
            return
        _apply_defaults()
        origin = resource(service)
        scope = InstrumentationScope(SCOPE_NAME, version(DISTRIBUTION), _SCHEMA)
        self._track = str(origin.attributes[signals.DEPLOYMENT_TRACK.name])
        self._synthetic_key = os.environ.get(synthetic.KEY_VARIABLE, "")
        self.text_hash = hashing.from_environment()
        self._model = {
            signals.MODEL_NAME.name: model_info[signals.NAME.name],
            signals.MODEL_VERSION.name: model_info[signals.VERSION.name],
        }
        self.declare(contract, model_info, self._track)
        self._metrics = RequestMetrics(contract, self._track)
        if (lines := logs.output()) is not None:
            lines.on_loss = lambda reason, count: self._dropped("logs", reason, count)
        route = {signals.HTTP_ROUTE.name: contract.declaration.route}
        # What is imported and made here adds filters of warnings to the process. scikit-learn copies them for each
        # tree of a forest, at each prediction: with a hundred trees that cost a seventh of a prediction's time.
        with warnings.catch_warnings():
            self._start_traces(contract, origin, scope)
            self._start_metrics(origin, scope, {**route, **model_info})
        self.enabled = True

    def _start_traces(self, contract: Contract, origin: Resource, scope: InstrumentationScope) -> None:
        given = get_tracer_provider()
        if isinstance(given, TracerProvider):
            # The application's own: its sampler decides, and its spans go where the application sends them.
            provider, own = given, False
        else:
            # The SDK reads OTEL_TRACES_SAMPLER here; code that traces its own steps gets this provider too.
            provider, own = TracerProvider(resource=origin, shutdown_on_exit=False), True
            set_tracer_provider(provider)
        self._decide = SamplingDecision(provider.sampler)
        if not _wanted("traces"):
            return
        sender = delivery.sender(delivery.target())
        encoder = SpanEncoder(contract, origin, scope, self._model, self._track)
        records = RecordExporter(sender, encoder, lambda count: self._dropped("traces", "export_failed", count))
        limit = _positive(OTEL_BSP_MAX_QUEUE_SIZE)
        self._processor = RecordProcessor(records, limit, lambda count: self._dropped("traces", "queue_full", count))
        if own:
            provider.add_span_processor(self._processor)
        self._stop.append(provider.shutdown if own else self._processor.shutdown)
        self._abort.append(records.shutdown)

    def _start_metrics(self, origin: Resource, scope: InstrumentationScope, model_info: dict[str, str]) -> None:
        if not _wanted("metrics") or self._metrics is None:
            return
        exporter = MergingExporter(_metric_exporter(), scope, self._metrics.collect)
        reader = PeriodicExportingMetricReader(exporter)
        provider = MeterProvider([reader], origin, shutdown_on_exit=False)
        if not isinstance(get_meter_provider(), MeterProvider):
            set_meter_provider(provider)
        self._metrics.instrument(provider.get_meter(scope.name, scope.version, scope.schema_url), model_info)
        self._stop.append(provider.shutdown)
        self._abort.append(exporter.shutdown)

    def declare(self, contract: Contract, model_info: Mapping[str, str], track: str = signals.TRACKS[0]) -> None:
        """Know the model, also where nothing is exported: handlers note the same, and the records are the same."""
        self._contract = contract
        if self.on_prediction is not None:
            served = Served.of(contract, model_info, track)
            self._hook = Hook(self.on_prediction, served, lambda: self._dropped("records", "hook_failed", 1))

    @property
    def contract(self) -> Contract | None:
        """What the service emits, or None before it was started."""
        return self._contract

    def sampled(self, trace_id: str, parent: Parent | None) -> bool:
        """Say whether a new request is sampled, by the sampler that ``OTEL_TRACES_SAMPLER`` names."""
        return self._decide(trace_id, parent)

    def source_of(self, trace_id: str, mark: bytes) -> synthetic.Source | None:
        """Say what of this stack sent a request with that mark, or None for a user's."""
        return synthetic.source_of(self._synthetic_key, trace_id, mark)

    def request_started(self, method: str) -> None:
        """Count a request that begins."""
        if self._metrics is not None:
            self._metrics.started(method)

    def answered(self, record: RequestRecord) -> None:
        """Let a request for a prediction be kept whose answer is about to leave, or that gets none."""
        if self._hook is not None and not record.kept and self._asks(record):
            record.kept = True
            self._hook(record)

    def _asks(self, record: RequestRecord) -> bool:
        predicting = self._contract is not None and record.connection.route == self._contract.declaration.route
        return predicting or record.prediction is not None

    def request_finished(self, record: RequestRecord) -> None:
        """Take the finished record of a request.

        What follows from it is done when the event loop comes round again: until then the rest of the batch has its
        answers, and none of them waits for another's telemetry.
        """
        if not self._finished:
            # What is logged there belongs to no request.
            asyncio.get_running_loop().call_soon(self._drain, context=Context())
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
                log_failure(record, self._track)
            return
        self._metrics.finished(record)
        if record.sampled and self._processor is not None:
            self._processor.submit(record)
        if record.failure is not None:
            log_failure(record, self._track)
        elif record.prediction is not None and self._contract is not None:
            log_prediction(record, self._contract, self._model, self._track)

    def batch_finished(self, batch: BatchRecord) -> None:
        """Take the finished record of a batch."""
        if self._metrics is None:
            return
        self._metrics.batch_finished(batch)
        if batch.sampled and self._processor is not None:
            self._processor.submit(batch)

    def batch_failed(self, batch: BatchRecord) -> None:
        """Take the record of a batch that failed: its span is the parent of what was traced in it."""
        if batch.sampled and self._processor is not None:
            self._processor.submit(batch)

    def batch_retried(self, batch: BatchRecord, failed: int) -> None:
        """Count and log a failed batch whose requests were tried one by one; ``failed`` of them failed again."""
        if self._metrics is not None:
            self._metrics.batch_retried(batch.size, failed)
        log_batch_failure(batch, failed)

    def _dropped(self, signal: str, reason: str, count: int) -> None:
        if self._metrics is None:
            return
        self._metrics.dropped(signal, reason, count)
        self._notices[signal].lost(reason, count)

    def shutdown(self, seconds: float = SHUTDOWN_SECONDS) -> None:
        """Send what is left and stop; returns within ``seconds`` even when nobody listens."""
        if not self.enabled:
            return
        self._drain()
        self.enabled = False
        deadline = time.monotonic() + seconds
        for notice in self._notices.values():
            notice.say()
        if (lines := logs.output()) is not None and not lines.flush(seconds / 3):
            # They are counted while the counts can still be sent.
            lines.give_up()
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
