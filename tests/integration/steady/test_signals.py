"""Each signal of requests with trace ids of our own, in the server where it belongs."""

import json
import secrets
import time
from dataclasses import replace

import pytest

from ml_telemetry import signals
from sightglass.clients import buckets, http, polling
from sightglass.clients.backends import Span
from sightglass.clients.polling import DeadlineError, NotYet
from sightglass.facts import object_storage
from sightglass.facts.settings import NAMESPACE, SERVICE
from sightglass.verify.predictions import Prediction, bodies, predict, traceparent
from sightglass.verify.signal_checks import HTTP_BUCKET, HTTP_COUNT, PREDICTIONS, SECOND, expect_tree, request_spans
from tests.integration.running import Running
from text_classifier.declaration import CONTRACT, DECLARATION

WAIT = 15.0
OF_SERVICE = f'service_name="{SERVICE}"'


@pytest.fixture(scope="module")
def prediction(stack: Running) -> Prediction:
    return predict(stack.target.endpoint())


@pytest.fixture(scope="module")
def spans(stack: Running, prediction: Prediction) -> list[Span]:
    return complete_trace(stack, prediction)


def complete_trace(stack: Running, prediction: Prediction) -> list[Span]:
    def tree() -> list[Span]:
        found = stack.tempo.trace(prediction.trace_id)
        expect_tree(found, prediction, CONTRACT)
        return found

    return polling.until(tree, timeout=WAIT, what="the whole trace")


def rejected(stack: Running, body: bytes, path: str = "/predict") -> tuple[str, http.Response]:
    trace_id = secrets.token_hex(16)
    headers = {"traceparent": traceparent(trace_id, secrets.token_hex(8)), "content-type": "application/json"}
    answer = http.session.post(f"{stack.target.endpoint().url}{path}", data=body, headers=headers)
    return trace_id, answer


def window(since: int) -> tuple[int, int]:
    return since - 60 * SECOND, time.time_ns() + 60 * SECOND


def lines_of(stack: Running, trace_id: str, since: int, count: int = 1) -> list[dict[str, str]]:
    def found() -> list[dict[str, str]]:
        start, end = window(since)
        lines = stack.loki.lines(f'{{{OF_SERVICE}}} | trace_id="{trace_id}"', start=start, end=end)
        if len(lines) != count:
            raise NotYet(f"{len(lines)} lines of trace {trace_id}, not {count}")
        return [{**line.labels, "line": line.line} for line in lines]

    return polling.until(found, timeout=WAIT, what=f"log lines of trace {trace_id}")


def test_answer_carries_the_callers_trace(prediction: Prediction) -> None:
    assert prediction.answer["trace_id"] == prediction.trace_id
    version, trace_id, span_id, flags = prediction.headers["traceresponse"].split("-")
    assert (version, trace_id, flags) == ("00", prediction.trace_id, "01")
    assert span_id != prediction.parent_id


def test_span_tree_by_id(spans: list[Span], prediction: Prediction) -> None:
    assert {span.name for span in spans} == {name for name, _ in request_spans(CONTRACT)}
    by_name = {span.name: span for span in spans}
    root = by_name[CONTRACT.request_span]
    assert (root.kind, root.parent_id, root.status) == ("server", prediction.parent_id, "UNSET")
    assert root.attributes["ml.prediction.id"] == prediction.prediction_id
    assert root.attributes["http.response.status_code"] == 200
    assert root.attributes["http.route"] == "/predict"
    assert by_name["predict"].attributes["ml.prediction.label"] == prediction.answer["label"]
    assert by_name["predict"].attributes["ml.model.version"] == prediction.answer["model"]["version"]
    assert by_name["preprocess"].attributes["ml.input.characters"] == len(DECLARATION.samples[0].request["text"])
    for span in spans:
        assert root.start <= span.start <= span.end <= root.end, span
        declared = next(known for known in CONTRACT.spans if known.name == span.name)
        assert span.kind == declared.kind
        assert set(span.attributes) <= {attribute.name for attribute in declared.attributes}
        assert span.resource["service.name"] == SERVICE
        assert span.resource["service.namespace"] == NAMESPACE
        assert span.resource["deployment.environment.name"] == "local"
        assert {attribute.name for attribute in signals.RESOURCE} <= set(span.resource)


def test_a_missing_span_or_a_wrong_parent_fails(spans: list[Span], prediction: Prediction) -> None:
    without = [span for span in spans if span.name != "vectorize"]
    with pytest.raises(NotYet, match="vectorize"):
        expect_tree(without, prediction, CONTRACT)
    stranger = replace(prediction, parent_id="0" * 16)
    with pytest.raises(NotYet, match="not the caller's"):
        expect_tree(spans, stranger, CONTRACT)


def test_predict_span_links_to_its_batch(stack: Running, spans: list[Span], prediction: Prediction) -> None:
    (batch_trace,) = next(span for span in spans if span.name == "predict").links

    def batch() -> Span:
        return stack.tempo.trace(batch_trace)[0]

    found = polling.until(batch, timeout=WAIT, what="the batch's own trace")
    assert found.name == signals.BATCH_SPAN
    assert prediction.trace_id in found.links


def test_trace_by_search(stack: Running, prediction: Prediction) -> None:
    second = prediction.sent // SECOND

    def search(prediction_id: str) -> list[str]:
        query = f'{{ span.ml.prediction.id = "{prediction_id}" }}'
        found = stack.tempo.search(query, start=second - 60, end=second + 600)
        if not found:
            raise NotYet(f"nothing for {query}")
        return found

    assert polling.until(lambda: search(prediction.prediction_id), timeout=WAIT, what="the trace by search") == [
        prediction.trace_id
    ]
    with pytest.raises(DeadlineError):
        polling.until(lambda: search("no-such-prediction"), timeout=1, what="a trace that is not there")


def test_log_line_with_structured_metadata_exactly_once(stack: Running, prediction: Prediction) -> None:
    (labels,) = lines_of(stack, prediction.trace_id, prediction.sent)
    line = json.loads(labels["line"])
    assert labels["trace_id"] == line["trace_id"] == prediction.trace_id
    assert labels["span_id"] == line["span_id"] == prediction.headers["traceresponse"].split("-")[2]
    assert labels["event_name"] == line["event.name"] == "ml.prediction"
    assert labels["ml_prediction_id"] == line["ml.prediction.id"] == prediction.prediction_id
    assert labels["level"] == "info"
    assert line["ml.prediction.label"] == prediction.answer["label"]
    declared = {attribute.name for attribute in CONTRACT.prediction_event.attributes}
    assert set(line) == {*signals.LOG_KEYS, *declared}

    def once() -> int:
        start, end = window(prediction.sent)
        found = stack.loki.lines(f'{{{OF_SERVICE}}} |= "{prediction.trace_id}"', start=start, end=end)
        if len(found) != 1:
            raise NotYet(f"{len(found)} lines")
        return 1

    assert polling.stays(once, duration=3, what="one line and no more") == 1


def test_index_labels_are_the_contracts_few(stack: Running, prediction: Prediction) -> None:
    lines_of(stack, prediction.trace_id, prediction.sent)
    start, end = window(prediction.sent)
    # Loki cuts a stream in two by a label of its own, while more comes in than one should take; late lines have `late`.
    assert stack.loki.index_labels(start=start, end=end) - {"__stream_shard__", "late"} == {
        *("service_name", "service_namespace", "deployment_environment_name", "level")
    }


def test_counters_and_histograms_grow_by_what_was_sent(stack: Running) -> None:
    label = predict(stack.target.endpoint(), bodies(stack.target.endpoint())[1]).answer["label"]
    counter = f'sum({PREDICTIONS}{{{OF_SERVICE}, label="{label}"}})'
    histogram = f'sum({HTTP_COUNT}{{{OF_SERVICE}, http_route="/predict", http_response_status_code="200"}})'
    expected = [signals.CONFIDENCE, signals.INFERENCE_DURATION, signals.INFERENCE_BATCH_SIZE]
    others = [f"sum({metric.prometheus_name}_count{{{OF_SERVICE}}})" for metric in expected]
    feature = f'{signals.FEATURE_VALUE.prometheus_name}{{{OF_SERVICE}, feature="characters"}}'
    queries = [counter, histogram, f"histogram_count(sum({feature}))", *others]

    def settled() -> list[float]:
        """What Prometheus has when nothing more comes: two equal answers, two exports apart."""
        first = [stack.prometheus.total(query) for query in queries]

        def same() -> list[float]:
            if (now := [stack.prometheus.total(query) for query in queries]) != first:
                raise NotYet(f"still growing: {now}")
            return now

        try:
            return polling.stays(same, duration=2.5, what="the same count")
        except DeadlineError as growing:
            raise NotYet(str(growing)) from None

    before = polling.until(settled, timeout=WAIT, what="the earlier requests to be counted")
    for _ in range(3):
        predict(stack.target.endpoint(), bodies(stack.target.endpoint())[1])

    def grown() -> list[float]:
        now = [stack.prometheus.total(query) - was for query, was in zip(queries, before, strict=True)]
        if now[0] < 3:
            raise NotYet(str(now))
        return now

    assert polling.until(grown, timeout=WAIT, what="the counters to grow") == [3, 3, 3, 3, 12, 3]


def test_every_metric_of_the_contract_is_there(stack: Running, prediction: Prediction) -> None:
    missing = []
    for metric in CONTRACT.metrics:
        name = metric.prometheus_name + ("_count" if metric.instrument is signals.Instrument.HISTOGRAM else "")
        if not stack.prometheus.query(f"count({name}{{{OF_SERVICE}}})"):
            missing.append(name)
    # These count what has not happened: they appear with the first such event.
    unheard = (signals.REJECTED, signals.TELEMETRY_DROPPED, signals.FEATURE_MISSING)
    assert set(missing) <= {metric.prometheus_name for metric in unheard}
    infos = stack.prometheus.query(f"{signals.MODEL_INFO.prometheus_name}{{{OF_SERVICE}}}")
    assert {(info.value, info.labels["version"]) for info in infos} == {(1, prediction.answer["model"]["version"])}


def test_exemplars_carry_our_trace_ids(stack: Running) -> None:
    sent = [predict(stack.target.endpoint(), body) for body in bodies(stack.target.endpoint())]
    began = sent[0].sent / SECOND

    def ours(selector: str) -> set[str]:
        found = stack.prometheus.exemplars(selector, start=began - 60, end=time.time() + 60)
        ids = {item.labels["trace_id"] for item in found} & {item.trace_id for item in sent}
        if not ids:
            raise NotYet(f"no exemplar of ours among {len(found)} of {selector}")
        return ids

    inference = f'{signals.INFERENCE_DURATION.prometheus_name}_bucket{{{OF_SERVICE}, stage="vectorize"}}'
    for selector in (f"{HTTP_BUCKET}{{{OF_SERVICE}}}", inference):
        (trace_id, *_) = polling.until(lambda s=selector: ours(s), timeout=WAIT, what="exemplars")  # type: ignore[misc]
        polling.until(lambda t=trace_id: stack.tempo.trace(t), timeout=WAIT, what="the exemplar's trace")  # type: ignore[misc]


def test_refused_request_leaves_a_trace_a_line_and_a_count(stack: Running) -> None:
    since = time.time_ns()
    query = f'sum({signals.REJECTED.prometheus_name}{{{OF_SERVICE}, reason="empty_text"}})'
    before = stack.prometheus.total(query)
    trace_id, answer = rejected(stack, b'{"text": "  "}')
    assert answer.status_code == 422
    assert answer.json()["error"]["trace_id"] == trace_id
    (labels,) = lines_of(stack, trace_id, since)
    assert (labels["event_name"], labels["level"], labels["error_type"]) == (
        "ml.request.rejected",
        "warn",
        "empty_text",
    )

    def seen() -> Span:
        return next(span for span in stack.tempo.trace(trace_id) if span.kind == "server")

    root = polling.until(seen, timeout=WAIT, what="the refused request's span")
    assert root.attributes["error.type"] == "empty_text"
    assert root.attributes["http.response.status_code"] == 422

    def counted() -> None:
        if (now := stack.prometheus.total(query)) != before + 1:
            raise NotYet(f"{query} is {now}, was {before}")

    polling.until(counted, timeout=WAIT, what="the rejection to be counted")


@pytest.mark.parametrize(
    ("body", "path"),
    [(b'{"text": "%s"}', "/predict"), (b'{"text": ["%s"]}', "/predict"), (b'{"text": "%s', "/predict"), (b"%s", "/%s")],
    ids=["accepted", "wrong type", "malformed", "unknown route"],
)
def test_no_user_text_anywhere(stack: Running, body: bytes, path: str) -> None:
    marker = "zq" + secrets.token_hex(8)
    since = time.time_ns()
    trace_id, answer = rejected(stack, body.replace(b"%s", marker.encode()), path.replace("%s", marker))
    assert marker not in answer.text
    (labels,) = lines_of(stack, trace_id, since)
    assert marker not in json.dumps(labels)
    polling.until(lambda: stack.tempo.trace(trace_id), timeout=WAIT, what="the trace")
    trace = http.session.get(f"{stack.target.tempo_url}/api/v2/traces/{trace_id}")
    assert trace_id_known(trace)
    assert marker not in trace.text
    start, end = window(since)
    assert stack.loki.lines(f'{{{OF_SERVICE}}} |= "{marker}"', start=start, end=end) == []


def trace_id_known(answer: http.Response) -> bool:
    return answer.status_code == 200 and "resourceSpans" in answer.text


def test_unsampled_request_has_a_line_and_no_trace(stack: Running) -> None:
    unsampled = predict(stack.target.endpoint(), sampled=False)
    (labels,) = lines_of(stack, unsampled.trace_id, unsampled.sent)
    assert json.loads(labels["line"])["trace_flags"] == "00"

    def absent() -> None:
        try:
            stack.tempo.trace(unsampled.trace_id)
        except NotYet:
            return
        raise NotYet("tempo has the trace")

    polling.stays(absent, duration=2, what="no trace of an unsampled request")


def test_collector_redacts_what_a_foreign_service_sends(stack: Running) -> None:
    trace_id, marker = secrets.token_hex(16), secrets.token_hex(6)
    now = time.time_ns()
    span = {
        "traceId": trace_id,
        "spanId": secrets.token_hex(8),
        "name": "foreign",
        "startTimeUnixNano": str(now),
        "endTimeUnixNano": str(now + 1000),
        "attributes": [
            {"key": "note", "value": {"stringValue": f"mail {marker}@example.org and card 4111 1111 1111 1111"}},
            {"key": "fine", "value": {"stringValue": f"kept {marker}"}},
            {"key": "figure", "value": {"stringValue": "0.4111111111111111"}},
        ],
    }
    body = {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}
    http.session.post(f"{stack.target.otlp_http_url}/v1/traces", json=body).raise_for_status()
    (found,) = polling.until(lambda: stack.tempo.trace(trace_id), timeout=WAIT, what="the foreign span")
    assert found.attributes["fine"] == f"kept {marker}"
    assert "@" not in found.attributes["note"]
    assert "4111" not in found.attributes["note"]
    assert found.attributes["figure"] == "0.4111111111111111"
    assert found.resource["service.namespace"] == NAMESPACE


def test_objects_of_loki_and_tempo_are_in_minio(stack: Running, prediction: Prediction) -> None:
    lines_of(stack, prediction.trace_id, prediction.sent)
    stack.tempo.flush()
    stack.loki.flush()

    def trace_in_blocks() -> list[Span]:
        return stack.tempo.trace(prediction.trace_id, mode="blocks")

    assert polling.until(trace_in_blocks, timeout=60, what="the trace in a block of the bucket")
    s3 = buckets.reader(stack.target)

    def chunk() -> str:
        for item in s3.list_objects(bucket_name=object_storage.LOKI_BUCKET, prefix="fake/", recursive=True):
            first, last, _ = str(item.object_name).rsplit("/", 1)[-1].split(":")
            if int(first, 16) <= prediction.sent // 10**6 + 1000 and int(last, 16) >= prediction.sent // 10**6:
                return str(item.object_name)
        raise NotYet("no chunk covers the line's time")

    assert polling.until(chunk, timeout=WAIT, what="a chunk in the bucket")
