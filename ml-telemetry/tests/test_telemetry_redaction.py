"""What is masked in texts, what stays, and that a long text takes no longer than its length asks."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link

from ml_telemetry import logs, redaction
from ml_telemetry.masking import mask

MASKED = {
    "someone@example.org": "****",
    "mail some.one+tag@mail.example.co.uk.": "mail ****.",
    "jürgen@exämple.de": "****",
    "someone%40example.org": "****",
    "a%40b%40example.org": "a%40****",
    "card 4111 1111 1111 1111, yes": "card ****, yes",
    "5500-0055-5555-5559": "****",
    "2223003122003222": "****",
    "6011000990139424": "****",
    "3782 822463 10005": "****",
    "4111111111111111,5500005555555559": "****",
    "4111111111111111.": "****.",
    "Authorization: Bearer abcdefgh12345678.abc-_~+/==": "Authorization: ****",
    "bearer%20ABCDEFGH12345678": "****",
    "AKIAIOSFODNN7EXAMPLE": "****",
}
KEPT = (
    "0.4111111111111111",
    "4111111111111111.5",
    "1790000000123456",
    "a4111111111111111f",
    "job_4111111111111111",
    "x@y",
    "@",
    "bearer short",
    "AKIA",
    "",
)


@pytest.mark.parametrize("given", MASKED)
def test_a_secret_is_masked_and_what_stands_around_stays(given: str) -> None:
    assert redaction.text(given) == MASKED[given]
    assert redaction.text(f"({given})") == f"({MASKED[given]})"


@pytest.mark.parametrize("given", KEPT)
def test_what_is_no_secret_stays(given: str) -> None:
    assert redaction.text(given) == given


def test_lists_maps_and_names_are_masked_and_types_stay() -> None:
    given = {"a": ["x@example.org", 4, None, ("y@example.org", 0.5)], "z@example.org": {"b": True}}
    assert redaction.value(given) == {"a": ["****", 4, None, ["****", 0.5]], "****": {"b": True}}


@pytest.mark.parametrize(
    "part", ["a", "a.", "@", "a@b.", "4111 ", "bearer ", "b-@b.", "%40", "a%40", "AKIA", "4111-1111-1111-111", "é@é."]
)
def test_four_times_the_text_takes_no_more_than_some_four_times_as_long(part: str) -> None:
    def seconds(size: int) -> float:
        text = part * (size // len(part))
        best = float("inf")
        for _ in range(5):
            began = time.perf_counter()
            redaction.text(text)
            best = min(best, time.perf_counter() - began)
        return best

    # Time that grew with the square would be sixteen times as long.
    assert seconds(80_000) < 10 * max(seconds(20_000), 1e-4)


def test_spans_of_the_application_are_masked_everywhere() -> None:
    secret = "for someone@example.org"
    provider, kept = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer("own")
    with tracer.start_as_current_span("first") as first:
        link = Link(first.get_span_context(), {"why": secret})
    attributes: dict[str, Any] = {"note": secret, "notes": ["plain", secret], "count": 3, "someone@example.org": "x"}
    with suppress(ValueError), tracer.start_as_current_span(secret, links=[link], attributes=attributes) as span:
        span.add_event(secret, {"event": secret})
        raise ValueError(secret)
    request = encode_spans(kept.get_finished_spans())
    # The twin: without masking all of it is there.
    assert request.SerializeToString().count(b"someone@example.org") >= 9
    mask(request)
    sent = request.SerializeToString()
    assert b"someone@example.org" not in sent
    (found,) = [one for scope in request.resource_spans[0].scope_spans for one in scope.spans if one.name == "for ****"]
    plain = {pair.key: pair.value for pair in found.attributes}
    assert (plain["note"].string_value, plain["count"].int_value) == ("for ****", 3)
    assert [one.string_value for one in plain["notes"].array_value.values] == ["plain", "for ****"]
    assert [event.name for event in found.events] == ["for ****", "exception"]


def test_lines_of_other_libraries_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[dict[str, object]] = []
    monkeypatch.setattr(logs, "write_line", lambda line, **_: written.append(line))
    handler = logs.JsonLinesHandler()
    try:
        raise ValueError("refused someone@example.org")
    except ValueError:
        record = logging.LogRecord("other", logging.ERROR, __file__, 1, "for %s", ("me@example.org",), None)
        record.exc_info = (ValueError, ValueError("refused someone@example.org"), None)
        handler.emit(record)
    (line,) = written
    assert (line["message"], line["exception.message"]) == ("for ****", "refused ****")
