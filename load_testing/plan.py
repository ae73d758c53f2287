"""What a load test sends and what the service must hold; every default is here, and only here."""

from collections.abc import Iterator
from dataclasses import dataclass

from load_testing.outcome import Outcome


@dataclass(frozen=True)
class Load:
    """What is sent.

    ``users`` is the largest number of users at one time; each sends its next request when it has the last answer, or
    at its share of ``rate`` where so many requests a second are wanted of all users together.
    ``duration`` is seconds. ``health``, ``corrupt`` and ``drifted`` are shares (0 to 1): of questions whether the
    service is ready, of requests that are wrong on purpose, and of good ones unlike the training data.
    ``seed`` fixes which requests each user sends, never the trace ids.
    """

    shape: str = "steady"
    users: int = 20
    duration: float = 60.0
    corrupt: float = 0.05
    seed: int = 1
    rate: float | None = None
    drifted: float = 0.0
    health: float = 0.0

    def kind(self, drawn: float) -> str:
        """The kind of request for a number drawn from ``health`` to 1."""
        share = drawn - self.health
        if share < self.corrupt:
            return "corrupted"
        return "drifted" if share < self.corrupt + self.drifted else "valid"


@dataclass(frozen=True)
class Thresholds:
    """What fails a run: share of failed requests (0 to 1), milliseconds, and requests per second or no minimum."""

    failure_ratio: float = 0.0
    p99: float = 500.0
    throughput: float | None = None

    def violations(self, outcome: Outcome) -> list[str]:
        """One sentence for each threshold that the run did not hold."""
        return list(self._violations(outcome))

    def _violations(self, outcome: Outcome) -> Iterator[str]:
        for crash in outcome.crashes:
            yield f"The load test itself failed, so its numbers cannot be trusted: {crash}."
        if not outcome.requests:
            yield "No request was made: let the test run longer."
            return
        if outcome.failure_ratio > self.failure_ratio:
            yield (
                f"{outcome.failures} of {outcome.requests} requests failed, {_percent(outcome.failure_ratio)} where "
                f"{_percent(self.failure_ratio)} are allowed; most often {outcome.main_reason}."
            )
        if outcome.accepted:
            yield (
                f"{outcome.accepted} of {outcome.corrupted} corrupted requests were accepted: "
                "the service must refuse every one with a 4xx status."
            )
        if outcome.good and outcome.p99 > self.p99:
            yield f"The p99 latency of good requests was {outcome.p99:,.0f} ms where {self.p99:,.0f} ms are allowed."
        if self.throughput is not None and outcome.throughput < self.throughput:
            yield f"The service answered {outcome.throughput:,.1f} requests/s where {self.throughput:,.1f} are wanted."


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
