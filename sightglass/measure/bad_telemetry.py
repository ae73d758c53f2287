"""Telemetry that servers refuse, each bad item among good ones: what ``make neighbours`` and the tests send.

Everything is OTLP in JSON or Loki's push format, so that an item can be wrong in ways that no SDK lets it be.
"""

import json
import secrets
import time as clock
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sightglass.clients import http

Json = dict[str, Any]
Signal = Literal["metrics", "traces", "logs", "lines"]
"""Metrics, spans and log records over OTLP, or lines at the port for Promtail."""

GOOD = "neighbours"
BAD = "neighbours-culprit"
"""Services that the good and the bad items are of; each run and row is an instance of its own."""
SECOND = 1_000_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
LARGE = 3 * 1024 * 1024
"""Bytes of an item that is too large for everyone."""
EMAIL = "someone@example.org"
AMEX = "378282246310005"
TOKEN = "c2VjcmV0LXRva2VuLW9mLW5vYm9keQ"  # noqa: S105 - nobody's
MINUTE_AGO = clock.time_ns() - 60 * SECOND
"""One time, the same for all who ask."""
TIMEOUT = (1.0, 60.0)


def attributes(values: Mapping[str, str]) -> list[Json]:
    """Attributes with text, as OTLP has them in JSON."""
    return [{"key": key, "value": {"stringValue": value}} for key, value in values.items()]


def resource(service: str, instance: str) -> Json:
    """The resource of a service."""
    return {"attributes": attributes({"service.name": service, "service.instance.id": instance})}


def gauge(name: str, value: int, time: int | None, labels: Mapping[str, str] | None = None, **more: Any) -> Json:
    """A metric with one point; without a time where it is None."""
    point = {"asInt": str(value), "attributes": attributes(labels or {}), **more}
    return {"name": name, "gauge": {"dataPoints": [point if time is None else point | {"timeUnixNano": str(time)}]}}


def counter(name: str, temporality: int, time: int) -> Json:
    """A sum with one point; temporality 0 is unspecified, 1 delta, 2 cumulative."""
    points = [{"asInt": "1", "startTimeUnixNano": str(time - SECOND), "timeUnixNano": str(time)}]
    return {"name": name, "sum": {"aggregationTemporality": temporality, "isMonotonic": True, "dataPoints": points}}


def exponential(name: str, scale: int, time: int, temporality: int = 2, count: int = 1) -> Json:
    """An exponential histogram with one observation in its buckets."""
    point = {
        "timeUnixNano": str(time),
        "count": str(count),
        "sum": 1.0,
        "scale": scale,
        "positive": {"offset": 0, "bucketCounts": ["1"]},
    }
    return {"name": name, "exponentialHistogram": {"aggregationTemporality": temporality, "dataPoints": [point]}}


def histogram(name: str, bounds: Sequence[float], time: int, temporality: int = 2) -> Json:
    """A histogram with one observation in each bucket."""
    point = {
        "timeUnixNano": str(time),
        "count": str(len(bounds) + 1),
        "sum": 1.0,
        "explicitBounds": list(bounds),
        "bucketCounts": ["1"] * (len(bounds) + 1),
    }
    return {"name": name, "histogram": {"aggregationTemporality": temporality, "dataPoints": [point]}}


def span(trace_id: str, span_id: str, start: int, name: str = "probe", **more: Any) -> Json:
    """A span of a millisecond."""
    times = {"startTimeUnixNano": str(start), "endTimeUnixNano": str(start + 1_000_000)}
    return {"traceId": trace_id, "spanId": span_id, "name": name, "kind": 1, **times, **more}


def record(body: str, time: int, **more: Any) -> Json:
    """A log record."""
    return {"body": {"stringValue": body}, "timeUnixNano": str(time), "severityNumber": 9, **more}


@dataclass(frozen=True)
class Origin:
    """Where one bad item goes: what is free to choose so that it can be found again."""

    marker: str
    """Text that only this run and row have."""
    time: int
    """Nanoseconds since the epoch: now."""
    trace_id: str
    """The trace of the good spans beside it."""


Make = Callable[[Origin], Json]


@dataclass(frozen=True)
class Shape:
    """One kind of bad item. ``reason`` is what it is counted by; where it is empty there is nothing to count."""

    name: str
    signal: Signal
    make: Make
    reason: str
    kept: bool = False
    """It is stored all the same, and if it was changed for it, the change is counted."""
    alone: bool = False
    """It is in a request of its own: nobody can know that it is bad before a server says so."""
    late: bool = False
    """Loki shows it once it has written it to object storage."""
    secret: str = ""
    """What must be found nowhere, where it is kept."""


def _line(at: Origin, **fields: str) -> Json:
    return {"line": json.dumps({"message": at.marker, **fields})}


def _span(at: Origin, **more: Any) -> Json:
    return span(at.trace_id, secrets.token_hex(8), at.time, **{"name": at.marker, **more})


def _odd(values: Mapping[str, str]) -> list[Json]:
    """Attributes of which there is no text: one is not a number."""
    return [{"key": "odd", "value": {"doubleValue": "NaN"}}, *attributes(values)]


def _array(key: str, text: str) -> Json:
    return {"key": key, "value": {"arrayValue": {"values": [{"stringValue": text}]}}}


def _day(time: int) -> str:
    return datetime.fromtimestamp(time / SECOND, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


METRICS: Sequence[Shape] = (
    Shape("delta temporality", "metrics", lambda at: counter("bad.delta", 1, at.time), "temporality_delta"),
    Shape("no temporality", "metrics", lambda at: counter("bad.none", 0, at.time), "temporality_unspecified"),
    Shape("temporality 7", "metrics", lambda at: counter("bad.seven", 7, at.time), "temporality_unspecified"),
    Shape(
        "histogram without temporality",
        "metrics",
        lambda at: histogram("bad.none", [1], at.time, 0),
        "temporality_unspecified",
    ),
    Shape(
        "exponential histogram of temporality 7",
        "metrics",
        lambda at: exponential("bad.seven", 0, at.time, 7),
        "temporality_unspecified",
    ),
    Shape(
        "buckets that do not add up",
        "metrics",
        lambda at: exponential("bad.count", 0, at.time, 2, 7),
        "histogram_count",
    ),
    Shape("e-mail in a metric's name", "metrics", lambda at: gauge(f"bad.{EMAIL}", 1, at.time), "metric_name"),
    Shape("e-mail in a unit", "metrics", lambda at: gauge("bad.unit", 1, at.time) | {"unit": EMAIL}, "metric_unit"),
    Shape("no points", "metrics", lambda _: {"name": "bad.empty", "gauge": {"dataPoints": []}}, "no_points"),
    Shape("no type", "metrics", lambda _: {"name": "bad.untyped"}, ""),
    Shape("empty metric name", "metrics", lambda at: gauge("", 1, at.time), "metric_name"),
    Shape("metric name without a letter", "metrics", lambda at: gauge("...", 1, at.time), "metric_name"),
    Shape("empty label name", "metrics", lambda at: gauge("bad.label", 1, at.time, {"": "x"}), "label_name"),
    Shape(
        "label name without a letter", "metrics", lambda at: gauge("bad.label", 1, at.time, {"名": "x"}), "label_name"
    ),
    Shape("11 minutes ahead", "metrics", lambda at: gauge("bad.ahead", 1, at.time + 660 * SECOND), "time_ahead"),
    Shape("in the year 2500", "metrics", lambda at: gauge("bad.ahead", 1, at.time + 474 * 365 * DAY), "time_ahead"),
    Shape("two days old", "metrics", lambda at: gauge("bad.old", 1, at.time - 2 * DAY), "time_behind"),
    Shape("at time 0", "metrics", lambda _: gauge("bad.zero", 1, 0), "time_missing"),
    Shape("at the first second of 1970", "metrics", lambda _: gauge("bad.zero", 1, SECOND), "time_behind"),
    Shape("without a time", "metrics", lambda _: gauge("bad.timeless", 1, None), "time_missing"),
    Shape("3 MiB in a label", "metrics", lambda at: gauge("bad.big", 1, at.time, {"x": "y" * LARGE}), "too_large"),
    Shape(
        "3 MiB beside a label that is not a number",
        "metrics",
        lambda at: gauge("bad.big", 1, at.time, attributes=_odd({"x": "y" * LARGE})),
        "too_large",
    ),
    Shape("histogram of scale -5", "metrics", lambda at: exponential("bad.scale", -5, at.time), "histogram_scale"),
    Shape(
        "exemplar without a value",
        "metrics",
        lambda at: gauge(
            "kept.exemplar", 1, at.time, {"marker": at.marker}, exemplars=[{"timeUnixNano": str(at.time)}]
        ),
        "",
        kept=True,
    ),
    Shape(
        "a second value for one time",
        "metrics",
        lambda _: gauge("bad.twice", secrets.randbelow(SECOND), MINUTE_AGO),
        "",
        alone=True,
    ),
)
TRACES: Sequence[Shape] = (
    Shape("empty trace id", "traces", lambda at: span("", secrets.token_hex(8), at.time), "trace_id"),
    Shape("zero trace id", "traces", lambda at: span("0" * 32, secrets.token_hex(8), at.time), "trace_id"),
    Shape("empty span id", "traces", lambda at: span(at.trace_id, "", at.time), "span_id"),
    Shape("zero span id", "traces", lambda at: span(at.trace_id, "0" * 16, at.time), "span_id"),
    Shape(
        "an hour ahead",
        "traces",
        lambda at: span(at.trace_id, secrets.token_hex(8), at.time + HOUR, at.marker),
        "time_ahead",
        kept=True,
    ),
    Shape(
        "a year ahead",
        "traces",
        lambda at: span(at.trace_id, secrets.token_hex(8), at.time + 365 * DAY, at.marker),
        "time_ahead",
        kept=True,
    ),
    Shape(
        "3 MiB in an attribute",
        "traces",
        lambda at: span(at.trace_id, secrets.token_hex(8), at.time, attributes=attributes({"x": "y" * LARGE})),
        "too_large",
    ),
    Shape(
        "3 MiB beside what is not a number",
        "traces",
        lambda at: span(at.trace_id, secrets.token_hex(8), at.time, attributes=_odd({"x": "y" * LARGE})),
        "too_large",
    ),
    Shape(
        "3 MiB in an event",
        "traces",
        lambda at: span(
            at.trace_id,
            secrets.token_hex(8),
            at.time,
            events=[{"name": "e", "timeUnixNano": str(at.time), "attributes": attributes({"x": "y" * LARGE})}],
        ),
        "too_large",
    ),
)
MASKED_SPANS: Sequence[Shape] = (
    Shape(
        "e-mail as a name in a span",
        "traces",
        lambda at: _span(at, attributes=attributes({EMAIL: "x"})),
        "",
        True,
        secret=EMAIL,
    ),
    Shape(
        "e-mail in a span's name", "traces", lambda at: _span(at, name=f"{at.marker} {EMAIL}"), "", True, secret=EMAIL
    ),
    Shape(
        "bearer token in an array of a span",
        "traces",
        lambda at: _span(at, attributes=[_array("http.request.header.authorization", f"Bearer {TOKEN}")]),
        "",
        True,
        secret=TOKEN,
    ),
    Shape(
        "card in an event's name",
        "traces",
        lambda at: _span(at, events=[{"name": f"paid {AMEX}", "timeUnixNano": str(at.time)}]),
        "",
        True,
        secret=AMEX,
    ),
    Shape(
        "e-mail in a status message",
        "traces",
        lambda at: _span(at, status={"code": 2, "message": f"no {EMAIL}"}),
        "",
        True,
        secret=EMAIL,
    ),
)
KEPT_METRICS: Sequence[Shape] = (
    Shape(
        "twenty hours old",
        "metrics",
        lambda at: gauge("kept.old", 1, at.time - 20 * HOUR, {"marker": at.marker}),
        "",
        kept=True,
    ),
    Shape(
        "e-mail as a label's name",
        "metrics",
        lambda at: gauge("kept.named", 1, at.time, {"marker": at.marker, EMAIL: "x"}),
        "",
        True,
        secret=EMAIL.replace("@", "_").replace(".", "_"),
    ),
    Shape(
        "e-mail in a label",
        "metrics",
        lambda at: gauge("kept.label", 1, at.time, {"marker": at.marker, "x": EMAIL}),
        "",
        True,
        secret=EMAIL,
    ),
)
LOGS: Sequence[Shape] = (
    Shape("an hour ahead", "logs", lambda at: record(at.marker, at.time + HOUR), "time_ahead", kept=True),
    Shape("a year ahead", "logs", lambda at: record(at.marker, at.time + 365 * DAY), "time_ahead", kept=True),
    Shape("in the year 2500", "logs", lambda at: record(at.marker, at.time + 474 * 365 * DAY), "time_ahead", kept=True),
    Shape("ten days old", "logs", lambda at: record(at.marker, at.time - 10 * DAY), "time_behind", kept=True),
    Shape("body of 3 MiB", "logs", lambda at: record(at.marker + "y" * LARGE, at.time), "body", kept=True),
    Shape(
        "attribute of 3 MiB",
        "logs",
        lambda at: record(at.marker, at.time, attributes=attributes({"x": "y" * LARGE})),
        "attributes",
        kept=True,
    ),
    Shape(
        "200 attributes",
        "logs",
        lambda at: record(at.marker, at.time, attributes=attributes({f"x{n}": "y" for n in range(200)})),
        "attributes",
        kept=True,
    ),
    Shape(
        "e-mail as a name in a record",
        "logs",
        lambda at: record(at.marker, at.time, attributes=attributes({EMAIL: "x"})),
        "",
        True,
        secret=EMAIL.replace("@", "_").replace(".", "_"),
    ),
    Shape(
        "observed two hours ago, without a time",
        "logs",
        lambda at: record(at.marker, 0, observedTimeUnixNano=str(at.time - 2 * HOUR)),
        "",
        kept=True,
        late=True,
    ),
    Shape(
        "a level of its own",
        "logs",
        lambda at: record(at.marker, at.time, severityNumber=0, attributes=attributes({"level": f"{at.marker} level"})),
        "",
        kept=True,
    ),
    Shape(
        "bearer token in a map",
        "logs",
        lambda at: record(
            at.marker,
            at.time,
            attributes=[
                {"key": "x", "value": {"kvlistValue": {"values": attributes({"authorization": f"Bearer {TOKEN}"})}}}
            ],
        ),
        "",
        True,
        secret=TOKEN,
    ),
)
LINES: Sequence[Shape] = (
    Shape("an hour ahead", "lines", lambda at: _line(at, timestamp=_day(at.time + HOUR)), "time_ahead", kept=True),
    Shape("a year ahead", "lines", lambda at: _line(at, timestamp=_day(at.time + 365 * DAY)), "time_ahead", kept=True),
    Shape(
        "in the year 9999", "lines", lambda at: _line(at, timestamp="9999-12-31T23:59:59.0Z"), "time_ahead", kept=True
    ),
    Shape(
        "two hours behind", "lines", lambda at: _line(at, timestamp=_day(at.time - 2 * HOUR)), "", kept=True, late=True
    ),
    Shape("300 KiB", "lines", lambda at: _line(at, x="y" * 300 * 1024), "body", kept=True),
    Shape("3 MiB", "lines", lambda at: _line(at, x="y" * LARGE), "body", kept=True),
    Shape("any text as severity", "lines", lambda at: _line(at, severity=f"{at.marker} severity"), "", kept=True),
    Shape("WARNING as severity", "lines", lambda at: _line(at, severity="WARNING"), "", kept=True),
    Shape(
        "e-mail written with \\u0040",
        "lines",
        lambda at: {"line": json.dumps({"message": at.marker, "x": EMAIL}).replace("@", "\\u0040")},
        "",
        True,
        secret=EMAIL.replace("@", "\\u0040"),
    ),
    Shape("card of American Express", "lines", lambda at: _line(at, x=AMEX), "", True, secret=AMEX),
)
SHAPES: Sequence[Shape] = (*METRICS, *KEPT_METRICS, *TRACES, *MASKED_SPANS, *LOGS, *LINES)
PATHS: Mapping[Signal, str] = {
    "metrics": "/v1/metrics",
    "traces": "/v1/traces",
    "logs": "/v1/logs",
    "lines": "/loki/api/v1/push",
}


_FIELDS: Mapping[Signal, tuple[str, str, str]] = {
    "metrics": ("resourceMetrics", "scopeMetrics", "metrics"),
    "traces": ("resourceSpans", "scopeSpans", "spans"),
    "logs": ("resourceLogs", "scopeLogs", "logRecords"),
}


def requests(shape: Shape, instance: str, at: Origin, neighbours: int) -> list[Json]:
    """Half of the good items, the bad one, and the other half: one request, or three where the bad one is alone.

    Good items are numbered from 0.
    """
    good = [_good(shape.signal, at, number) for number in range(neighbours)]
    half = neighbours // 2
    if shape.signal == "lines":
        lines = [f"{at.marker} neighbour {number}" for number in range(neighbours)]
        streams = ((GOOD, lines[:half]), (BAD, [shape.make(at)["line"]]), (GOOD, lines[half:]))
        return [{"streams": [_stream(f"{service}-{instance}", at.time, texts) for service, texts in streams]}]
    groups = [
        (resource(GOOD, instance), good[:half]),
        (resource(BAD, instance), [shape.make(at)]),
        (resource(GOOD, instance), good[half:]),
    ]
    return [_request(shape.signal, [group]) for group in groups] if shape.alone else [_request(shape.signal, groups)]


def _stream(service: str, time: int, lines: Sequence[str]) -> Json:
    """What Promtail sends knows no instance: each has a service of its own."""
    return {"stream": {"service_name": service}, "values": [[str(time), line] for line in lines]}


def _good(signal: Signal, at: Origin, number: int) -> Json:
    match signal:
        case "metrics":
            return gauge(GOOD, 1, at.time, {"number": str(number)})
        case "traces":
            return span(at.trace_id, f"{number + 1:016x}", at.time)
        case _:
            return record(f"{at.marker} neighbour {number}", at.time)


def _request(signal: Signal, groups: Sequence[tuple[Json, list[Json]]]) -> Json:
    outer, scope, inner = _FIELDS[signal]
    return {outer: [{"resource": origin, scope: [{inner: items}]} for origin, items in groups]}


def send(url: str, signal: Signal, body: Json) -> None:
    """Post one request to the Collector; raises what the HTTP client raises when it says no."""
    http.session.post(url + PATHS[signal], json=body, timeout=TIMEOUT).raise_for_status()
