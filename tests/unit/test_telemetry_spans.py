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
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter
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
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from ml_telemetry import signals, wire
from ml_telemetry.record import BatchRecord, Connection, Failure, PredictionRecord, RequestRecord
from ml_telemetry.spans import (
    Delivery,
    RecordExporter,
    RecordProcessor,
    SpanEncoder,
    Traced,
    exception_name,
    sender_of,
    stack_frames,
)
from sightglass import polling
from sightglass.polling import NotYet

RESOURCE = Resource({"service.name": "test"})
SCOPE = InstrumentationScope("scope", "1.0", "https://example.org/schema")
MODEL = {signals.MODEL_NAME.name: "m", signals.MODEL_VERSION.name: "1"}
SAMPLED = TraceFlags(TraceFlags.SAMPLED)
TRACE, SPAN, PARENT = 0x1234 << 64, 0xABCD << 8, 0x77
Values = Mapping[str, str | int | float]


def encoder() -> SpanEncoder:
    return SpanEncoder(RESOURCE, SCOPE, MODEL, "stable")


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
    made.normalise_start, made.normalise_end = start + 100, start + 200
    batch.vectorize_start, batch.vectorize_end = start + 200, start + 700
    batch.predict_start, batch.predict_end = start + 700, start + 900
    made.postprocess_start, made.postprocess_end = start + 900, start + 1_000
    return made


def predicted(**values: Any) -> RequestRecord:
    record = request(**values)
    record.prediction = prediction(BatchRecord(1))
    return record


def decode(payload: bytes) -> dict[str, Span]:
    message = ExportTraceServiceRequest.FromString(payload)
    return {s.name: s for r in message.resource_spans for scope in r.scope_spans for s in scope.spans}


def sdk_span(kind: SpanKind, attributes: Values, links: list[Link], parent: SpanContext | None, state: str) -> bytes:
    span = ReadableSpan(
        name="work",
        context=SpanContext(TRACE, SPAN, False, SAMPLED, TraceState.from_header([state]) if state else None),
        parent=parent,
        resource=RESOURCE,
        attributes=attributes,
        links=links,
        kind=kind,
        status=Status(StatusCode.UNSET),
        start_time=1_700_000_000_123_456_789,
        end_time=1_700_000_001_000_000_001,
        instrumentation_scope=SCOPE,
    )
    return bytes(encode_spans([span]).SerializeToString())


@pytest.mark.parametrize("remote", [True, False, None])
@pytest.mark.parametrize("state", ["", "a=1,b=2"])
def test_template_makes_what_the_sdk_makes(remote: bool | None, state: str) -> None:
    attributes: Values = {"text": "ä" * 200, "small": 1, "big": 3_000_000_000, "share": 0.25}
    parent = None if remote is None else SpanContext(TRACE, PARENT, remote, SAMPLED)
    link = SpanContext(TRACE + 1, SPAN + 1, False, SAMPLED)
    expected = sdk_span(SpanKind.SERVER, attributes, [Link(link)], parent, state)
    template = wire.SpanTemplate("work", Span.SPAN_KIND_SERVER)
    ids = [(TRACE).to_bytes(16), SPAN.to_bytes(8), PARENT.to_bytes(8) if parent else b""]
    extra = wire.attributes(attributes) + wire.link((TRACE + 1).to_bytes(16), (SPAN + 1).to_bytes(8))
    times = (1_700_000_000_123_456_789, 1_700_000_001_000_000_001)
    span = template.encode(ids[0], ids[1], ids[2], *times, extra, trace_state=state, remote_parent=bool(remote))
    sdk = ExportTraceServiceRequest.FromString(expected).resource_spans[0]
    envelope = wire.Envelope(sdk.resource, sdk.scope_spans[0].scope, SCOPE.schema_url or "")
    assert ExportTraceServiceRequest.FromString(envelope.wrap([span])) == ExportTraceServiceRequest.FromString(expected)
    other = template.encode(ids[0], ids[1], ids[2], times[0], times[1] + 1, extra, trace_state=state)
    assert ExportTraceServiceRequest.FromString(envelope.wrap([other])) != ExportTraceServiceRequest.FromString(
        expected
    )


@pytest.mark.parametrize("number", [0, 1, 127, 128, 16_383, 16_384, 2**62])
def test_varint_is_protobufs(number: int) -> None:
    assert Span(dropped_attributes_count=number & 0xFFFFFFFF).SerializeToString()[1:] in (
        wire.varint(number & 0xFFFFFFFF),
        b"",
    )
    assert wire.attribute("k", number).endswith(wire.varint(number))


def test_fixed_attributes_are_the_encoders() -> None:
    assert wire.DoubleAttribute("share")(0.125) == wire.attributes({"share": 0.125})
    assert wire.TextAttribute("id", 5)("abcde") == wire.attribute("id", "abcde")


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
        self.exporter = HttpSpanExporter(f"http://127.0.0.1:{self._server.server_port}/v1/traces")

    def __enter__(self) -> Receiver:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_records_and_sdk_spans_go_together() -> None:
    losses: list[int] = []
    own = ReadableSpan("own", SpanContext(TRACE, SPAN, False, SAMPLED), resource=RESOURCE, start_time=1, end_time=2)
    with Receiver() as receiver:
        exporter = RecordExporter(receiver.exporter, encoder(), losses.append)
        assert exporter.export([Traced(predicted()), own]) is SpanExportResult.SUCCESS
    assert {"own", "postprocess"} <= set(decode(receiver.payloads[0]))
    assert (exporter.taken, losses) == (1, [])


def test_refused_delivery_and_what_comes_after_the_end_are_counted() -> None:
    losses: list[int] = []
    with Receiver(status=400) as receiver:
        exporter = RecordExporter(receiver.exporter, encoder(), losses.append)
        assert exporter.export([Traced(predicted()), Traced(predicted())]) is SpanExportResult.FAILURE
        exporter.shutdown()
        exporter.export([Traced(predicted())])
    assert losses == [2, 1]
    assert len(receiver.payloads) == 1


def test_a_request_that_nobody_takes_is_sent_until_somebody_does(monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[int] = []
    with Receiver(status=503) as receiver:
        # The SDK gives up at once: the first wait between its own attempts is longer.
        monkeypatch.setattr(receiver.exporter._client, "_timeout", 0.5)
        exporter = RecordExporter(receiver.exporter, encoder(), losses.append)
        thread = threading.Thread(target=exporter.export, args=([Traced(predicted())],))
        thread.start()

        def tried() -> None:
            if len(receiver.payloads) < 3:
                raise NotYet(f"{len(receiver.payloads)} attempts")

        polling.until(tried, timeout=10, what="three attempts")
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


def test_full_queue_drops_and_counts_without_blocking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")
    dropped: list[int] = []
    with Receiver() as receiver:
        receiver.gate.clear()
        processor: Any = RecordProcessor(
            RecordExporter(receiver.exporter, encoder(), lambda _: None), 4, dropped.append
        )
        start = time.monotonic()
        for _ in range(20):
            processor.submit(predicted())
        assert time.monotonic() - start < 5
        receiver.gate.set()
        processor.shutdown()
    delivered = len(receiver.payloads)
    assert 4 <= delivered <= 5
    assert delivered + sum(dropped) == 20


def test_grpc_exporter_delivers_the_same_message() -> None:
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
    send = sender_of(GrpcSpanExporter(endpoint=f"http://127.0.0.1:{port}"))
    assert send(payload) is Delivery.DONE
    server.stop(None).wait()
    assert received == [ExportTraceServiceRequest.FromString(payload)]


def test_other_exporters_are_refused_with_what_to_set() -> None:
    with pytest.raises(TypeError, match="OTEL_TRACES_EXPORTER"):
        sender_of(ConsoleSpanExporter())
