"""Every provisioned link leads from a real thing to the same request; a link that is cut turns exactly its row red."""

import copy
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from sightglass.clients import polling
from sightglass.clients.polling import DeadlineError
from sightglass.facts.provisioning import DASHBOARDS, DATA_SOURCES
from sightglass.measure.link_seconds import GOAL, LINKS, follow
from sightglass.verify import link_checks, sources
from sightglass.verify.predictions import predict
from sightglass.verify.signal_checks import EDGES, SECOND, Check, Evidence
from tests.integration.running import Running

Document = dict[str, Any]


@pytest.fixture(scope="module")
def evidence(stack: Running) -> Evidence:
    """Predictions whose every link leads to them."""
    made = Evidence(stack.target)
    made.predict()
    for check in link_checks.LINKS:
        polling.until(partial(check.find, made), timeout=30, what=check.name)
    return made


def red(evidence: Evidence) -> dict[str, str]:
    """The links that do not lead to the predictions, with the reason."""

    def reason(check: Check) -> str:
        try:
            polling.until(partial(check.find, evidence), timeout=0.5, what=check.name)
        except DeadlineError as error:
            return str(error)
        return ""

    # Side by side, as verify runs them.
    with ThreadPoolExecutor(max_workers=len(link_checks.LINKS)) as pool:
        reasons = pool.map(reason, link_checks.LINKS)
    return {check.name: said for check, said in zip(link_checks.LINKS, reasons, strict=True) if said}


def options(document: Document, uid: str) -> Document:
    found: Document = next(source for source in document["datasources"] if source["uid"] == uid)["jsonData"]
    return found


def derived(name: str, **changes: str) -> Callable[[Document], None]:
    def cut(document: Document) -> None:
        next(f for f in options(document, "loki")["derivedFields"] if f["name"] == name).update(changes)

    return cut


def tempo(block: str, **changes: Any) -> Callable[[Document], None]:
    return lambda document: options(document, "tempo")[block].update(changes)


def exemplar(**changes: str) -> Callable[[Document], None]:
    return lambda document: options(document, "prometheus")["exemplarTraceIdDestinations"][0].update(changes)


WRONG_TAGS = [{"key": "service.name", "value": "service"}]
UNKNOWN_TAGS = [{"key": "service", "value": "service_name"}]
BEFORE_THE_STACK = {"spanStartTimeShift": "-48h", "spanEndTimeShift": "-47h"}
CUTS: list[tuple[str, str, Callable[[Document], None], str]] = [
    ("log -> trace", "label", derived("Trace", matcherRegex="traceID"), "no derived field of kind label"),
    ("log -> trace", "uid", derived("Trace", datasourceUid="tempo2"), "opens data source 'tempo2'"),
    ("log -> trace", "other server", derived("Trace", datasourceUid="loki"), "is of type loki, not tempo"),
    ("log -> trace", "single dollar", derived("Trace", url="${__value.raw}"), "carries '', not the trace id"),
    ("log line -> trace", "regex", derived("Trace (line)", matcherRegex='"traceId":"(.+?)"'), "of kind regex"),
    ("log line -> trace", "group", derived("Trace (line)", matcherRegex='"trace_id":"([0-9a-f]{8})'), "carries"),
    ("log line -> trace", "uid", derived("Trace (line)", datasourceUid=""), "no derived field of kind regex"),
    ("log -> dashboard", "uid", derived("Service", url="/d/nothing?var-service=$${__value.raw}"), "'nothing'"),
    ("log -> dashboard", "variable", derived("Service", url="/d/sightglass-service?var-job=a"), "no variable job"),
    ("log -> dashboard", "value", derived("Service", url="/d/sightglass-service?var-service=x"), "no panel"),
    ("trace -> logs", "uid", tempo("tracesToLogsV2", datasourceUid="prometheus"), "of type prometheus, not loki"),
    ("trace -> logs", "mapping", tempo("tracesToLogsV2", tags=WRONG_TAGS), "finds the predictions []"),
    ("trace -> logs", "no tag", tempo("tracesToLogsV2", tags=UNKNOWN_TAGS), "none of the tags"),
    ("trace -> logs", "query", tempo("tracesToLogsV2", query='{$${__tags}} |= "$${__trace.traceId}x"'), "finds"),
    ("trace -> logs", "all lines", tempo("tracesToLogsV2", query="{$${__tags}}"), "finds the predictions"),
    ("trace -> logs", "shift", tempo("tracesToLogsV2", spanStartTimeShift="1h", spanEndTimeShift="2h"), "finds"),
    ("trace -> metrics", "uid", tempo("tracesToMetrics", datasourceUid="prom"), "opens data source 'prom'"),
    ("trace -> metrics", "mapping", tempo("tracesToMetrics", tags=WRONG_TAGS), "no answer to"),
    ("trace -> metrics", "no tag", tempo("tracesToMetrics", tags=UNKNOWN_TAGS), "none of the tags"),
    ("trace -> metrics", "single dollar", tempo("tracesToMetrics", queries=[{"query": "up{$__tags}"}]), "own labels"),
    ("trace -> metrics", "other metric", tempo("tracesToMetrics", queries=[{"query": "no{$$__tags}"}]), "no answer"),
    ("trace -> metrics", "no query", tempo("tracesToMetrics", queries=[]), "no query"),
    ("trace -> metrics", "shift", tempo("tracesToMetrics", **BEFORE_THE_STACK), "no answer"),
    ("trace -> service map", "uid", tempo("serviceMap", datasourceUid="tempo"), "is of type tempo"),
    ("trace -> node graph", "off", tempo("nodeGraph", enabled=False), "nodeGraph.enabled is not true"),
    ("exemplar -> trace", "label", exemplar(name="traceID"), "no exemplar destination"),
    ("exemplar -> trace", "uid", exemplar(datasourceUid="tmpo"), "opens data source 'tmpo'"),
]


@pytest.mark.parametrize(("row", "what", "cut", "reason"), CUTS, ids=[f"{row}: {what}" for row, what, *_ in CUTS])
def test_a_cut_link_turns_exactly_its_row_red(
    evidence: Evidence, tmp_path: Path, row: str, what: str, cut: Callable[[Document], None], reason: str
) -> None:
    document = yaml.safe_load(DATA_SOURCES.read_text())
    cut(document)
    file = tmp_path / "datasources.yaml"
    file.write_text(yaml.safe_dump(document))
    found = red(with_sources(evidence, sources.provisioned(evidence.target, file, DASHBOARDS)))
    assert set(found) == {row}, found
    assert reason in found[row]


def with_sources(evidence: Evidence, provisioned: sources.Sources) -> Evidence:
    changed = copy.copy(evidence)
    changed.provisioned = provisioned
    return changed


def test_without_the_dashboard_exactly_the_links_to_it_are_red(evidence: Evidence, tmp_path: Path) -> None:
    for file in DASHBOARDS.glob("*.json"):
        if json.loads(file.read_text())["uid"] != "sightglass-service":
            (tmp_path / file.name).write_text(file.read_text())
    found = red(with_sources(evidence, sources.provisioned(evidence.target, DATA_SOURCES, tmp_path)))
    assert set(found) == {"log -> dashboard", "alert -> dashboard"}, found


@pytest.mark.parametrize(
    ("annotation", "row", "change", "reason"),
    [
        ("dashboard_url", "alert -> dashboard", ("sightglass-service", "sightglass-nothing"), "opens dashboard"),
        ("dashboard_url", "alert -> dashboard", ("/d/", "/x/"), "no address of a dashboard"),
        ("traces_url", "alert -> traces", ("%3D%20server", "%3D%20producer"), "does not find"),
        ("traces_url", "alert -> traces", ("tempo", "tmpo"), "opens data source 'tmpo'"),
    ],
)
def test_a_cut_alert_link_turns_exactly_its_row_red(
    evidence: Evidence,
    monkeypatch: pytest.MonkeyPatch,
    annotation: str,
    row: str,
    change: tuple[str, str],
    reason: str,
) -> None:
    alerts = evidence.alertmanager.alerts()
    for alert in alerts:
        if alert["labels"]["alertname"] == "Watchdog":
            alert["annotations"][annotation] = alert["annotations"][annotation].replace(*change)
    monkeypatch.setattr(evidence.alertmanager, "alerts", lambda: alerts)
    found = red(evidence)
    assert set(found) == {row}, found
    assert reason in found[row]


@pytest.mark.parametrize("requests", [15, pytest.param(100, marks=pytest.mark.long)])
def test_every_link_of_many_requests_leads_to_the_same_request(stack: Running, requests: int) -> None:
    before = stack.prometheus.total(f'{EDGES}{{client="verify"}}')
    followed = follow(stack.target, requests)
    assert [item for item in followed if item.problem] == []
    assert len(followed) == requests * len(LINKS)
    assert max(item.seconds for item in followed) <= GOAL
    assert len({item.trace_id for item in followed}) == requests
    assert stack.prometheus.total(f'{EDGES}{{client="verify"}}') - before == requests
    for link in LINKS:
        slowest = max(item.seconds for item in followed if item.link == link.name)
        print(f"{link.name}: {requests} of {requests}, at most {slowest:.2f} s")


def test_a_request_that_leaves_no_trace_is_not_resolved(stack: Running) -> None:
    made = Evidence(stack.target)
    made.predictions = [predict(stack.target.endpoint(), sampled=False)]
    log_to_trace = next(check for check in link_checks.LINKS if check.name == "log -> trace")
    with pytest.raises(DeadlineError, match=f"trace {made.predictions[0].trace_id}"):
        polling.until(lambda: log_to_trace.find(made), timeout=3, what="a trace that was not sampled")
    assert made.began < made.predictions[0].sent < made.began + 10 * SECOND
