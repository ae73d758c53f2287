"""The real service as a process, with a real OTLP receiver: every answer, and what is left of it as telemetry."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from ml_telemetry import hashing, signals, synthetic
from ml_telemetry.signals import Attribute
from ml_telemetry.synthetic import Source
from sightglass.clients import polling
from sightglass.clients.polling import NotYet
from sightglass.facts import credentials, settings
from sightglass.local import components
from sightglass.local.up import PLANNED_PROGRAMS
from tests.unit.otlp import Points, Receiver, plain, until
from tests.unit.ports import free_port
from tests.unit.raw_requests import CORPUS, PARENT, TRACE, TRACEPARENT, Answer, Caller, Raw, exchange, request
from text_classifier import openapi
from text_classifier.declaration import CONTRACT

REPOSITORY = Path(__file__).parents[2]
HASH = hashing.TextHash("20261201-test", bytes(range(32)))
MARKER = "zanzibarquux"
PROOF_KEY = "of this test"
TEXT = "The goalie made thirty saves and the pitcher sat in his car. "
HEX_TRACE = re.compile(r"[0-9a-f]{32}")

# The real service with a model that fails on one word and quotes the text in its error, as libraries do, and one that
# takes too long for another.
FAILING_SERVICE = """
import asyncio
from text_classifier import service

_normalise = service.normalise
_to_http_response = service.PredictResponse.to_http_response

def normalise(text):
    if "explodingword" in text:
        raise ValueError(f"cannot take {text!r}")
    return _normalise(text)

async def to_http_response(jobs, serde):
    if "slowword" in jobs[0].text:
        await asyncio.sleep(60)
    return await _to_http_response(jobs, serde)

service.normalise = normalise
service.PredictResponse.to_http_response = to_http_response
TextClassifier = service.TextClassifier
"""


@dataclass
class Service:
    """A running service and its standard output."""

    process: subprocess.Popen[bytes]
    url: str
    output: Path

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        return int(self.url.rpartition(":")[2])

    def lines(self) -> list[dict[str, Any]]:
        """All complete lines so far; every one must be JSON."""
        text = self.output.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def line(self, event: str, trace_id: str) -> dict[str, Any]:
        def find() -> dict[str, Any] | None:
            return next((x for x in self.lines() if x["event.name"] == event and x["trace_id"] == trace_id), None)

        return until(find, f"line {event} of trace {trace_id}")

    def predict(self, text: Any, **headers: str) -> httpx.Response:
        return httpx.post(f"{self.url}/predict", json={"text": text}, headers=headers, timeout=20)

    def stop(self) -> float:
        """Send SIGTERM and return the seconds until the process was gone."""
        start = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        return time.monotonic() - start


@contextmanager
def serving(
    folder: Path,
    home: Path,
    endpoint: str,
    code: str = FAILING_SERVICE,
    stdout: Any = None,
    **environment: Any,
) -> Iterator[Service]:
    (folder / "failing_service.py").write_text(code)
    port = free_port()
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "TEXT_CLASSIFIER_"))}
    with (folder / f"{port}.out").open("wb") as output, (folder / f"{port}.err").open("wb") as errors:
        process = subprocess.Popen(
            [
                str(Path(sys.executable).parent / "bentoml"),
                *("serve", "failing_service:TextClassifier", "--working-dir", str(folder)),
                *("--host", "127.0.0.1", "--port", str(port)),
            ],
            stdout=output if stdout is None else stdout,
            stderr=errors,
            env=inherited
            | {
                "SIGHTGLASS_MODELS_DIR": str(home),
                "BENTOML_HOME": str(folder / "bentoml"),
                "BENTOML_DO_NOT_TRACK": "True",
                "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
                "TEXT_CLASSIFIER_MAX_CHARACTERS": "5000",
                hashing.KEY_VARIABLE: f"{HASH.key_id}:{HASH.key.hex()}",
            }
            | environment,
        )
    service = Service(process, f"http://127.0.0.1:{port}", Path(output.name))

    def ready() -> bool:
        if process.poll() is not None:
            pytest.fail(f"the service died: {service.output.read_text()}{Path(errors.name).read_text()}")
        try:
            return httpx.get(f"{service.url}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(ready, "readiness", 180)
        yield service
    finally:
        if process.poll() is None:
            service.stop()
        assert Path(errors.name).read_text() == ""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver().serving() as serving_receiver:
        yield serving_receiver


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, home: Path, receiver: Receiver) -> Iterator[Service]:
    environment = {
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test,service.version=9.9",
        "OTEL_METRIC_EXPORT_INTERVAL": "200",
        "TEXT_CLASSIFIER_TIMEOUT_SECONDS": "4",
        synthetic.KEY_VARIABLE: PROOF_KEY,
        "TEXT_CLASSIFIER_HEAD_SECONDS": "3",
        "TEXT_CLASSIFIER_BODY_SECONDS": "3",
    }
    with serving(tmp_path_factory.mktemp("service"), home, receiver.url, **environment) as running:
        yield running


def test_prediction_answers_with_label_probabilities_and_ids(service: Service) -> None:
    response = service.predict(TEXT)
    answer = response.json()
    assert response.status_code == 200
    assert answer["label"] in answer["probabilities"]
    assert answer["confidence"] == max(answer["probabilities"].values())
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", answer["prediction_id"])
    assert answer["model"]["name"] == "news_classifier"
    assert HEX_TRACE.fullmatch(answer["trace_id"])
    assert response.headers["traceresponse"].split("-")[1] == answer["trace_id"]


@pytest.mark.parametrize("text", ["ホッケーの試合", "zanzibarquux zanzibarquux"])
def test_text_of_unknown_words_gets_the_shares_of_the_classes_and_is_said_to_be_unknown(
    service: Service, text: str
) -> None:
    answer = service.predict(text).json()
    assert answer["out_of_vocabulary"] == 1.0
    assert set(answer["probabilities"].values()) == {0.25}
    known = service.predict(TEXT).json()
    assert known["out_of_vocabulary"] < 0.5
    assert set(known["probabilities"].values()) != {0.25}


def test_each_topic_gets_its_own_label(service: Service) -> None:
    texts = {
        "rec.sport.hockey": "The goaltender stopped the puck in overtime and the power play scored.",
        "rec.motorcycles": "My motorcycle helmet and leather gloves saved me on the bike ride.",
    }
    assert {label: service.predict(text).json()["label"] for label, text in texts.items()} == {k: k for k in texts}


def test_health_endpoints_answer_and_leave_no_span(service: Service, receiver: Receiver) -> None:
    for path in ("livez", "readyz", "healthz"):
        response = httpx.get(f"{service.url}/{path}")
        assert response.status_code == 200
        assert response.headers["traceresponse"].endswith("-00")
    receiver.span(service.predict(TEXT).json()["trace_id"], "POST /predict")
    assert not [span.name for span in receiver.spans if span.name.startswith("GET") and "z" in span.name]


def test_the_committed_description_of_the_api_is_served(service: Service) -> None:
    document = httpx.get(f"{service.url}/docs.json").json()
    assert document == json.loads(openapi.FILE.read_text())
    schema = document["components"]["schemas"]["PredictRequest"]
    assert schema["properties"]["text"]["type"] == "string"
    assert httpx.get(f"{service.url}/metrics").status_code == 404
    assert "/metrics" not in document["paths"]
    responses = document["paths"]["/predict"]["post"]["responses"]
    described = {(status, reason) for status, reasons in openapi.REASONS.items() for reason in reasons}
    assert {(raw.status, raw.reason) for raw in CORPUS if raw.reason} <= described
    assert {str(status) for status, _ in described} | {"200"} == set(responses)
    for status in responses.keys() - {"200"}:
        described_by = responses[status]["content"]["application/json"]["schema"]
        assert "#/components/schemas/Error" in json.dumps(described_by), status


ERRORS: dict[str, tuple[Callable[[str], httpx.Response], int]] = {
    "unknown_route": (lambda url: httpx.get(f"{url}/{MARKER}"), 404),
    "method_not_allowed": (lambda url: httpx.get(f"{url}/predict"), 405),
    "invalid_json": (lambda url: httpx.post(f"{url}/predict", content=f'{{"text": "{MARKER}'.encode()), 400),
    "invalid_type": (lambda url: httpx.post(f"{url}/predict", json={"text": [MARKER]}), 422),
    "empty_text": (lambda url: httpx.post(f"{url}/predict", json={"text": " \n\t"}), 422),
    "text_too_long": (lambda url: httpx.post(f"{url}/predict", json={"text": f"{MARKER} " * 500}), 413),
    "body_too_large": (lambda url: httpx.post(f"{url}/predict", content=b'{"text": "' + b"x" * 70_000 + b'"}'), 413),
    "unsupported_media_type": (
        lambda url: httpx.post(
            f"{url}/predict", content=MARKER.encode(), headers={"content-type": "application/vnd.bentoml+pickle"}
        ),
        415,
    ),
    "internal_error": (lambda url: httpx.post(f"{url}/predict", json={"text": f"explodingword {MARKER}"}), 500),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_error_has_one_body_a_span_a_line_and_a_count(service: Service, receiver: Receiver, kind: str) -> None:
    send, status = ERRORS[kind]
    response = send(service.url)
    assert response.status_code == status
    error = response.json()["error"]
    assert set(response.json()) == {"error"}
    assert set(error) == {"type", "message", "trace_id"}
    assert error["type"] == kind
    assert MARKER not in response.text
    assert "Traceback" not in response.text
    assert response.headers["traceresponse"].split("-")[1] == error["trace_id"]

    event = "ml.prediction.error" if status >= 500 else "ml.request.rejected"
    line = service.line(event, error["trace_id"])
    assert line["http.response.status_code"] == status

    root = "POST" if response.request.method == "POST" else "GET"
    span = receiver.span(error["trace_id"], root if kind == "unknown_route" else f"{root} /predict")
    attributes = plain(span)
    assert attributes["http.response.status_code"] == str(status)
    assert line["error.type"] == attributes["error.type"]
    if status >= 500:
        assert span.status.code == span.status.STATUS_CODE_ERROR
        assert attributes["error.type"] == line["exception.type"] == "ValueError"
        assert "in normalise" in line["exception.stacktrace"]
        assert "in normalise" in plain(span.events[0])["exception.stacktrace"]
    else:
        assert span.status.code == span.status.STATUS_CODE_UNSET
        assert attributes["error.type"] == kind
        assert not span.events
    # Requests come one after the other here, so the lines on standard output say how many there were.
    logged = len([x for x in service.lines() if x["event.name"] == event and x["http.response.status_code"] == status])
    same_status = [name for name, (_, other) in ERRORS.items() if other == status]

    def counted() -> bool:
        return sum(receiver.value("ml.requests.rejected", reason=reason) for reason in same_status) == logged

    until(counted, f"{logged} rejections with status {status}")
    assert receiver.value("ml.requests.rejected", reason=kind) >= 1


def test_405_says_which_method_is_allowed(service: Service) -> None:
    assert httpx.get(f"{service.url}/predict").headers["allow"] == "POST"


def test_large_body_is_refused_while_it_still_comes(service: Service) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * 10_000

    response = httpx.post(f"{service.url}/predict", content=chunks())
    assert (response.status_code, response.json()["error"]["type"]) == (413, "body_too_large")


def test_a_service_that_takes_too_long_says_so(service: Service, receiver: Receiver) -> None:
    response = service.predict(f"{TEXT} slowword")
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (504, "timeout")
    assert plain(receiver.span(error["trace_id"], "POST /predict"))["error.type"] == "timeout"
    assert service.line("ml.prediction.error", error["trace_id"])["error.type"] == "timeout"


@pytest.fixture(scope="module")
def late(service: Service) -> dict[Raw, Answer]:
    """The answers that come with a time-out, waited for together."""
    entries = [raw for raw in CORPUS if raw.late]
    with ThreadPoolExecutor(len(entries)) as pool:
        return dict(zip(entries, pool.map(lambda raw: exchange(service.port, raw), entries), strict=True))


@pytest.mark.parametrize("raw", CORPUS, ids=str)
def test_hostile_request_gets_its_answer_and_a_refusal_the_one_form(
    service: Service, receiver: Receiver, late: dict[Raw, Answer], raw: Raw
) -> None:
    answer = late[raw] if raw.late else exchange(service.port, raw)
    assert answer.status == raw.status, answer.body
    assert answer.headers["content-type"] == "application/json"
    if not raw.reason:
        assert answer.json()["trace_id"] == answer.trace_id
        return
    error = answer.json()["error"]
    assert set(answer.json()) == {"error"}
    assert set(error) == {"type", "message", "trace_id"}
    assert error["type"] == raw.reason
    assert error["trace_id"] == answer.trace_id
    assert "script" not in error["message"]
    line = until(lambda: next((x for x in service.lines() if x["span_id"] == answer.span_id), None), "the line")
    assert line["event.name"] == "ml.request.rejected"
    assert (line["error.type"], line["http.response.status_code"]) == (raw.reason, raw.status)
    assert line["http.request.body.size"] <= len(raw.sent)
    span = receiver.span_of(answer.span_id)
    assert plain(span)["error.type"] == raw.reason
    assert span.status.code == span.status.STATUS_CODE_UNSET


def test_every_refusal_is_counted_and_has_one_short_line(service: Service, receiver: Receiver) -> None:
    for raw in CORPUS[:20]:
        exchange(service.port, raw)
    events = ("ml.request.rejected", "ml.prediction.error")

    def told() -> Counter[str]:
        reasons = (line["error.type"] for line in service.lines() if line["event.name"] in events)
        return Counter("internal_error" if reason == "ValueError" else reason for reason in reasons)

    def counted() -> bool:
        return all(receiver.value("ml.requests.rejected", reason=reason) == count for reason, count in told().items())

    until(counted, "a count for every line")
    assert set(told()) >= {raw.reason for raw in CORPUS[:20] if raw.reason}
    # Nothing is told by anybody else, and nothing that a caller sent is repeated.
    assert not [line for line in service.lines() if line["logger"].startswith(("uvicorn", "opentelemetry"))]
    assert max(map(len, service.output.read_text().splitlines())) < 4_096
    assert "<script>" not in service.output.read_text()


def test_sizes_that_are_counted_are_those_that_were_read(service: Service, receiver: Receiver) -> None:
    raw = next(raw for raw in CORPUS if raw.name == "a length of 2^64 - 1")
    exchange(service.port, raw)

    def counted() -> list[Points]:
        return receiver.points("http.server.request.body.size", **{"http.response.status_code": "413"})

    (point,) = until(counted, "a body size")
    assert point.sum < 1_000_000


def test_a_port_that_cannot_be_costs_no_neighbour_its_span(service: Service, receiver: Receiver) -> None:
    hosts = [b"foo:99999999999999999999" if number == 20 else b"foo:80" for number in range(40)]
    traces = []
    with Caller(service.port) as caller:
        for host in hosts:
            caller.connection.sendall(request(host=host))
            traces.append(caller.answer().trace_id)
    ports = [plain(receiver.span(trace_id, "POST /predict")).get("server.port") for trace_id in traces]
    assert ports == [None if number == 20 else "80" for number in range(40)]


def test_large_hosts_leave_nothing_in_memory(service: Service) -> None:
    worker = max(psutil.Process(service.process.pid).children(recursive=True), key=lambda p: p.memory_info().rss)

    def send(number: int) -> None:
        size = 200_000 if number < 500 else 60_000
        host = b"%d" % number + b"a" * size
        assert exchange(service.port, Raw("", request(host=host), 431)).status == 431

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, range(200)))
        before = worker.memory_info().rss
        list(pool.map(send, range(200, 2_000)))
    assert worker.memory_info().rss - before < 32 * 1024 * 1024


def test_states_of_two_headers_are_one_list(service: Service, receiver: Receiver) -> None:
    states = {
        (b"a=1", b"b=2"): "a=1,b=2",
        (b"a=1", b"<script>"): "",
        (b"a=" + b"x" * 200, b"b=2," * 9): "",
        tuple(b"k%d=%b" % (n, b"v" * 100) for n in range(8)): ",".join(f"k{n}={'v' * 100}" for n in range(4)),
    }
    for sent, kept in states.items():
        headers = (TRACEPARENT, *(b"tracestate: " + state for state in sent))
        with Caller(service.port) as caller:
            caller.connection.sendall(request(*headers))
            span = receiver.span_of(caller.answer().span_id)
        assert span.parent_span_id.hex() == PARENT
        assert span.trace_state == kept


def test_two_parents_are_none(service: Service) -> None:
    with Caller(service.port) as caller:
        caller.connection.sendall(request(TRACEPARENT, TRACEPARENT.replace(b"00f0", b"11f0")))
        assert caller.answer().trace_id != TRACE


def test_unmatched_routes_share_one_label(service: Service, receiver: Receiver) -> None:
    for name in ("one", "two"):
        httpx.patch(f"{service.url}/{name}")

    def unmatched() -> list[Points]:
        labels = {"http.request.method": "PATCH", "http.route": "unmatched"}
        points = receiver.points("http.server.request.duration", **labels)
        return points if sum(point.count for point in points) >= 2 else []

    assert len(until(unmatched, "two requests on unmatched routes")) == 1
    routes = {plain(point)["http.route"] for point in receiver.points("http.server.request.duration")}
    assert routes <= {"unmatched", "/predict", "/docs.json", "/"}


def test_span_tree_of_a_prediction(service: Service, receiver: Receiver) -> None:
    answer = service.predict(TEXT).json()
    receiver.span(answer["trace_id"], "postprocess")
    trace = receiver.trace(answer["trace_id"])
    expected = {span.name: span for span in CONTRACT.spans if span.name != signals.BATCH_SPAN}
    assert set(trace) == set(expected)
    for name, contract in expected.items():
        parent = trace[contract.parent].span_id if contract.parent else b""
        assert trace[name].parent_span_id == parent, name
        declared = {attribute.name for attribute in contract.attributes} - {"error.type"}
        assert set(plain(trace[name])) == declared, name
    root = trace["POST /predict"]
    assert root.kind == Span.SPAN_KIND_SERVER
    for span in trace.values():
        assert root.start_time_unix_nano <= span.start_time_unix_nano
        assert span.start_time_unix_nano <= span.end_time_unix_nano <= root.end_time_unix_nano
    assert abs(root.start_time_unix_nano / 1e9 - time.time()) < 60
    predict = plain(trace["predict"])
    assert predict["ml.prediction.label"] == answer["label"]
    assert float(predict["ml.prediction.confidence"]) == answer["confidence"]
    assert plain(root)["ml.prediction.id"] == answer["prediction_id"]
    assert plain(trace["preprocess"])["ml.input.characters"] == str(len(TEXT))


def test_concurrent_requests_have_their_own_predict_span_and_share_a_batch(
    service: Service, receiver: Receiver
) -> None:
    batches: dict[bytes, list[Span]] = {}
    largest = b""

    def shared() -> None:
        """Whether two requests met in a batch: on a busy machine each may come when the one before is done."""
        nonlocal largest
        with ThreadPoolExecutor(16) as pool:
            answers = [response.json() for response in pool.map(service.predict, [TEXT] * 64)]
        traces = {answer["trace_id"] for answer in answers}
        assert len(traces) == 64
        for span in (receiver.span(trace_id, "predict") for trace_id in traces):
            (link,) = span.links
            assert link.trace_id.hex() not in traces
            batches.setdefault(link.span_id, []).append(span)
        largest = max(batches, key=lambda batch: len(batches[batch]))
        if len(batches[largest]) == 1:
            raise NotYet(f"{len(batches)} requests, each in a batch of its own")

    polling.until(shared, timeout=60, what="a batch of two")
    batch = until(
        lambda: next((span for span in list(receiver.spans) if span.span_id == largest), None), "the batch's span"
    )
    assert batch.name == signals.BATCH_SPAN
    assert plain(batch)["ml.batch.size"] == str(len(batch.links))
    assert {span.trace_id for span in batches[largest]} == {link.trace_id for link in batch.links}


def test_bad_text_in_a_batch_fails_alone(service: Service) -> None:
    texts = [TEXT if number % 4 else "explodingword" for number in range(32)]
    with ThreadPoolExecutor(16) as pool:
        statuses = [response.status_code for response in pool.map(service.predict, texts)]
    assert statuses == [200 if text == TEXT else 500 for text in texts]


def test_callers_trace_context_is_continued(service: Service, receiver: Receiver) -> None:
    trace_id, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    response = service.predict(TEXT, traceparent=f"00-{trace_id}-{parent}-01", tracestate="vendor=value")
    version, trace, span_id, flags = response.headers["traceresponse"].split("-")
    assert (version, trace, flags) == ("00", trace_id, "01")
    span = receiver.span(trace_id, "POST /predict")
    assert span.parent_span_id.hex() == parent
    assert span.span_id.hex() == span_id
    assert span.trace_state == "vendor=value"


@pytest.mark.parametrize("key", [PROOF_KEY, "another stack's", ""])
def test_all_requests_of_a_proof_are_exemplars_and_not_all_of_others(
    service: Service, receiver: Receiver, key: str
) -> None:
    def ask(trace_id: str) -> str:
        marked = {synthetic.HEADER: synthetic.mark(key, Source.PROOF, trace_id)} if key else {}
        answer = service.predict(TEXT, traceparent=f"00-{trace_id}-00f067aa0ba902b7-01", **marked)
        assert answer.status_code == 200
        return trace_id

    with ThreadPoolExecutor(8) as pool:
        others = [pool.submit(service.predict, TEXT) for _ in range(200)]
        sent = set(pool.map(ask, [secrets.token_hex(16) for _ in range(40)]))
        assert {other.result().status_code for other in others} == {200}
    found = receiver.exemplars[signals.HTTP_DURATION.name]
    if key == PROOF_KEY:
        until(lambda: sent <= found, "an exemplar of every request of the proof")
        return
    last = service.predict(TEXT).json()["trace_id"]
    until(lambda: last in found, "the exemplar of a request after all of them")
    assert not sent <= found


@pytest.mark.parametrize("header", ["00-" + "0" * 32 + "-00f067aa0ba902b7-01", "garbage", "00-" + "A" * 32 + "-b-01"])
def test_invalid_traceparent_starts_a_new_trace(service: Service, header: str) -> None:
    response = service.predict(TEXT, traceparent=header)
    trace_id = response.json()["trace_id"]
    assert response.status_code == 200
    assert HEX_TRACE.fullmatch(trace_id)
    assert trace_id not in header


def test_callers_unsampled_flag_is_respected(service: Service, receiver: Receiver) -> None:
    trace_id = "5bf92f3577b34da6a3ce929d0e0e4736"
    response = service.predict(TEXT, traceparent=f"00-{trace_id}-00f067aa0ba902b7-00")
    assert response.headers["traceresponse"].endswith("-00")
    line = service.line("ml.prediction", trace_id)
    assert line["trace_flags"] == "00"
    receiver.span(service.predict(TEXT).json()["trace_id"], "postprocess")
    assert receiver.trace(trace_id) == {}


def test_log_line_of_a_prediction(service: Service) -> None:
    response = service.predict(TEXT, **{"x-request-id": "order-42"})
    answer = response.json()
    line = service.line("ml.prediction", answer["trace_id"])
    declared = [attribute.name for attribute in CONTRACT.prediction_event.attributes]
    assert list(line) == [*signals.LOG_KEYS, *declared]
    assert line["severity"] == signals.PREDICTION_EVENT.severity
    assert line["span_id"] == response.headers["traceresponse"].split("-")[2]
    assert line["ml.prediction.id"] == answer["prediction_id"]
    assert line["ml.request.id"] == "order-42"
    assert line["ml.prediction.probabilities"] == answer["probabilities"]
    assert line["ml.input.characters"] == len(TEXT)
    assert (line["ml.input.hash"], line["ml.input.hash_key_id"]) == (HASH(TEXT), HASH.key_id)
    assert line["http.response.body.size"] == len(response.content)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line["timestamp"])


def test_every_line_of_arbiter_and_worker_has_one_shape(service: Service) -> None:
    lines = service.lines()
    assert {line["event.name"] for line in lines} >= {"log", "ml.model.loaded"}
    assert {line["logger"] for line in lines} >= {"bentoml.serve", "ml_telemetry"}
    for line in lines:
        assert tuple(line)[: len(signals.LOG_KEYS)] == signals.LOG_KEYS


def test_exemplars_and_counts_belong_to_the_request(service: Service, receiver: Receiver) -> None:
    trace_id = service.predict(TEXT).json()["trace_id"]
    service.line("ml.prediction", trace_id)
    logged = len([line for line in service.lines() if line["event.name"] == "ml.prediction"])

    histograms = [
        metric.name
        for metric in CONTRACT.metrics
        if metric.instrument in (signals.Instrument.HISTOGRAM, signals.Instrument.EXPONENTIAL)
    ]
    for name in histograms:
        ids = receiver.exemplars[name]
        until(lambda ids=ids: trace_id in ids, f"exemplar of {trace_id} on {name}")  # type: ignore[misc]
    until(lambda: _predictions(receiver) == logged, f"{logged} predictions counted, one for each log line")


def _predictions(receiver: Receiver) -> int:
    metric = receiver.metrics.get("ml.predictions")
    return sum(point.as_int for point in metric.sum.data_points) if metric else 0


def beyond(points: Sequence[Mapping[str, object]], labels: Sequence[Attribute]) -> list[str]:
    """Labels with a value that is none of theirs, or with more values than their bound."""
    wrong = []
    for label in labels:
        values = {str(point[label.name]) for point in points}
        if (label.values and not values <= set(label.values)) or len(values) > (label.bound or 0):
            wrong.append(label.name)
    return wrong


def test_all_metrics_of_the_request_part_arrive_with_bounded_labels(service: Service, receiver: Receiver) -> None:
    service.predict(TEXT)
    httpx.get(f"{service.url}/nothing")
    expected = {metric.name: metric for metric in CONTRACT.metrics}
    # Nothing was lost or left out, so these counters have no point.
    del expected[signals.TELEMETRY_DROPPED.name], expected[signals.FEATURE_MISSING.name]
    until(lambda: set(expected) <= set(receiver.metrics), f"all of {sorted(expected)}")
    for name, metric in receiver.metrics.items():
        contract = expected[name]
        assert metric.unit == contract.unit
        data = getattr(metric, str(metric.WhichOneof("data")))
        points = [plain(point) for point in data.data_points]
        assert points
        assert {frozenset(labels) for labels in points} == {frozenset(label.name for label in contract.labels)}
        assert beyond(points, contract.labels) == []
    # The twin: what is none of the label's values, or one value too many, is noticed.
    seen = [{"track": "stable"}, {"track": "another"}]
    assert beyond(seen[:1], (signals.TRACK,)) == []
    assert beyond(seen, (signals.TRACK,)) == ["track"]
    assert beyond(seen, (Attribute("track", "", maximum=1),)) == ["track"]
    assert receiver.value("ml.model.info", name="news_classifier") == 1
    until(lambda: receiver.value("http.server.active_requests") == 0, "no active request")


def test_resource_is_overridden_by_the_environment(service: Service, receiver: Receiver) -> None:
    receiver.span(service.predict(TEXT).json()["trace_id"], "postprocess")
    for resource in receiver.resources:
        assert resource["service.name"] == "text-classifier"
        assert resource["service.namespace"] == "sightglass"
        assert resource["service.version"] == "9.9"
        assert resource["deployment.environment.name"] == "test"
        assert resource["service.instance.id"]


def test_users_text_is_nowhere(service: Service, receiver: Receiver) -> None:
    last = ""
    for text in (f"{TEXT} {MARKER}", f"explodingword {MARKER}", [MARKER]):
        response = service.predict(text)
        last = response.headers["traceresponse"].split("-")[1]
        assert MARKER not in response.text
    service.line("ml.request.rejected", last)
    until(lambda: receiver.trace(last), "the last request's span")
    assert MARKER not in service.output.read_text()
    assert MARKER.encode() not in receiver.raw
    # The twin: a word that is allowed there is found in both.
    assert "news_classifier" in service.output.read_text()
    assert b"news_classifier" in receiver.raw


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("SIGHTGLASS_MODELS_DIR", "{empty}", "python -m text_classifier.training"),
        ("OTEL_TRACES_EXPORTER", "console", "set OTEL_TRACES_EXPORTER to 'otlp' or 'none'"),
        ("TEXT_CLASSIFIER_MAX_CHARACTERS", "many", "TEXT_CLASSIFIER_MAX_CHARACTERS: Input should be a valid integer"),
        ("ML_TELEMETRY_HASH_KEY", "id:secret", "ML_TELEMETRY_HASH_KEY is no key: set it to ID:KEY"),
    ],
)
def test_start_that_cannot_work_ends_with_one_line(
    tmp_path: Path, home: Path, variable: str, value: str, expected: str
) -> None:
    own = {"SIGHTGLASS_MODELS_DIR": str(home), "BENTOML_HOME": str(tmp_path), "BENTOML_DO_NOT_TRACK": "True"}
    environment = os.environ | own
    command = [str(Path(sys.executable).parent / "bentoml"), "serve", "text_classifier.service:TextClassifier"]
    done = subprocess.run(
        [*command, "--host", "127.0.0.1", "--port", str(free_port())],
        env=environment | {variable: value.format(empty=tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    (line,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert expected in line["message"]
    assert line["severity"] == "FATAL"
    assert (done.returncode, done.stderr) == (1, "")


def patience() -> int:
    """Seconds after which the runner kills a service that does not stop."""
    plan = components.build(settings.load(), credentials.Credentials(), PLANNED_PROGRAMS, None)
    return next(component.stop_seconds for component in plan if component.name == settings.SERVICE)


def test_clean_stop_sends_everything(tmp_path: Path, home: Path) -> None:
    with Receiver().serving() as receiver:
        # Without the flush nothing would be sent for an hour.
        slow = {"OTEL_BSP_SCHEDULE_DELAY": "3600000", "OTEL_METRIC_EXPORT_INTERVAL": "3600000"}
        with serving(tmp_path, home, receiver.url, **slow) as service:
            answers = [service.predict(TEXT).json() for _ in range(20)]
            assert receiver.spans == []
            seconds = service.stop()
        assert seconds < patience()
        assert {a["trace_id"] for a in answers} <= {span.trace_id.hex() for span in receiver.spans}
        assert sum(point.count for point in receiver.points("ml.input.feature", feature="words")) == 20


def test_collector_away_fails_no_request_and_stops_in_time(tmp_path: Path, home: Path) -> None:
    # Whoever waited for an exporter would wait for minutes.
    long = {"OTEL_EXPORTER_OTLP_TIMEOUT": "300"}
    with serving(tmp_path, home, f"http://127.0.0.1:{free_port()}", **long) as service:
        for _ in range(50):
            assert service.predict(TEXT).status_code == 200
        complaint = "ml_telemetry.delivery"

        def complaints() -> list[dict[str, Any]]:
            return [line for line in service.lines() if line["logger"] == complaint]

        until(complaints, "a line about the Collector")
        seconds = service.stop()
        levels = [line["severity"] for line in complaints()]
        assert len(levels) == len(set(levels)), "more than one line of a kind within a minute"
        assert seconds < patience()


def test_disabled_sdk_serves_without_telemetry(tmp_path: Path, home: Path) -> None:
    with Receiver().serving() as receiver:
        with serving(tmp_path, home, receiver.url, OTEL_SDK_DISABLED="true") as service:
            response = service.predict(TEXT)
            assert response.status_code == 200
            assert HEX_TRACE.fullmatch(response.json()["trace_id"])
            assert service.predict("").json()["error"]["type"] == "empty_text"
            service.stop()
            assert not [
                line for line in service.lines() if line["event.name"] in ("ml.prediction", "ml.request.rejected")
            ]
        assert receiver.raw == b""
