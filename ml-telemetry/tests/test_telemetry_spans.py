"""Span encoding against the SDK's own encoder, and the way of records through the SDK's batch processor."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from declared import TEXTS
from ml_telemetry import delivery, signals
from ml_telemetry.contract import Contract
from ml_telemetry.delivery import Delivery
from ml_telemetry.record import BatchRecord, Connection, Failure, PredictionRecord, RequestRecord
from ml_telemetry.spans import (
    RecordExporter,
    RecordProcessor,
    SpanEncoder,
    Traced,
    exception_name,
    http_attributes,
    stack_frames,
)
from waiting import until

CONTRACT = Contract(TEXTS)

RESOURCE = Resource({"service.name": "test"})
SCOPE = InstrumentationScope("scope", "1.0", "https://example.org/schema")
MODEL = {signals.MODEL_NAME.name: "m", signals.MODEL_VERSION.name: "1"}
SAMPLED = TraceFlags(TraceFlags.SAMPLED)
TRACE, SPAN, PARENT = 0x1234 << 64, 0xABCD << 8, 0x77
Values = Mapping[str, str | int | float]


def encoder() -> SpanEncoder:
    return SpanEncoder(CONTRACT, RESOURCE, SCOPE, MODEL, "stable")


def connection(route: str | None = "/predict") -> Connection:
    return Connection("POST", route, "http", "1.1", "localhost", 3000, "127.0.0.1", "test")


def request(**values: Any) -> RequestRecord:
    record = RequestRecord(f"{TRACE:032x}", values.pop("parent", ""), True, values.pop("state", ""))
    record.connection = connection()
    record.status = 200
    record.end = record.start + 5_000
    for name, value in values.items():
        setattr(record, name, value)
    return record


def prediction(batch: BatchRecord) -> PredictionRecord:
    made = PredictionRecord()
    made.batch = batch
    made.label, made.confidence, made.margin = "a", 0.75, 0.5
    made.features = (1234, 300, 4.5, 0.8, 0.1, 0.1, 0.0)
    start = batch.zero
    made.times = (start + 100, start + 200, start + 900, start + 1_000)
    batch.times = (start + 200, start + 700, start + 700, start + 900)
    return made


def predicted(**values: Any) -> RequestRecord:
    record = request(**values)
    record.prediction = prediction(BatchRecord(1))
    return record


def decode(payload: bytes) -> dict[str, Span]:
    message = ExportTraceServiceRequest.FromString(payload)
    return {s.name: s for r in message.resource_spans for scope in r.scope_spans for s in scope.spans}


def sdk_spans(record: RequestRecord, found: Mapping[str, Span]) -> list[ReadableSpan]:
    """Make the spans of a record from the SDK's classes, with the ids that were drawn at random."""
    sent = record.prediction
    assert sent is not None
    batch = sent.batch
    assert batch is not None
    offset = record.start_wall - record.start
    state = TraceState.from_header([record.trace_state])
    http: dict[str, str | int | float] = {
        **http_attributes(record.connection),
        "http.response.status_code": 200,
        "http.request.body.size": 0,
    }
    http |= {"http.response.body.size": 0, "ml.request.synthetic": False, "ml.prediction.id": sent.prediction_id}
    deployed: dict[str, str | int | float] = {
        **MODEL,
        "ml.deployment.track": "stable",
        "ml.batch.size": 1,
        "ml.prediction.label": "a",
    }
    predict = {**deployed, "ml.prediction.confidence": 0.75, "ml.prediction.margin": 0.5}
    linked = [Link(SpanContext(int(batch.trace_id, 16), int(batch.span_id, 16), False, SAMPLED))]
    times = {
        "POST /predict": (record.start, record.end),
        "preprocess": (sent.times[0], batch.times[1]),
        "normalise": (sent.times[0], sent.times[1]),
        "vectorize": (batch.times[0], batch.times[1]),
        "predict": (batch.times[2], batch.times[3]),
        "postprocess": (sent.times[2], sent.times[3]),
    }
    parents = {"preprocess": "POST /predict", "normalise": "preprocess", "vectorize": "preprocess"}
    parents |= {"predict": "POST /predict", "postprocess": "POST /predict"}
    own: dict[str, Values] = {"POST /predict": http, "predict": predict}
    own["preprocess"] = {"ml.input.characters": 1234, "ml.input.words": 300}

    def context(span_id: int, *, remote: bool = False) -> SpanContext:
        return SpanContext(TRACE, span_id, remote, SAMPLED, state)

    def parent(name: str) -> SpanContext:
        return (
            context(int.from_bytes(found[parents[name]].span_id)) if name in parents else context(PARENT, remote=True)
        )

    return [
        ReadableSpan(
            name=name,
            context=context(int.from_bytes(found[name].span_id)),
            parent=parent(name),
            resource=RESOURCE,
            attributes=own.get(name, {}),
            links=linked if name == "predict" else [],
            kind=SpanKind.INTERNAL if name in parents else SpanKind.SERVER,
            status=Status(StatusCode.UNSET),
            start_time=start + offset,
            end_time=end + offset,
            instrumentation_scope=SCOPE,
        )
        for name, (start, end) in times.items()
    ]


def test_spans_are_what_the_sdk_makes() -> None:
    record = predicted(parent=f"{PARENT:016x}", state="a=1,b=2")
    record.connection.user_agent = "ä" * 200
    payload = encoder().encode([record])
    expected = encode_spans(sdk_spans(record, decode(payload)))
    assert sorted_attributes(ExportTraceServiceRequest.FromString(payload)) == sorted_attributes(expected)
    record.end += 1
    other = encode_spans(sdk_spans(record, decode(payload)))
    assert sorted_attributes(ExportTraceServiceRequest.FromString(payload)) != sorted_attributes(other)


def sorted_attributes(message: Any) -> Any:
    """The message with the attributes of each span in order: which comes first says nothing."""
    for span in message.resource_spans[0].scope_spans[0].spans:
        kept = sorted(span.attributes, key=lambda one: str(one.key))
        del span.attributes[:]
        span.attributes.extend(kept)
    return message


def test_request_becomes_a_tree_with_a_link_to_its_batch() -> None:
    record = predicted(parent=f"{PARENT:016x}", state="a=b")
    assert record.prediction is not None
    batch = record.prediction.batch
    assert batch is not None
    reference = record.reference()
    assert reference is not None
    batch.sampled = [reference]
    spans = decode(encoder().encode([record, batch]))
    assert spans["POST /predict"].parent_span_id == PARENT.to_bytes(8)
    assert {span.trace_state for name, span in spans.items() if name != "predict.batch"} == {"a=b"}
    (link,) = spans["predict"].links
    assert (link.trace_id, link.span_id) == (spans["predict.batch"].trace_id, spans["predict.batch"].span_id)
    (back,) = spans["predict.batch"].links
    assert (back.trace_id, back.span_id) == (spans["POST /predict"].trace_id, spans["POST /predict"].span_id)
    vectorize = spans["vectorize"]
    assert vectorize.end_time_unix_nano - vectorize.start_time_unix_nano == 500


def test_records_are_freed_without_the_garbage_collector() -> None:
    def use(*, cycle: bool) -> None:
        record = predicted()
        assert record.prediction is not None
        assert record.prediction.batch is not None
        kept = record if cycle else record.reference()
        record.prediction.batch.sampled = [kept]  # type: ignore[list-item]

    def garbage(*, cycle: bool) -> int:
        gc.collect()
        gc.disable()
        try:
            use(cycle=cycle)
            return gc.collect()
        finally:
            gc.enable()

    assert garbage(cycle=False) == 0
    assert garbage(cycle=True) > 0


def test_failed_and_successful_requests_share_one_payload() -> None:
    failed = request(status=404, failure=Failure(404, "unknown_route", "none"), connection=connection(None))
    spans = decode(encoder().encode([predicted(), failed]))
    assert {"POST /predict", "predict", "POST"} <= set(spans)
    attributes = {a.key: a.value.string_value for a in spans["POST"].attributes}
    assert attributes["error.type"] == "unknown_route"
    assert "url.path" not in attributes
    assert "http.route" not in attributes


def test_error_span_has_frames_and_no_message() -> None:
    def inner() -> None:
        raise ValueError("secret text")

    try:
        try:
            inner()
        except ValueError as error:
            raise RuntimeError("more secret text") from error
    except RuntimeError as error:
        record = request(status=500, failure=Failure(500, "internal_error", "no"), exception=error)
        frames = stack_frames(error)
    payload = encoder().encode([record])
    span = decode(payload)["POST /predict"]
    assert span.status.code == span.status.STATUS_CODE_ERROR
    assert span.events[0].name == "exception"
    assert b"secret text" not in payload.replace(b'raise ValueError("secret text")', b"").replace(
        b'raise RuntimeError("more secret text")', b""
    )
    assert frames.index("ValueError") < frames.index("RuntimeError")
    assert "in inner" in frames


def test_exception_name_has_its_module() -> None:
    assert exception_name(ValueError()) == "ValueError"
    assert exception_name(threading.BrokenBarrierError()) == "threading.BrokenBarrierError"


def target(endpoint: str, protocol: str = delivery.HTTP) -> delivery.Target:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        patch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
        return delivery.target()


class Receiver:
    """An OTLP/HTTP server that keeps what it is sent, answers with one status, and can be held up."""

    def __init__(self, status: int = 200) -> None:
        self.status = status
        self.payloads: list[bytes] = []
        self.gate = threading.Event()
        self.gate.set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.gate.wait(10)
                receiver.payloads.append(body)
                self.send_response(receiver.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.sender = delivery.sender(target(f"http://127.0.0.1:{self._server.server_port}"))

    def __enter__(self) -> Receiver:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_records_and_sdk_spans_go_together() -> None:
    losses: list[int] = []
    with Receiver() as receiver:
        exporter = RecordExporter(receiver.sender, encoder(), losses.append)
        assert exporter.export([Traced(predicted()), own_span()]) is SpanExportResult.SUCCESS
    assert {"own", "postprocess"} <= set(decode(receiver.payloads[0]))
    assert (exporter.taken, losses) == (2, [])


def test_refused_delivery_and_what_comes_after_the_end_are_counted() -> None:
    losses: list[int] = []
    with Receiver(status=400) as receiver:
        exporter = RecordExporter(receiver.sender, encoder(), losses.append)
        assert exporter.export([Traced(predicted()), Traced(predicted())]) is SpanExportResult.FAILURE
        exporter.shutdown()
        exporter.export([Traced(predicted())])
    assert losses == [2, 1]
    assert len(receiver.payloads) == 1


def test_a_request_that_nobody_takes_is_sent_until_somebody_does() -> None:
    losses: list[int] = []
    with Receiver(status=503) as receiver:
        exporter = RecordExporter(receiver.sender, encoder(), losses.append)
        thread = threading.Thread(target=exporter.export, args=([Traced(predicted())],))
        thread.start()
        until(lambda: len(receiver.payloads) >= 3, "three attempts", 10)
        receiver.status = 200
        thread.join(10)
        assert not thread.is_alive()
        assert losses == []
        # The twin: where the service ends before anybody takes it, it is lost and counted.
        receiver.status = 503
        thread = threading.Thread(target=exporter.export, args=([Traced(predicted())],))
        thread.start()
        exporter.shutdown()
        thread.join(10)
        assert not thread.is_alive()
    assert losses == [1]


def own_span() -> ReadableSpan:
    """A span that the application made itself."""
    context = SpanContext(TRACE, SPAN, False, SAMPLED)
    return ReadableSpan("own", context, resource=RESOURCE, start_time=1, end_time=2)


@pytest.mark.parametrize("kind", ["records", "spans of the application"])
def test_full_queue_drops_and_counts_without_blocking(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    dropped: list[int] = []
    with Receiver() as receiver:
        receiver.gate.clear()
        processor: Any = RecordProcessor(RecordExporter(receiver.sender, encoder(), lambda _: None), 4, dropped.append)
        start = time.monotonic()
        for _ in range(20):
            if kind == "records":
                processor.submit(predicted())
            else:
                processor.on_end(own_span())
        assert time.monotonic() - start < 5
        receiver.gate.set()
        processor.shutdown()
    delivered = len(receiver.payloads)
    assert 4 <= delivered <= 5
    assert delivered + sum(dropped) == 20


def test_grpc_delivers_the_same_message() -> None:
    received: list[ExportTraceServiceRequest] = []

    class Traces(TraceServiceServicer):
        def Export(self, request: ExportTraceServiceRequest, context: Any) -> ExportTraceServiceResponse:  # noqa: N802
            received.append(request)
            return ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(1))
    register: Any = add_TraceServiceServicer_to_server
    register(Traces(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    payload = encoder().encode([predicted()])
    sender = delivery.sender(target(f"http://127.0.0.1:{port}", delivery.GRPC))
    assert sender.send(payload) is Delivery.DONE
    sender.close()
    assert sender.send(payload) is Delivery.REFUSED
    server.stop(None).wait()
    assert received == [ExportTraceServiceRequest.FromString(payload)]
