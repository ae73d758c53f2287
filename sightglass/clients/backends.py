"""What the servers answer: thin typed queries over their HTTP APIs, shared by verify, the tests and the benchmarks.

Every function raises :class:`sightglass.clients.polling.NotYet` when the server cannot be reached or says no, with a
sentence that names it: a probe that polls may go on, and the last state says what was wrong.
"""

import base64
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sightglass.clients import http
from sightglass.clients.polling import NotYet, time_left

TIMEOUT = (1.0, 5.0)
"""Seconds to connect, and between two bytes of the answer, unless less is left until the caller's deadline."""
Params = Mapping[str, str | int | float]
Auth = tuple[str, str]
"""Name and password, for a server that is asked through Grafana."""


@dataclass(frozen=True)
class Span:
    """A span as Tempo stores it; ids are lower-case hexadecimal, times nanoseconds since the epoch."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    start: int
    end: int
    status: str
    attributes: dict[str, Any]
    resource: dict[str, Any]
    links: tuple[str, ...]
    events: tuple[str, ...]


@dataclass(frozen=True)
class LogLine:
    """A log line as Loki stores it: nanoseconds since the epoch, the text, index labels and structured metadata."""

    timestamp: int
    line: str
    labels: dict[str, str]


@dataclass(frozen=True)
class Sample:
    """One series of an instant query."""

    labels: dict[str, str]
    value: float


@dataclass(frozen=True)
class Exemplar:
    """An exemplar with the labels of its series; ``value`` in the series' unit."""

    series: dict[str, str]
    labels: dict[str, str]
    value: float


def get(
    server: str,
    url: str,
    params: Params | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    auth: Auth | None = None,
    accepted: Collection[int] = (200,),
) -> http.Response:
    """GET that ends in an answer with an accepted status, or in :class:`NotYet`."""
    timeout = (time_left(TIMEOUT[0]), time_left(TIMEOUT[1]))
    try:
        answer = http.session.get(url, params=params, headers=headers, timeout=timeout, auth=auth)
    except http.Error as error:
        raise NotYet(f"{server} does not answer at {url} ({type(error).__name__})") from None
    if answer.status_code not in accepted:
        raise NotYet(f"{server} answered {answer.status_code} at {url}: {answer.text.strip()[:200]}")
    return answer


def _flush(server: str, url: str) -> None:
    timeout = (time_left(TIMEOUT[0]), time_left(TIMEOUT[1]))
    try:
        http.session.post(f"{url}/flush", timeout=timeout).raise_for_status()
    except http.Error as error:
        raise NotYet(f"{server} does not flush at {url} ({error})") from None


class Tempo:
    """Traces."""

    def __init__(self, url: str, auth: Auth | None = None) -> None:
        self.url = url
        self.auth = auth

    def trace(self, trace_id: str, *, mode: str = "all") -> list[Span]:
        """All spans of a trace; ``mode`` "blocks" looks in object storage only, "ingesters" in memory only."""
        spans = list(_spans(self._trace(trace_id, mode).json().get("trace", {})))
        if not spans:
            raise NotYet(f"tempo has no span of trace {trace_id}")
        return spans

    def has(self, trace_id: str, *, mode: str = "all") -> bool:
        """Whether there is any span of that trace; ``mode`` as for :meth:`trace`."""
        answer = self._trace(trace_id, mode, accepted=(200, 404))
        return answer.status_code == 200 and any(_spans(answer.json().get("trace", {})))

    def _trace(self, trace_id: str, mode: str, accepted: Collection[int] = (200,)) -> http.Response:
        url = f"{self.url}/api/v2/traces/{trace_id}"
        json = {"Accept": "application/json"}
        return get("tempo", url, {"mode": mode}, json, auth=self.auth, accepted=accepted)

    def search(self, traceql: str, *, start: int, end: int, limit: int = 20) -> list[str]:
        """Trace ids, 32 digits, that TraceQL finds between two times in seconds since the epoch."""
        params: Params = {"q": traceql, "start": start, "end": end, "limit": limit}
        answer = get("tempo", f"{self.url}/api/search", params, auth=self.auth).json()
        # Tempo leaves out leading zeros here.
        return [trace["traceID"].zfill(32) for trace in answer.get("traces", [])]

    def known(self, trace_ids: Collection[str], *, start: int, end: int) -> set[str]:
        """Which of these traces there are between two times in seconds since the epoch, by one search for all."""
        # TraceQL knows an id without its leading zeros.
        ids = "|".join(trace_id.lstrip("0") for trace_id in trace_ids)
        query = f'{{ trace:id =~ "{ids}" }}'
        return set(self.search(query, start=start, end=end, limit=len(trace_ids))) if trace_ids else set()

    def flush(self) -> None:
        """Write what is in memory to object storage now."""
        _flush("tempo", self.url)


class Loki:
    """Log lines."""

    def __init__(self, url: str, auth: Auth | None = None) -> None:
        self.url = url
        self.auth = auth

    def lines(self, logql: str, *, start: int, end: int, limit: int = 1000, newest: bool = False) -> list[LogLine]:
        """Lines of a log query between two times in nanoseconds since the epoch, oldest first.

        Where there are more than ``limit``, the oldest are returned, or with ``newest`` the newest.
        """
        direction = "backward" if newest else "forward"
        params: Params = {"query": logql, "start": start, "end": end, "limit": limit, "direction": direction}
        answer = get("loki", f"{self.url}/loki/api/v1/query_range", params, auth=self.auth).json()
        return sorted(
            (
                LogLine(int(value[0]), value[1], stream["stream"])
                for stream in answer["data"]["result"]
                for value in stream["values"]
            ),
            key=lambda line: line.timestamp,
        )

    def index_labels(self, *, start: int, end: int) -> set[str]:
        """Names of the labels that are in the index."""
        answer = get("loki", f"{self.url}/loki/api/v1/labels", {"start": start, "end": end}, auth=self.auth).json()
        return set(answer.get("data", []))

    def flush(self) -> None:
        """Write the chunks that are in memory to object storage now."""
        _flush("loki", self.url)


class Prometheus:
    """Metrics."""

    def __init__(self, url: str, auth: Auth | None = None) -> None:
        self.url = url
        self.auth = auth

    def query(self, promql: str) -> list[Sample]:
        """Instant query; an empty answer is an empty list."""
        answer = get("prometheus", f"{self.url}/api/v1/query", {"query": promql}, auth=self.auth).json()
        return [Sample(row["metric"], float(row["value"][1])) for row in answer["data"]["result"]]

    def total(self, promql: str) -> float:
        """Sum over all series of an instant query, 0 where there are none."""
        return sum(sample.value for sample in self.query(promql))

    def times(self, selector: str, *, start: float, end: float) -> list[float]:
        """Times of all stored samples of a selector between two times, in order; seconds since the epoch."""
        params: Params = {"query": f"{selector}[{int(1000 * (end - start))}ms]", "time": end}
        answer = get("prometheus", f"{self.url}/api/v1/query", params, auth=self.auth).json()
        return sorted({float(moment) for row in answer["data"]["result"] for moment, _ in row["values"]})

    def series(self, promql: str, *, start: float, end: float, step: float) -> list[dict[str, str]]:
        """Labels of the series that a range query answers with at least one number; seconds since the epoch."""
        params: Params = {"query": promql, "start": start, "end": end, "step": step}
        answer = get("prometheus", f"{self.url}/api/v1/query_range", params, auth=self.auth).json()
        rows = answer["data"]["result"]
        return [row["metric"] for row in rows if any(value != "NaN" for _, value in row["values"])]

    def exemplars(self, promql: str, *, start: float, end: float) -> list[Exemplar]:
        """Exemplars of a selector between two times in seconds since the epoch."""
        params: Params = {"query": promql, "start": start, "end": end}
        answer = get("prometheus", f"{self.url}/api/v1/query_exemplars", params, auth=self.auth).json()
        return [
            Exemplar(row["seriesLabels"], exemplar["labels"], float(exemplar["value"]))
            for row in answer["data"]
            for exemplar in row["exemplars"]
        ]


class Alertmanager:
    """Alerts."""

    def __init__(self, url: str, auth: Auth | None = None) -> None:
        self.url = url
        self.auth = auth

    def alerts(self) -> list[dict[str, Any]]:
        """Everything that Alertmanager holds at the moment."""
        answer: list[dict[str, Any]] = get("alertmanager", f"{self.url}/api/v2/alerts", auth=self.auth).json()
        return answer


def _spans(trace: Mapping[str, Any]) -> Iterator[Span]:
    for batch in trace.get("resourceSpans", trace.get("batches", [])):
        resource = _attributes(batch.get("resource", {}))
        for scope in batch.get("scopeSpans", []):
            for span in scope["spans"]:
                yield Span(
                    trace_id=_hexadecimal(span["traceId"], 16),
                    span_id=_hexadecimal(span["spanId"], 8),
                    parent_id=_hexadecimal(span.get("parentSpanId", ""), 8),
                    name=span["name"],
                    kind=span.get("kind", "").removeprefix("SPAN_KIND_").lower(),
                    start=int(span["startTimeUnixNano"]),
                    end=int(span["endTimeUnixNano"]),
                    status=span.get("status", {}).get("code", "STATUS_CODE_UNSET").removeprefix("STATUS_CODE_"),
                    attributes=_attributes(span),
                    resource=resource,
                    links=tuple(_hexadecimal(link["traceId"], 16) for link in span.get("links", [])),
                    events=tuple(event["name"] for event in span.get("events", [])),
                )


def _hexadecimal(text: str, size: int) -> str:
    """An id of ``size`` bytes, which Tempo's JSON has in base64 or in hexadecimal."""
    if not text or len(text) == 2 * size:
        return text.lower()
    return base64.b64decode(text).hex()


def _attributes(holder: Mapping[str, Any]) -> dict[str, Any]:
    return {item["key"]: _value(item["value"]) for item in holder.get("attributes", [])}


def _value(value: Mapping[str, Any]) -> Any:
    (kind, content), *_ = value.items()
    if kind == "intValue":
        return int(content)
    if kind == "arrayValue":
        return [_value(item) for item in content.get("values", [])]
    return content
