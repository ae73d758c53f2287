"""The provisioned links, resolved as Grafana does, on a line, a span and an exemplar; and what a wrong link makes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sightglass.backends import LogLine, Span
from sightglass.errors import UserError
from sightglass.polling import NotYet
from sightglass.provisioning import DATA_SOURCES, expand, read_data_sources
from sightglass.verify import links, resolve

ID = "0af7651916cd43dd8448eb211c80319c"
ADDRESSES = {f"{name}_URL": f"http://{name.lower()}" for name in ("PROMETHEUS", "LOKI", "TEMPO", "ALERTMANAGER")}
MINUTE = 60_000_000_000
LINE = LogLine(
    1,
    f'{{"message":"Prediction.","trace_id":"{ID}","span_id":"b7ad6b7169203331"}}',
    {"trace_id": ID, "service_name": "text-classifier"},
)
SPAN = Span(
    trace_id=ID,
    span_id="b7ad6b7169203331",
    parent_id="",
    name="POST /predict",
    kind="server",
    start=100 * MINUTE,
    end=100 * MINUTE + 5,
    status="UNSET",
    attributes={"http.route": "/predict"},
    resource={"service.name": "text-classifier", "service.namespace": "sightglass"},
    links=(),
    events=(),
)


def options(uid: str) -> Any:
    return read_data_sources(DATA_SOURCES, ADDRESSES)[uid].options


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$LOKI_URL/x", "http://loki/x"),
        ("${LOKI_URL}", "http://loki"),
        ("$$LOKI_URL", "$LOKI_URL"),
        ("$${__value.raw}", "${__value.raw}"),
        ("${__value.raw}", ""),
        ("a $__tags b", "a  b"),
        ("no variable", "no variable"),
    ],
)
def test_variables_are_expanded_as_grafana_does(text: str, expanded: str) -> None:
    assert expand(text, ADDRESSES) == expanded


def test_addresses_come_from_the_environment() -> None:
    sources = read_data_sources(DATA_SOURCES, ADDRESSES)
    assert {uid: source.url for uid, source in sources.items()} == {
        uid: f"http://{uid}" for uid in ("prometheus", "loki", "tempo", "alertmanager")
    }


@pytest.mark.parametrize("content", ["datasources: 3", "datasources: [{uid: a}]", "a: [", ""])
def test_a_file_that_is_no_provisioning_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "datasources.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match="is no provisioning file"):
        read_data_sources(file, ADDRESSES)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_data_sources(tmp_path / "none.yaml", ADDRESSES)


def test_a_line_has_three_buttons() -> None:
    assert list(resolve.derived_links(options("loki"), LINE)) == [
        resolve.Link("Trace", "tempo", ID),
        resolve.Link("Trace (line)", "tempo", ID),
        resolve.Link("Service", "", "/d/sightglass-service?var-service=text-classifier"),
    ]


def test_without_structured_metadata_the_line_still_has_its_button() -> None:
    links = resolve.derived_links(options("loki"), replace(LINE, labels={}))
    assert [link.name for link in links] == ["Trace (line)"]


@pytest.mark.parametrize(
    "derived",
    [
        {"matcherType": "label", "matcherRegex": "traceID"},
        {"matcherRegex": '"traceId":"([0-9a-f]+)"'},
        {"matcherRegex": '"trace_id":"[0-9a-f]{32}"'},  # no group
    ],
)
def test_a_wrong_expression_makes_no_button(derived: dict[str, str]) -> None:
    fields = [{"name": "Trace", "datasourceUid": "tempo", "url": "${__value.raw}", **derived}]
    assert list(resolve.derived_links({"derivedFields": fields}, LINE)) == []


def test_an_exemplar_has_its_button() -> None:
    assert resolve.exemplar_link(options("prometheus"), {"trace_id": ID}) == resolve.Link("trace_id", "tempo", ID)


def test_an_exemplar_with_another_label_has_none() -> None:
    with pytest.raises(NotYet, match=r"no exemplar destination fits .*traceID"):
        resolve.exemplar_link(options("prometheus"), {"traceID": ID})


def test_logs_of_a_span() -> None:
    text = f'{{service_name="text-classifier", service_namespace="sightglass"}} | trace_id = "{ID}"'
    assert resolve.logs_query(options("tempo"), SPAN) == resolve.Query(
        "logs", "loki", text, SPAN.start - 10 * MINUTE, SPAN.end + 10 * MINUTE
    )


def test_logs_of_a_span_without_a_query_of_our_own() -> None:
    logs = {"datasourceUid": "loki", "tags": [{"key": "service.name"}], "filterByTraceID": True, "filterBySpanID": True}
    query = resolve.logs_query({"tracesToLogsV2": logs}, SPAN)
    assert query.text == f'{{service.name="text-classifier"}} |="{ID}" |="{SPAN.span_id}"'
    assert (query.start, query.end) == (SPAN.start, SPAN.start + 1_000_000)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tags": [{"key": "service", "value": "service_name"}]}, "none of the tags for logs"),
        ({"tags": []}, "none of the tags for logs"),
        ({"query": '{${__tags}} | trace_id = "${__trace.id}"'}, r"\$\{__trace\.id\} is not known"),
        ({"spanStartTimeShift": "ten minutes"}, "'ten minutes' is no time shift"),
    ],
)
def test_a_span_without_logs_button(change: dict[str, Any], reason: str) -> None:
    logs = {**options("tempo")["tracesToLogsV2"], **change}
    with pytest.raises(NotYet, match=reason):
        resolve.logs_query({"tracesToLogsV2": logs}, SPAN)


def test_metrics_of_a_span() -> None:
    queries = resolve.metrics_queries(options("tempo"), SPAN)
    assert len(queries) == 4
    for query in queries:
        assert '{service_name="text-classifier", service_namespace="sightglass"}[1m]' in query.text
        assert "__tags" not in query.text
        assert (query.uid, query.start, query.end) == ("prometheus", SPAN.start - 15 * MINUTE, SPAN.end + 15 * MINUTE)


def test_grafana_fills_in_the_tags_of_a_metrics_query_once() -> None:
    metrics = {"tags": [{"key": "service.name"}], "queries": [{"query": "a{$__tags} / b{$__tags}"}]}
    (query,) = resolve.metrics_queries({"tracesToMetrics": metrics}, SPAN)
    assert query.text == 'a{service.name="text-classifier"} / b{$__tags}'


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("", 0), ("-5m", -300_000), ("1h", 3_600_000), ("500ms", 500), ("-1.5s", -1500), ("2 d", None)],
)
def test_time_shifts(text: str, milliseconds: int | None) -> None:
    if milliseconds is None:
        with pytest.raises(NotYet, match="is no time shift"):
            resolve.shift(text)
    else:
        assert resolve.shift(text) == milliseconds * 1_000_000


@pytest.mark.parametrize(
    ("text", "sampled"), [('{"trace_flags": "01"}', True), ('{"trace_flags": "00"}', False), ("no JSON", True)]
)
def test_a_line_says_whether_its_trace_is_kept_or_is_looked_for(text: str, sampled: bool) -> None:
    assert links._is_sampled(LogLine(0, text, {})) is sampled
