"""What the request's path writes down: plain values and timestamps, turned into telemetry later by other threads.

Times are nanoseconds of ``time.perf_counter_ns``; only a request's and a batch's start is also wall-clock time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple

from ml_telemetry.context import new_span_id, new_trace_id, new_uuid7


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request got no prediction; ``reason`` is one of the contract's, ``message`` tells the caller what to do."""

    status: int
    reason: str
    message: str


@dataclass(slots=True)
class Connection:
    """What a caller's requests have in common; ``encoded`` keeps its span attributes once they were encoded."""

    method: str
    route: str | None
    scheme: str
    protocol_version: str
    server_address: str
    server_port: int | None
    client_address: str
    user_agent: str
    encoded: bytes = b""


class SpanReference(NamedTuple):
    """Where something was seen: wall-clock nanoseconds and hexadecimal ids of a sampled span.

    Batches and histograms keep these and not records: a batch that held its requests, which hold it, would make a cycle
    that only the garbage collector frees, and that runs seldom here.
    """

    start_wall: int
    trace_id: str
    span_id: str


class BatchRecord:
    """One adaptive batch: the stages that all its requests share."""

    __slots__ = (
        "predict_end",
        "predict_start",
        "sampled",
        "size",
        "span_id",
        "start_wall",
        "trace_id",
        "vectorize_end",
        "vectorize_start",
        "zero",
    )

    def __init__(self, size: int) -> None:
        self.size = size
        self.trace_id = new_trace_id()
        self.span_id = new_span_id()
        self.start_wall = time.time_ns()
        self.zero = time.perf_counter_ns()
        self.vectorize_start = self.vectorize_end = self.predict_start = self.predict_end = self.zero
        # The sampled requests of the batch; the batch has a span if there is one.
        self.sampled: list[SpanReference] = []


class PredictionRecord:
    """One prediction: its result, the profile of its input and the times of its stages."""

    __slots__ = (
        "batch",
        "confidence",
        "features",
        "label",
        "margin",
        "normalise_end",
        "normalise_start",
        "postprocess_end",
        "postprocess_start",
        "prediction_id",
        "probabilities",
        "text_sha256",
    )

    def __init__(self) -> None:
        self.prediction_id = new_uuid7()
        self.batch: BatchRecord | None = None
        self.label = ""
        self.confidence = 0.0
        self.margin = 0.0
        self.probabilities: dict[str, float] = {}
        # In the contract's order: characters, words, word length, alphabetic, digit, special, out of vocabulary.
        self.features: Sequence[float] = ()
        self.text_sha256 = ""
        self.normalise_start = self.normalise_end = self.postprocess_start = self.postprocess_end = 0


class RequestRecord:
    """One HTTP request, from its first byte to its answer."""

    __slots__ = (
        "connection",
        "end",
        "exception",
        "failure",
        "observed",
        "parent_span_id",
        "path",
        "prediction",
        "request_id",
        "request_size",
        "response_size",
        "sampled",
        "span_id",
        "start",
        "start_wall",
        "status",
        "trace_id",
        "trace_state",
    )

    def __init__(self, trace_id: str, parent_span_id: str, sampled: bool, trace_state: str) -> None:
        self.start_wall = time.time_ns()
        self.start = time.perf_counter_ns()
        self.end = 0
        self.trace_id = trace_id
        self.span_id = new_span_id()
        self.parent_span_id = parent_span_id
        self.sampled = sampled
        self.trace_state = trace_state
        self.connection: Connection
        self.path = ""
        self.request_id = ""
        self.request_size = 0
        self.response_size = 0
        self.status = 0
        self.observed = True
        self.failure: Failure | None = None
        self.exception: BaseException | None = None
        self.prediction: PredictionRecord | None = None

    def reference(self) -> SpanReference | None:
        """Return where to find this request's span, or None if it is not sampled."""
        return SpanReference(self.start_wall, self.trace_id, self.span_id) if self.sampled else None

    def wall(self, moment: int) -> int:
        """Turn a ``perf_counter_ns`` moment of this request into nanoseconds since the epoch."""
        return self.start_wall + moment - self.start


# The request that the current task serves: log lines take their trace from it.
current_request: ContextVar[RequestRecord | None] = ContextVar("current_request", default=None)
