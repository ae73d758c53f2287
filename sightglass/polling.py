"""Waiting for something to become true, or to stay true, with a deadline that reports the last state seen."""

import time
from collections.abc import Callable
from typing import TypeVar

import tenacity

T = TypeVar("T")


class NotYet(Exception):  # noqa: N818 - it is a state, not an error
    """Raised by a probe whose condition does not hold; the message is the state it saw."""


class Never(Exception):  # noqa: N818 - it is a state, not an error
    """Raised by a probe whose condition cannot come true any more; waiting ends at once."""


class DeadlineError(AssertionError):
    """The condition did not hold in time; the message ends with the last state seen."""


def until(probe: Callable[[], T], *, timeout: float, interval: float = 0.1, what: str) -> T:
    """Call ``probe`` until it returns instead of raising :class:`NotYet`, at least once.

    ``timeout`` and ``interval`` are seconds; ``what`` completes the sentence "waited for ...".
    Raises :class:`DeadlineError` with the last state, at once when the probe raises :class:`Never`; any other
    exception of the probe passes through.
    """
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(NotYet),
        wait=tenacity.wait_fixed(interval),
        stop=tenacity.stop_after_delay(timeout),
        reraise=True,
    )
    try:
        return retrying(probe)
    except Never as reason:
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
