"""W3C trace context in and out, and the ids of traces, spans and predictions.

Ids are lower-case hexadecimal text on the request's path, for there they go into headers, answers and log lines.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from typing import Final

from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Decision, ParentBased, Sampler, StaticSampler
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    TraceState,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

# Version 00 is what callers send; every other version is left to the SDK's own propagator.
_TRACEPARENT: Final = re.compile(rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_PROPAGATOR: Final = TraceContextTextMapPropagator()


@dataclass(frozen=True, slots=True)
class Parent:
    """The caller's span."""

    trace_id: str
    span_id: str
    sampled: bool
    trace_state: str = ""


def parse_parent(traceparent: bytes | None, tracestate: bytes | None) -> Parent | None:
    """Read the caller's context from its headers; a header that is not valid counts as absent."""
    if traceparent is None:
        return None
    state = tracestate.decode("latin-1") if tracestate else ""
    if state:
        state = TraceState.from_header([state]).to_header()
    if match := _TRACEPARENT.fullmatch(traceparent):
        trace_id, span_id, flags = match.groups()
        return Parent(trace_id.decode(), span_id.decode(), bool(int(flags, 16) & 1), state)
    context = get_current_span(_PROPAGATOR.extract({"traceparent": traceparent.decode("latin-1")})).get_span_context()
    if not context.is_valid:
        return None
    return Parent(f"{context.trace_id:032x}", f"{context.span_id:016x}", context.trace_flags.sampled, state)


def new_trace_id() -> str:
    """Return 16 random bytes as hexadecimal text."""
    return os.urandom(16).hex()


def new_span_id() -> str:
    """Return 8 random bytes as hexadecimal text."""
    return os.urandom(8).hex()


def new_uuid7() -> str:
    """Return a UUID of version 7 (RFC 9562): 48 bits of Unix milliseconds, then random bits."""
    digits = f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-7{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:32]}"


class SamplingDecision:
    """Asks the SDK's sampler, and remembers its answer where that answer can never change."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._with_parent: dict[bool, bool] | None = None
        self._root: bool | None = None
        if sampler in (ALWAYS_ON, ALWAYS_OFF):
            self._root = sampler is ALWAYS_ON
            self._with_parent = {True: self._root, False: self._root}
        elif isinstance(sampler, ParentBased):
            delegates = (sampler._remote_parent_sampled, sampler._remote_parent_not_sampled)
            if all(isinstance(delegate, StaticSampler) for delegate in delegates):
                self._with_parent = {
                    flag: self._ask("1" * 32, Parent("1" * 32, "1" * 16, flag)) for flag in (True, False)
                }
            if isinstance(sampler._root, StaticSampler):
                self._root = self._ask("1" * 32, None)

    def __call__(self, trace_id: str, parent: Parent | None) -> bool:
        """Say whether the request's spans are recorded."""
        if parent is None:
            return self._ask(trace_id, None) if self._root is None else self._root
        return self._ask(trace_id, parent) if self._with_parent is None else self._with_parent[parent.sampled]

    def _ask(self, trace_id: str, parent: Parent | None) -> bool:
        context = None
        if parent is not None:
            flags = TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT)
            remote = SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=flags)
            context = set_span_in_context(NonRecordingSpan(remote))
        result = self._sampler.should_sample(context, int(trace_id, 16), "request", SpanKind.SERVER)
        return result.decision is Decision.RECORD_AND_SAMPLE
