"""What one hostile item costs the others of its request, and where its secrets are, for the real Collector alone."""

import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from sightglass.measure import bad_telemetry
from tests.unit.collecting import Collecting, attributes, attributes_of, collecting, value
from tests.unit.otlp import until

NAN: dict[str, Any] = {"key": "nan", "value": {"doubleValue": "NaN"}}
INFINITE: dict[str, Any] = {
    "key": "nan",
    "value": {"kvlistValue": {"values": [{**NAN, "value": {"doubleValue": "-Infinity"}}]}},
}
LARGE = "y" * bad_telemetry.LARGE


@pytest.fixture(scope="module")
def collector(programs: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collecting]:
    with collecting(programs["otelcol"], tmp_path_factory.mktemp("collector")) as running:
        yield running


@pytest.fixture
def secret() -> str:
    return f"zq{secrets.token_hex(8)}@example.org"


@pytest.fixture
def service() -> str:
    return f"s{secrets.token_hex(8)}"


def origin(service: str, **more: object) -> dict[str, Any]:
    return {"attributes": attributes({"service.name": service, **more})}


def measure(collector: Collecting, service: str, *metrics: dict[str, Any]) -> set[str]:
    """Send metrics, and another behind them; return the names of those that came with it."""
    name = f"neighbour.{secrets.token_hex(8)}"
    last = bad_telemetry.gauge(name, 1, time.time_ns())
    body = {"resourceMetrics": [{"resource": origin(service), "scopeMetrics": [{"metrics": [*metrics, last]}]}]}
    assert collector.send("metrics", body) == 200
    until(lambda: collector.receiver.metrics.get(name), name)
    return {metric["name"] for metric in metrics if metric["name"] in collector.receiver.metrics}


def trace(collector: Collecting, service: str, *spans: dict[str, Any]) -> Any:
    """Send spans and another beside them, and return that."""
    trace_id = secrets.token_hex(16)
    good = bad_telemetry.span(trace_id, secrets.token_hex(8), time.time_ns())
    body = {"resourceSpans": [{"resource": origin(service), "scopeSpans": [{"spans": [*spans, good]}]}]}
    assert collector.send("traces", body) == 200
    return collector.span(trace_id)


def counted(collector: Collecting, service: str, reason: str) -> float:
    """How many items of a service were left out for a reason, as soon as there is one."""
    key = "telemetry.refused", service, reason
    return until(lambda: collector.receiver.counted.get(key), f"the count of {key}")


# What a server would refuse


@pytest.mark.parametrize("odd", [NAN, INFINITE], ids=["NaN", "infinite, in a map"])
@pytest.mark.parametrize("place", ["span", "event"])
def test_a_large_span_is_found_beside_what_is_not_a_number(
    collector: Collecting, service: str, place: str, odd: dict[str, Any]
) -> None:
    given = [odd, *attributes({"x": LARGE})]
    span_id, now = secrets.token_hex(8), time.time_ns()
    event = {"name": "e", "timeUnixNano": str(now), "attributes": given}
    more = {"attributes": given} if place == "span" else {"events": [event]}
    trace(collector, service, bad_telemetry.span(secrets.token_hex(16), span_id, now, **more))
    assert counted(collector, service, "too_large") == 1
    assert span_id not in [span.span_id.hex() for span, _ in collector.tempo.spans]


@pytest.mark.parametrize("odd", [NAN, INFINITE], ids=["NaN", "infinite, in a map"])
def test_a_large_label_is_found_beside_what_is_not_a_number(
    collector: Collecting, service: str, odd: dict[str, Any]
) -> None:
    name, now = f"large.{service}", time.time_ns()
    metric = bad_telemetry.gauge(name, 1, now, attributes=[odd, *attributes({"x": LARGE})])
    assert measure(collector, service, metric) == set()
    assert counted(collector, service, "too_large") == 1
    assert measure(collector, service, bad_telemetry.gauge(name, 1, now, attributes=[odd])) == {name}


def summed(name: str, kind: str, temporality: int, **point: Any) -> dict[str, Any]:
    """A metric with a temporality and one point."""
    now = str(time.time_ns())
    return {
        "name": name,
        kind: {
            "aggregationTemporality": temporality,
            "dataPoints": [{"timeUnixNano": now, "startTimeUnixNano": now, **point}],
        },
    }


def exponential(name: str, count: int, **more: Any) -> dict[str, Any]:
    """An exponential histogram with six observations in its buckets."""
    buckets = {"positive": {"bucketCounts": ["1", "2"]}, "negative": {"bucketCounts": ["2"]}, "zeroCount": "1"}
    return summed(name, "exponentialHistogram", 2, **{"count": str(count), "sum": 1.0, "scale": 0, **buckets, **more})


def histogram(name: str, bounds: list[object]) -> dict[str, Any]:
    """A histogram with an observation in each bucket."""
    counts = ["1"] * (len(bounds) + 1)
    return summed(name, "histogram", 2, count=str(len(counts)), sum=1.0, explicitBounds=bounds, bucketCounts=counts)


HUGE = {"bucketCounts": [str(2**63), str(2**63)]}
REFUSED: Mapping[str, tuple[str, dict[str, Any]]] = {
    **{
        f"{kind} of temporality {temporality}": (
            "temporality_delta" if temporality == 1 else "temporality_unspecified",
            summed(f"bad.{kind}.{temporality}", kind, temporality, count="0"),
        )
        for kind in ("sum", "histogram", "exponentialHistogram")
        for temporality in (0, 1, 7)
    },
    "too few in the buckets": ("histogram_count", exponential("bad.few", 7)),
    "too many in the buckets": ("histogram_count", exponential("bad.many", 5)),
    "too many in the buckets, of no sum": ("histogram_count", exponential("bad.many.nan", 5, sum="NaN")),
    "buckets of more than there is": ("histogram_count", exponential("bad.huge", 3, positive=HUGE)),
    "a name with an address": ("metric_name", bad_telemetry.gauge("bad.someone@example.org", 1, time.time_ns())),
    "a name with a card's number": ("metric_name", bad_telemetry.gauge("bad.4111111111111111", 1, time.time_ns())),
    "a unit with an address": (
        "metric_unit",
        bad_telemetry.gauge("bad.unit", 1, time.time_ns()) | {"unit": "a@example.org"},
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_metric_that_prometheus_would_refuse_is_left_out_and_counted(
    collector: Collecting, service: str, what: str
) -> None:
    reason, metric = REFUSED[what]
    assert measure(collector, service, metric) == set()
    assert counted(collector, service, reason) == 1


def test_histograms_that_add_up_are_kept(collector: Collecting, service: str) -> None:
    kept = [
        exponential("good.exponential", 6),
        exponential("good.exponential.nan", 8, sum="NaN"),
        exponential("good.exponential.unrecorded", 0, flags=1),
        summed("good.exponential.empty", "exponentialHistogram", 2, count="0", scale=3),
        histogram("good.histogram", [-1, -0.5, 0, 1.5]),
        histogram("good.histogram.none", []),
    ]
    assert measure(collector, service, *kept) == {metric["name"] for metric in kept}


def test_an_item_that_is_refused_writes_no_line_of_the_collectors_own(collector: Collecting, service: str) -> None:
    span = bad_telemetry.span(secrets.token_hex(16), secrets.token_hex(8), time.time_ns(), attributes=[NAN])
    trace(collector, service, span)
    measure(collector, service, bad_telemetry.gauge(f"odd.{service}", 1, time.time_ns(), attributes=[INFINITE]))
    assert "failed to execute statement" not in collector.output.read_text()


# What Loki would refuse


def test_a_record_that_only_was_observed_long_ago_is_late(collector: Collecting, service: str) -> None:
    observed = time.time_ns() - 2 * bad_telemetry.HOUR
    record = {"body": value("old"), "observedTimeUnixNano": str(observed)}
    body = {"resourceLogs": [{"resource": origin(service), "scopeLogs": [{"logRecords": [record]}]}]}
    assert collector.send("logs", body) == 200
    found = collector.log(lambda logged: logged.resource.get("service.name") == service, "the record")
    assert found.record.time_unix_nano == observed
    assert found.attributes["late"] == time.strftime(
        "%Y-%m-%dT%H:%M", time.gmtime(observed // bad_telemetry.SECOND // 1800 * 1800)
    )


# What is masked


def named(secret: str) -> dict[str, object]:
    """Attributes that are named by a secret, at every depth, and one that is not."""
    return {
        secret: 7,
        f"to {secret}": "x",
        "map": {secret: {"a": 1}},
        "list": [{secret: [1]}],
        "4111 1111 1111 1111": True,
        "plain": 2**60,
    }


KEPT = {"to ****": "x", "map": {"****": {"a": 1}}, "list": [{"****": [1]}], "plain": 2**60}


@pytest.mark.parametrize("odd", [[], [NAN]], ids=["numbers", "NaN"])
def test_no_name_shows_a_secret_in_a_record(
    collector: Collecting, service: str, secret: str, odd: list[dict[str, Any]]
) -> None:
    now = str(time.time_ns())
    given = [*attributes(named(secret)), *odd]
    record = {
        "body": value(named(secret)),
        "timeUnixNano": now,
        "severityText": secret,
        "eventName": f"event of {secret}",
        "attributes": given,
    }
    scope = {"name": "s", "attributes": given}
    body = {
        "resourceLogs": [
            {
                "resource": {"attributes": [*origin(service)["attributes"], *given]},
                "schemaUrl": f"https://{secret}/1.0",
                "scopeLogs": [{"scope": scope, "logRecords": [record], "schemaUrl": f"https://x.y/{secret}"}],
            }
        ]
    }
    assert collector.send("logs", body) == 200
    found = collector.log(lambda logged: logged.resource.get("service.name") == service, "the record")
    assert secret.encode() not in collector.receiver.raw
    assert b"4111 1111 1111 1111" not in collector.receiver.raw
    assert found.record.event_name == "event of ****"
    kept = attributes_of(found.record)
    # A name without a letter or digit would be the end of the whole request.
    assert [key for key in kept if not re.search("[A-Za-z0-9]", key)] == []
    assert "masked" in kept
    if not odd:
        assert kept.items() >= KEPT.items()


@pytest.mark.parametrize("odd", [[], [NAN]], ids=["numbers", "NaN"])
def test_no_name_shows_a_secret_in_a_span(
    collector: Collecting, service: str, secret: str, odd: list[dict[str, Any]]
) -> None:
    trace_id, now = secrets.token_hex(16), time.time_ns()
    given = [*attributes(named(secret)), *odd]
    event = {"name": secret, "timeUnixNano": str(now), "attributes": given}
    span = bad_telemetry.span(
        trace_id, secrets.token_hex(8), now, attributes=given, events=[event], traceState=f"a={secret},b=c"
    )
    scope = {"scope": {"name": "s", "attributes": given}, "spans": [span], "schemaUrl": f"https://{secret}"}
    resource = {"attributes": [*origin(service)["attributes"], *given]}
    body = {"resourceSpans": [{"resource": resource, "scopeSpans": [scope], "schemaUrl": secret}]}
    assert collector.send("traces", body) == 200
    found, _ = collector.span(trace_id)
    assert secret.encode() not in collector.tempo.raw
    assert b"4111 1111 1111 1111" not in collector.tempo.raw
    assert found.trace_state == "a=****,b=c"
    assert attributes_of(found)["plain"] == 2**60
    assert attributes_of(found.events[0])["to ****"] == "x"


def test_no_metric_and_no_count_shows_a_secret(collector: Collecting, service: str, secret: str) -> None:
    name, now = f"named.{service}", time.time_ns()
    given = [*attributes(named(secret)), *attributes({"service.name": f"{service} of {secret}"})]
    metric = bad_telemetry.gauge(name, 1, now, attributes=attributes(named(secret))) | {
        "description": f"mail {secret}",
        "metadata": attributes({"x": secret}),
    }
    delta = bad_telemetry.counter("bad.delta", 1, now)
    scope = {"scope": {"name": "s", "attributes": given}, "metrics": [metric, delta], "schemaUrl": secret}
    body = {"resourceMetrics": [{"resource": {"attributes": given}, "scopeMetrics": [scope], "schemaUrl": secret}]}
    assert collector.send("metrics", body) == 200
    found = until(lambda: collector.receiver.metrics.get(name), name)
    assert counted(collector, f"{service} of ****", "temporality_delta") == 1
    assert secret.encode() not in collector.receiver.raw
    assert not found.description
    (point,) = found.gauge.data_points
    assert set(attributes_of(point)) == {"masked", "to ****", "map", "list", "plain"}


def test_a_name_that_stands_twice_hides_nothing(collector: Collecting, service: str, secret: str) -> None:
    twice = [*attributes({"a": {"b": secret}}), *attributes({"a": 1})]
    resource = {"attributes": [*origin(service)["attributes"], *twice]}
    now, trace_id, name = time.time_ns(), secrets.token_hex(16), f"twice.{service}"
    record = {"body": value("x"), "timeUnixNano": str(now), "attributes": twice}
    event = {"name": "e", "timeUnixNano": str(now), "attributes": twice}
    span = bad_telemetry.span(trace_id, secrets.token_hex(8), now, attributes=twice, events=[event])
    scope = {"scope": {"name": "s", "attributes": twice}}
    for signal, outer, inner, items in (
        ("logs", "resourceLogs", "scopeLogs", {"logRecords": [record]}),
        ("traces", "resourceSpans", "scopeSpans", {"spans": [span]}),
        (
            "metrics",
            "resourceMetrics",
            "scopeMetrics",
            {"metrics": [bad_telemetry.gauge(name, 1, now, attributes=twice)]},
        ),
    ):
        assert collector.send(signal, {outer: [{"resource": resource, inner: [scope | items]}]}) == 200
    found = collector.log(lambda logged: logged.resource.get("service.name") == service, "the record")
    kept, _ = collector.span(trace_id)
    until(lambda: collector.receiver.metrics.get(name), name)
    assert found.attributes["a"] == "1"
    assert attributes_of(kept) == {"a": 1}
    assert secret.encode() not in collector.receiver.raw + collector.tempo.raw


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ({"a": {"b": 1}}, '{"a":{"b":1}}'),
        (["a", 1], '["a",1]'),
        (7, "7"),
    ],
    ids=["map", "list", "number"],
)
def test_what_is_an_index_label_is_a_text(collector: Collecting, name: object, kept: str) -> None:
    mark = secrets.token_hex(8)
    record = {"body": value(mark), "timeUnixNano": str(time.time_ns())}
    resource = {"attributes": attributes({"service.name": name, "service.namespace": name})}
    body = {"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": [record]}]}]}
    assert collector.send("logs", body) == 200
    found = collector.log(lambda logged: logged.body == mark, "the record")
    assert (found.resource["service.name"], found.resource["service.namespace"]) == (kept, kept)


def test_what_is_an_index_label_and_has_no_text_is_left_out(collector: Collecting) -> None:
    mark = secrets.token_hex(8)
    record = {"body": value(mark), "timeUnixNano": str(time.time_ns())}
    resource = {"attributes": [{**INFINITE, "key": "service.name"}]}
    body = {"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": [record]}]}]}
    assert collector.send("logs", body) == 200
    found = collector.log(lambda logged: logged.body == mark, "the record")
    assert "service.name" not in found.resource


def test_a_schema_that_is_one_is_kept(collector: Collecting, service: str) -> None:
    schema = "https://opentelemetry.io/schemas/1.26.0"
    record = {"body": value("x"), "timeUnixNano": str(time.time_ns())}
    body = {
        "resourceLogs": [{"resource": origin(service), "schemaUrl": schema, "scopeLogs": [{"logRecords": [record]}]}]
    }
    assert collector.send("logs", body) == 200
    collector.log(lambda logged: logged.resource.get("service.name") == service, "the record")
    assert schema.encode() in collector.receiver.raw


def test_what_is_named_by_no_secret_keeps_its_types(collector: Collecting, service: str, secret: str) -> None:
    given = {"mail": secret, "n": 2**60, "ratio": 0.5, "yes": True, "list": [1, 2]}
    record = {
        "body": value(json.dumps({"a": secret})),
        "timeUnixNano": str(time.time_ns()),
        "attributes": attributes(given),
    }
    body = {"resourceLogs": [{"resource": origin(service), "scopeLogs": [{"logRecords": [record]}]}]}
    assert collector.send("logs", body) == 200
    found = collector.log(lambda logged: logged.resource.get("service.name") == service, "the record")
    kept = {key: each for key, each in attributes_of(found.record).items() if key != "level"}
    assert kept == {**given, "mail": "****"}
