"""Progress of one long step: a bar on a terminal, a line now and then where nobody watches (CI, a log file)."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

LINE_EVERY = 20.0
"""Seconds between two lines of the same step when the output is no terminal."""


PACE_AFTER = 2.0
"""Seconds after which the units done so far say how fast it goes."""


def elapsed(seconds: float) -> str:
    """Duration for people: ``8 s``, ``3 min 05 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


@dataclass(frozen=True)
class Expected:
    """What earlier runs say: seconds of this step, and of the steps that come after it."""

    seconds: float
    later: float = 0.0


class LiveLine:
    """The state of one long step: a bar on a terminal, else a line at most every ``every`` seconds."""

    def __init__(
        self, console: Console, label: str, *, every: float | None = None, refresh_in_thread: bool = True
    ) -> None:
        self._console = console
        self._label = label
        self._every = LINE_EVERY if every is None else every
        self._refresh_in_thread = refresh_in_thread
        self.started = self._spoke = time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            TimeElapsedColumn(),
        )
        self._bar = (
            Progress(*columns, console=console, auto_refresh=refresh_in_thread, transient=True)
            if console.is_terminal
            else None
        )
        self._task = self._bar.add_task(label, total=None, state="") if self._bar else None

    def start(self) -> None:
        """Begin to show it; where nobody watches nothing is said yet."""
        self.started = self._spoke = time.monotonic()
        if self._bar:
            self._bar.start()

    def stop(self) -> None:
        """Take the bar away."""
        if self._bar:
            self._bar.stop()

    @property
    def live(self) -> bool:
        """Whether it is a bar."""
        return self._bar is not None

    def show(self, state: str, done: float, total: float | None) -> None:
        """Show the state, with so many of the units done."""
        if self._bar and self._task is not None:
            self._bar.update(self._task, total=total, completed=done, state=state)
            if not self._refresh_in_thread:
                self._bar.refresh()
        elif time.monotonic() - self._spoke >= self._every:
            self.say(f"{self._label}: {state}, {elapsed(time.monotonic() - self.started)}")

    def say(self, line: str) -> None:
        """Print one line as it is."""
        self._spoke = time.monotonic()
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class Meter:
    """Shows how far one step is, and how many seconds are left; use it as a context manager.

    ``amount`` turns a number of units into words ("12 packages", "3.4 MB"); the total may become known later.
    A step that ends by an exception is not announced as done.
    """

    def __init__(
        self, console: Console, label: str, amount: Callable[[float], str], expected: Expected | None = None
    ) -> None:
        self._line = LiveLine(console, label)
        self._label = label
        self._expected = expected
        self._amount = amount
        self._already = 0.0
        self._total: float | None = None
        self._done = 0.0
        self._counted = self._line.started

    def __enter__(self) -> Self:
        self._line.start()
        if not self._line.live:
            self._line.say(f"{self._label} ...")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._line.stop()
        if error is None:
            self._line.say(f"{self._label}: done after {elapsed(time.monotonic() - self._line.started)}")

    def note(self, text: str) -> None:
        """Say what happens while there is nothing to count yet."""
        self._show(text)

    def total(self, units: float, already: float = 0.0) -> None:
        """Set how many units there are, and how many an earlier run did; what was done so far is forgotten."""
        self._total, self._done, self._already = units, already, already
        self._counted = time.monotonic()
        self._show(self._state())

    def done(self, units: float) -> None:
        """Set how many units are done, counted from the start."""
        self._done = units
        self._show(self._state())

    def _state(self) -> str:
        if not self._total:
            return self._amount(self._done)
        share = min(1.0, self._done / self._total)
        left = self._left()
        return f"{share:.0%} of {self._amount(self._total)}" + (f", {elapsed(left)} left" if left is not None else "")

    def _left(self) -> float | None:
        """Seconds until all is done, None while that cannot be said."""
        assert self._total is not None  # noqa: S101 - asked by the caller
        spent = time.monotonic() - self._counted
        counted, open_units = self._done - self._already, max(0.0, self._total - self._done)
        pace = spent / counted if counted and spent >= PACE_AFTER else None
        if self._expected is None:
            return None if pace is None else pace * open_units
        units = max(1.0, self._total - self._already)
        whole = self._expected.seconds
        # The first packages say little: the nearer the end, the more this run counts, and the less earlier ones.
        if pace is not None:
            share = counted / units
            whole = share * pace * units + (1 - share) * whole
        ratio = whole / self._expected.seconds if self._expected.seconds else 1.0
        return whole * open_units / units + ratio * self._expected.later

    def _show(self, state: str) -> None:
        self._line.show(state, self._done, self._total)
