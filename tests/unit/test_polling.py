"""The polling helper: at least once, until true, stays true, and the last state in the message."""

import pytest

from sightglass import polling
from sightglass.polling import DeadlineError, Never, NotYet


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
        raise Never("the service is gone")

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
