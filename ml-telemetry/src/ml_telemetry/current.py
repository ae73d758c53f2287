"""What the current task works on, a request or a batch: for log lines, and for OpenTelemetry's own API.

Spans that the application starts become children of it, and clients that OpenTelemetry instruments send it along.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Final

from opentelemetry import context as api
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from ml_telemetry.record import BatchRecord, RequestRecord

Work = RequestRecord | BatchRecord
Attached = tuple[Token[Work | None], Token[api.Context]]

_current: Final[ContextVar[Work | None]] = ContextVar("current_work", default=None)
_NOTHING: Final = api.Context()


class WorkSpan(NonRecordingSpan):
    """The span of a request or a batch as the API sees it; its context is made when somebody asks for it."""

    def __init__(self, work: Work) -> None:
        super().__init__(INVALID_SPAN_CONTEXT)
        self._work = work

    def get_span_context(self) -> SpanContext:
        """Return the ids that this span gets when it is exported."""
        work = self._work
        return SpanContext(
            int(work.trace_id, 16),
            int(work.span_id, 16),
            is_remote=False,
            trace_flags=TraceFlags(TraceFlags.SAMPLED if work.sampled else TraceFlags.DEFAULT),
            trace_state=TraceState.from_header([work.trace_state]) if work.trace_state else None,
        )


def current_work() -> Work | None:
    """Return the request or the batch that the current task works on."""
    return _current.get()


def current_request() -> RequestRecord | None:
    """Return the request that the current task serves."""
    work = _current.get()
    return work if isinstance(work, RequestRecord) else None


def attach(work: Work) -> Attached:
    """Let the current task work on this, and on nothing that it worked on before; give the result to ``detach``."""
    return _current.set(work), api.attach(set_span_in_context(WorkSpan(work), _NOTHING))


def detach(attached: Attached) -> None:
    """Take ``attach`` back."""
    _current.reset(attached[0])
    api.detach(attached[1])


@contextmanager
def working_on(work: Work) -> Iterator[None]:
    """Let the block work on this."""
    attached = attach(work)
    try:
        yield
    finally:
        detach(attached)
