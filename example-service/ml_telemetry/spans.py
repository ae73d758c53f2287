"""From records to spans: the encoder, and the exporter and processor that carry records through the SDK's pipeline."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Any, Final, cast

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope as ScopeMessage
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from ml_telemetry import signals, wire
from ml_telemetry.record import BatchRecord, Connection, PredictionRecord, RequestRecord

_INTERNAL: Final = SpanMessage.SPAN_KIND_INTERNAL
_SERVER: Final = SpanMessage.SPAN_KIND_SERVER
_CHILDREN: Final = 5
_UUID_LENGTH: Final = 36
_SERVER_ERROR: Final = 500


class Traced:
    """A record on its way through the batch processor, which asks every span whether it is sampled."""

    __slots__ = ("record",)
    context: Final = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

    def __init__(self, record: RequestRecord | BatchRecord) -> None:
        self.record = record


def http_attributes(connection: Connection) -> dict[str, str | int]:
    """Return the HTTP attributes of a server span that a caller's requests share."""
    values: dict[str, str | int | None] = {
        signals.HTTP_METHOD.name: connection.method,
        signals.HTTP_ROUTE.name: connection.route,
        # The path of an unmatched route is free text from the caller, so it stays out.
        signals.URL_PATH.name: connection.route,
        signals.URL_SCHEME.name: connection.scheme,
        signals.PROTOCOL_VERSION.name: connection.protocol_version,
        signals.SERVER_ADDRESS.name: connection.server_address or None,
        signals.SERVER_PORT.name: connection.server_port,
        signals.CLIENT_ADDRESS.name: connection.client_address or None,
        signals.USER_AGENT.name: connection.user_agent or None,
    }
    return {name: value for name, value in values.items() if value is not None}


def stack_frames(exception: BaseException) -> str:
    """Format the frames of an exception and of its causes, without the messages: a message may quote the input."""
    parts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = exception
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        frames = "".join(traceback.format_tb(current.__traceback__))
        parts.append(f"Traceback (most recent call last):\n{frames}{exception_name(current)}")
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return "\n\nCaused:\n\n".join(reversed(parts))


def exception_name(exception: BaseException) -> str:
    """Return the full name of an exception's class, as the ``exception.type`` attribute wants it."""
    kind = type(exception)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


class SpanEncoder:
    """Encodes records as OTLP; made once the model is known, for its name and version are constant on every span."""

    def __init__(self, resource: Resource, scope: InstrumentationScope, model: dict[str, str], track: str) -> None:
        self._resource = resource
        self._scope = scope
        message = encode_spans([ReadableSpan("empty", _SDK_CONTEXT, resource=resource, instrumentation_scope=scope)])
        resource_spans = message.resource_spans[0]
        self._envelope = wire.Envelope(
            resource_spans.resource, cast(ScopeMessage, resource_spans.scope_spans[0].scope), scope.schema_url or ""
        )
        deployment = {**model, signals.DEPLOYMENT_TRACK.name: track}
        self._request = wire.SpanTemplate(signals.REQUEST_SPAN.name, _SERVER)
        self._preprocess = wire.SpanTemplate(signals.PREPROCESS_SPAN.name, _INTERNAL)
        self._normalise = wire.SpanTemplate(signals.NORMALISE_SPAN.name, _INTERNAL)
        self._vectorize = wire.SpanTemplate(signals.VECTORIZE_SPAN.name, _INTERNAL)
        self._predict = wire.SpanTemplate(signals.PREDICT_SPAN.name, _INTERNAL, deployment)
        self._postprocess = wire.SpanTemplate(signals.POSTPROCESS_SPAN.name, _INTERNAL)
        self._batch = wire.SpanTemplate(signals.BATCH_SPAN.name, _INTERNAL, deployment)
        self._prediction_id = wire.TextAttribute(signals.PREDICTION_ID.name, _UUID_LENGTH)
        self._confidence = wire.DoubleAttribute(signals.PREDICTION_CONFIDENCE.name)
        self._margin = wire.DoubleAttribute(signals.PREDICTION_MARGIN.name)

    def encode(self, records: Sequence[RequestRecord | BatchRecord]) -> bytes:
        """Return a serialised ``ExportTraceServiceRequest`` with the spans of all the records."""
        spans: list[bytes] = []
        failed: list[ReadableSpan] = []
        for record in records:
            if isinstance(record, BatchRecord):
                spans.append(self._batch_span(record))
            elif record.prediction is not None and record.failure is None:
                self._prediction_spans(record, record.prediction, spans)
            else:
                failed.append(self._server_span(record))
        payload = self._envelope.wrap(spans) if spans else b""
        # Serialised messages of one type merge when they are joined.
        return payload + encode_spans(failed).SerializeToString() if failed else payload

    def _prediction_spans(self, record: RequestRecord, prediction: PredictionRecord, spans: list[bytes]) -> None:
        batch = prediction.batch
        if batch is None:
            raise ValueError("a prediction belongs to a batch")
        trace_id = bytes.fromhex(record.trace_id)
        root = bytes.fromhex(record.span_id)
        ids = os.urandom(8 * _CHILDREN)
        preprocess = ids[0:8]
        offset = record.start_wall - record.start
        connection = record.connection
        if not connection.encoded:
            connection.encoded = wire.attributes(http_attributes(connection))
        state = record.trace_state
        parent = bytes.fromhex(record.parent_span_id)
        characters, words = prediction.features[:2]
        attribute = wire.attribute
        vectorize_end = batch.vectorize_end + offset
        spans += (
            self._request.encode(
                trace_id,
                root,
                parent,
                record.start_wall,
                record.end + offset,
                connection.encoded
                + attribute(signals.HTTP_STATUS.name, record.status)
                + attribute(signals.HTTP_REQUEST_SIZE.name, record.request_size)
                + attribute(signals.HTTP_RESPONSE_SIZE.name, record.response_size)
                + self._prediction_id(prediction.prediction_id),
                trace_state=state,
                remote_parent=bool(parent),
            ),
            self._preprocess.encode(
                trace_id,
                preprocess,
                root,
                prediction.normalise_start + offset,
                vectorize_end,
                attribute(signals.INPUT_CHARACTERS.name, int(characters))
                + attribute(signals.INPUT_WORDS.name, int(words)),
                trace_state=state,
            ),
            self._normalise.encode(
                trace_id,
                ids[8:16],
                preprocess,
                prediction.normalise_start + offset,
                prediction.normalise_end + offset,
                trace_state=state,
            ),
            self._vectorize.encode(
                trace_id, ids[16:24], preprocess, batch.vectorize_start + offset, vectorize_end, trace_state=state
            ),
            self._predict.encode(
                trace_id,
                ids[24:32],
                root,
                batch.predict_start + offset,
                batch.predict_end + offset,
                attribute(signals.BATCH_SIZE.name, batch.size)
                + attribute(signals.PREDICTION_LABEL.name, prediction.label)
                + self._confidence(prediction.confidence)
                + self._margin(prediction.margin)
                + wire.link(bytes.fromhex(batch.trace_id), bytes.fromhex(batch.span_id)),
                trace_state=state,
            ),
            self._postprocess.encode(
                trace_id,
                ids[32:40],
                root,
                prediction.postprocess_start + offset,
                prediction.postprocess_end + offset,
                trace_state=state,
            ),
        )

    def _batch_span(self, batch: BatchRecord) -> bytes:
        links = [wire.link(bytes.fromhex(one.trace_id), bytes.fromhex(one.span_id)) for one in batch.sampled]
        return self._batch.encode(
            bytes.fromhex(batch.trace_id),
            bytes.fromhex(batch.span_id),
            b"",
            batch.start_wall,
            batch.start_wall + batch.predict_end - batch.zero,
            wire.attribute(signals.BATCH_SIZE.name, batch.size) + b"".join(links),
        )

    def _server_span(self, record: RequestRecord) -> ReadableSpan:
        """Build the span of a request without a prediction from the SDK's own classes: these are rare."""
        attributes: dict[str, str | int] = {
            **http_attributes(record.connection),
            signals.HTTP_STATUS.name: record.status,
            signals.HTTP_REQUEST_SIZE.name: record.request_size,
            signals.HTTP_RESPONSE_SIZE.name: record.response_size,
        }
        if record.failure is not None:
            attributes[signals.ERROR_TYPE.name] = record.failure.reason
        if record.prediction is not None:
            attributes[signals.PREDICTION_ID.name] = record.prediction.prediction_id
        end = record.wall(record.end)
        events = []
        if record.exception is not None and record.status >= _SERVER_ERROR:
            details = {
                signals.EXCEPTION_TYPE.name: exception_name(record.exception),
                signals.EXCEPTION_STACKTRACE.name: stack_frames(record.exception),
            }
            attributes[signals.ERROR_TYPE.name] = details[signals.EXCEPTION_TYPE.name]
            events.append(Event("exception", details, end))
        trace_id = int(record.trace_id, 16)
        state = TraceState.from_header([record.trace_state]) if record.trace_state else None
        sampled = TraceFlags(TraceFlags.SAMPLED)
        parent = None
        if record.parent_span_id:
            parent = SpanContext(trace_id, int(record.parent_span_id, 16), is_remote=True, trace_flags=sampled)
        route = record.connection.route
        return ReadableSpan(
            name=f"{record.connection.method} {route}" if route else record.connection.method,
            context=SpanContext(trace_id, int(record.span_id, 16), False, sampled, state),
            parent=parent,
            resource=self._resource,
            attributes=attributes,
            events=events,
            kind=SpanKind.SERVER,
            # A caller's mistake is no fault of the server: only 5xx is an error of its span.
            status=Status(StatusCode.ERROR if record.status >= _SERVER_ERROR else StatusCode.UNSET),
            start_time=record.start_wall,
            end_time=end,
            instrumentation_scope=self._scope,
        )


_SDK_CONTEXT: Final = Traced.context


class Delivery(Enum):
    """What became of a request; AGAIN is one that nobody took, so that it can be sent once more."""

    DONE = auto()
    REFUSED = auto()
    AGAIN = auto()


_TRY_AGAIN: Final = (429, 502, 503, 504)
"""Statuses that OTLP calls retryable."""
_PAUSE: Final = 0.2
"""Seconds before the next attempt, beside the waits between the SDK's own."""


def sender_of(exporter: SpanExporter) -> Callable[[bytes], Delivery]:
    """Return a function that sends a serialised request through the SDK's OTLP exporter.

    It keeps the exporter's endpoint, headers, TLS, compression, time-out and retries, and skips its encoding alone.
    Raises ``TypeError`` for an exporter that does not speak OTLP.
    """
    inner: Any = exporter
    if isinstance(exporter, HttpSpanExporter):
        return lambda payload: _delivery(inner._client.export(payload))
    if isinstance(exporter, GrpcSpanExporter):
        # The exporter asks these two for the message and its size; the payload is a message already.
        inner._translate_data = ExportTraceServiceRequest.FromString
        inner._count_data = lambda _: 1
        # It does not tell why it gave up, so what it gave up is not sent again.
        success = SpanExportResult.SUCCESS
        return lambda payload: Delivery.DONE if inner._export(payload) is success else Delivery.REFUSED
    raise TypeError(
        f"{type(exporter).__name__} does not take encoded spans: set OTEL_TRACES_EXPORTER to 'otlp' or 'none'."
    )


def _delivery(result: Any) -> Delivery:
    if result.success:
        return Delivery.DONE
    # Without a status nobody answered: the Collector is away, or was asked too long.
    return Delivery.AGAIN if result.status_code in (None, *_TRY_AGAIN) else Delivery.REFUSED


class RecordExporter(SpanExporter):
    """Sends records, and the SDK's own spans beside them, through an OTLP exporter.

    The SDK gives a request up after ten seconds. A Collector that is restarted may be away for longer, so a request
    that nobody took is sent until somebody does or this service ends; what comes meanwhile waits in the queue.
    """

    def __init__(self, exporter: SpanExporter, encoder: SpanEncoder, on_loss: Callable[[int], None]) -> None:
        self._exporter = exporter
        self._send = sender_of(exporter)
        self._encoder = encoder
        self._on_loss = on_loss
        self._closed = threading.Event()
        # Records taken from the queue so far; only the processor's thread writes it.
        self.taken = 0

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        """Encode and send; a request that could not be delivered is counted as lost."""
        records = [span.record for span in spans if isinstance(span, Traced)]
        own = [span for span in spans if isinstance(span, ReadableSpan)]
        self.taken += len(records)
        delivered = False
        try:
            if not self._closed.is_set():
                payload = self._encoder.encode(records) if records else b""
                if own:
                    payload += encode_spans(own).SerializeToString()
                while (outcome := self._send(payload)) is Delivery.AGAIN and not self._closed.wait(_PAUSE):
                    pass
                delivered = outcome is Delivery.DONE
        finally:
            if not delivered:
                self._on_loss(len(spans))
        return SpanExportResult.SUCCESS if delivered else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Stop sending; a retry that waits is ended at once."""
        if not self._closed.is_set():
            self._closed.set()
            self._exporter.shutdown()


class RecordProcessor(BatchSpanProcessor):
    """The SDK's batch processor, which also takes records and counts those that its full queue would drop."""

    def __init__(self, exporter: RecordExporter, limit: int, on_full: Callable[[int], None]) -> None:
        super().__init__(exporter, max_queue_size=limit)
        self._records = exporter
        self._on_full = on_full
        self._limit = limit
        # Only the request's thread writes it, so the difference to ``taken`` needs no lock.
        self._submitted = 0

    def submit(self, record: RequestRecord | BatchRecord) -> None:
        """Queue a finished record; never blocks, and drops the record when the queue is full."""
        if self._submitted - self._records.taken >= self._limit:
            self._on_full(1)
            return
        self._submitted += 1
        self.on_end(cast(ReadableSpan, Traced(record)))
