"""What a person sees: progress while the test runs, and its outcome."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.table import Table

from load_testing.outcome import Outcome, Request
from load_testing.report import Files
from load_testing.run import LoadTest
from load_testing.traces import TraceLinks
from sightglass.terminal.progress import LiveLine

LINE_SECONDS = 3.0
"""Between two lines where the output is no terminal."""


class Figures:
    """The figures of a run of ``duration`` seconds while it goes on; use it as a context manager."""

    def __init__(self, console: Console, duration: float) -> None:
        # The run calls often enough, so the bar needs no thread of its own.
        self._line = LiveLine(console, "load", every=LINE_SECONDS, refresh_in_thread=False)
        self._duration = duration

    def __enter__(self) -> Self:
        self._line.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._line.stop()

    def show(self, seconds: float, test: LoadTest) -> None:
        """Show the state after that many seconds."""
        state = test.state()
        left = max(0.0, self._duration - seconds)
        latency = " ".join(
            f"p{percent} {'-' if value is None else f'{value:,.0f}'}" for percent, value in state.percentiles.items()
        )
        figures = (
            f"{state.users} users, {state.throughput:,.0f} requests/s, {state.failures:,} failed, "
            f"{latency} ms, {left:.0f} s left"
        )
        self._line.show(figures, seconds, self._duration)


def say(console: Console, line: str) -> None:
    """Print one line as it is; addresses stay whole, to be clicked or copied."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def show(console: Console, outcome: Outcome, links: TraceLinks, files: Files) -> None:
    """Print the statistics, the requests worth opening, and where the files are."""
    console.print(_statistics(outcome))
    if outcome.saturated:
        say(console, "Locust itself used a whole processor: part of these latencies is its own. Take fewer --users.")
    _requests(console, "Slowest requests", outcome.slowest, links)
    _requests(console, "Failed requests", outcome.failed, links)
    for label, path in (("Report", files.report), ("Requests", files.requests), ("Traces", files.slow)):
        say(console, f"{label + ':':<10}{path}")


def _statistics(outcome: Outcome) -> Table:
    title = f"{outcome.requests:,} requests, {outcome.failures:,} failed, {outcome.throughput:,.1f} requests/s"
    table = Table(title=title, title_justify="left")
    for heading in ("request", "count", "failed", "p50 ms", "p95", "p99", "max"):
        table.add_column(heading, justify="left" if heading == "request" else "right", overflow="fold")
    for row in outcome.rows:
        figures = (row.requests, row.failures, row.p50, row.p95, row.p99, row.maximum)
        table.add_row(row.name.replace("[", r"\["), *(f"{figure:,.0f}" for figure in figures))
    return table


def _requests(console: Console, title: str, requests: tuple[Request, ...], links: TraceLinks) -> None:
    if not requests:
        return
    say(console, f"{title}, as traces:")
    for request in requests:
        # Grafana's addresses are long: they are in the files.
        say(
            console,
            f"{request.milliseconds:>9,.1f} ms  {request.status or '---'}  {request.name}"
            f"{f' {request.problem}' if request.problem else ''}  {links.tempo(request.trace_id)}",
        )
