"""From records to spans: the encoder, and the exporter and processor that carry records through the SDK's pipeline."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, cast

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage
from opentelemetry.proto.trace.v1.trace_pb2 import SpanFlags
from opentelemetry.proto.trace.v1.trace_pb2 import Status as StatusMessage
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from ml_telemetry import signals
from ml_telemetry.contract import Contract
from ml_telemetry.declaration import Kind as FeatureKind
from ml_telemetry.delivery import Delivery, Sender
from ml_telemetry.masking import mask
from ml_telemetry.record import BatchRecord, Connection, PredictionRecord, RequestRecord

_INTERNAL: Final = SpanMessage.SPAN_KIND_INTERNAL
_SERVER: Final = SpanMessage.SPAN_KIND_SERVER
_LOCAL: Final = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE: Final = _LOCAL | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
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


Value = str | int | bool


@lru_cache(maxsize=8192)
def _attribute(name: str, value: Value) -> bytes:
    """Make a part of a span that holds one attribute; remembered, for most values come again.

    Serialised messages of one type merge when they are joined, so a span is filled from such parts in one call.
    """
    return _part([_key_value(name, value)])


def _part(attributes: Sequence[KeyValue]) -> bytes:
    return bytes(SpanMessage(attributes=attributes).SerializeToString())


def _key_value(name: str, value: Value) -> KeyValue:
    if isinstance(value, str):
        found = AnyValue(string_value=value)
    else:
        found = AnyValue(bool_value=value) if isinstance(value, bool) else AnyValue(int_value=value)
    return KeyValue(key=name, value=found)


def _attributes(values: Mapping[str, Value]) -> bytes:
    return _part([_key_value(name, value) for name, value in values.items()])


def _template(name: str, kind: SpanMessage.SpanKind.ValueType, attributes: bytes = b"") -> bytes:
    """Make the part of a span that is the same each time."""
    # A status that is unset is still present, as the SDK sends it.
    span = SpanMessage(name=name, kind=kind, status=StatusMessage(), flags=_LOCAL)
    return bytes(span.SerializeToString()) + attributes


class SpanEncoder:
    """Encodes records as OTLP; made once the model is known, for its name and version are constant on every span."""

    def __init__(
        self, contract: Contract, resource: Resource, scope: InstrumentationScope, model: dict[str, str], track: str
    ) -> None:
        self._contract = contract
        self._resource = resource
        self._scope = scope
        # What is the same in every request: the resource and the scope, as the SDK encodes them.
        envelope = encode_spans([ReadableSpan("empty", _SDK_CONTEXT, resource=resource, instrumentation_scope=scope)])
        del envelope.resource_spans[0].scope_spans[0].spans[:]
        self._envelope = envelope.SerializeToString()
        self._deployment: dict[str, str | int] = {**model, signals.DEPLOYMENT_TRACK.name: track}
        deployment = _attributes(self._deployment)
        self._request = _template(contract.request_span, _SERVER)
        # A span for each group, then one for each stage; a parent is named by its place, the request by -1.
        self._groups = [_template(name, _INTERNAL) for name in contract.groups]
        self._stages = [
            (
                _template(
                    place.stage.name, _INTERNAL, deployment if place.stage.name == contract.outcome_stage else b""
                ),
                contract.groups.index(place.stage.group) if place.stage.group else -1,
                place.batched,
                2 * place.at,
            )
            for place in contract.places
        ]
        spans = [*contract.groups, *(place.stage.name for place in contract.places)]
        self._input_span = spans.index(contract.input_span)
        self._outcome_span = len(contract.groups) + spans[len(contract.groups) :].index(contract.outcome_stage)
        self._members = [
            [at for at, stage in enumerate(self._stages) if stage[1] == group] for group in range(len(self._groups))
        ]
        self._batch = _template(signals.BATCH_SPAN, _INTERNAL, deployment)

    def encode(self, records: Sequence[RequestRecord | BatchRecord]) -> bytes:
        """Return a serialised ``ExportTraceServiceRequest`` with the spans of all the records."""
        message = ExportTraceServiceRequest.FromString(self._envelope)
        spans = message.resource_spans[0].scope_spans[0].spans
        failed: list[ReadableSpan] = []
        for record in records:
            if isinstance(record, BatchRecord):
                if record.exception is None:
                    self._batch_span(record, spans)
                else:
                    failed.append(self._failed_batch_span(record, record.exception))
            elif record.prediction is not None and record.failure is None:
                self._prediction_spans(record, record.prediction, spans)
            else:
                failed.append(self._server_span(record))
        payload = bytes(message.SerializeToString()) if spans else b""
        return payload + encode_spans(failed).SerializeToString() if failed else payload

    def _prediction_spans(self, record: RequestRecord, prediction: PredictionRecord, spans: Any) -> None:
        batch = prediction.batch
        root = bytes.fromhex(record.span_id)
        groups = len(self._groups)
        ids = os.urandom(8 * (groups + len(self._stages)))
        offset = record.start_wall - record.start
        connection = record.connection
        if not connection.attributes:
            connection.attributes = _attributes(http_attributes(connection))
        attribute = _attribute
        trace = SpanMessage(trace_id=bytes.fromhex(record.trace_id), trace_state=record.trace_state)
        shared = trace.SerializeToString()

        def add(parts: bytes, span_id: bytes, parent: bytes, start: int, end: int) -> Any:
            span = spans.add()
            span.MergeFromString(shared + parts)
            span.span_id = span_id
            span.parent_span_id = parent
            span.start_time_unix_nano = start + offset
            span.end_time_unix_nano = end + offset
            return span

        request = add(
            self._request
            + connection.attributes
            + attribute(signals.HTTP_STATUS.name, record.status)
            + attribute(signals.HTTP_REQUEST_SIZE.name, record.request_size)
            + attribute(signals.HTTP_RESPONSE_SIZE.name, record.response_size)
            + attribute(signals.SYNTHETIC.name, record.synthetic),
            root,
            bytes.fromhex(record.parent_span_id),
            record.start,
            record.end,
        )
        if record.parent_span_id:
            request.flags = _REMOTE
        # Not remembered: it never comes again.
        request.attributes.add(key=signals.PREDICTION_ID.name).value.string_value = prediction.prediction_id
        own, batched = prediction.times, batch.times if batch is not None else ()
        times = [_pair(batched if of_batch else own, at) for _, _, of_batch, at in self._stages]
        for group, members in enumerate(self._members):
            ran = [times[at] for at in members if times[at][0]]
            if ran:
                at = 8 * group
                span = add(self._groups[group], ids[at : at + 8], root, ran[0][0], ran[-1][1])
                if group == self._input_span:
                    self._describe(span, prediction)
        for number, ((template, group, of_batch, _), (start, end)) in enumerate(zip(self._stages, times, strict=True)):
            if not start:
                continue
            at = 8 * (groups + number)
            parent = root if group < 0 else ids[8 * group : 8 * group + 8]
            span = add(template, ids[at : at + 8], parent, start, end)
            if groups + number == self._input_span:
                self._describe(span, prediction)
            if groups + number == self._outcome_span:
                self._tell(span, prediction)
            if of_batch and batch is not None and groups + number == self._outcome_span:
                span.MergeFromString(attribute(signals.BATCH_SIZE.name, batch.size))
                _link(span, batch.trace_id, batch.span_id)

    def _describe(self, span: Any, prediction: PredictionRecord) -> None:
        """Note the features of the input."""
        if not prediction.features:
            return
        parts = b""
        for at, feature in self._contract.traced:
            value = prediction.features[at]
            if feature.kind is FeatureKind.COUNT and value is not None:
                parts += _attribute(feature.attribute, int(value))
            elif isinstance(value, str):
                parts += _attribute(feature.attribute, value)
            elif value is not None:
                span.attributes.add(key=feature.attribute).value.double_value = value
        if parts:
            span.MergeFromString(parts)

    def _tell(self, span: Any, prediction: PredictionRecord) -> None:
        """Note the outcome."""
        if self._contract.classifies:
            span.MergeFromString(_attribute(signals.PREDICTION_LABEL.name, prediction.label))
            span.attributes.add(key=signals.PREDICTION_CONFIDENCE.name).value.double_value = prediction.confidence
            span.attributes.add(key=signals.PREDICTION_MARGIN.name).value.double_value = prediction.margin
        else:
            span.attributes.add(key=signals.PREDICTION_VALUE.name).value.double_value = prediction.value

    def _batch_span(self, batch: BatchRecord, spans: Any) -> None:
        span = spans.add(
            trace_id=bytes.fromhex(batch.trace_id),
            span_id=bytes.fromhex(batch.span_id),
            start_time_unix_nano=batch.start_wall,
            end_time_unix_nano=batch.start_wall + (batch.times[-1] if batch.times else batch.zero) - batch.zero,
        )
        span.MergeFromString(self._batch + _attribute(signals.BATCH_SIZE.name, batch.size))
        for one in batch.sampled:
            _link(span, one.trace_id, one.span_id)

    def _failed_batch_span(self, batch: BatchRecord, exception: BaseException) -> ReadableSpan:
        """Build the span of a failed batch from the SDK's own classes: these are rare."""
        end = batch.start_wall + batch.end - batch.zero
        details = _exception(exception)
        attributes = {**self._deployment, signals.BATCH_SIZE.name: batch.size}
        return ReadableSpan(
            name=signals.BATCH_SPAN,
            context=_context(batch.trace_id, batch.span_id),
            resource=self._resource,
            attributes=attributes | {signals.ERROR_TYPE.name: details[signals.EXCEPTION_TYPE.name]},
            events=[Event("exception", details, end)],
            links=[Link(_context(one.trace_id, one.span_id)) for one in batch.sampled],
            kind=SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR),
            start_time=batch.start_wall,
            end_time=end,
            instrumentation_scope=self._scope,
        )

    def _server_span(self, record: RequestRecord) -> ReadableSpan:
        """Build the span of a request without a prediction from the SDK's own classes: these are rare."""
        attributes: dict[str, Value] = {
            **http_attributes(record.connection),
            signals.SYNTHETIC.name: record.synthetic,
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
            details = _exception(record.exception)
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


def _exception(exception: BaseException) -> dict[str, str]:
    return {
        signals.EXCEPTION_TYPE.name: exception_name(exception),
        signals.EXCEPTION_STACKTRACE.name: stack_frames(exception),
    }


def _context(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), False, TraceFlags(TraceFlags.SAMPLED))


_SDK_CONTEXT: Final = Traced.context


_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0
"""Seconds before the next attempt, twice as many each time."""


def _pair(times: Sequence[int], at: int) -> tuple[int, int]:
    """Return begin and end of a stage, zeros where it did not run."""
    return (times[at], times[at + 1]) if at + 1 < len(times) else (0, 0)


def _link(span: Any, trace_id: str, span_id: str) -> None:
    span.links.add(trace_id=bytes.fromhex(trace_id), span_id=bytes.fromhex(span_id), flags=_LOCAL)


class RecordExporter(SpanExporter):
    """Sends records, and the application's own spans beside them.

    A Collector that is restarted may be away for a while, so a request that nobody took is sent until somebody does or
    this service ends; what comes meanwhile waits in the queue.
    """

    def __init__(self, sender: Sender, encoder: SpanEncoder, on_loss: Callable[[int], None]) -> None:
        self._sender = sender
        self._encoder = encoder
        self._on_loss = on_loss
        self._closed = threading.Event()
        # Spans and records taken from the queue so far; only the processor's thread writes it.
        self.taken = 0

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        """Encode and send; a request that could not be delivered is counted as lost."""
        records = [span.record for span in spans if isinstance(span, Traced)]
        own = [span for span in spans if isinstance(span, ReadableSpan)]
        self.taken += len(spans)
        delivered = False
        try:
            if not self._closed.is_set():
                payload = self._encoder.encode(records) if records else b""
                if own:
                    # What an application writes into its own spans is not known here: an exception may quote a caller.
                    request = encode_spans(own)
                    mask(request)
                    payload += request.SerializeToString()
                pause = _FIRST_PAUSE
                while (outcome := self._sender.send(payload)) is Delivery.AGAIN and not self._closed.wait(pause):
                    pause = min(2 * pause, _LONGEST_PAUSE)
                delivered = outcome is Delivery.DONE
        finally:
            if not delivered:
                self._on_loss(len(spans))
        return SpanExportResult.SUCCESS if delivered else SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Stop sending; a retry that waits is ended at once."""
        if not self._closed.is_set():
            self._closed.set()
            self._sender.close()


class RecordProcessor(BatchSpanProcessor):
    """The SDK's batch processor, which also takes records and counts what its full queue would drop.

    Spans of the application's own come here too, from any thread.
    """

    def __init__(self, exporter: RecordExporter, limit: int, on_full: Callable[[int], None]) -> None:
        super().__init__(exporter, max_queue_size=limit)
        self._records = exporter
        self._on_full = on_full
        self._limit = limit
        self._lock = threading.Lock()
        self._submitted = 0

    def submit(self, record: RequestRecord | BatchRecord) -> None:
        """Queue a finished record; never blocks, and drops the record when the queue is full."""
        self.on_end(cast(ReadableSpan, Traced(record)))

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span that ended; the SDK's own full queue would drop its oldest without a word."""
        if not (span.context and span.context.trace_flags.sampled):
            return
        with self._lock:
            full = self._submitted - self._records.taken >= self._limit
            self._submitted += not full
        if full:
            self._on_full(1)
        else:
            super().on_end(span)
