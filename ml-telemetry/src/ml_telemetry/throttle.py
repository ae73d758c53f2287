"""Complaints that come again and again, said once a minute."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import ClassVar


class OncePerMinute(logging.Filter):
    """Lets one record of each logger and level pass per minute: an exporter without a Collector complains often."""

    SECONDS: ClassVar[float] = 60.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._last: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether the record passes."""
        now = self._clock()
        key = (record.name, record.levelno)
        if now - self._last.get(key, float("-inf")) < self.SECONDS:
            return False
        self._last[key] = now
        return True
