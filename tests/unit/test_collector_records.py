"""What the real Collector makes of records that others send: their level, what is masked in them, and what is cut."""

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]

from sightglass.local.components import COLLECTOR_CONFIG
from tests.unit.collecting import Collecting, attributes, attributes_of, collecting, value
from tests.unit.otlp import Logged, until

LEVELS = {"debug", "info", "warn", "error", "fatal", "unknown"}
SECOND = 10**9
DAY = 86_400 * SECOND


@pytest.fixture(scope="module")
def collector(programs: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collecting]:
    with collecting(programs["otelcol"], tmp_path_factory.mktemp("collector")) as running:
        yield running


def sent(collector: Collecting, resource: Mapping[str, object] | None = None, **record: Any) -> Logged:
    """Send one log record by OTLP and return what comes of it; its trace id is its own."""
    trace_id = secrets.token_hex(16)
    body = {"timeUnixNano": str(time.time_ns()), "traceId": trace_id, "spanId": secrets.token_hex(8), **record}
    logs = {
        "resourceLogs": [
            {
                "resource": {"attributes": attributes(resource or {"service.name": "foreign"})},
                "scopeLogs": [{"logRecords": [body]}],
            }
        ]
    }
    assert collector.send("logs", logs) == 200
    return collector.log(lambda logged: logged.record.trace_id.hex() == trace_id, f"the record of {trace_id}")


def line(
    collector: Collecting, raw: str | None = None, *, at: int | None = None, metadata: Any = None, **keys: object
) -> Logged:
    """Push one line by the Loki port and return what comes of it; its service is its own."""
    service = f"s{secrets.token_hex(8)}"
    body = raw if raw is not None else json.dumps({"message": "x", **keys})
    assert collector.push([(at or time.time_ns(), body)], {"service_name": service}, metadata) == 204
    return collector.log(lambda logged: logged.resource.get("service.name") == service, f"the line of {service}")


# The level


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("INFO", "info"),
        ("WARNING", "warn"),
        ("critical", "fatal"),
        ("Notice", "info"),
        ("trace", "debug"),
        ("err", "error"),
        ("SEVERE", "error"),
        ("emergency", "fatal"),
        (" warn ", "warn"),
        ("INFO2", "info"),
        ("<script>alert(1)</script>", "unknown"),
        ("x" * 3000, "unknown"),
        ("", "unknown"),
        (["ERROR"], "unknown"),
        (17, "error"),
        (99, "unknown"),
        (-1, "unknown"),
    ],
    ids=lambda given: str(given)[:20],
)
def test_the_severity_of_a_line_is_one_of_six_levels(collector: Collecting, text: object, level: str) -> None:
    found = line(collector, severity=text)
    assert found.attributes["level"] == level
    assert found.record.severity_text == ("" if level == "unknown" else level.upper())
    assert (found.record.severity_number == 0) == (level == "unknown")


def test_a_line_may_name_its_level_level(collector: Collecting) -> None:
    assert line(collector, level="warning").attributes["level"] == "warn"
    assert line(collector, level="whatever").attributes["level"] == "unknown"
    assert line(collector, level="warning", severity="ERROR").attributes["level"] == "error"


@pytest.mark.parametrize("number", range(25))
def test_the_severity_number_of_a_record_counts(collector: Collecting, number: int) -> None:
    found = sent(collector, severityNumber=number, attributes=attributes({"level": f"sent-{number}"}))
    levels = ["debug", "debug", "info", "warn", "error", "fatal"]
    assert found.attributes["level"] == (levels[(number - 1) // 4] if number else "unknown")
    assert found.record.severity_number == number


def test_the_severity_text_of_a_record_and_then_its_level_count(collector: Collecting) -> None:
    both = sent(collector, severityText="Error", attributes=attributes({"level": "info"}))
    only = sent(collector, attributes=attributes({"level": "Warning"}))
    no_text = sent(collector, attributes=attributes({"level": {"a": 1}}))
    assert [each.attributes["level"] for each in (both, only, no_text)] == ["error", "warn", "unknown"]


def test_marks_and_index_labels_are_not_a_senders(collector: Collecting) -> None:
    marks = {"late": "any text", "sightglass.changed": "any text", "sightglass.refused": "any text"}
    found = sent(collector, attributes=attributes(marks), resource={"service.name": "foreign", **marks})
    assert set(found.attributes) == {"level"}
    assert not [key for key in found.resource if key.startswith("sightglass")]
    pushed = line(collector, metadata=marks)
    assert not {"late", "sightglass.changed", "sightglass_changed"} & set(pushed.attributes)


def twin(programs: Mapping[str, Path], folder: Path, part: str, other: str = "") -> Any:
    """A Collector with a configuration in which a part is another."""
    text = COLLECTOR_CONFIG.read_text()
    assert part in text
    return collecting(programs["otelcol"], folder, text.replace(part, other))


def test_without_its_step_a_level_is_any_text(programs: Mapping[str, Path], tmp_path: Path) -> None:
    with twin(programs, tmp_path, " transform/level,") as broken:
        assert sent(broken, attributes=attributes({"level": "any text"})).attributes["level"] == "any text"


# What is masked

SECRETS = {
    "address": "someone@example.org",
    "address with a plus": "some.one+tag@mail.example.co.uk",
    "address beyond ASCII": "jürgen@exämple.de",
    "address in a query": "someone%40example.org",
    "Visa": "4111 1111 1111 1111",
    "Mastercard": "5500-0055-5555-5559",
    "Mastercard, 2-series": "2223003122003222",
    "Mastercard, 2-series, last": "2720 9999 9999 9996",
    "Discover": "6011000990139424",
    "Discover 65": "6500 0000 0000 0002",
    "American Express": "3782 822463 10005",
    "American Express, together": "371449635398431",
    "token": "Bearer abcdefgh12345678.abc-_~+/==",
    "token in capitals": "BEARER ABCDEFGH12345678",
    "key": "AKIAIOSFODNN7EXAMPLE",
}
FIGURES: dict[str, object] = {
    "fraction": 0.4111111111111111,
    "double": 4.123456789012345,
    "text of a fraction": "0.5105105105105101",
    "text of a figure": "4111111111111111.5",
    "time": 1_790_000_000_123_456,
    "digest": "a4111111111111111f",
    "identifier": "job_4111111111111111",
}
ARRAY = ["first", "Bearer abcdefgh12345678"]


def shows(secret: str, text: str) -> bool:
    """Whether a text still tells enough of a secret."""
    kept = secret.removeprefix("Bearer ").removeprefix("BEARER ")
    return kept in text or kept[: len(kept) // 2 + 2] in text


@pytest.mark.parametrize("what", SECRETS)
def test_a_secret_is_masked_in_every_text_of_a_record(collector: Collecting, what: str) -> None:
    secret = SECRETS[what]
    given = {
        "note": f"it is {secret}, and so on",
        "alone": secret,
        "list": ["first", secret],
        "map": {"inner": {"deep": [f"a {secret}"]}, "count": 3},
        "count": 7,
        "ratio": 0.25,
        **FIGURES,
    }
    found = sent(
        collector,
        body=value({"message": f"it is {secret}", "list": [secret], **FIGURES}),
        attributes=attributes(given),
        resource={"service.name": "foreign", "owner": secret, "owners": [secret]},
    )
    text = json.dumps(MessageToDict(found.record), ensure_ascii=False) + json.dumps(found.resource, ensure_ascii=False)
    assert not shows(secret, text)
    kept = attributes_of(found.record)
    assert kept["note"] == "it is ****, and so on"
    assert kept["alone"] == "****"
    assert kept["list"] == ["first", "****"]
    assert kept["map"] == {"inner": {"deep": ["a ****"]}, "count": 3}
    assert {name: kept[name] for name in FIGURES} == FIGURES
    assert (kept["count"], kept["ratio"]) == (7, 0.25)
    body = json.loads(found.body)
    assert body == {"message": "it is ****", "list": ["****"], **FIGURES}


@pytest.mark.parametrize("what", SECRETS)
def test_a_secret_is_masked_in_a_line_that_stays_json(collector: Collecting, what: str) -> None:
    secret, service, now = SECRETS[what], f"s{secrets.token_hex(8)}", time.time_ns()
    around = (("", ""), ("\n", "\n"), ("\\", '"'), ("é", "é"), ("\t\\n", " ü"), ("<", ">"), ("a\u0001", ""))
    lines = [
        json.dumps({"message": f"{before}{secret}{after}", **FIGURES}, ensure_ascii=escaped)
        for before, after in around
        for escaped in (True, False)
    ]
    assert collector.push([(now + number, text) for number, text in enumerate(lines)], {"service_name": service}) == 204

    def come() -> list[str] | None:
        bodies = [each.body for each in list(collector.receiver.logs) if each.resource.get("service.name") == service]
        return bodies if len(bodies) == len(lines) else None

    for body in until(come, "all lines"):
        kept = json.loads(body)
        assert not shows(secret, body), body
        assert {name: kept[name] for name in FIGURES} == FIGURES
        assert "****" in kept["message"]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (r'{"m": "someone\u0040example.org"}', {"m": "****"}),
        (r'{"m": "some\u002btag\u0040example.org"}', {"m": "****"}),
        (r'{"m": "\u0073omeone@example.org"}', {"m": "****"}),
        (r'{"m": "\\someone\u0040example.org"}', {"m": "\\****"}),
        (r'{"m": "\u003csomeone@example.org\u003e"}', {"m": "<****>"}),
        (r'{"m": "Bearer\u0020abcdefgh\u002b12345678\u003d"}', {"m": "****"}),
        (r'{"m": "\nBearer abcdefgh\/12345678"}', {"m": "\n****"}),
        ('{"card": 4111111111111111}', {"card": 0}),
        ('{"cards": [4111111111111111,-5105105105105100, 7]}', {"cards": [0, 7]}),
        ('{"m": "4111111111111111 5105105105105100,371449635398431"}', {"m": "****"}),
        ('{"m": ["4111111111111111","5105105105105100"]}', {"m": ["****", "****"]}),
        ('{"figure": 4111111111111111.25, "small": 4.111111111111111e-05}', None),
    ],
)
def test_json_is_masked_as_it_is_written(collector: Collecting, text: str, kept: dict[str, object] | None) -> None:
    assert json.loads(line(collector, text).body) == (json.loads(text) if kept is None else kept)


def test_a_plain_line_is_masked(collector: Collecting) -> None:
    found = line(collector, "mail someone@example.org, card 4111111111111111. Bearer abcdefgh12345678")
    assert found.body == "mail ****, card ****. ****"


@pytest.mark.parametrize("what", SECRETS)
def test_a_secret_is_masked_in_every_text_of_a_span(collector: Collecting, what: str) -> None:
    secret, trace_id, now = SECRETS[what], secrets.token_hex(16), time.time_ns()
    given = {"note": secret, "http.request.header.authorization": [secret], "map": {"a": secret}, "n": 7, **FIGURES}
    span = {
        "traceId": trace_id,
        "spanId": secrets.token_hex(8),
        "name": f"GET /users/{secret}",
        "startTimeUnixNano": str(now),
        "endTimeUnixNano": str(now + 1000),
        "attributes": attributes(given),
        "status": {"code": 2, "message": f"no user {secret}"},
        "events": [{"name": f"saw {secret}", "timeUnixNano": str(now), "attributes": attributes(given)}],
    }
    resource = {"attributes": attributes({"service.name": "foreign", "owner": [secret]})}
    scope = {"name": f"scope {secret}", "attributes": attributes({"owner": secret})}
    body = {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": scope, "spans": [span]}]}]}
    assert collector.send("traces", body) == 200
    found, origin = collector.span(trace_id)
    text = json.dumps([MessageToDict(found), MessageToDict(origin)], ensure_ascii=False)
    assert not shows(secret, text)
    assert found.name == "GET /users/****"
    assert found.status.message == "no user ****"
    (event,) = found.events
    assert event.name == "saw ****"
    for kept in (attributes_of(found), attributes_of(event)):
        nested = {"http.request.header.authorization": ["****"], "map": {"a": "****"}}
        assert kept == {"note": "****", "n": 7, **nested, **FIGURES}
    assert attributes_of(origin)["owner"] == ["****"]


def test_what_is_not_a_number_hides_nothing(collector: Collecting) -> None:
    """JSON has no NaN, so that there is no text of such attributes to look at."""
    secret, nan = "someone@example.org", {"doubleValue": "NaN"}
    given = [*attributes({"note": secret, "list": [secret]}), {"key": "nan", "value": nan}]
    inner = {"kvlistValue": {"values": [{"key": "n", "value": nan}, *attributes({"note": secret})]}}
    found = sent(collector, attributes=[*given, {"key": "map", "value": inner}], body=inner)
    assert not shows(secret, str(found.record))
    assert found.attributes["note"] == "****"
    large = sent(collector, attributes=[*given, *attributes({f"key.{number}": "x" * 4000 for number in range(300)})])
    assert len(str(large.record)) < 80_000
    trace_id, now = secrets.token_hex(16), str(time.time_ns())
    span = {"traceId": trace_id, "spanId": "ab" * 8, "name": secret, "startTimeUnixNano": now, "endTimeUnixNano": now}
    body = {
        "resourceSpans": [{"scopeSpans": [{"scope": {"version": secret}, "spans": [{**span, "attributes": given}]}]}]
    }
    assert collector.send("traces", body) == 200
    kept, _ = collector.span(trace_id)
    assert kept.name == "****"
    assert not shows(secret, str(kept))


@pytest.mark.parametrize("name", ["", "ä", "_", "__", ".", "€€"])
def test_a_name_without_letter_or_digit_is_left_out(collector: Collecting, name: str) -> None:
    found = sent(
        collector, resource={"service.name": "foreign", name: "x"}, attributes=attributes({name: "x", "a": "b"})
    )
    assert set(found.attributes) == {"a", "level", "sightglass.changed"}
    assert found.attributes["sightglass.changed"] == "attributes"
    assert name not in found.resource


def test_what_needs_no_mask_stays_as_it_is(collector: Collecting) -> None:
    given = {"list": ["a", 1, 0.5, True], "map": {"a": [1]}, "n": 7, **FIGURES}
    found = sent(collector, body=value("nothing to hide"), attributes=attributes(given))
    assert {key: each for key, each in attributes_of(found.record).items() if key != "level"} == given


def test_a_secret_is_masked_in_the_attributes_of_a_metric_and_series_stay_apart(collector: Collecting) -> None:
    name, now = f"foreign.{secrets.token_hex(8)}", str(time.time_ns())
    points = [
        {"timeUnixNano": now, "startTimeUnixNano": now, "asDouble": number, "attributes": attributes(labels)}
        for number, labels in (
            (1.0, {"user": "someone@example.org"}),
            (2.0, {"user": "other@example.org"}),
            (4.0, {"user": "4111 1111 1111 1111", "route": "/"}),
            (8.0, {"user": "nobody"}),
        )
    ]
    metric = {"name": name, "sum": {"aggregationTemporality": 2, "isMonotonic": True, "dataPoints": points}}
    resource = {"attributes": attributes({"service.name": "foreign"})}
    body = {"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"metrics": [metric]}]}]}
    assert collector.send("metrics", body) == 200
    found = until(lambda: collector.receiver.metrics.get(name), "the metric")
    values = [(attributes_of(point), point.as_double) for point in found.sum.data_points]
    assert sorted(values, key=lambda each: each[1]) == [
        ({"user": "****"}, 3.0),
        ({"user": "****", "route": "/"}, 4.0),
        ({"user": "nobody"}, 8.0),
    ]
    assert not found.metadata


def test_without_its_step_nothing_is_masked(programs: Mapping[str, Path], tmp_path: Path) -> None:
    with twin(programs, tmp_path, ", transform/mask") as broken:
        assert "someone@example.org" in line(broken, "mail someone@example.org").body


# What is cut


def test_a_line_above_the_limit_is_cut_and_keeps_its_ids(collector: Collecting) -> None:
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    ids: dict[str, Any] = {"trace_id": trace_id, "span_id": span_id, "ml.prediction.id": secrets.token_hex(16)}
    for size in (300_000, 3_000_000):
        ids["text"] = "€" * (size // 3)
        found = line(collector, severity="ERROR", **{"event.name": "big", **ids})
        assert 250_000 <= len(found.record.body.string_value.encode()) <= 256_000
        assert found.record.trace_id.hex() == ids["trace_id"]
        assert found.record.span_id.hex() == ids["span_id"]
        assert found.attributes["ml.prediction.id"] == ids["ml.prediction.id"]
        assert found.attributes["event.name"] == "big"
        assert found.attributes["level"] == "error"
        assert found.attributes["sightglass.changed"] == "body"


def test_a_line_below_the_limit_is_not_cut(collector: Collecting) -> None:
    text = "x" * 255_999
    found = line(collector, text)
    assert found.body == text
    assert "sightglass.changed" not in found.attributes


def test_where_a_line_is_cut_no_half_of_a_secret_stays(collector: Collecting) -> None:
    for start in (255_990, 261_990):
        found = line(collector, f"{'x' * start} someone@example.org {'y' * 50_000}")
        assert "some" not in found.body


WIDE: dict[str, Callable[[], dict[str, object]]] = {
    "one large": lambda: {"big": "x" * 100_000},
    "many": lambda: {f"key.{number}": number for number in range(400)},
    "many large": lambda: {f"key.{number}": "x" * 5000 for number in range(100)},
    "long names": lambda: {f"{number}{'k' * 2000}": "x" for number in range(100)},
    "a map of many": lambda: {"map": {f"key.{number}": number for number in range(1000)}},
    "a long list": lambda: {"list": ["x" * 100] * 2000},
    "large and deep": lambda: {"map": {"a": {"b": ["y" * 100_000]}}},
}


@pytest.mark.parametrize("what", WIDE)
def test_attributes_above_the_limits_are_cut(collector: Collecting, what: str) -> None:
    given = {**WIDE[what](), "event.name": "wide", "ml.prediction.id": "id-1"}
    found = sent(collector, attributes=attributes(given), body=value("the line"))
    kept = attributes_of(found.record)
    assert len(kept) <= 121
    assert len(json.dumps(kept)) <= 52_000
    assert (kept["event.name"], kept["ml.prediction.id"], kept["level"]) == ("wide", "id-1", "unknown")
    assert kept["sightglass.changed"] == "attributes"
    assert found.body == "the line"


@pytest.mark.parametrize("what", WIDE)
def test_attributes_of_a_resource_above_the_limits_are_cut(collector: Collecting, what: str) -> None:
    service = f"wide {what}"
    found = sent(collector, resource={**WIDE[what](), "service.name": service})
    assert found.resource["service.name"] == service
    assert len(json.dumps(found.resource)) <= 52_000
    assert found.attributes["sightglass.changed"] == "resource"


def test_a_long_name_of_a_service_is_cut(collector: Collecting) -> None:
    found = sent(collector, resource={"service.name": "s" * 5000})
    assert found.resource["service.name"] == "s" * 256


def test_a_late_line_has_a_stream_of_its_half_hour_and_its_own_time(collector: Collecting) -> None:
    now = time.time_ns()
    for minutes in (0, 5, 15, 45, 600, 6 * 24 * 60 - 5):
        at = now - minutes * 60 * SECOND
        found = line(collector, "late", at=at)
        assert found.record.time_unix_nano == at
        half_hour = time.strftime("%Y-%m-%dT%H:%M", time.gmtime(at // SECOND // 1800 * 1800))
        assert found.attributes.get("late") == (half_hour if minutes > 10 else None)
        assert "sightglass.changed" not in found.attributes


def test_a_line_that_no_server_would_take_any_more_comes_at_the_time_of_its_arrival(collector: Collecting) -> None:
    for at in (time.time_ns() - 7 * DAY, SECOND):
        found = line(collector, "old", at=at)
        assert abs(found.record.time_unix_nano - time.time_ns()) < 60 * SECOND
        sent_at = time.strftime("%Y-%m-%dT%H:%M", time.gmtime(at // SECOND))
        assert found.attributes["sightglass.time"].startswith(sent_at)
        assert found.attributes["sightglass.changed"] == "time_behind"
        assert "late" not in found.attributes
