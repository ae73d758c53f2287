"""Waiting for what comes a moment later."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_INTERVAL = 0.02


def until(probe: Callable[[], T | None], what: str, seconds: float = 20.0) -> T:
    """Ask until the probe gives something; fail with what was awaited."""
    deadline = time.monotonic() + seconds
    while True:
        if found := probe():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} seconds for {what}")
        time.sleep(_INTERVAL)
