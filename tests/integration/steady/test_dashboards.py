"""Every query of every dashboard against the real servers, after real traffic."""

import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from dashboards import catalogue, may_be_empty, sent_queries
from dashboards.fill_variables import Filling
from dashboards.names import Source, Uid
from dashboards.sent_queries import Kind, Question
from dashboards.variables import SLOW
from sightglass.clients import backends, http, polling
from sightglass.clients.polling import DeadlineError, NotYet
from sightglass.facts.settings import REPOSITORY, SERVICE, SERVICES
from sightglass.facts.target import Endpoint
from sightglass.local import requests, up
from sightglass.measure import grafana_queries
from sightglass.measure.grafana_queries import ask
from sightglass.verify.predictions import bodies, predict
from tests.integration.running import Running

BOARDS = {board["uid"]: board for board in catalogue.load()}
QUESTIONS = [question for board in BOARDS.values() for question in sent_queries.of(board)]
LOAD_SECONDS = 20
WAIT = 90.0
"""Until the slowest of what is asked for is there: MinIO counts its objects about once a minute."""


@pytest.fixture(scope="module")
def traffic(stack: Running) -> Running:
    """The stack after predictions, one refusal of each kind, and a short load test."""
    for endpoint in stack.target.services:
        for body in bodies(endpoint):
            predict(endpoint, body)
    mistakes = {one.name: one for one in requests.of(stack.target.endpoint().service).of_kind("corrupted")}
    for name, one in mistakes.items():
        url = f"{stack.target.endpoint().url}{one.path}"
        answer = http.session.request(one.method, url, data=one.content, timeout=10)
        assert answer.status_code == one.status, name
    done = subprocess.run(
        [
            *(sys.executable, "-m", "load_testing", "--real", "--users", "10"),
            *("--duration", str(LOAD_SECONDS), "--corrupt", "0.2", "--max-p99", "9000"),
        ],
        cwd=REPOSITORY,
        env=stack.environment,
        capture_output=True,
        text=True,
        timeout=LOAD_SECONDS + 60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return stack


def filling(question: Question, **values: str) -> Filling:
    """The dashboard's defaults, and every request slow enough to be listed."""
    return Filling.defaults(BOARDS[question.dashboard]).choose(slow=SLOW[0], **values)


def problems(stack: Running, asked: list[Question], name: str | None = None) -> dict[Question, str]:
    """What is wrong with each answer for a service; an empty one is not, where a reason for it is written down."""
    endpoint = stack.target.endpoint(name)
    chosen = {"service": endpoint.name, "route": endpoint.declaration.route}
    answers = [ask(stack.target, question, filling(question, **chosen)) for question in asked]
    return {
        answer.question: answer.problem
        for answer in answers
        if answer.problem and (answer.error or not may_be_empty.reason(answer.question, endpoint.declaration))
    }


def expect_answers(stack: Running, asked: list[Question], name: str | None = None, *, timeout: float = WAIT) -> None:
    """Each question about a service is answered in time; those that are not are listed one by one."""
    left = asked

    def all_answered() -> None:
        nonlocal left
        wrong = problems(stack, left, name)
        left = list(wrong)
        if wrong:
            raise NotYet("\n".join(["", *wrong.values()]))

    polling.until(all_answered, timeout=timeout, interval=2, what=f"an answer to each of {len(asked)} queries")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("uid", Uid)
def test_every_query_has_an_answer(traffic: Running, uid: Uid) -> None:
    expect_answers(traffic, [question for question in QUESTIONS if question.dashboard == uid])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [service.name for service in SERVICES[1:]])
def test_the_same_board_shows_every_service(traffic: Running, name: str) -> None:
    with asked_for(traffic.target.endpoint(name)):
        expect_answers(traffic, [question for question in QUESTIONS if question.dashboard == Uid.MODEL], name)


@contextmanager
def asked_for(endpoint: Endpoint) -> Iterator[None]:
    """Predictions all the time: panels look back over some seconds only."""
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.3):
            for body in bodies(endpoint):
                predict(endpoint, body)

    caller = threading.Thread(target=ask, daemon=True)
    caller.start()
    try:
        yield
    finally:
        over.set()
        caller.join()


BROKEN = {
    Source.PROMETHEUS: ("sum(", "answered 400"),
    Source.LOKI: ("{", "answered 400"),
    Source.TEMPO: ("{ duration > }", "answered 400"),
}
EMPTY = {
    Source.PROMETHEUS: "no_such_metric",
    Source.LOKI: '{service_name="no-such-service"}',
    Source.TEMPO: '{ resource.service.name = "no-such-service" }',
}


@pytest.mark.parametrize("source", Source)
def test_broken_and_empty_queries_are_reported_by_their_panels(traffic: Running, source: Source) -> None:
    here = [question for question in QUESTIONS if question.dashboard == Uid.SERVICE and question.source is source]
    good = next(question for question in here if question.kind is not Kind.VALUES)
    broken, error = BROKEN[source]
    asked = [
        good,
        replace(good, panel="A broken one", text=broken),
        replace(good, panel="An empty one", text=EMPTY[source]),
    ]
    with pytest.raises(DeadlineError) as failure:
        expect_answers(traffic, asked, timeout=4)
    _, *reported = str(failure.value).splitlines()
    assert len(reported) == 2, reported
    assert reported[0].startswith(f"{Uid.SERVICE} / A broken one (A): {source} {error}")
    assert reported[1].startswith(f"{Uid.SERVICE} / An empty one (A): empty; the query was {EMPTY[source]}")


def test_listed_panel_may_be_empty_but_not_broken(traffic: Running) -> None:
    listed = next(q for q in QUESTIONS if q.dashboard == Uid.KUBERNETES and q.panel == "Pods running")
    assert problems(traffic, [replace(listed, text="no_such_metric")]) == {}
    broken = replace(listed, text="sum(")
    assert "answered 400" in problems(traffic, [broken])[broken]


def test_division_by_zero_is_an_empty_answer(traffic: Running) -> None:
    good = next(q for q in QUESTIONS if q.dashboard == Uid.SERVICE and q.panel == "Requests")
    assert ask(traffic.target, replace(good, text="vector(0) / vector(0)"), filling(good)).found == 0
    assert ask(traffic.target, replace(good, text="vector(0)"), filling(good)).found > 0


def unknown_series(stack: Running, asked: list[Question]) -> dict[str, set[str]]:
    """Panels by the series that they ask for and that Prometheus never saw.

    A query that falls back to zero is never empty, so a misspelt name in it would not be found otherwise.
    """
    answer = backends.get("prometheus", f"{stack.target.prometheus_url}/api/v1/label/__name__/values").json()
    there = set(answer["data"]) | may_be_empty.BORN_LATE.keys()
    missing: dict[str, set[str]] = {}
    for question in asked:
        if not may_be_empty.reason(question, stack.target.endpoint().declaration):
            for name in grafana_queries.series_names(stack.target, question, filling(question)) - there:
                missing.setdefault(name, set()).add(question.name)
    return missing


def test_every_series_that_is_asked_for_exists(traffic: Running) -> None:
    def all_there() -> None:
        if missing := unknown_series(traffic, QUESTIONS):
            raise NotYet(json.dumps({name: sorted(panels) for name, panels in missing.items()}, indent=2))

    polling.until(all_there, timeout=WAIT, interval=2, what="every series")


def test_misspelt_series_behind_a_fallback_is_found(traffic: Running) -> None:
    good = next(q for q in QUESTIONS if q.dashboard == Uid.PIPELINE and q.panel == "Refused by the Collector")
    misspelt = replace(good, text=f"{good.text} + (sum(rate(otelcol_receiver_refusd_spans_total[1m])) or vector(0))")
    assert ask(traffic.target, misspelt, filling(misspelt)).problem == ""
    assert unknown_series(traffic, [misspelt]) == {"otelcol_receiver_refusd_spans_total": {misspelt.name}}


def span(trace_id: str, service: str, *, failed: bool) -> dict[str, Any]:
    """An OTLP request with one span that ended just now."""
    now = time.time_ns()
    attribute = {"key": "service.name", "value": {"stringValue": service}}
    one = {
        "traceId": trace_id,
        "spanId": secrets.token_hex(8),
        "name": "test",
        "kind": 2,
        "startTimeUnixNano": str(now - 50_000_000),
        "endTimeUnixNano": str(now),
        "status": {"code": 2 if failed else 1},
    }
    return {"resourceSpans": [{"resource": {"attributes": [attribute]}, "scopeSpans": [{"spans": [one]}]}]}


@pytest.fixture(scope="module")
def failing(stack: Running) -> str:
    """A service of this run's own, with one failed and one sound request."""
    service = f"failing-{secrets.token_hex(4)}"
    for failed in (True, False):
        body = span(secrets.token_hex(16), service, failed=failed)
        http.session.post(f"{stack.target.otlp_http_url}/v1/traces", json=body, timeout=5).raise_for_status()
    return service


def test_failed_request_is_among_the_failed_traces(stack: Running, failing: str) -> None:
    panel = next(q for q in QUESTIONS if q.dashboard == Uid.SERVICE and q.panel == "Failed traces")
    everything = replace(panel, text='{ resource.service.name = "$service" }')

    def found() -> None:
        both = ask(stack.target, everything, filling(everything, service=failing))
        if both.found != 2:
            raise NotYet(both.problem or f"{both.found} traces, not 2")

    polling.until(found, timeout=30, what="both traces of the test's own service")
    assert ask(stack.target, panel, filling(panel, service=failing)).found == 1


def test_deployment_is_marked_once_where_it_began(traffic: Running) -> None:
    """One moment for each start of a worker: not a mark at every step since."""
    marks = next(q for q in QUESTIONS if q.dashboard == Uid.SERVICE and q.panel == "annotation: Deployments")
    answer = ask(traffic.target, marks, filling(marks))
    workers = traffic.prometheus.query(f'count(count_over_time(ml_model_info{{service_name="{SERVICE}"}}[30m]))')
    assert answer.error == ""
    assert 1 <= answer.found <= 3 * workers[0].value, answer


def grafana(stack: Running, path: str) -> http.Response:
    """Ask the stack's own Grafana; without one the test is skipped."""
    if up.grafana_file(stack.settings).exists():
        pytest.skip("the stack has no Grafana: set GRAFANA_HOME to the folder of a release")
    password = stack.credentials.grafana_admin_password
    url = f"{stack.settings.url('grafana')}/api/dashboards/uid/{path}"
    return http.session.get(url, auth=("admin", password), timeout=10)


@pytest.mark.parametrize("uid", Uid)
def test_grafana_has_the_dashboard_as_it_is_committed(stack: Running, uid: Uid) -> None:
    answer = grafana(stack, uid).json()
    assert (answer["meta"]["provisioned"], answer["meta"]["folderTitle"]) == (True, "Sightglass")
    shown, committed = answer["dashboard"], BOARDS[uid]
    assert [panel["title"] for panel in shown["panels"]] == [panel["title"] for panel in committed["panels"]]
    assert [v["query"] for v in shown["templating"]["list"]] == [v["query"] for v in committed["templating"]["list"]]
    assert grafana(stack, f"{uid}-no").status_code == 404


def bench(stack: Running, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sightglass.measure.dashboard_seconds", *options],
        cwd=REPOSITORY,
        env={**stack.environment, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_benchmark_asks_every_query_and_names_those_over_the_goal(traffic: Running) -> None:
    whole = bench(traffic, "--repeat", "1")
    assert f"of {len(QUESTIONS)} queries within 500 ms." in whole.stdout, whole.stderr
    assert all(uid in whole.stdout for uid in Uid)
    assert whole.returncode == (1 if "FAILED: " in whole.stderr else 0)
    hurried = bench(traffic, "--repeat", "1", "--goal", "0.001")
    assert hurried.returncode == 1
    assert hurried.stderr.count("FAILED: ") == len(QUESTIONS)
