"""What the application itself traces, calls and logs while it serves a request or a batch belongs to that."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.unit.otlp import Receiver, plain, until
from tests.unit.test_service_http import TEXT, Service, serving

# The real service, whose handler and batch trace steps of their own and call another service: by a client that
# OpenTelemetry instruments, and by one that is given the headers.
CALLING_SERVICE = """
import logging
import os
import urllib.request

import aiohttp
from opentelemetry import propagate, trace
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor

from text_classifier import http, service

AioHttpClientInstrumentor().instrument()
tracer = trace.get_tracer("the application")
other = os.environ["OTHER_SERVICE"]
_read = http.PredictRequest.from_http_request
_normalise = service.normalise

async def from_http_request(request, serde):
    async with aiohttp.ClientSession() as session:
        await session.get(f"{other}/instrumented")
    with tracer.start_as_current_span("look up"):
        headers = {}
        propagate.inject(headers)
        urllib.request.urlopen(urllib.request.Request(f"{other}/by-hand", headers=headers))
    return await _read(request, serde)

def normalise(text):
    with tracer.start_as_current_span("clean"):
        logging.getLogger("the.application").warning("cleaning")
    if "explodingword" in text:
        raise ValueError(f"cannot take {text!r}")
    return _normalise(text)

http.PredictRequest.from_http_request = from_http_request
service.normalise = normalise
TextClassifier = service.TextClassifier
"""
TRACEPARENT = re.compile("00-([0-9a-f]{32})-([0-9a-f]{16})-01")


@pytest.fixture(scope="module")
def calls() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Another service, and the path and ``traceparent`` of each call to it."""
    seen: list[tuple[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers.get("traceparent", "")))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", seen
        server.shutdown()


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver().serving() as serving_receiver:
        yield serving_receiver


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, home: Path, receiver: Receiver, calls: tuple[str, object]
) -> Iterator[Service]:
    environment = {"OTEL_METRIC_EXPORT_INTERVAL": "200", "OTHER_SERVICE": calls[0]}
    folder = tmp_path_factory.mktemp("service")
    with serving(folder, home, receiver.url, code=CALLING_SERVICE, **environment) as running:
        yield running


def batch_of(receiver: Receiver, trace_id: str) -> Span:
    """The span of the batch that a request was in."""
    (link,) = receiver.span(trace_id, "predict").links
    return receiver.span(link.trace_id.hex(), "predict.batch")


def test_spans_and_calls_of_a_handler_belong_to_its_request(
    service: Service, receiver: Receiver, calls: tuple[str, list[tuple[str, str]]]
) -> None:
    # More than one, for each must find its own request and not the first.
    for _ in range(3):
        calls[1].clear()
        trace_id = service.predict(TEXT).json()["trace_id"]
        request = receiver.span(trace_id, "POST /predict")
        step = receiver.span(trace_id, "look up")
        client = receiver.span(trace_id, "GET")
        assert step.parent_span_id == client.parent_span_id == request.span_id
        assert client.kind == Span.SPAN_KIND_CLIENT
        sent = {path: TRACEPARENT.fullmatch(parent) for path, parent in calls[1]}
        found = {path: match.groups() for path, match in sent.items() if match}
        assert found == {
            "/instrumented": (trace_id, client.span_id.hex()),
            "/by-hand": (trace_id, step.span_id.hex()),
        }


def test_unsampled_request_says_so_to_those_it_calls(
    service: Service, receiver: Receiver, calls: tuple[str, list[tuple[str, str]]]
) -> None:
    calls[1].clear()
    trace_id = "5bf92f3577b34da6a3ce929d0e0e4737"
    service.predict(TEXT, traceparent=f"00-{trace_id}-00f067aa0ba902b7-00", tracestate="vendor=value")
    parents = [parent for _, parent in calls[1]]
    assert len(parents) == 2
    assert all(parent.startswith(f"00-{trace_id}-") and parent.endswith("-00") for parent in parents)
    receiver.span(service.predict(TEXT).json()["trace_id"], "look up")
    assert receiver.trace(trace_id) == {}


def test_spans_and_lines_of_a_batch_belong_to_the_batch(service: Service, receiver: Receiver) -> None:
    # The task of BentoML's dispatcher begins with the first request: without care all batches would belong to that.
    for _ in range(3):
        trace_id = service.predict(TEXT).json()["trace_id"]
        batch = batch_of(receiver, trace_id)
        step = receiver.span(batch.trace_id.hex(), "clean")
        assert step.parent_span_id == batch.span_id
        line = service.line("log", batch.trace_id.hex())
        assert (line["message"], line["span_id"]) == ("cleaning", batch.span_id.hex())
    assert "clean" not in receiver.trace(trace_id)


def test_batch_that_fails_and_is_retried_leaves_a_span_a_line_and_a_count(service: Service, receiver: Receiver) -> None:
    def retried() -> dict[str, str] | None:
        texts = [TEXT] * 15 + ["explodingword secretword"]
        with ThreadPoolExecutor(16) as pool:
            statuses = [response.status_code for response in pool.map(service.predict, texts)]
        assert sorted(statuses) == [200] * 15 + [500]
        return next((line for line in service.lines() if line["event.name"] == "ml.batch.failed"), None)

    # A batch of one is not retried: it takes some luck until the culprit has company.
    line = until(retried, "a batch of several requests that fails")
    assert line["severity"] == "WARN"
    assert int(line["ml.batch.size"]) > int(line["ml.batch.failed_requests"]) == 1
    assert line["exception.type"] == "ValueError"
    assert "in normalise" in line["exception.stacktrace"]
    batch = receiver.span(line["trace_id"], "predict.batch")
    assert batch.span_id.hex() == line["span_id"]
    assert batch.status.code == batch.status.STATUS_CODE_ERROR
    assert plain(batch)["error.type"] == "ValueError"
    assert len(batch.links) == int(line["ml.batch.size"])
    assert receiver.span(line["trace_id"], "clean").parent_span_id == batch.span_id
    lines = len([one for one in service.lines() if one["event.name"] == "ml.batch.failed"])
    until(
        lambda: receiver.value("ml.inference.batch.retries", outcome="some_failed") == lines, f"{lines} batches retried"
    )
    assert "secretword" not in json.dumps(service.lines())
