"""What the request's path writes down: plain values and timestamps, turned into telemetry later by other threads.

Times are nanoseconds of ``time.perf_counter_ns``; only a request's and a batch's start is also wall-clock time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from ml_telemetry.context import new_span_id, new_trace_id, new_uuid7


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request got no prediction; ``reason`` is one of the contract's, ``message`` tells the caller what to do."""

    status: int
    reason: str
    message: str


@dataclass(slots=True)
class Connection:
    """What a caller's requests have in common; ``attributes`` keeps its span attributes once they were made."""

    method: str
    route: str | None
    scheme: str
    protocol_version: str
    server_address: str
    server_port: int | None
    client_address: str
    user_agent: str
    attributes: bytes = b""


class SpanReference(NamedTuple):
    """Where something was seen: wall-clock nanoseconds and hexadecimal ids of a sampled span.

    ``proof`` says that it is a request of the proof, whose exemplars are all kept.

    Batches and histograms keep these and not records: a batch that held its requests, which hold it, would make a cycle
    that only the garbage collector frees, and that runs seldom here.
    """

    start_wall: int
    trace_id: str
    span_id: str
    proof: bool = False


class BatchRecord:
    """One adaptive batch: the stages that all its requests share."""

    __slots__ = (
        "end",
        "exception",
        "sampled",
        "size",
        "span_id",
        "start_wall",
        "times",
        "trace_id",
        "zero",
    )
    # Its trace begins with it.
    trace_state: ClassVar[str] = ""

    def __init__(self, size: int, sampled: Sequence[SpanReference] = ()) -> None:
        self.size = size
        # The sampled requests of the batch; the batch has a span if there is one.
        self.sampled = sampled
        self.trace_id = new_trace_id()
        self.span_id = new_span_id()
        self.start_wall = time.time_ns()
        self.zero = time.perf_counter_ns()
        # Begin and end of each stage per batch, in the order of the declaration.
        self.times: Sequence[int] = ()
        # When it failed, and why.
        self.end = 0
        self.exception: BaseException | None = None


class PredictionRecord:
    """One prediction: its result, the profile of its input and the times of its stages."""

    __slots__ = (
        "batch",
        "confidence",
        "features",
        "hash_key_id",
        "label",
        "margin",
        "prediction_id",
        "probabilities",
        "text_hash",
        "times",
        "value",
    )

    def __init__(self) -> None:
        self.prediction_id = new_uuid7()
        self.batch: BatchRecord | None = None
        self.label = ""
        self.confidence = 0.0
        self.margin = 0.0
        self.probabilities: dict[str, float] = {}
        # What a regression answers.
        self.value = 0.0
        # In the order of the declaration's observed features: numbers, categories as text, None for what is missing.
        self.features: Sequence[float | str | None] = ()
        # Empty where no key is configured.
        self.text_hash = self.hash_key_id = ""
        # Begin and end of each stage per request, in the order of the declaration.
        self.times: Sequence[int] = ()


class RequestRecord:
    """One HTTP request, from its first byte to its answer."""

    __slots__ = (
        "connection",
        "end",
        "exception",
        "failure",
        "kept",
        "observed",
        "parent_span_id",
        "path",
        "prediction",
        "proof",
        "request_id",
        "request_size",
        "response_size",
        "sampled",
        "span_id",
        "start",
        "start_wall",
        "status",
        "synthetic",
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
        # Sent by the stack itself, and of a proof.
        self.synthetic = self.proof = False
        self.path = ""
        self.request_id = ""
        self.request_size = 0
        self.response_size = 0
        self.status = 0
        self.observed = True
        # Whether the application was given what is known of it.
        self.kept = False
        self.failure: Failure | None = None
        self.exception: BaseException | None = None
        self.prediction: PredictionRecord | None = None

    def reference(self) -> SpanReference | None:
        """Return where to find this request's span, or None if it is not sampled."""
        return SpanReference(self.start_wall, self.trace_id, self.span_id, self.proof) if self.sampled else None

    def wall(self, moment: int) -> int:
        """Turn a ``perf_counter_ns`` moment of this request into nanoseconds since the epoch."""
        return self.start_wall + moment - self.start
