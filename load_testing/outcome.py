"""What happened in a load test: its requests, and those worth opening as a trace."""

import heapq
import itertools
from dataclasses import dataclass, field
from typing import Final

SLOWEST: Final = 10
FAILED: Final = 20


@dataclass(frozen=True)
class Request:
    """One request.

    ``started`` is seconds since the epoch, ``status`` 0 where no answer came, ``problem`` empty where all was well.
    """

    trace_id: str
    name: str
    status: int
    milliseconds: float
    started: float
    problem: str


class Recorder:
    """Keeps the slowest answered requests, the first failed ones, and counts the corrupted ones."""

    def __init__(self) -> None:
        self._slowest: list[tuple[float, int, Request]] = []
        self._order = itertools.count()
        self.failed: list[Request] = []
        self.corrupted = 0
        self.accepted = 0

    def add(self, request: Request, *, corrupted: bool) -> None:
        """Take one finished request."""
        if corrupted:
            self.corrupted += 1
            self.accepted += 200 <= request.status < 300
        if request.problem and len(self.failed) < FAILED:
            self.failed.append(request)
        if request.status:
            entry = (request.milliseconds, next(self._order), request)
            if len(self._slowest) < SLOWEST:
                heapq.heappush(self._slowest, entry)
            else:
                heapq.heappushpop(self._slowest, entry)

    @property
    def slowest(self) -> list[Request]:
        """The slowest answered requests, slowest first."""
        return [request for _, _, request in sorted(self._slowest, reverse=True)]


@dataclass(frozen=True)
class Row:
    """One kind of request; latencies in milliseconds, ``throughput`` in requests per second."""

    name: str
    requests: int
    failures: int
    throughput: float
    p50: float
    p95: float
    p99: float
    maximum: float


@dataclass(frozen=True)
class Outcome:
    """A finished run; the figures are locust's own, so that they equal those in its report.

    ``good`` and ``p99`` (milliseconds) are the requests that were meant to succeed, ``throughput`` is requests per
    second, and ``accepted`` says how many of the ``corrupted`` requests got a 2xx. ``main_reason`` is the most
    frequent failure; ``saturated`` says that the load test itself had too little processor time, ``crashes`` are
    errors of its own code.
    """

    requests: int
    failures: int
    good: int
    p99: float
    throughput: float
    corrupted: int
    accepted: int
    main_reason: str = ""
    saturated: bool = False
    crashes: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()
    slowest: tuple[Request, ...] = field(default=(), repr=False)
    failed: tuple[Request, ...] = field(default=(), repr=False)

    @property
    def failure_ratio(self) -> float:
        """Share of failed requests, 0 to 1."""
        return self.failures / self.requests if self.requests else 0.0
