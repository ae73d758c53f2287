"""What Grafana makes of the links in its data sources: from a line, a span or an exemplar to a query and its times.

The rules are those of Grafana's own front end (``createSpanLink``, Loki's derived fields, Prometheus' exemplar
destinations): where it shows no button, these functions raise :class:`NotYet` with the reason.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sightglass.clients.backends import LogLine, Span
from sightglass.clients.polling import NotYet
from sightglass.facts import variables
from sightglass.facts.durations import seconds

_MILLISECOND = 1_000_000


@dataclass(frozen=True)
class Link:
    """A button: the data source it opens (empty for an address of its own) and the text that it carries there."""

    name: str
    uid: str
    query: str


@dataclass(frozen=True)
class Query:
    """What a button of a span runs: nanoseconds since the epoch, both inclusive."""

    name: str
    uid: str
    text: str
    start: int
    end: int


def derived_links(options: Mapping[str, Any], line: LogLine) -> Iterator[Link]:
    """The buttons under a log line, one for each derived field that finds something."""
    for derived in options.get("derivedFields", []):
        expression = re.compile(derived["matcherRegex"])
        if derived.get("matcherType") == "label":
            value = next((text for name, text in line.labels.items() if expression.search(name)), None)
        else:
            match = expression.search(line.line)
            # Grafana takes the first group, so an expression without one finds nothing.
            value = match[1] if match and match.groups() else None
        if value:
            filled = fill(derived.get("url", ""), {"__value.raw": value})
            yield Link(derived["name"], derived.get("datasourceUid", ""), filled)


def exemplar_link(options: Mapping[str, Any], labels: Mapping[str, str]) -> Link:
    """The button of an exemplar."""
    for destination in options.get("exemplarTraceIdDestinations", []):
        if value := labels.get(destination["name"]):
            return Link(destination["name"], destination.get("datasourceUid", ""), value)
    raise NotYet(f"no exemplar destination fits the exemplar's labels {sorted(labels)}")


def logs_query(options: Mapping[str, Any], span: Span) -> Query:
    """The query of a span's logs button."""
    logs = options.get("tracesToLogsV2") or {}
    tags = mapped_tags(logs.get("tags", []), span)
    if not tags:
        raise NotYet("none of the tags for logs is an attribute of the span")
    if logs.get("customQuery"):
        names = {"__tags": tags, "__trace.traceId": span.trace_id, "__span.traceId": span.trace_id}
        names |= {"__span.spanId": span.span_id, "__span.name": span.name, "__trace.name": span.name}
        text = fill(logs.get("query", ""), names)
    else:
        text = f"{{{tags}}}"
        text += f' |="{span.trace_id}"' if logs.get("filterByTraceID") else ""
        text += f' |="{span.span_id}"' if logs.get("filterBySpanID") else ""
    return Query("logs", logs.get("datasourceUid", ""), text, *window(logs, span))


def metrics_queries(options: Mapping[str, Any], span: Span) -> list[Query]:
    """The queries of a span's metrics buttons."""
    metrics = options.get("tracesToMetrics") or {}
    tags = mapped_tags(metrics.get("tags", []), span)
    uid = metrics.get("datasourceUid", "")
    start, end = window(metrics, span)
    queries = metrics.get("queries", [])
    # Grafana replaces the first $__tags of a query only.
    return [Query(q.get("name", ""), uid, q["query"].replace("$__tags", tags, 1), start, end) for q in queries]


def mapped_tags(tags: Sequence[Mapping[str, str]], span: Span) -> str:
    """Label matchers for the span's own attributes: the resource's first, each under its mapped name."""
    names = {tag["key"]: tag.get("value") or tag["key"] for tag in tags}
    attributes = [*span.resource.items(), *span.attributes.items()]
    return ", ".join(f'{names[key]}="{value}"' for key, value in attributes if key in names)


def window(options: Mapping[str, Any], span: Span) -> tuple[int, int]:
    """The span's own times moved by the two time shifts, in nanoseconds since the epoch."""
    start = span.start + shift(options.get("spanStartTimeShift", ""))
    end = span.end + shift(options.get("spanEndTimeShift", ""))
    return start, max(end, start + _MILLISECOND)


def shift(text: str) -> int:
    """Nanoseconds of a time shift such as ``-5m``; 0 for none, :class:`NotYet` for one that is no time."""
    if not text:
        return 0
    try:
        return round(seconds(text, fractions=True) * 1000) * _MILLISECOND
    except ValueError:
        raise NotYet(f"{text!r} is no time shift") from None


def fill(text: str, names: Mapping[str, str]) -> str:
    """Replace the variables of a link; one that Grafana does not know hides the button."""

    def value(name: str) -> str:
        if name not in names:
            raise NotYet(f"the link's variable ${{{name}}} is not known")
        return names[name]

    return variables.fill(text, value)
