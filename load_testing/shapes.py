"""How many users there are at each moment of a load test."""

from collections.abc import Callable, Mapping
from typing import Final

QUIET_SECONDS: Final = 7.0
SPIKE_SECONDS: Final = 3.0
QUIET_SHARE: Final = 0.1
"""Share of the users that stay between two spikes, at least one."""

BURST_SECONDS: Final = QUIET_SECONDS + SPIKE_SECONDS
"""One round of ``burst``: a shorter run would have no whole spike."""


def steady(users: int, second: float) -> int:  # noqa: ARG001 - every shape has this signature
    """Return all users, at every moment."""
    return users


def burst(users: int, second: float) -> int:
    """Return few users for a while, then all of them for a short spike, again and again."""
    quiet = second % BURST_SECONDS < QUIET_SECONDS
    return max(1, round(users * QUIET_SHARE)) if quiet else users


SHAPES: Final[Mapping[str, Callable[[int, float], int]]] = {"steady": steady, "burst": burst}
"""By name: number of users, from the largest number and the seconds since the start."""
