"""One check a link: from a real thing at one end, through the provisioned link, to the same request at the other."""

import json
import re
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ml_telemetry import signals
from sightglass import settings as names
from sightglass.backends import Exemplar, LogLine, Span
from sightglass.polling import NotYet
from sightglass.verify import resolve
from sightglass.verify.predictions import CLIENT, Prediction
from sightglass.verify.signals import EDGES, HTTP_BUCKET, LOGS, METRICS, SECOND, TRACES, Check, Evidence, fresh_watchdog
from sightglass.verify.sources import Sources, loki, prometheus, tempo

DANGLING = "dangling links"
DANGLING_LINES = 50
"""How many recent log lines the share of dangling links is taken from."""
DANGLING_AGE = (600, 2)
"""Seconds before now between which those lines were written; the newest spans may still be on their way."""
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
            _opens_trace(sources, link, prediction.trace_id)
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
        for span in evidence.service_spans(prediction):
            query = resolve.logs_query(options, span)
            lines = loki(sources, query.uid).lines(query.text, start=query.start, end=query.end)
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
        times = (query.start / SECOND, min(query.end / SECOND, time.time()))
        if not server.series(query.text, start=times[0], end=times[1], step=5):
            raise NotYet(f"no answer to {query.name!r}: {query.text}")
        ids |= {found.labels.get("trace_id") for found in server.exemplars(query.text, start=times[0], end=times[1])}
    if prediction.trace_id not in ids:
        raise NotYet(f"none of {len(ids)} exemplars behind the queries is of trace {prediction.trace_id}")
    return ", ".join(query.name for query in queries)


def exemplar_to_trace(evidence: Evidence, sources: Sources) -> str:
    """An exemplar of a prediction opens that prediction's trace."""
    prediction, exemplar = _exemplar(evidence)
    link = resolve.exemplar_link(sources.get("prometheus").options, exemplar.labels)
    _opens_trace(sources, link, prediction.trace_id)
    return f"label {link.name}"


def service_map(evidence: Evidence, sources: Sources) -> str:
    """The service map has the edge of our own requests, counted once for each of them."""
    uid = (sources.get("tempo").options.get("serviceMap") or {}).get("datasourceUid", "")
    server = prometheus(sources, uid)
    evidence.sent_client_spans()
    detail = evidence.counted(EDGES)
    edge = f'{EDGES}{{client="{CLIENT}", server="{names.SERVICE}"}}'
    if not server.query(edge):
        raise NotYet(f"{server.url} has no {edge}")
    return f"{CLIENT} -> {names.SERVICE}: {detail}"


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
        found = server.search(query["query"], start=second - 1, end=second + 30, limit=1000)
        if prediction.trace_id not in found:
            raise NotYet(f"{query['query']} finds {len(found)} traces, not {prediction.trace_id}")
    return str(query["query"])


def dangling(evidence: Evidence, sources: Sources) -> str:
    """The share of recent log lines whose trace is not there; red when one of this run is among them.

    What an earlier outage lost is in the figure, and no reason to be red: nothing brings it back. A line of a request
    that was not sampled says so itself (``trace_flags``) and is counted apart.
    """
    made = evidence.made()
    now = time.time_ns()
    query = f'{{service_name="{names.SERVICE}"}} | event_name="{signals.PREDICTION_EVENT.name}"'
    start, end = (now - seconds * SECOND for seconds in DANGLING_AGE)
    lines = loki(sources, "loki").lines(query, start=start, end=end, limit=DANGLING_LINES, newest=True)
    if len(lines) < min(len(made), DANGLING_LINES):
        raise NotYet(f"loki has only {len(lines)} lines that are old enough to look for their traces")
    sampled = [line.labels["trace_id"] for line in lines if _is_sampled(line)]
    found = _found_at_once(evidence, lines)
    missing = [trace_id for trace_id in sampled if trace_id not in found and not evidence.tempo.has(trace_id)]
    unsampled = len(lines) - len(sampled)
    share = (len(missing) + unsampled) / len(lines) if lines else 0.0
    detail = f"{share:.0%} of {len(lines)} recent links open nothing: {len(missing)} lost, {unsampled} not sampled"
    if own := {prediction.trace_id for prediction in made} & set(missing):
        raise NotYet(f"{detail}; of this run {', '.join(sorted(own))}")
    return detail


def _found_at_once(evidence: Evidence, lines: list[LogLine]) -> set[str]:
    """Traces of the requests behind these lines, as far as one search has them: a look for each takes longer."""
    first, last = lines[0].timestamp // SECOND, lines[-1].timestamp // SECOND
    query = f'{{ resource.service.name = "{names.SERVICE}" && name = "{signals.REQUEST_SPAN.name}" }}'
    return set(evidence.tempo.search(query, start=first - 10, end=last + 10, limit=1000))


def _is_sampled(line: LogLine) -> bool:
    try:
        return int(json.loads(line.line).get("trace_flags", "01"), 16) & 1 == 1
    except ValueError:
        # What cannot be read says nothing; its trace is looked for.
        return True


def _opens_trace(sources: Sources, link: resolve.Link, trace_id: str) -> None:
    if link.query != trace_id:
        raise NotYet(f"button {link.name!r} carries {link.query!r}, not the trace id {trace_id}")
    spans = tempo(sources, link.uid).trace(link.query, mode="ingesters")
    if not any(span.resource.get("service.name") == names.SERVICE for span in spans):
        raise NotYet(f"trace {trace_id} has no span of {names.SERVICE}")


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
    selector = f'{HTTP_BUCKET}{{service_name="{names.SERVICE}"}}'
    for found in evidence.prometheus.exemplars(selector, start=evidence.began / SECOND - 60, end=time.time() + 60):
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
    now = time.time()
    for panel, target in queries:
        if target.get("exemplar"):
            server = prometheus(sources, target["datasource"]["uid"])
            promql = _filled(target["expr"], variables)
            found = server.exemplars(promql, start=evidence.began / SECOND - 60, end=now + 60)
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
    return re.sub(r"\$\{?(\w+)(?::\w+)?\}?", lambda match: known.get(match[1], match[0]), promql)


_SERVICE = (names.SERVICE,)
_LINKS: tuple[tuple[str, str, tuple[str, ...], Find], ...] = (
    ("log -> trace", "tempo", (*LOGS, "tempo"), partial(log_to_trace, kind="label")),
    ("log line -> trace", "tempo", (*LOGS, "tempo"), partial(log_to_trace, kind="regex")),
    ("log -> dashboard", "prometheus", (*LOGS, "prometheus"), log_to_dashboard),
    # Their windows are wide enough to hold chunks that were written to object storage.
    ("trace -> logs", "loki", (*LOGS, "tempo", "minio"), trace_to_logs),
    ("trace -> metrics", "prometheus", (*TRACES, "prometheus"), trace_to_metrics),
    ("trace -> service map", "prometheus", (*_SERVICE, "collector", "prometheus"), service_map),
    ("trace -> node graph", "tempo", TRACES, node_graph),
    ("exemplar -> trace", "tempo", (*METRICS, "tempo"), exemplar_to_trace),
    ("alert -> dashboard", "prometheus", (*METRICS, "alertmanager"), alert_to_dashboard),
    ("alert -> traces", "tempo", (*TRACES, "prometheus", "alertmanager"), alert_to_traces),
    (DANGLING, "tempo", (*_SERVICE, "loki", "tempo", "minio"), dangling),
)


def _check(kind: str, choose: Callable[[Evidence], Sources], extra: tuple[str, ...]) -> tuple[Check, ...]:
    def row(name: str, backend: str, needs: tuple[str, ...], find: Find) -> Check:
        return Check(kind, name, backend, (*needs, *extra), lambda evidence: find(evidence, choose(evidence)))

    return tuple(row(*link) for link in _LINKS)


LINKS = _check("link", lambda evidence: evidence.provisioned, ())
"""Every link, resolved from the provisioned files; the last row is the share of links that open nothing."""
GRAFANA_LINKS = _check("via grafana", lambda evidence: evidence.through_grafana, ("grafana",))
"""The same links as a running Grafana has them, every query through its own API."""
