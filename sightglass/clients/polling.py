"""Waiting for something to become true, or to stay true, with a deadline that reports the last state seen."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import tenacity

T = TypeVar("T")


class NotYet(Exception):  # noqa: N818 - it is a state, not an error
    """Raised by a probe whose condition does not hold; the message is the state it saw."""


class GiveUp(Exception):  # noqa: N818 - it is a state, not an error
    """Raised by a probe whose condition cannot come true any more; waiting ends at once."""


class DeadlineError(AssertionError):
    """The condition did not hold in time; the message ends with the last state seen."""


_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)


@contextmanager
def deadline(moment: float) -> Iterator[None]:
    """Let no request of the block's go on after that moment of ``time.monotonic``."""
    token = _deadline.set(min(moment, _deadline.get()))
    try:
        yield
    finally:
        _deadline.reset(token)


def time_left(most: float) -> float:
    """Seconds that a request may take: ``most``, or what is left until the deadline; :class:`NotYet` after it."""
    left = _deadline.get() - time.monotonic()
    if left <= 0:
        raise NotYet("the time is up")
    return min(most, left)


def until(
    probe: Callable[[], T], *, timeout: float, interval: float = 0.1, slowest: float | None = None, what: str
) -> T:
    """Call ``probe`` until it returns instead of raising :class:`NotYet`, at least once.

    ``timeout`` and ``interval`` are seconds; ``what`` completes the sentence "waited for ...". With ``slowest`` the
    pauses grow, a fifth of the time that has passed, up to so many seconds.
    Raises :class:`DeadlineError` with the last state, at once when the probe raises :class:`GiveUp`; any other
    exception of the probe passes through.
    """
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(NotYet),
        wait=lambda state: min(max((state.seconds_since_start or 0) / 5, interval), max(slowest or 0, interval)),
        stop=tenacity.stop_before_delay(timeout),
        reraise=True,
    )
    try:
        return retrying(probe)
    except GiveUp as reason:
        raise DeadlineError(f"{what}: {reason}") from reason
    except NotYet as last:
        raise DeadlineError(f"waited {timeout:g} s for {what}; last seen: {last}") from last


def stays(probe: Callable[[], T], *, duration: float, interval: float = 0.2, what: str) -> T:
    """Call ``probe`` for ``duration`` seconds and return its last answer; the first :class:`NotYet` ends it.

    The counterpart of :func:`until`, for what must not happen: "no second line arrives".
    """
    end = time.monotonic() + duration
    while True:
        try:
            answer = probe()
        except NotYet as state:
            raise DeadlineError(f"{what} did not hold for {duration:g} s; seen: {state}") from state
        if time.monotonic() >= end:
            return answer
        time.sleep(interval)
