"""A model of another kind, which exists only here: a regression with thirty features, categories and missing values.

All its signals are derived from its declaration, and found in the real servers.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dashboards import catalogue, may_be_empty, sent_queries
from dashboards.fill_variables import Filling
from dashboards.names import Uid
from ml_telemetry import signals
from sightglass.clients import polling
from sightglass.clients.polling import NotYet
from sightglass.facts import environments
from sightglass.facts.services import Service
from sightglass.facts.target import Endpoint
from sightglass.local.components import LocalTopology
from sightglass.measure.grafana_queries import ask
from sightglass.verify.predictions import Prediction, predict
from sightglass.verify.run import verify
from sightglass.verify.signal_checks import SECOND
from tests.integration import faults
from tests.integration.running import Running
from tests.prices import CONTRACT, DECLARATION
from tests.unit.ports import free_port

DECLARED = f"""
from ml_telemetry.declaration import Declaration

DECLARATION = Declaration.from_json({DECLARATION.as_json()!r})
"""
CODE = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from declared import DECLARATION
from ml_telemetry import instrument, prediction


async def predict(request):
    values = await request.json()
    noted = prediction()
    with noted.stage("prepare"):
        noted.describe(values)
    with noted.stage("estimate"):
        noted.value(-1.5e6)
    return JSONResponse({"prediction_id": noted.id})


app = Starlette(routes=[Route("/predict", predict, methods=["POST"])])
instrument(app, model=DECLARATION, service_version="1.0")
"""
NAME = "prices"
OURS = f'service_name="{NAME}"'


@pytest.fixture(scope="module")
def endpoint(stack: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """The service, started beside the stack as the runner starts those of its table."""
    folder: Path = tmp_path_factory.mktemp(NAME)
    (folder / "declared.py").write_text(DECLARED)
    (folder / "service.py").write_text(CODE)
    row = Service(
        name=NAME,
        kind="asgi",
        application="service:app",
        declaration="declared:DECLARATION",
        port=free_port(),
        folder=folder,
    )
    own = environments.telemetry(LocalTopology(stack.settings), NAME, row.instances[0].track)
    environment = {**stack.environment, **own, **environments.service_keys(stack.credentials)}
    log = stack.settings.service_logs_dir / f"{NAME}.log"
    command = [str(row.python), *row.arguments("127.0.0.1", row.port)]
    with log.open("wb") as output:
        service = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
    try:
        yield Endpoint(row, f"http://127.0.0.1:{row.port}", stack.credentials.synthetic_key)
    finally:
        service.terminate()
        service.wait(20)


@pytest.fixture(scope="module")
def answer(endpoint: Endpoint) -> Prediction:
    """The answer of the first request."""
    return polling.until(lambda: predict(endpoint, source=None), timeout=30, what="the service")


@pytest.fixture(scope="module")
def busy(stack: Running, endpoint: Endpoint, answer: Prediction) -> Iterator[Endpoint]:
    """The service while users ask it for one prediction after the other."""
    assert answer.trace_id
    with faults.traffic(stack, rate=5, users=1, endpoint=endpoint):
        yield endpoint


def test_every_declared_span_is_found(stack: Running, answer: Prediction) -> None:
    declared = {span.name: span for span in CONTRACT.spans if span.name != signals.BATCH_SPAN}

    def complete() -> dict[str, dict[str, object]]:
        found = {span.name: span.attributes for span in stack.tempo.trace(answer.trace_id)}
        if set(found) != set(declared):
            raise NotYet(f"{sorted(found)}")
        return found

    found = polling.until(complete, timeout=15, what="the declared spans")
    for name, attributes in found.items():
        assert set(attributes) <= {attribute.name for attribute in declared[name].attributes}, name
    assert len([name for name in found["prepare"] if name.startswith("ml.input.")]) == 29
    assert found["estimate"]["ml.prediction.value"] == -1.5e6


def test_every_declared_metric_is_found(stack: Running, answer: Prediction) -> None:
    assert answer.answer["prediction_id"]
    # Nothing was refused, failed or lost.
    absent = {signals.REJECTED.name, signals.TELEMETRY_DROPPED.name}

    def missing() -> None:
        lacking = []
        for metric in CONTRACT.metrics:
            name = metric.prometheus_name
            query = f"{name}{'_count' if metric.instrument is signals.Instrument.HISTOGRAM else ''}{{{OURS}}}"
            if metric.instrument is signals.Instrument.EXPONENTIAL:
                # A native histogram is one series under its own name.
                query = f"histogram_count({query})"
            if metric.name not in absent and not stack.prometheus.query(query):
                lacking.append(name)
        if lacking:
            raise NotYet(f"missing: {lacking}")

    polling.until(missing, timeout=15, what="the declared metrics")
    feature = signals.FEATURE_VALUE.prometheus_name
    for at in (0, 27):
        (middle,) = stack.prometheus.query(
            f'histogram_quantile(0.5, sum by (feature) ({feature}{{{OURS},feature="number_{at}"}}))'
        )
        # No bucket was chosen for a billionth or for ten trillions, and each is known within 3 %.
        assert middle.value == pytest.approx(10.0 ** (at - 14), rel=0.03)
    category = signals.FEATURE_CATEGORY.prometheus_name
    assert stack.prometheus.total(f'{category}{{{OURS},feature="heating",value="other"}}') == 1
    assert stack.prometheus.total(f'{signals.FEATURE_MISSING.prometheus_name}{{{OURS},feature="rooms"}}') == 1


def test_a_feature_leads_to_a_trace(stack: Running, answer: Prediction) -> None:
    trace_id, now = answer.trace_id, time.time()

    def linked() -> None:
        selector = f'{signals.FEATURE_VALUE.prometheus_name}{{{OURS},feature="number_3"}}'
        exemplars = stack.prometheus.exemplars(selector, start=now - 300, end=time.time() + 5)
        if trace_id not in [exemplar.labels.get("trace_id") for exemplar in exemplars]:
            raise NotYet(f"{exemplars}")

    polling.until(linked, timeout=15, what="the exemplar")


def test_its_line_has_every_declared_key(stack: Running, answer: Prediction) -> None:
    def once() -> dict[str, object]:
        query = f'{{{OURS}}} | trace_id="{answer.trace_id}"'
        lines = stack.loki.lines(query, start=answer.sent - 60 * SECOND, end=answer.sent + 600 * SECOND)
        if len(lines) != 1:
            raise NotYet(f"{len(lines)} lines")
        found: dict[str, object] = json.loads(lines[0].line)
        return found

    line = polling.until(once, timeout=15, what="the line")
    declared = {attribute.name for attribute in CONTRACT.prediction_event.attributes}
    # A key of hashes is for texts.
    assert set(line) == {*signals.LOG_KEYS, *declared} - {signals.INPUT_HASH.name, signals.INPUT_HASH_KEY_ID.name}
    assert (line["ml.input.heating"], line["ml.input.rooms"], line["ml.request.synthetic"]) == ("coal", None, False)


def test_every_panel_of_the_model_board_shows_it(stack: Running, busy: Endpoint) -> None:
    (board,) = (one for one in catalogue.load() if one["uid"] == Uid.MODEL)

    def answered() -> set[str]:
        filling = Filling.defaults(board).choose(service=busy.name)
        answers = [ask(stack.target, question, filling) for question in sent_queries.of(board)]
        wrong = [one.problem for one in answers if one.problem and not may_be_empty.reason(one.question, DECLARATION)]
        if wrong:
            raise NotYet("\n".join(["", *wrong]))
        empty = {one.question.panel for one in answers if not one.found}
        # What may be empty on another model's board must fill here in time.
        if late := empty & {"Categories", "Missing values", "Predicted values", "$feature"}:
            raise NotYet(f"nothing in {', '.join(sorted(late))}")
        return empty

    empty = polling.until(answered, timeout=90, interval=2, what="an answer to each query")
    # The twin: what it has not is empty on the same board.
    assert {"Confidence", "Predictions by class"} <= empty


def test_an_alert_holds_it_to_its_declared_limit(stack: Running, busy: Endpoint) -> None:
    def told() -> None:
        alerts = f'ALERTS{{alertname="AnswerTooSmall", {OURS}, declared="200"}}'
        if not stack.prometheus.query(alerts):
            raise NotYet(f"no {alerts}")

    polling.until(told, timeout=60, what="the alert that its answers are too small")
    others = 'ALERTS{alertname="AnswerTooSmall", service_name!="prices"}'
    assert stack.prometheus.query(others) == []


def test_every_row_of_the_proof_is_green_for_it(stack: Running, busy: Endpoint) -> None:
    # Rows that are of the stack take the first service's predictions.
    report = verify(replace(stack.target, services=(stack.target.endpoint(), busy)))
    assert [row for row in report.rows if not row.ok] == []
    assert len([row for row in report.rows if row.service == NAME]) > 10
