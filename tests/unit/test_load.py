"""The load test against real HTTP servers that behave like a service, rightly and wrongly."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from load_testing import contract, shapes
from load_testing.outcome import FAILED, SLOWEST, Outcome, Recorder, Request
from load_testing.plan import Load, Thresholds
from load_testing.traces import TraceLinks
from ml_telemetry.declaration import Declaration, Feature, Kind, Stage, Task
from sightglass.clients import polling
from sightglass.clients.polling import GiveUp, NotYet
from sightglass.facts.settings import REPOSITORY, SERVICES
from sightglass.local import requests
from sightglass.local.requests import Sent
from tests.unit.ports import free_port
from text_classifier.declaration import DECLARATION

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
OTHER_ID = "0af7651916cd43dd8448eb211c80319c"
FIRST, SECOND, *_ = DECLARATION.classes
AWAY = {"https_proxy": "http://127.0.0.1:9", "SCIKIT_LEARN_DATA": "/nowhere"}
"""A machine without a network: the toy data are enough."""


@dataclass
class Answer:
    """What a stand-in is about to answer; its behaviour may change it."""

    trace_id: str
    status: int
    body: dict[str, Any]
    traceresponse: str
    number: int
    hang_up: bool = False


Behaviour = Callable[[Answer], None]


@dataclass
class Seen:
    """A request that a stand-in got."""

    traceparent: str
    method: str
    path: str
    body: bytes


def prediction(trace_id: str) -> dict[str, Any]:
    return {
        "prediction_id": "01a1fdfc-cc9b-73ae-a357-0371f18eca28",
        "label": FIRST,
        "confidence": 0.75,
        "probabilities": {FIRST: 0.75, SECOND: 0.25},
        "model": {"name": "stand-in", "version": "1"},
        "trace_id": trace_id,
    }


def refusal(trace_id: str) -> dict[str, Any]:
    return {"error": {"type": "refused", "message": "Send something else.", "trace_id": trace_id}}


def judge(method: str, path: str, body: bytes) -> int:
    """The status that the service's contract wants."""
    if path != DECLARATION.route:
        return 404
    if method != "POST":
        return 405
    try:
        document = json.loads(body)
    except ValueError:
        return 400
    text = document.get("text") if isinstance(document, dict) else None
    if not isinstance(text, str) or not text.strip():
        return 422
    return 413 if len(text) > 100_000 else 200


class StandIn:
    """A service that does right, but for what its behaviour changes."""

    def __init__(self, behave: Behaviour = lambda answer: None, *, delay: float = 0.02, ready: int = 200) -> None:
        self.seen: list[Seen] = []
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                if self.path == "/readyz":
                    self.reply(ready, {}, "")
                else:
                    self.do_POST()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                traceparent = self.headers.get("traceparent", "")
                stand_in.seen.append(Seen(traceparent, self.command, self.path, body))
                time.sleep(delay)
                trace_id = traceparent.split("-")[1]
                status = judge(self.command, self.path, body)
                document = prediction(trace_id) if status == 200 else refusal(trace_id)
                answer = Answer(trace_id, status, document, traceparent, len(stand_in.seen))
                behave(answer)
                if answer.hang_up:
                    self.close_connection = True
                else:
                    self.reply(answer.status, answer.body, answer.traceresponse)

            def reply(self, status: int, document: Mapping[str, Any], traceresponse: str) -> None:
                body = json.dumps(document).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.send_header("traceresponse", traceresponse)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def accepts_everything(answer: Answer) -> None:
    answer.status, answer.body = 200, prediction(answer.trace_id)


def fails_sometimes(answer: Answer) -> None:
    if answer.status == 200 and answer.number % 4 == 0:
        answer.status, answer.body = 500, refusal(answer.trace_id)


def breaks_or_names_another_trace(answer: Answer) -> None:
    if answer.status == 200:
        answer.body["trace_id"] = OTHER_ID
    else:
        answer.status = 500


def fails_or_hangs_up_sometimes(answer: Answer) -> None:
    fails_sometimes(answer)
    answer.hang_up = answer.number % 4 == 1


@dataclass
class Case:
    """One run of the load test: what it runs against and with which options."""

    behave: Behaviour | None = lambda answer: None
    options: Sequence[str] = ()
    delay: float = 0.02
    ready: int = 200
    duration: float = 2
    environment: Mapping[str, str] = field(default_factory=dict)


GENEROUS = ("--max-p99", "9000")
ONE_USER = (*GENEROUS, "--users", "1", "--seed", "7")
CASES = {
    "right": Case(options=ONE_USER, duration=4.5, environment={"GRAFANA_URL": "http://grafana.test:3000"}),
    "accepting": Case(accepts_everything, (*ONE_USER, "--seed", "8", "--max-failure-ratio", "1")),
    "at a rate": Case(options=(*GENEROUS, "--rate", "10"), delay=0.001, duration=3),
    "slow": Case(delay=0.7, options=("--min-throughput", "100000")),
    "failing": Case(fails_sometimes, GENEROUS),
    "failing as allowed": Case(fails_or_hangs_up_sometimes, (*ONE_USER, "--max-failure-ratio", "0.9")),
    "wrong": Case(breaks_or_names_another_trace, GENEROUS),
    "absent": Case(None),
    "not ready": Case(ready=503),
}


@dataclass(frozen=True)
class Ended:
    """A run that has ended."""

    status: int
    output: str
    errors: str
    url: str
    seen: Sequence[Seen]
    folder: Path

    @property
    def failures(self) -> list[str]:
        return re.findall(r"^FAILED: (.*)$", self.errors, re.MULTILINE)

    @property
    def report(self) -> Path:
        (path,) = self.folder.glob("load/*Z/report.html")
        return path

    @property
    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.report.with_name("requests.json").read_text())
        return document

    @property
    def trace_ids(self) -> list[str]:
        return [seen.traceparent.split("-")[1] for seen in self.seen]


def command(url: str, *options: str) -> list[str]:
    fixed = ("--users", "2", "--corrupt", "0.3", "--url", url)
    return [sys.executable, "-m", "load_testing", *fixed, *options]


def environment(folder: Path, **more: str) -> dict[str, str]:
    foreign = ("SERVICE_URL", "TEMPO_URL", "GRAFANA_URL", "SIGHTGLASS_PORT_OFFSET")
    kept = {k: v for k, v in os.environ.items() if k not in foreign}
    # No Collector: what a test sends is not for a stack that happens to run.
    own = {"SIGHTGLASS_STATE_DIR": str(folder), "OTLP_HTTP_URL": "http://127.0.0.1:9", "COLUMNS": "100", **AWAY}
    return {**kept, **own, **more}


def run(case: Case, folder: Path) -> Ended:
    stand_in = StandIn(case.behave, delay=case.delay, ready=case.ready) if case.behave else None
    url = stand_in.url if stand_in else f"http://127.0.0.1:{free_port()}"
    try:
        done = subprocess.run(
            command(url, "--duration", str(case.duration), *case.options),
            cwd=REPOSITORY,
            env=environment(folder, **case.environment),
            capture_output=True,
            text=True,
            # Several run at once, and each imports much before its seconds begin.
            timeout=280,
            check=False,
        )
    finally:
        if stand_in:
            stand_in.close()
    seen = stand_in.seen if stand_in else []
    return Ended(done.returncode, done.stdout, done.stderr, url, seen, folder)


def require_alive(process: "subprocess.Popen[str]") -> None:
    if process.poll() is not None:
        _, errors = process.communicate()
        raise GiveUp(f"the load test ended with status {process.returncode}: {errors}")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Future[Ended]]]:
    """All runs, begun at once: they mostly wait."""
    with ThreadPoolExecutor(5) as pool:
        yield {name: pool.submit(run, case, tmp_path_factory.mktemp("state")) for name, case in CASES.items()}


Runs = Mapping[str, "Future[Ended]"]


def test_right_service_passes(runs: Runs) -> None:
    ended = runs["right"].result()
    assert (ended.status, ended.failures) == (0, []), ended
    assert "corpus sightglass-toy: 144 composed texts of its test split" in ended.output
    figures = r"^load: 1 users, \d+ requests/s, 0 failed, p50 \d+ p95 \d+ p99 \d+ ms, [12] s left, \d+ s$"
    assert re.search(figures, ended.output, re.MULTILINE), ended.output


def test_every_request_has_a_sampled_trace_of_its_own(runs: Runs) -> None:
    ended = runs["right"].result()
    assert all(re.fullmatch(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-01", s.traceparent) for s in ended.seen)
    assert len(set(ended.trace_ids)) == len(ended.trace_ids) > 10


def test_kinds_are_counted_apart(runs: Runs) -> None:
    ended = runs["right"].result()
    counts = {row["name"]: row["requests"] for row in ended.document["rows"]}
    assert set(counts) <= {f"{one.method} {one.label}" for one in sent().all}
    assert len(counts) > 2
    assert sum(counts.values()) == len(ended.seen) == ended.document["requests"]
    good = sum(judge(seen.method, seen.path, seen.body) == 200 for seen in ended.seen)
    assert counts["POST /predict"] == good == ended.document["good"]
    assert ended.document["corrupted"] == len(ended.seen) - good
    assert 0.1 < ended.document["corrupted"] / len(ended.seen) < 0.5


def test_slowest_requests_can_be_opened_as_traces(runs: Runs) -> None:
    ended = runs["right"].result()
    slowest = ended.document["slowest"]
    assert len(slowest) == SLOWEST
    assert {request["trace_id"] for request in slowest} <= set(ended.trace_ids)
    times = [request["milliseconds"] for request in slowest]
    assert times == sorted(times, reverse=True)
    assert times[0] == max(row["maximum"] for row in ended.document["rows"])
    markdown = ended.report.with_name("slow.md").read_text()
    for request in slowest:
        address = f"http://127.0.0.1:3200/api/v2/traces/{request['trace_id']}"
        assert request["tempo"] == address
        assert address in ended.output
        assert address in markdown
        assert request["grafana"].startswith("http://grafana.test:3000/explore?")
        assert request["grafana"] in markdown
    for file in (ended.report, ended.report.with_name("slow.md"), ended.report.with_name("requests.json")):
        assert str(file) in ended.output


def test_without_grafana_there_is_no_address_in_it(runs: Runs) -> None:
    assert all("grafana" not in request for request in runs["failing"].result().document["slowest"])


def test_report_is_locusts_own(runs: Runs) -> None:
    ended = runs["right"].result()
    html = ended.report.read_text()
    assert "<title>" in html
    for row in ended.document["rows"]:
        assert f'"{row["name"].split(" ", 1)[1]}"' in html
    assert ended.url in html


def test_accepted_corruption_fails_even_when_failures_are_allowed(runs: Runs) -> None:
    ended = runs["accepting"].result()
    corrupted = ended.document["corrupted"]
    assert ended.status == 1
    (sentence,) = ended.failures
    assert sentence.startswith(f"{corrupted} of {corrupted} corrupted requests were accepted: ")
    assert ended.document["failures"] == ended.document["accepted"] == corrupted > 1


def test_slow_service_fails_by_its_latency_and_throughput(runs: Runs) -> None:
    ended = runs["slow"].result()
    assert ended.status == 1
    latency, throughput = ended.failures
    found = re.fullmatch(r"The p99 latency of good requests was ([\d,]+) ms where 500 ms are allowed\.", latency)
    assert found
    assert 700 <= float(found[1].replace(",", "")) == ended.document["p99"]
    assert re.fullmatch(r"The service answered \d\.\d requests/s where 100,000\.0 are wanted\.", throughput)


def test_failed_requests_fail_the_run_and_are_listed(runs: Runs) -> None:
    ended = runs["failing"].result()
    assert ended.status == 1
    (sentence,) = ended.failures
    failures, requests = ended.document["failures"], ended.document["requests"]
    assert sentence.startswith(f"{failures} of {requests} requests failed, ")
    assert sentence.endswith(f"most often POST /predict answered 500 instead of 200 ({failures} times).")
    failed = ended.document["failed"]
    assert len(failed) == min(failures, FAILED)
    assert failures > 1
    for request in failed:
        assert request["trace_id"] in ended.trace_ids
        assert (request["status"], request["problem"]) == (500, "answered 500 instead of 200")
        assert request["tempo"] in ended.output


def test_allowed_share_of_failures_passes(runs: Runs) -> None:
    ended = runs["failing as allowed"].result()
    assert (ended.status, ended.failures) == (0, []), ended
    assert 0.2 < ended.document["failure_ratio"] < 0.9


def test_another_trace_and_a_500_for_a_corrupted_request_are_failures(runs: Runs) -> None:
    ended = runs["wrong"].result()
    assert ended.status == 1
    (sentence,) = ended.failures
    assert "POST /predict answered 200 with another trace_id than the one that was sent" in sentence
    assert all(row["failures"] == row["requests"] > 0 for row in ended.document["rows"])
    assert len(ended.document["rows"]) > 2
    assert ended.document["accepted"] == 0
    for request in ended.document["failed"]:
        assert (request["status"] == 200) == (request["name"] == "POST /predict")
        assert request["status"] in (200, 500)


def test_request_without_an_answer_is_a_failure(runs: Runs) -> None:
    ended = runs["failing as allowed"].result()
    problems = {request["status"]: request["problem"] for request in ended.document["failed"]}
    assert set(problems) == {0, 500}
    assert problems[0].startswith("got no whole answer (")
    assert all(request["status"] for request in ended.document["slowest"])


def test_a_rate_is_kept_by_all_users_together(runs: Runs) -> None:
    ended = runs["at a rate"].result()
    assert ended.status == 0, ended.errors
    # A user without a pause sends hundreds in this time.
    assert 10 <= len(ended.seen) <= 34


def test_absent_service_is_one_sentence(runs: Runs) -> None:
    ended = runs["absent"].result()
    assert ended.status == 2
    expected = f"The service does not answer at {ended.url} (ConnectionError): start it with `make up`, or set --url."
    assert ended.errors == f"sightglass: {expected}\n"


def test_service_that_is_not_ready_is_one_sentence(runs: Runs) -> None:
    ended = runs["not ready"].result()
    assert ended.status == 2
    assert ended.errors.startswith(f"sightglass: The service at {ended.url} is not ready")
    assert ended.seen == []


def test_seed_fixes_what_is_sent_but_never_the_traces(runs: Runs) -> None:
    first, again, other = (runs[name].result() for name in ("right", "failing as allowed", "accepting"))
    # How many there are is for the machine to say.
    most = min(len(ended.seen) for ended in (first, again, other))
    sent = [[(s.method, s.path, s.body) for s in ended.seen[:most]] for ended in (first, again, other)]
    assert most > 3
    assert sent[0] == sent[1]
    assert sent[0] != sent[2]
    assert not set(first.trace_ids) & set(again.trace_ids)


def test_interrupted_run_leaves_its_report_and_does_not_pass(tmp_path: Path) -> None:
    stand_in = StandIn()
    process = subprocess.Popen(
        command(stand_in.url, "--duration", "600", *GENEROUS),
        cwd=REPOSITORY,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def under_way() -> None:
        if len(stand_in.seen) < 10:
            require_alive(process)
            raise NotYet(f"{len(stand_in.seen)} requests")

    polling.until(under_way, timeout=60, what="ten requests")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    stand_in.close()
    ended = Ended(process.returncode, output, errors, stand_in.url, stand_in.seen, tmp_path)
    assert ended.status == 130
    assert ended.failures == ["The run was interrupted before its time was over."]
    assert ended.document["requests"] == len(stand_in.seen)
    assert str(ended.report) in output


def test_locusts_page_runs_the_test_for_this_machine_only(tmp_path: Path) -> None:
    stand_in = StandIn()
    port = free_port()
    page = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        command(stand_in.url, "--duration", "1", *GENEROUS, "--web"),
        cwd=REPOSITORY,
        env=environment(tmp_path, SIGHTGLASS_LOCUST_PORT=str(port)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    def served() -> None:
        try:
            httpx.get(page, trust_env=False).raise_for_status()
        except httpx.HTTPError as error:
            require_alive(process)
            raise NotYet(repr(error)) from None

    def reported() -> None:
        if not list(tmp_path.glob("load/*Z/slow.md")):
            require_alive(process)
            raise NotYet(f"{len(stand_in.seen)} requests")

    polling.until(served, timeout=60, what="locust's page")
    foreign: list[dict[str, str]] = [{"Origin": "http://elsewhere.test"}, {"Host": "elsewhere.test"}]
    for headers in foreign:
        assert httpx.post(f"{page}/swarm", headers=headers, trust_env=False).status_code == 403
    assert stand_in.seen == []
    started = httpx.post(f"{page}/swarm", headers={"Origin": page}, trust_env=False)
    assert started.json()["success"] is True
    polling.until(reported, timeout=60, what="a report")
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    stand_in.close()
    assert (process.returncode, errors) == (0, "")
    assert f"Locust's page: {page}" in output
    assert str(Ended(0, output, errors, "", [], tmp_path).report) in output


def test_taken_port_of_the_page_is_named(tmp_path: Path) -> None:
    stand_in = StandIn()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            command(stand_in.url, "--web"),
            cwd=REPOSITORY,
            env=environment(tmp_path, SIGHTGLASS_LOCUST_PORT=str(port)),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    stand_in.close()
    assert done.returncode == 2
    sentence = rf"sightglass: Locust's page cannot have port {port} \(.*\): .*SIGHTGLASS_LOCUST_PORT.*\n"
    assert re.fullmatch(sentence, done.stderr)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--shape", "burst", "--duration", "9"), "burst has its first spike within 10 seconds"),
        (("--url", "localhost:8000"), "'localhost:8000' is no address of a service"),
    ],
)
def test_options_that_do_not_fit(options: Sequence[str], sentence: str, tmp_path: Path) -> None:
    done = subprocess.run(
        command("http://127.0.0.1:9", *options),
        cwd=REPOSITORY,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_steady_shape_has_all_users_all_the_time() -> None:
    assert {shapes.steady(20, second) for second in range(100)} == {20}


def test_burst_shape_has_short_spikes_of_all_users() -> None:
    assert [shapes.burst(40, second) for second in range(21)] == [4] * 7 + [40] * 3 + [4] * 7 + [40] * 3 + [4]
    assert (shapes.burst(40, 6.99), shapes.burst(40, 7.0)) == (4, 40)
    assert shapes.burst(1, 0) == shapes.burst(1, 8) == 1


@cache
def sent() -> requests.Requests:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in AWAY.items():
            patch.setenv(name, value)
        return requests.of(SERVICES[0])


def test_every_request_has_the_status_that_the_contract_wants() -> None:
    kinds = Counter(one.kind for one in sent().all)
    assert set(kinds) == {"valid", "corrupted", "drifted"}
    for one in sent().all:
        assert judge(one.method, one.path, one.content or b"") == one.status, one
        assert (one.status == 200) == (one.kind != "corrupted")
    # The same name is the same mistake, everywhere.
    statuses = {(one.label, one.status) for one in sent().all}
    assert len(statuses) == len({label for label, _ in statuses})


GOOD = Sent(kind="valid", path=DECLARATION.route, body="{}")
BAD = Sent(kind="corrupted", name="malformed JSON", status=400, path=DECLARATION.route, body="{")


def problem(
    one: Sent,
    body: Mapping[str, Any],
    *,
    status: int = 0,
    traceresponse: str | None = None,
    declared: Declaration = DECLARATION,
) -> str:
    return contract.problem(
        declared,
        one,
        status=status or one.status,
        body=json.dumps(body).encode(),
        traceresponse=f"00-{TRACE_ID}-00f067aa0ba902b7-01" if traceresponse is None else traceresponse,
        trace_id=TRACE_ID,
    )


def test_right_answers_have_no_problem() -> None:
    assert problem(GOOD, prediction(TRACE_ID)) == ""
    assert problem(BAD, refusal(TRACE_ID)) == ""


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"prediction_id": ""}, "prediction_id: String should have at least 1 character"),
        ({"label": None}, "label: Input should be a valid string"),
        ({"label": "three"}, "label: is not among the probabilities"),
        ({"confidence": 1.5}, "confidence: Input should be less than or equal to 1"),
        ({"confidence": 0.7}, "confidence: is not the label's probability"),
        ({"probabilities": {FIRST: 0.75}}, "probabilities: their sum is not 1"),
        ({"probabilities": {FIRST: 0.75, "else": 0.25}}, "probabilities: have a class that is not declared"),
        ({"model": {"name": "stand-in"}}, "model.version: Field required"),
        ({"trace_id": OTHER_ID}, "another trace_id"),
    ],
)
def test_wrong_predictions_have_a_problem(change: dict[str, Any], found: str) -> None:
    assert found in problem(GOOD, {**prediction(TRACE_ID), **change})


REGRESSION = Declaration(
    name="house",
    task=Task.REGRESSION,
    minimum=1.0,
    maximum=9.0,
    stages=(Stage(name="predict"),),
    features=(Feature(name="area", kind=Kind.NUMBER, description="Area."),),
)


@pytest.mark.parametrize(
    ("value", "found"),
    [(5.0, ""), (9.5, "value: is outside the declared range"), ("5 m", "value: Input should be a valid number")],
)
def test_a_number_is_judged_by_its_range(value: object, found: str) -> None:
    answer = {"prediction_id": "1", "value": value, "model": {"name": "house", "version": "1"}, "trace_id": TRACE_ID}
    said = problem(GOOD, answer, declared=REGRESSION)
    assert found in said
    assert bool(found) == bool(said)


def test_shares_are_kept_apart() -> None:
    load = Load(corrupt=0.2, drifted=0.3, health=0.1)
    assert [load.kind(drawn) for drawn in (0.1, 0.29, 0.31, 0.59, 0.61, 0.99)] == [
        *("corrupted", "corrupted", "drifted", "drifted", "valid", "valid")
    ]


@pytest.mark.parametrize("name", ["prediction_id", "label", "confidence", "probabilities", "model", "trace_id"])
def test_missing_field_of_a_prediction_is_a_problem(name: str) -> None:
    whole = prediction(TRACE_ID)
    del whole[name]
    assert f"({name}: Field required)" in problem(GOOD, whole)


@pytest.mark.parametrize("name", ["type", "message", "trace_id"])
def test_missing_field_of_a_refusal_is_a_problem(name: str) -> None:
    whole = refusal(TRACE_ID)
    del whole["error"][name]
    assert f"(error.{name}: Field required)" in problem(BAD, whole)


def test_wrong_status_or_trace_is_a_problem() -> None:
    assert problem(BAD, prediction(TRACE_ID), status=200) == "answered 200 instead of 400"
    assert problem(BAD, refusal(TRACE_ID), status=422) == "answered 422 instead of 400"
    assert problem(GOOD, refusal(TRACE_ID), status=503) == "answered 503 instead of 200"
    assert "another trace_id" in problem(BAD, refusal(OTHER_ID))
    for header in ("", f"00-{OTHER_ID}-00f067aa0ba902b7-01"):
        assert "traceresponse" in problem(GOOD, prediction(TRACE_ID), traceresponse=header)


def test_problem_of_a_body_that_is_no_json_does_not_quote_it() -> None:
    found = contract.problem(DECLARATION, GOOD, status=200, body=b"<html>secret", traceresponse="", trace_id=TRACE_ID)
    assert found.startswith("answered 200 with a wrong body (body: Invalid JSON")
    assert "secret" not in found


def test_recorder_keeps_the_slowest_and_the_first_failed() -> None:
    recorder = Recorder()
    for number in range(100):
        failed = number % 2 == 0
        request = Request(f"{number:032x}", "POST /predict", 0 if failed else 200, number, 0.0, "no" if failed else "")
        recorder.add(request, corrupted=number >= 90)
    assert [request.milliseconds for request in recorder.slowest] == list(range(99, 79, -2))
    assert [request.milliseconds for request in recorder.failed] == list(range(0, 2 * FAILED, 2))
    assert (recorder.corrupted, recorder.accepted) == (10, 5)


PASSED = Outcome(requests=100, failures=0, good=95, p99=500.0, throughput=50.0, corrupted=5, accepted=0)


@pytest.mark.parametrize(
    ("outcome", "start"),
    [
        (replace(PASSED, failures=1), "1 of 100 requests failed, 1 % where 0 % are allowed"),
        (replace(PASSED, p99=501.0), "The p99 latency of good requests was 501 ms where 500 ms are allowed"),
        (replace(PASSED, throughput=49.9), "The service answered 49.9 requests/s where 50.0 are wanted"),
        (replace(PASSED, accepted=1), "1 of 5 corrupted requests were accepted"),
        (replace(PASSED, crashes=("KeyError",)), "The load test itself failed"),
        (replace(PASSED, requests=0, good=0), "No request was made"),
    ],
)
def test_each_threshold_at_its_edge(outcome: Outcome, start: str) -> None:
    thresholds = Thresholds(throughput=50.0)
    assert thresholds.violations(PASSED) == []
    (sentence,) = thresholds.violations(outcome)
    assert sentence.startswith(start)


def test_latency_of_no_good_request_at_all_is_no_violation() -> None:
    assert Thresholds().violations(replace(PASSED, good=0, p99=0.0, corrupted=100)) == []


def test_grafana_address_holds_the_trace_and_its_time() -> None:
    address = httpx.URL(TraceLinks("http://t", "http://g").grafana(TRACE_ID, 1_700_000_000.5))
    (pane,) = json.loads(address.params["panes"]).values()
    (query,) = pane["queries"]
    assert (query["query"], query["queryType"], query["datasource"]["uid"]) == (TRACE_ID, "traceql", "tempo")
    assert pane["range"] == {"from": "1699999700500", "to": "1700000300500"}
    assert TraceLinks("http://t", "").grafana(TRACE_ID, 0) == ""
