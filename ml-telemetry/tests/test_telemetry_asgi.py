"""``instrument`` on a real server: what it adds to an application, and what it leaves as it was."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from collector import Collector, Program, collector, plain, running
from declared import HOUSES
from ml_telemetry import synthetic
from ml_telemetry.synthetic import Source
from waiting import until

CODE = f"""
import json

from opentelemetry import trace
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Route

from ml_telemetry import instrument, prediction
from ml_telemetry.declaration import Declaration

RECORDS = []


async def predict(request):
    house = await request.json()
    noted = prediction()
    with noted.stage("prepare"):
        noted.describe(house)
    with noted.stage("predict"), trace.get_tracer("own").start_as_current_span("own") as own:
        own.set_attribute("note", "for someone@example.org")
        noted.value(1000 * house.get("area", 0))
    return JSONResponse({{"price": 1, "id": noted.id, "records": len(RECORDS)}})


async def house(request):
    if request.path_params["name"] == "none":
        raise HTTPException(404, "no such house")
    if request.path_params["name"] == "broken":
        raise RuntimeError("secret text")
    return JSONResponse({{"name": request.path_params["name"], "records": RECORDS}})


app = Starlette(routes=[Route("/predict", predict, methods=["POST"]), Route("/houses/{{name}}", house)])
DECLARATION = Declaration.from_json({HOUSES.as_json()!r})
"""
INSTRUMENT = "instrument(app, model=DECLARATION, version='7', on_prediction=lambda record: RECORDS.append({})"
KEY = "of this test"
RECORD = "[record.prediction_id, record.value, len(record.stages), record.status]"


@pytest.fixture(scope="module")
def received() -> Iterator[Collector]:
    with collector() as kept:
        yield kept


@pytest.fixture(scope="module")
def service(received: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    code = f"{CODE}{INSTRUMENT.format(RECORD)})\n"
    folder = tmp_path_factory.mktemp("service")
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": received.endpoint,
        "OTEL_RESOURCE_ATTRIBUTES": "ml.deployment.track=canary",
        synthetic.KEY_VARIABLE: KEY,
    }
    with running(sys.executable, code, folder, **environment) as program:
        yield program


def test_a_prediction_has_its_spans_and_those_of_the_application(service: Program, received: Collector) -> None:
    answer = service.ask("/predict", {"area": 80.5, "rooms": 3, "garden": 0.5, "heating": "gas"})
    spans = received.trace(answer.trace_id, 4)
    assert set(spans) == {"POST /predict", "prepare", "predict", "own"}
    root = spans["POST /predict"]
    assert {spans[name].parent_span_id for name in ("prepare", "predict", "own")} == {root.span_id}
    assert plain(spans["own"])["note"] == "for ****"
    assert plain(root)["ml.prediction.id"] == answer.json["id"]
    inputs = {name: value for name, value in plain(spans["prepare"]).items() if name.startswith("ml.input.")}
    assert inputs == {
        "ml.input.area": 80.5,
        "ml.input.rooms": 3,
        "ml.input.garden.ratio": 0.5,
        "ml.input.heating": "gas",
    }
    told = plain(spans["predict"])
    assert (told["ml.prediction.value"], told["ml.model.version"]) == (80_500, "7")
    assert received.resource["service.name"] == "houses"


def test_a_prediction_has_one_line_with_its_trace(service: Program) -> None:
    answer = service.ask("/predict", {"area": 2, "heating": "oil"}, {"x-request-id": "mine"})
    (line,) = until(
        lambda: [one for one in service.lines("ml.prediction") if one["trace_id"] == answer.trace_id], "the line"
    )
    assert (line["ml.prediction.value"], line["ml.request.id"], line["ml.input.heating"]) == (2000, "mine", "oil")
    assert line["ml.input.rooms"] is None
    assert 0 < line["ml.inference.prepare.seconds"] < 1
    assert "ml.prediction.label" not in line


def test_the_record_is_written_before_the_answer_leaves(service: Program) -> None:
    answer = service.ask("/predict", {"area": 3})
    records = service.ask("/houses/one").json["records"]
    assert [answer.json["id"], 3000, 2, 200] in records
    # When the handler made the answer, its own record was not there yet.
    assert records.index([answer.json["id"], 3000, 2, 200]) == answer.json["records"]


WHOLE = "{name: dict(known) if hasattr(known := getattr(record, name), 'keys') else known for name in record.__slots__}"


def test_a_record_says_everything_also_of_a_request_that_fails(tmp_path: Path) -> None:
    told = {
        "OTEL_RESOURCE_ATTRIBUTES": "ml.deployment.track=shadow",
        synthetic.KEY_VARIABLE: KEY,
    }
    code = f"{CODE}{INSTRUMENT.format(WHOLE)}, info={{'digest': 'abc'}})\n"
    with (
        collector() as kept,
        running(sys.executable, code, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=kept.endpoint, **told) as service,
    ):
        trace_id = secrets.token_hex(16)
        headers = {
            "x-request-id": "mine",
            "traceparent": f"00-{trace_id}-b7ad6b7169203331-01",
            synthetic.HEADER: synthetic.mark(KEY, Source.LOAD, trace_id),
        }
        answer = service.ask("/predict", {"area": 3, "heating": "gas"}, headers)
        service.ask("/predict", ["no house"])
        service.ask("/houses/none")
        right, wrong = service.ask("/houses/one").json["records"]
        span = kept.trace(trace_id, 4)["POST /predict"]
        (line,) = until(lambda: service.lines("ml.prediction.error"), "the line of the failure")
    seconds = right.pop("stages")
    assert list(seconds) == ["prepare", "predict"]
    assert all(0 < one < 1 for one in seconds.values())
    assert right.pop("time_unix_nano") == span.start_time_unix_nano
    assert right == {
        "trace_id": trace_id,
        "span_id": span.span_id.hex(),
        "route": "/predict",
        "status": 200,
        "model": "houses",
        "version": "7",
        "digest": "abc",
        "declaration_sha256": HOUSES.sha256,
        "track": "shadow",
        "synthetic": True,
        "request_id": "mine",
        "prediction_id": answer.json["id"],
        "error": "",
        "label": None,
        "confidence": None,
        "margin": None,
        "probabilities": {},
        "value": 3000,
        "features": {"area": 3, "rooms": None, "garden": None, "heating": "gas"},
        "batch_size": None,
        "input_hash": "",
        "hash_key_id": "",
    }
    told_of_failure = {name: wrong[name] for name in ("trace_id", "status", "error", "value", "synthetic", "features")}
    assert told_of_failure == {
        "trace_id": line["trace_id"],
        "status": 500,
        "error": "internal_error",
        "value": None,
        "synthetic": False,
        "features": {},
    }


BAD_HOOK = """
import time


def keep(record):
    if record.value == 1000:
        raise ValueError("secret" + " text")
    if record.value == 2000:
        time.sleep(0.05)


instrument(app, model=DECLARATION, on_prediction=keep)
"""


def test_a_function_that_fails_or_is_slow_costs_no_answer_and_is_told(tmp_path: Path) -> None:
    with (
        collector() as kept,
        running(sys.executable, CODE + BAD_HOOK, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=kept.endpoint) as service,
    ):
        service.ask("/predict", {"area": 3})
        assert service.lines("ml.telemetry.dropped") == []
        assert "on_prediction" not in service.output.read_text()
        assert [service.ask("/predict", {"area": 1}).status for _ in range(3)] == [200] * 3
        assert service.ask("/predict", {"area": 2}).status == 200

        def counted() -> bool:
            points = kept.metric("ml.telemetry.dropped").sum.data_points
            return [(plain(one)["signal"], plain(one)["reason"], one.as_int) for one in points] == [
                ("records", "hook_failed", 3)
            ]

        until(counted, "three lost records")
        output = service.output.read_text()
    assert output.count("on_prediction raised ValueError") == 1
    assert output.count("on_prediction took 0.05") == 1
    assert "secret text" not in output


def test_numbers_of_any_range_and_categories_become_metrics(service: Program, received: Collector) -> None:
    for area in (1e-9, 1, 1e9):
        service.ask("/predict", {"area": area, "rooms": 2, "garden": 0, "heating": "coal"})
    service.ask("/predict", {"rooms": 4})

    def counted() -> bool:
        points = received.metric("ml.input.feature").exponential_histogram.data_points
        largest = max(point.max for point in points if plain(point)["feature"] == "area")
        return bool(largest >= 1e9)

    until(counted, "the largest area")
    points = {
        plain(one)["feature"]: one for one in received.metric("ml.input.feature").exponential_histogram.data_points
    }
    assert set(points) == {"area", "rooms", "garden"}
    assert sum(points["area"].positive.bucket_counts) + points["area"].zero_count == points["area"].count
    assert len(points["area"].positive.bucket_counts) <= 160
    assert points["area"].exemplars[0].trace_id
    values = {
        (plain(one)["feature"], plain(one)["value"]): one.as_int
        for one in until(lambda: received.metric("ml.input.category").sum.data_points, "categories")
    }
    assert values["heating", "other"] >= 3
    assert values["heating", "missing"] >= 1

    def missing() -> bool:
        points = received.metric("ml.input.missing").sum.data_points
        return {plain(one)["feature"] for one in points} == {"area", "rooms", "garden"}

    until(missing, "each number that was left out")
    assert received.metric("ml.prediction.value").exponential_histogram.data_points


def test_the_applications_own_errors_stay_as_they_are(service: Program, received: Collector) -> None:
    answer = service.ask("/houses/none")
    assert (answer.status, answer.body) == (404, b"no such house")
    assert "GET" in received.trace(answer.trace_id, 1)
    broken = service.ask("/houses/broken")
    assert (broken.status, broken.body) == (500, b"Internal Server Error")
    line = until(lambda: service.lines("ml.prediction.error"), "the line of an error")[-1]
    assert (line["exception.type"], line["error.type"]) == ("RuntimeError", "RuntimeError")
    assert "secret text" not in str({name: line[name] for name in line if name != "exception.stacktrace"})


def test_a_route_with_a_parameter_is_named_by_its_template(service: Program, received: Collector) -> None:
    answer = service.ask("/houses/one")
    assert plain(received.trace(answer.trace_id, 1)["GET /houses/{name}"])["http.route"] == "/houses/{name}"
    points = received.metric("http.server.request.duration").histogram.data_points
    routes = {plain(point)["http.route"] for point in points}
    assert "/houses/{name}" in routes
    assert "/houses/one" not in routes


def test_only_a_request_with_a_right_mark_is_synthetic(service: Program, received: Collector) -> None:
    def ask(mark: Callable[[str], str], body: object = None) -> tuple[bool, bool]:
        """What span and line of a request with a mark say."""
        trace_id = secrets.token_hex(16)
        headers = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01", synthetic.HEADER: mark(trace_id)}
        service.ask("/predict", body or {"area": 1}, headers)
        event = "ml.prediction" if body is None else "ml.prediction.error"
        (line,) = until(lambda: [one for one in service.lines(event) if one["trace_id"] == trace_id], "the line")
        (span,) = (span for name, span in received.trace(trace_id, 1).items() if name == "POST /predict")
        assert (line["ml.deployment.track"], received.resource["ml.deployment.track"]) == ("canary", "canary")
        return plain(span)["ml.request.synthetic"], line["ml.request.synthetic"]

    def counted(synthetic: str) -> int:
        points = [plain(point) | {"count": point.as_int} for point in received.metric("ml.predictions").sum.data_points]
        return sum(point["count"] for point in points if point["synthetic"] == synthetic)

    assert ask(lambda trace_id: synthetic.mark(KEY, Source.LOAD, trace_id)) == (True, True)
    until(lambda: counted("true") == 1, "the synthetic prediction")
    # Also one that fails.
    assert ask(lambda trace_id: synthetic.mark(KEY, Source.PROOF, trace_id), ["no house"]) == (True, True)
    before = counted("false")
    forged: list[Callable[[str], str]] = [
        lambda trace_id: synthetic.mark("another key", Source.LOAD, trace_id),
        lambda _: synthetic.mark(KEY, Source.LOAD, "0" * 32),
        lambda trace_id: synthetic.mark(KEY, Source.LOAD, trace_id).replace("load", "proof"),
        lambda _: "true",
    ]
    assert [ask(mark) for mark in forged] == [(False, False)] * len(forged)
    until(lambda: counted("false") == before + len(forged), "the others' predictions")
    assert counted("true") == 1


def test_every_metric_has_the_track(service: Program, received: Collector) -> None:
    service.ask("/predict", {"area": 1})
    received.metric("ml.input.feature")
    for metric in received.metrics.values():
        points = getattr(metric, metric.WhichOneof("data")).data_points
        assert {plain(point)["track"] for point in points} == {"canary"}, metric.name


def test_a_track_that_does_not_exist_ends_the_start_with_one_sentence(tmp_path: Path) -> None:
    code = f"{CODE}{INSTRUMENT.format(RECORD)})\n"
    (tmp_path / "service.py").write_text(code)
    environment = {**os.environ, "OTEL_RESOURCE_ATTRIBUTES": "ml.deployment.track=beta"}
    done = subprocess.run(
        [sys.executable, "-c", "import service"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1].endswith(
        "OTEL_RESOURCE_ATTRIBUTES has ml.deployment.track=beta: set it to one of stable, canary, baseline, shadow."
    )


OWN = """
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

KEPT = InMemorySpanExporter()
MINE = TracerProvider()
MINE.add_span_processor(SimpleSpanProcessor(KEPT))
trace.set_tracer_provider(MINE)
metrics.set_meter_provider(MeterProvider())
"""
SHOW = (
    "[[span.name, f'{span.context.trace_id:032x}', f'{span.parent.span_id:016x}']"
    " for span in KEPT.get_finished_spans()]"
)


def test_an_application_keeps_the_providers_that_it_has(received: Collector, tmp_path: Path) -> None:
    code = f"{OWN}{CODE}{INSTRUMENT.format(RECORD)})\n".replace('"records": RECORDS', f'"kept": {SHOW}')
    with running(sys.executable, code, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=received.endpoint) as service:
        answer = service.ask("/predict", {"area": 2})
        # What the package makes goes where the variables say; what the application makes, where it sends it, and once.
        spans = received.trace(answer.trace_id, 3)
        assert set(spans) == {"POST /predict", "prepare", "predict"}
        kept = service.ask("/houses/one").json["kept"]
        assert kept == [["own", answer.trace_id, spans["POST /predict"].span_id.hex()]]
        assert "Overriding" not in service.output.read_text()


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_the_process_keeps_its_filters_of_warnings(received: Collector, tmp_path: Path, protocol: str) -> None:
    # scikit-learn copies them for every tree of a forest, at every prediction.
    before = "import warnings\nBEFORE = list(warnings.filters)\n"
    changed = "[repr(one) for one in warnings.filters if one not in BEFORE]"
    code = f"{CODE}{before}{INSTRUMENT.format(RECORD)})\n".replace('"records": RECORDS', f'"added": {changed}')
    told = {"OTEL_EXPORTER_OTLP_ENDPOINT": received.endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
    with running(sys.executable, code, tmp_path, **told) as service:
        assert service.ask("/houses/one").json["added"] == []


def test_a_callers_trace_goes_on(service: Program, received: Collector) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = service.ask("/predict", {"area": 1}, {"traceparent": parent})
    assert answer.trace_id == parent.split("-")[1]
    assert received.trace(answer.trace_id, 4)["POST /predict"].parent_span_id.hex() == parent.split("-")[2]


def test_one_error_form_where_it_is_asked_for_and_nothing_is_sent_where_it_is_disabled(tmp_path: Path) -> None:
    code = f"{CODE}{INSTRUMENT.format(RECORD)}, one_error_form=True)\n"
    with (
        collector() as kept,
        running(
            sys.executable, code, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=kept.endpoint, OTEL_SDK_DISABLED="true"
        ) as program,
    ):
        answer = program.ask("/houses/none")
        assert answer.json["error"]["type"] == "unknown_route"
        assert answer.json["error"]["trace_id"] == answer.trace_id
        assert program.ask("/predict", {"area": 1}).json["price"] == 1
    assert (kept.spans, kept.metrics) == ([], {})
