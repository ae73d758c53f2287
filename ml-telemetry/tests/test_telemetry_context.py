"""Trace context, ids and sampling decisions."""

from __future__ import annotations

import re
import time
import uuid

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    ParentBased,
    Sampler,
    TraceIdRatioBased,
)

from ml_telemetry.context import Parent, SamplingDecision, new_span_id, new_trace_id, new_uuid7, parse_parent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (f"00-{TRACE}-{SPAN}-01", Parent(TRACE, SPAN, True)),
        (f"00-{TRACE}-{SPAN}-00", Parent(TRACE, SPAN, False)),
        (f"00-{TRACE}-{SPAN}-03", Parent(TRACE, SPAN, True)),
        (f"01-{TRACE}-{SPAN}-01-future", Parent(TRACE, SPAN, True)),
        (f"00-{TRACE}-{SPAN}-01-extra", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE[:-1]}-{SPAN}-01", None),
        ("", None),
    ],
)
def test_traceparent(header: str, expected: Parent | None) -> None:
    assert parse_parent(header.encode(), None) == expected


def test_tracestate_is_kept_and_a_broken_one_left_out() -> None:
    header = f"00-{TRACE}-{SPAN}-01".encode()
    kept = parse_parent(header, b"a=1,b=2")
    broken = parse_parent(header, b"=no key")
    assert kept is not None
    assert broken is not None
    assert (kept.trace_state, broken.trace_state) == ("a=1,b=2", "")
    assert parse_parent(None, b"a=1") is None


def test_ids_have_the_w3c_form_and_do_not_repeat() -> None:
    assert all(re.fullmatch(r"[0-9a-f]{32}", new_trace_id()) for _ in range(100))
    assert all(re.fullmatch(r"[0-9a-f]{16}", new_span_id()) for _ in range(100))
    assert len({new_span_id() for _ in range(1000)}) == 1000


def test_prediction_id_is_a_uuid_of_version_7_with_the_time() -> None:
    ids = [uuid.UUID(new_uuid7()) for _ in range(200)]
    assert {identifier.version for identifier in ids} == {7}
    assert {identifier.variant for identifier in ids} == {uuid.RFC_4122}
    assert all(abs((identifier.int >> 80) / 1000 - time.time()) < 5 for identifier in ids)
    assert len(set(ids)) == 200


@pytest.mark.parametrize(
    "sampler",
    [
        ALWAYS_ON,
        ALWAYS_OFF,
        DEFAULT_ON,
        DEFAULT_OFF,
        ParentBased(ALWAYS_ON),
        ParentBased(ALWAYS_OFF),
        ParentBased(TraceIdRatioBased(0.5)),
        ParentBased(ALWAYS_ON, remote_parent_sampled=ALWAYS_OFF, remote_parent_not_sampled=ALWAYS_ON),
        ParentBased(ALWAYS_ON, remote_parent_sampled=TraceIdRatioBased(0.5)),
        TraceIdRatioBased(0.5),
    ],
    ids=lambda sampler: sampler.get_description(),
)
def test_decision_is_always_the_samplers(sampler: Sampler) -> None:
    decide = SamplingDecision(sampler)
    for _ in range(50):
        trace_id = new_trace_id()
        for parent in (None, Parent(trace_id, SPAN, True), Parent(trace_id, SPAN, False)):
            assert decide(trace_id, parent) == decide.ask(trace_id, parent)


def test_sampler_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.25")
    decide = SamplingDecision(TracerProvider(shutdown_on_exit=False).sampler)
    share = sum(decide(new_trace_id(), None) for _ in range(4000)) / 4000
    assert share == pytest.approx(0.25, abs=0.05)
    assert decide(TRACE, Parent(TRACE, SPAN, True))
