"""The polling helper: at least once, until true, stays true, and the last state in the message."""

import time
from itertools import pairwise

import pytest

from sightglass.clients import polling
from sightglass.clients.polling import DeadlineError, GiveUp, NotYet


class Probe:
    """Fails with its own count until the ``good``-th call, or from the ``bad``-th call on."""

    def __init__(self, *, good: int = 1, bad: int = 10**9) -> None:
        self.calls, self.good, self.bad = 0, good, bad

    def __call__(self) -> int:
        self.calls += 1
        if self.calls < self.good or self.calls >= self.bad:
            raise NotYet(f"call {self.calls}")
        return self.calls


def test_until_returns_what_the_probe_returns() -> None:
    assert polling.until(Probe(good=3), timeout=5, interval=0.001, what="the third call") == 3


def test_until_asks_at_least_once() -> None:
    assert polling.until(Probe(), timeout=0, what="a true thing") == 1


def test_until_reports_the_last_state() -> None:
    probe = Probe(good=10**9)
    with pytest.raises(DeadlineError, match=r"waited 0\.05 s for the impossible; last seen: call \d+") as caught:
        polling.until(probe, timeout=0.05, interval=0.01, what="the impossible")
    assert str(caught.value).endswith(f"call {probe.calls}")


def test_until_gives_up_at_once_when_it_can_never_be() -> None:
    def never() -> None:
        raise GiveUp("the service is gone")

    with pytest.raises(DeadlineError, match="the answer: the service is gone"):
        polling.until(never, timeout=600, what="the answer")


def test_another_error_passes_through() -> None:
    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        polling.until(broken, timeout=600, what="the answer")


def test_stays_returns_the_last_answer() -> None:
    probe = Probe()
    assert polling.stays(probe, duration=0.05, interval=0.01, what="truth") == probe.calls > 1


def test_stays_ends_with_the_first_failure() -> None:
    with pytest.raises(DeadlineError, match="truth did not hold for 600 s; seen: call 3"):
        polling.stays(Probe(bad=3), duration=600, interval=0.001, what="truth")


def test_pauses_grow_with_the_time_that_has_passed() -> None:
    asked: list[float] = []

    def probe() -> None:
        asked.append(time.monotonic())
        raise NotYet("nothing")

    with pytest.raises(DeadlineError):
        polling.until(probe, timeout=1.5, interval=0.01, slowest=0.1, what="the impossible")
    pauses = [after - before for before, after in pairwise(asked)]
    assert pauses[0] < 0.1 <= pauses[-1]
    assert len(pauses) < 60


def test_nothing_goes_on_after_a_deadline() -> None:
    assert polling.time_left(7) == 7
    with polling.deadline(time.monotonic() + 5):
        assert 0 < polling.time_left(7) <= 5
        assert polling.time_left(1) == 1
        # The nearer one counts.
        with polling.deadline(time.monotonic() + 60):
            assert polling.time_left(7) <= 5
        with polling.deadline(time.monotonic()), pytest.raises(NotYet, match="the time is up"):
            polling.time_left(7)
    assert polling.time_left(7) == 7
