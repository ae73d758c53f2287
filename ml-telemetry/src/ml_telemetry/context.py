"""W3C trace context in and out, and the ids of traces, spans and predictions.

Ids are lower-case hexadecimal text on the request's path, for there they go into headers, answers and log lines.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from typing import Final

from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, DEFAULT_OFF, DEFAULT_ON, Decision, Sampler
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    TraceFlags,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

# Version 00 is what callers send; every other version is left to the SDK's own propagator.
_TRACEPARENT: Final = re.compile(rb"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_PROPAGATOR: Final = TraceContextTextMapPropagator()
_STATE_MEMBER: Final = re.compile(
    rb"([a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    rb"=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
)
_MAXIMUM_STATE_MEMBERS: Final = 32
_MAXIMUM_STATE_BYTES: Final = 512
# Of a list that is too long, members above this go first.
_LARGE_STATE_MEMBER: Final = 128


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
    state = parse_state(tracestate) if tracestate else ""
    if match := _TRACEPARENT.fullmatch(traceparent):
        trace_id, span_id, flags = match.groups()
        return Parent(trace_id.decode(), span_id.decode(), bool(int(flags, 16) & 1), state)
    context = get_current_span(_PROPAGATOR.extract({"traceparent": traceparent.decode("latin-1")})).get_span_context()
    if not context.is_valid:
        return None
    return Parent(f"{context.trace_id:032x}", f"{context.span_id:016x}", context.trace_flags.sampled, state)


def parse_state(tracestate: bytes) -> str:
    """Return a caller's ``tracestate`` bounded to what W3C asks to pass on; one that is not valid counts as absent.

    The SDK's own parser logs what it does not take, and keeps lists of any length.
    """
    members = [member for part in tracestate.split(b",") if (member := part.strip(b" \t"))]
    if len(members) > _MAXIMUM_STATE_MEMBERS or not all(map(_STATE_MEMBER.fullmatch, members)):
        return ""
    if len({member.partition(b"=")[0] for member in members}) < len(members):
        return ""
    if _length(members) > _MAXIMUM_STATE_BYTES:
        members = [member for member in members if len(member) <= _LARGE_STATE_MEMBER]
    while _length(members) > _MAXIMUM_STATE_BYTES:
        members.pop()
    return b",".join(members).decode("ascii")


def _length(members: list[bytes]) -> int:
    return sum(map(len, members)) + len(members) - 1


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


_ALWAYS: Final[dict[Sampler, tuple[bool, bool, bool]]] = {
    ALWAYS_ON: (True, True, True),
    ALWAYS_OFF: (False, False, False),
    DEFAULT_ON: (True, True, False),
    DEFAULT_OFF: (False, True, False),
}
"""Of the SDK's samplers those whose answer is always the same: for a root, a sampled parent, a parent that is not."""


class SamplingDecision:
    """Asks the SDK's sampler, unless its answer is known; those that most services have are objects of the SDK."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._root: bool | None = None
        self._with_parent: dict[bool, bool] | None = None
        if (known := _ALWAYS.get(sampler)) is not None:
            self._root = known[0]
            self._with_parent = {True: known[1], False: known[2]}

    def __call__(self, trace_id: str, parent: Parent | None) -> bool:
        """Say whether the request's spans are recorded."""
        if parent is None:
            return self.ask(trace_id, None) if self._root is None else self._root
        return self.ask(trace_id, parent) if self._with_parent is None else self._with_parent[parent.sampled]

    def ask(self, trace_id: str, parent: Parent | None) -> bool:
        """Return the sampler's own answer."""
        context = None
        if parent is not None:
            flags = TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT)
            remote = SpanContext(int(parent.trace_id, 16), int(parent.span_id, 16), is_remote=True, trace_flags=flags)
            context = set_span_in_context(NonRecordingSpan(remote))
        result = self._sampler.should_sample(context, int(trace_id, 16), "request", SpanKind.SERVER)
        return result.decision is Decision.RECORD_AND_SAMPLE
