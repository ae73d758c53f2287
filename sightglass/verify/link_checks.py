"""One check a link: from a real thing at one end, through the provisioned link, to the same request at the other."""

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ml_telemetry import signals
from sightglass.clients.backends import Exemplar, LogLine, Span, Tempo
from sightglass.clients.polling import GiveUp, NotYet
from sightglass.facts.settings import SERVICE
from sightglass.facts.variables import fill
from sightglass.verify import resolve
from sightglass.verify.predictions import CLIENT, Prediction
from sightglass.verify.signal_checks import (
    EDGES,
    HTTP_BUCKET,
    LOGS,
    METRICS,
    PROMISED,
    SECOND,
    THE_SERVICE,
    TRACES,
    Check,
    Evidence,
    fresh_watchdog,
)
from sightglass.verify.sources import Sources, loki, prometheus, tempo

DANGLING = "dangling links"
DANGLING_SLICES = 10
DANGLING_LINES = 5
"""Log lines whose links are followed: so many of each slice of the window, however many there are."""
DANGLING_WINDOW = 120
"""Seconds of the window: it ends where a signal counts as lost, and younger links may still open."""
INTERVALS = {"__rate_interval": "1m", "__interval": "15s", "__range": "15m"}
"""What Grafana's own variables are while a dashboard shows a quarter of an hour."""

Find = Callable[[Evidence, Sources], str]


def log_to_trace(evidence: Evidence, sources: Sources, *, kind: str) -> str:
    """A button under each prediction's log line opens that prediction's trace."""
    options = sources.get("loki").options
    wanted = {field["name"] for field in options.get("derivedFields", []) if _is_trace_field(field, kind)}
    for prediction in evidence.made():
        line = _line(evidence, prediction)
        links = [link for link in resolve.derived_links(options, line) if link.name in wanted]
        if not links:
            raise NotYet(f"no derived field of kind {kind} makes a trace button of the line of {prediction.trace_id}")
        for link in links:
            _opens_trace(evidence, sources, link, prediction.trace_id)
    return f"button {', '.join(sorted(wanted))}"


def _is_trace_field(derived: dict[str, Any], kind: str) -> bool:
    return bool(derived.get("datasourceUid")) and (derived.get("matcherType") == "label") == (kind == "label")


def log_to_dashboard(evidence: Evidence, sources: Sources) -> str:
    """A button under the log line opens the dashboard of the line's service, which has the request's exemplar."""
    prediction = evidence.made()[0]
    buttons = list(resolve.derived_links(sources.get("loki").options, _line(evidence, prediction)))
    addresses = [link.query for link in buttons if not link.uid and link.query.startswith("/d/")]
    if not addresses:
        raise NotYet("no derived field makes a dashboard button of the line")
    return _dashboard_shows_requests(evidence, sources, addresses[0])


def trace_to_logs(evidence: Evidence, sources: Sources) -> str:
    """The logs button of every span of a prediction's trace finds that prediction's line."""
    options = sources.get("tempo").options
    for prediction in evidence.made():
        # Of each link's own window the part where the line is: the rest would be more the more others send.
        first, last = prediction.sent - 2 * SECOND, time.time_ns() + 60 * SECOND
        queries = [resolve.logs_query(options, span) for span in evidence.service_spans(prediction)]
        for query in {replace(q, start=max(q.start, first), end=min(q.end, last)) for q in queries}:
            empty = query.start >= query.end
            lines = [] if empty else loki(sources, query.uid).lines(query.text, start=query.start, end=query.end)
            ids = {line.labels.get("ml_prediction_id") for line in lines}
            if ids != {prediction.prediction_id}:
                raise NotYet(f"{query.text} finds the predictions {sorted(map(str, ids))}")
    return query.text


def trace_to_metrics(evidence: Evidence, sources: Sources) -> str:
    """Every metrics button of the request's span answers, with an exemplar of the request itself among the answers."""
    options = sources.get("tempo").options
    prediction = _exemplar(evidence)[0]
    span = _request_span(evidence, prediction)
    ids: set[str | None] = set()
    queries = resolve.metrics_queries(options, span)
    if not queries:
        raise NotYet("there is no query for metrics")
    if not (tags := resolve.mapped_tags(options["tracesToMetrics"].get("tags", []), span)):
        raise NotYet("none of the tags for metrics is an attribute of the span")
    for query in queries:
        if tags not in query.text:
            raise NotYet(f"the query {query.name!r} does not carry the span's own labels: {query.text}")
        server = prometheus(sources, query.uid)
        # Of the link's own window the part where this run is: the rest would be more the more others send.
        start = max(query.start / SECOND, evidence.window[0])
        end = min(query.end / SECOND, time.time())
        # The first step after the start sees the run: with a step of five seconds the row would take as long.
        if start >= end or not server.series(query.text, start=start, end=end, step=1):
            raise NotYet(f"no answer to {query.name!r}: {query.text}")
        ids |= {found.labels.get("trace_id") for found in server.exemplars(query.text, start=start, end=end)}
    if prediction.trace_id not in ids:
        raise NotYet(f"none of {len(ids)} exemplars behind the queries is of trace {prediction.trace_id}")
    return ", ".join(query.name for query in queries)


def exemplar_to_trace(evidence: Evidence, sources: Sources) -> str:
    """An exemplar of a prediction opens that prediction's trace."""
    prediction, exemplar = _exemplar(evidence)
    link = resolve.exemplar_link(sources.get("prometheus").options, exemplar.labels)
    _opens_trace(evidence, sources, link, prediction.trace_id)
    return f"label {link.name}"


def service_map(evidence: Evidence, sources: Sources) -> str:
    """The service map has the edge of our own requests, counted once for each of them."""
    uid = (sources.get("tempo").options.get("serviceMap") or {}).get("datasourceUid", "")
    server = prometheus(sources, uid)
    evidence.sent_client_spans()
    detail = evidence.counted(EDGES)
    edge = f'{EDGES}{{client="{CLIENT}", server="{evidence.service}"}}'
    if not server.query(edge):
        raise NotYet(f"{server.url} has no {edge}")
    return f"{CLIENT} -> {evidence.service}: {detail}"


def node_graph(evidence: Evidence, sources: Sources) -> str:
    """The node graph is switched on, and the spans of each trace hang together from the caller down."""
    if not (sources.get("tempo").options.get("nodeGraph") or {}).get("enabled"):
        raise NotYet("nodeGraph.enabled is not true")
    evidence.sent_client_spans()
    for prediction in evidence.made():
        spans = evidence.tempo.trace(prediction.trace_id, mode="ingesters")
        ids = {span.span_id for span in spans}
        loose = sorted(span.name for span in spans if span.parent_id not in ids)
        if loose != [CLIENT]:
            raise NotYet(f"trace {prediction.trace_id} begins at {loose}, not at the caller's span alone")
    return f"{len(spans)} nodes"


def alert_to_dashboard(evidence: Evidence, sources: Sources) -> str:
    """The dashboard that the Watchdog points to exists and shows the exemplar of the request."""
    return _dashboard_shows_requests(evidence, sources, _annotation(evidence, "dashboard_url"))


def alert_to_traces(evidence: Evidence, sources: Sources) -> str:
    """The search that the Watchdog points to finds the trace of every prediction."""
    address = _annotation(evidence, "traces_url")
    panes = json.loads(parse_qs(urlsplit(address).query)["panes"][0])
    (pane,) = panes.values()
    (query,) = pane["queries"]
    if query["datasource"]["uid"] != pane["datasource"]:
        raise NotYet(f"the pane opens {pane['datasource']!r} and its query {query['datasource']['uid']!r}")
    server = tempo(sources, pane["datasource"])
    for prediction in evidence.made():
        second = prediction.sent // SECOND
        # The link's own search, narrowed to the one trace: beside others' traffic it finds more than can be listed.
        narrowed = f'({query["query"]}) && {{ span.ml.prediction.id = "{prediction.prediction_id}" }}'
        found = server.search(narrowed, start=second - 1, end=second + 30)
        if prediction.trace_id not in found:
            raise NotYet(f"{query['query']} does not find {prediction.trace_id}")
    return str(query["query"])


def dangling(evidence: Evidence, sources: Sources) -> str:
    """The links of log lines open their traces: of this run's own lines, and of a sample of everybody's.

    Of the others those are followed that are older than :data:`PROMISED`, over the two minutes before that; what an
    outage lost turns the row red until it has left that window. A line of a request that was not sampled says so
    itself (``trace_flags``) and is counted apart.
    """
    lines = evidence.remember(f"links by {type(sources).__name__}", lambda: _lines_to_follow(evidence, sources))
    unsampled = sum(not _is_sampled(line) for line in lines)
    asked = tempo(sources, "tempo")
    missing = _lost(asked, [line for line in lines if _is_sampled(line)])
    share = (len(missing) + unsampled) / len(lines) if lines else 0.0
    detail = (
        f"{share:.0%} of {len(lines)} links, {PROMISED:g} to {PROMISED + DANGLING_WINDOW:g} s old, open nothing: "
        f"{len(missing)} lost, {unsampled} not sampled"
    )
    if missing:
        ids = [line.labels["trace_id"] for line in missing]
        newest = max(line.timestamp for line in missing) // SECOND
        over = datetime.fromtimestamp(newest + PROMISED + DANGLING_WINDOW).astimezone()
        more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
        raise GiveUp(f"{detail}; {', '.join(ids[:3])}{more}; over at {over:%H:%M:%S} unless more are lost")
    for number, prediction in enumerate(evidence.made()):
        # One of them as Grafana opens a link, which is slow: in memory and in object storage.
        if not asked.has(prediction.trace_id, mode="ingesters" if number else "all"):
            raise NotYet(f"{detail}; of this run {prediction.trace_id}")
    return detail


def _lines_to_follow(evidence: Evidence, sources: Sources) -> list[LogLine]:
    """The newest lines of each slice of the window, which costs the same whatever the traffic."""
    query = f'{{service_name="{evidence.service}"}} | event_name="{signals.PREDICTION_EVENT.name}"'
    first = evidence.began - int((PROMISED + DANGLING_WINDOW) * SECOND)
    width = DANGLING_WINDOW * SECOND // DANGLING_SLICES
    asked = loki(sources, "loki")
    return [
        line
        for start in range(first, first + DANGLING_SLICES * width, width)
        for line in asked.lines(query, start=start, end=start + width, limit=DANGLING_LINES, newest=True)
    ]


def _lost(asked: Tempo, lines: list[LogLine]) -> list[LogLine]:
    """The lines whose traces are not there. One search finds almost all; what it does not have is looked for by id."""
    if not lines:
        return []
    times = [line.timestamp // SECOND for line in lines]
    known = asked.known([line.labels["trace_id"] for line in lines], start=min(times) - 10, end=max(times) + 10)
    missing = [line for line in lines if line.labels["trace_id"] not in known]
    return [line for line in missing if not asked.has(line.labels["trace_id"])]


def _is_sampled(line: LogLine) -> bool:
    try:
        return int(json.loads(line.line).get("trace_flags", "01"), 16) & 1 == 1
    except ValueError:
        # What cannot be read says nothing; its trace is looked for.
        return True


def _opens_trace(evidence: Evidence, sources: Sources, link: resolve.Link, trace_id: str) -> None:
    if link.query != trace_id:
        raise NotYet(f"button {link.name!r} carries {link.query!r}, not the trace id {trace_id}")
    opened = tempo(sources, link.uid)

    def opens() -> bool:
        spans = opened.trace(trace_id, mode="ingesters")
        if not any(span.resource.get("service.name") == evidence.service for span in spans):
            raise NotYet(f"trace {trace_id} has no span of {evidence.service}")
        return True

    evidence.remember(f"{opened.url} opens {trace_id}", opens)


def _line(evidence: Evidence, prediction: Prediction) -> LogLine:
    lines = evidence.log_lines(prediction)
    if not lines:
        raise NotYet(f"loki has no line of trace {prediction.trace_id} to start from")
    return lines[0]


def _request_span(evidence: Evidence, prediction: Prediction) -> Span:
    spans = evidence.service_spans(prediction)
    return next(span for span in spans if span.parent_id == prediction.parent_id)


def _exemplar(evidence: Evidence) -> tuple[Prediction, Exemplar]:
    """A prediction of this run and its exemplar."""
    ours = {prediction.trace_id: prediction for prediction in evidence.made()}
    selector = evidence.of_service(HTTP_BUCKET)
    start, end = evidence.window
    for found in evidence.prometheus.exemplars(selector, start=start, end=end):
        if prediction := ours.get(found.labels.get("trace_id", "")):
            return prediction, found
    raise NotYet("prometheus has no exemplar of this run to start from")


def _annotation(evidence: Evidence, name: str) -> str:
    if text := fresh_watchdog(evidence)["annotations"].get(name):
        return str(text)
    raise NotYet(f"the Watchdog has no annotation {name}")


def _dashboard_shows_requests(evidence: Evidence, sources: Sources, address: str) -> str:
    """Open the dashboard at an address; one of its queries with exemplars must have one of this run."""
    parts = urlsplit(address)
    match = re.fullmatch(r"/d/([^/]+)(?:/.*)?", parts.path)
    if match is None:
        raise NotYet(f"{address} is no address of a dashboard")
    dashboard = sources.dashboard(match[1])
    chosen = {name.removeprefix("var-"): values[0] for name, values in parse_qs(parts.query).items()}
    variables = {v["name"]: chosen.get(v["name"], _default(v)) for v in dashboard["templating"]["list"]}
    if unknown := sorted(set(chosen) - set(variables)):
        raise NotYet(f"dashboard {match[1]} has no variable {', '.join(unknown)}")
    queries = [(panel, target) for panel in _panels(dashboard) for target in panel.get("targets", [])]
    ours = {prediction.trace_id for prediction in evidence.made()}
    start, end = evidence.window
    for panel, target in queries:
        if target.get("exemplar"):
            server = prometheus(sources, target["datasource"]["uid"])
            promql = _filled(target["expr"], variables)
            found = server.exemplars(promql, start=start, end=end)
            if ours & {item.labels.get("trace_id") for item in found}:
                return f"{dashboard['title']}, panel {panel['title']!r}"
    raise NotYet(f"no panel of dashboard {dashboard['title']!r} shows an exemplar of this run")


def _default(variable: Any) -> str:
    """The value with which a dashboard opens."""
    if variable["type"] == "interval":
        return INTERVALS["__rate_interval"]
    return ".*" if variable.get("includeAll") else str(variable["current"]["value"])


def _panels(dashboard: Any) -> list[Any]:
    rows = dashboard.get("panels", [])
    return [inner for panel in rows for inner in [panel, *panel.get("panels", [])]]


def _filled(promql: str, variables: dict[str, str]) -> str:
    known = variables | INTERVALS
    return fill(promql, lambda name: known.get(name, f"${name}"))


_LINKS: tuple[tuple[str, str, tuple[str, ...], Find], ...] = (
    ("log -> trace", "tempo", (*LOGS, "tempo"), partial(log_to_trace, kind="label")),
    ("log line -> trace", "tempo", (*LOGS, "tempo"), partial(log_to_trace, kind="regex")),
    ("log -> dashboard", "prometheus", (*LOGS, "prometheus"), log_to_dashboard),
    ("trace -> logs", "loki", (*LOGS, "tempo"), trace_to_logs),
    ("trace -> metrics", "prometheus", (*TRACES, "prometheus"), trace_to_metrics),
    ("trace -> service map", "prometheus", METRICS, service_map),
    ("trace -> node graph", "tempo", TRACES, node_graph),
    ("exemplar -> trace", "tempo", (*METRICS, "tempo"), exemplar_to_trace),
    ("alert -> dashboard", "prometheus", (*METRICS, "alertmanager"), alert_to_dashboard),
    ("alert -> traces", "tempo", (*TRACES, "prometheus", "alertmanager"), alert_to_traces),
    (DANGLING, "tempo", (*TRACES, "loki", "minio"), dangling),
)


def _check(kind: str, choose: Callable[[Evidence], Sources], extra: tuple[str, ...]) -> tuple[Check, ...]:
    def row(name: str, backend: str, needs: tuple[str, ...], find: Find) -> Check:
        looked = partial(_through, find, choose)
        # The alert that always fires leads to the first service of the table.
        of_stack = name.startswith("alert")
        parts = tuple(SERVICE if of_stack and part == THE_SERVICE else part for part in (*needs, *extra))
        return Check(kind, name, backend, parts, looked, once=of_stack)

    return tuple(row(*link) for link in _LINKS)


def _through(find: Find, choose: Callable[[Evidence], Sources], evidence: Evidence) -> str:
    return find(evidence, choose(evidence))


LINKS = _check("link", lambda evidence: evidence.provisioned, ())
"""Every link, resolved from the provisioned files; the last row is the share of links that open nothing."""
GRAFANA_LINKS = _check("via grafana", lambda evidence: evidence.through_grafana, ("grafana",))
"""The same links as a running Grafana has them, every query through its own API."""
