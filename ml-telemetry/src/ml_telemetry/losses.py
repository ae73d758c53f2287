"""Says in a log line what telemetry was lost: at once, and then at most once a minute, until all of it was said."""

from __future__ import annotations

import threading
import time
from typing import Final

from ml_telemetry import signals
from ml_telemetry.logs import log_event

SECONDS: Final = 60.0
_CHECK: Final = {
    "logs": "check what reads the standard output of the service",
    "records": "check the function on_prediction of the service",
}
_COLLECTOR: Final = "check the Collector"


class LossNotice:
    """The lines of one signal."""

    def __init__(self, signal: str, seconds: float = SECONDS) -> None:
        self._signal = signal
        self._seconds = seconds
        self._lock = threading.Lock()
        self._unsaid = 0
        self._reason = ""
        self._next = float("-inf")
        self._timer: threading.Timer | None = None

    def lost(self, reason: str, count: int) -> None:
        """Note a loss; what cannot be said now is said when its time comes."""
        with self._lock:
            self._unsaid += count
            self._reason = reason
            remaining = self._next - time.monotonic()
            if remaining > 0:
                if self._timer is None:
                    self._timer = threading.Timer(remaining, self.say)
                    self._timer.daemon = True
                    self._timer.start()
                return
        self.say()

    def say(self) -> None:
        """Write the line if there is something that was not said yet."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            count, self._unsaid = self._unsaid, 0
            self._next = time.monotonic() + self._seconds
        if count:
            check = _CHECK.get(self._signal, _COLLECTOR)
            message = f"telemetry of the signal {self._signal} was lost ({self._reason}): {check}"
            attributes = {signals.DROPPED_COUNT.name: count}
            # Where lines are lost because too many wait, this one still finds room.
            log_event(signals.TELEMETRY_DROPPED_EVENT, message, attributes, always=True)
