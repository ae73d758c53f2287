"""Seconds left: from what was done so far, and from what earlier runs took."""

import io

import pytest
from rich.console import Console

from sightglass.terminal import progress
from sightglass.terminal.progress import Expected, Meter


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that the test sets; every state is printed."""
    made = Clock()
    monkeypatch.setattr(progress, "time", made)
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    return made


def lines(
    clock: Clock, steps: list[tuple[float, float]], already: float = 0.0, expected: Expected | None = None
) -> str:
    """What is said last after these steps of seconds and units done, of 100 units."""
    output = io.StringIO()
    with Meter(Console(file=output, width=200), "step", lambda units: f"{units:.0f} units", expected) as meter:
        meter.total(100, already=already)
        for seconds, units in steps:
            clock.now += seconds
            meter.done(units)
    return output.getvalue().splitlines()[-2]


def test_from_the_pace_so_far(clock: Clock) -> None:
    assert lines(clock, [(10, 20)]) == "step: 20% of 100 units, 40 s left, 10 s"
    assert lines(clock, [(10, 20), (10, 60)]) == "step: 60% of 100 units, 13 s left, 20 s"


def test_nothing_is_said_before_anything_is_known(clock: Clock) -> None:
    assert lines(clock, [(0.5, 20)]) == "step: 20% of 100 units, 0 s"


def test_what_an_earlier_run_fetched_is_no_pace(clock: Clock) -> None:
    assert lines(clock, [(10, 60)], already=50) == "step: 60% of 100 units, 40 s left, 10 s"


def test_from_earlier_runs_until_this_one_knows_better(clock: Clock) -> None:
    expected = Expected(60, later=120)
    assert lines(clock, [(0, 0)], expected=expected) == "step: 0% of 100 units, 3 min 00 s left, 0 s"
    # Half as fast as expected: near the end what comes later is taken for slower too.
    assert lines(clock, [(108, 90)], expected=expected) == "step: 90% of 100 units, 3 min 59 s left, 1 min 48 s"
