"""The provisioned links, resolved as Grafana does, on a line, a span and an exemplar; and what a wrong link makes."""

import json
import secrets
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from sightglass.clients.backends import LogLine, Loki, Span, Tempo
from sightglass.clients.polling import GiveUp, NotYet
from sightglass.facts.errors import UserError
from sightglass.facts.provisioning import DATA_SOURCES, expand, read_data_sources
from sightglass.facts.settings import SERVICES
from sightglass.facts.target import Endpoint, Target
from sightglass.verify import link_checks, resolve
from sightglass.verify.predictions import Prediction
from sightglass.verify.signal_checks import Evidence

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
    assert link_checks._is_sampled(LogLine(0, text, {})) is sampled


# Dangling links: a store of lines, and a Tempo that has some of their traces.


@dataclass
class Stored:
    """What the stand-ins for Loki and Tempo have, and how often they were asked."""

    lines: list[LogLine] = field(default_factory=list)
    young: set[str] = field(default_factory=set)
    old: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def add(self, now: int, age: float, *, flags: str = "01", kept: bool = True) -> str:
        trace_id = secrets.token_hex(16)
        text = json.dumps({"trace_id": trace_id, "trace_flags": flags})
        self.lines.append(LogLine(now - int(age * 1e9), text, {"trace_id": trace_id}))
        if kept:
            self.young.add(trace_id)
        return trace_id


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> Stored:
    made = Stored()

    def lines(_: Loki, query: str, *, start: int, end: int, limit: int, newest: bool) -> list[LogLine]:
        made.asked.append("lines")
        found = sorted((line for line in made.lines if start <= line.timestamp < end), key=lambda line: line.timestamp)
        return found[-limit:]

    def has(_: Tempo, trace_id: str, *, mode: str = "all") -> bool:
        made.asked.append(mode)
        return trace_id in made.young or (mode == "all" and trace_id in made.old)

    def known(_: Tempo, trace_ids: list[str], *, start: int, end: int) -> set[str]:
        made.asked.append("search")
        return made.young & set(trace_ids)

    monkeypatch.setattr(Tempo, "known", known)
    monkeypatch.setattr(Loki, "lines", lines)
    monkeypatch.setattr(Tempo, "has", has)
    return made


def evidence(stored: Stored) -> Evidence:
    """A run with one prediction, whose trace is there."""
    url = "http://nowhere"
    made = Evidence(
        Target((Endpoint(SERVICES[0], url),), url, url, url, url, url, url, url, "reader", "secret", "region")
    )
    own = secrets.token_hex(16)
    stored.young.add(own)
    made.predictions = [Prediction(own, "b7ad6b7169203331", made.began, made.began, "one", {}, {})]
    return made


def test_every_link_opens(stored: Stored) -> None:
    run = evidence(stored)
    for age in range(0, 300, 5):
        stored.add(run.began, age)
    stored.young.discard(stored.lines[10].labels["trace_id"])
    stored.old.add(stored.lines[10].labels["trace_id"])
    assert link_checks.dangling(run, run.provisioned) == (
        "0% of 24 links, 30 to 150 s old, open nothing: 0 lost, 0 not sampled"
    )
    # Of this run the trace is looked for wherever Grafana looks, of others only where they can be.
    assert stored.asked.count("all") == 2


@pytest.mark.parametrize(("age", "lost"), [(5, False), (25, False), (32, True), (90, True), (148, True), (160, False)])
def test_a_lost_trace_of_anybody_turns_the_row_red_once_its_time_is_over(stored: Stored, age: int, lost: bool) -> None:
    run = evidence(stored)
    for other in range(35, 145, 10):
        stored.add(run.began, other)
    trace_id = stored.add(run.began, age, kept=False)
    if not lost:
        assert " 0 lost" in link_checks.dangling(run, run.provisioned)
        return
    with pytest.raises(GiveUp, match=rf"8% of 12 links.*: 1 lost, 0 not sampled; {trace_id}; over at") as red:
        link_checks.dangling(run, run.provisioned)
    over = datetime.fromtimestamp(run.began / 1e9 - age + 150).astimezone()
    assert f"over at {over:%H:%M:%S} unless more are lost" in str(red.value)
    # What the first look saw counts: another sample would be another chance.
    stored.lines.clear()
    with pytest.raises(GiveUp, match=trace_id):
        link_checks.dangling(run, run.provisioned)


def test_many_lost_traces_are_counted_and_three_are_named(stored: Stored) -> None:
    run = evidence(stored)
    ids = [stored.add(run.began, 60 + number, kept=False) for number in range(5)]
    with pytest.raises(GiveUp, match=r"100% of 5 links.*: 5 lost.* and 2 more; over") as red:
        link_checks.dangling(run, run.provisioned)
    assert sum(trace_id in str(red.value) for trace_id in ids) == 3


def test_a_request_that_was_not_sampled_is_counted_apart(stored: Stored) -> None:
    run = evidence(stored)
    stored.add(run.began, 60)
    stored.add(run.began, 61, flags="00", kept=False)
    assert "50% of 2 links" in (detail := link_checks.dangling(run, run.provisioned))
    assert detail.endswith("0 lost, 1 not sampled")


def test_a_trace_of_this_run_that_is_not_there_is_waited_for(stored: Stored) -> None:
    run = evidence(stored)
    own = run.predictions[0].trace_id
    stored.young.clear()
    with pytest.raises(NotYet, match=f"of this run {own}"):
        link_checks.dangling(run, run.provisioned)
    stored.old.add(own)
    assert link_checks.dangling(run, run.provisioned).startswith("0% of 0 links")


def test_its_cost_does_not_grow_with_the_traffic(stored: Stored) -> None:
    run = evidence(stored)
    for number in range(6000):
        stored.add(run.began, number / 20)
    assert " of 50 links" in link_checks.dangling(run, run.provisioned)
    assert sorted(stored.asked) == ["all", *["lines"] * 10, "search"]
