"""Whether one bad item costs only itself: every kind of it among good ones, sent to the running stack and looked for.

``make neighbours`` prints a table: how many good items were lost, and what became of the bad ones.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import click
from rich.progress import Progress
from rich.table import Table

from sightglass.clients import http, polling
from sightglass.clients.backends import LogLine, Loki, Prometheus, Span, Tempo
from sightglass.clients.polling import DeadlineError, NotYet
from sightglass.facts import settings, target
from sightglass.facts.errors import UserError
from sightglass.facts.target import Target
from sightglass.measure import bad_telemetry
from sightglass.measure.bad_telemetry import BAD, DAY, GOOD, Origin, Shape, Signal
from sightglass.terminal import screen

TOGETHER = 40
"""Good items in one request with a bad one."""
REQUESTS = 25
MILLISECOND = 1_000_000
LEVELS = frozenset({"trace", "debug", "info", "warn", "error", "fatal", "unknown"})
AT_ONCE = 8


@dataclass(frozen=True)
class Stack:
    """Where items are sent, and where they are looked for."""

    otlp: str
    lines: str
    loki: Loki
    prometheus: Prometheus
    tempo: Tempo

    @classmethod
    def of(cls, where: Target, lines: str) -> "Stack":
        """The stack of a target, with the address of the port for Promtail."""
        return cls(
            where.otlp_http_url, lines, Loki(where.loki_url), Prometheus(where.prometheus_url), Tempo(where.tempo_url)
        )


@dataclass
class Row:
    """All requests of one kind."""

    shape: Shape
    instance: str
    places: list[Origin] = field(default_factory=list)
    problem: str = ""
    """Why the Collector did not take one of them."""

    @property
    def neighbours(self) -> int:
        """How many good items were sent."""
        return len(self.places) * TOGETHER

    def service(self, service: str) -> str:
        """What the good or the bad items are of."""
        return f"{service}-{self.instance}" if self.shape.signal == "lines" else service


@dataclass(frozen=True)
class Outcome:
    """What became of a row."""

    row: Row
    lost: int
    """Good items that were not found."""
    culprit: str
    """What became of the bad ones."""
    problem: str
    """What is wrong with that; empty where nothing is."""

    @property
    def good(self) -> bool:
        """Nobody was hurt, and the bad ones are accounted for."""
        return self.lost == 0 and not self.problem


def send(stack: Stack, shapes: Sequence[Shape], requests: int, report: Callable[[], None] = lambda: None) -> list[Row]:
    """Send that many requests of each kind; the rows say what to look for."""
    run = secrets.token_hex(6)
    rows = [Row(shape, f"{run}-{number}") for number, shape in enumerate(shapes)]
    for row in rows:
        url = stack.lines if row.shape.signal == "lines" else stack.otlp
        # A point each millisecond: two of one time would be one.
        start = time.time_ns() - requests * MILLISECOND
        for number in range(requests):
            at = Origin(f"{row.instance}-{number}", start + number * MILLISECOND, secrets.token_hex(16))
            row.places.append(at)
            try:
                for body in bad_telemetry.requests(row.shape, row.instance, at, TOGETHER):
                    bad_telemetry.send(url, row.shape.signal, body)
            except http.Error as error:
                row.problem = f"the Collector said {error}"
        report()
    return rows


def look(stack: Stack, rows: Sequence[Row], timeout: float) -> list[Outcome]:
    """Look for each row until nothing is missing, or the time is over."""
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        return list(pool.map(lambda row: _outcome(stack, row, time.monotonic() + timeout), rows))


def _outcome(stack: Stack, row: Row, end: float) -> Outcome:
    lost, culprit, problem = row.neighbours, "", row.problem

    def all_there() -> None:
        nonlocal lost
        lost = row.neighbours - _FOUND[row.shape.signal](stack, row)
        if lost:
            raise NotYet(f"{lost} neighbours are missing")

    def accounted() -> None:
        nonlocal culprit
        culprit = _culprit(stack, row)

    for what, probe in (("the neighbours", all_there), ("the culprit", accounted)):
        try:
            polling.until(probe, timeout=max(end - time.monotonic(), 0), interval=0.5, what=what)
        except DeadlineError as error:
            problem = problem or str(error)
    return Outcome(row, lost, culprit, problem)


def _points(stack: Stack, row: Row) -> int:
    return int(stack.prometheus.total(f'count_over_time({GOOD}{{service_instance_id="{row.instance}"}}[1h])'))


def _spans(stack: Stack, row: Row) -> int:
    return sum(span.resource["service.name"] == GOOD for at in row.places for span in _trace(stack, at))


def _trace(stack: Stack, at: Origin) -> list[Span]:
    return stack.tempo.trace(at.trace_id)


def _lines(stack: Stack, row: Row) -> int:
    return len({line.line for line in _search(stack, row, GOOD) if " neighbour " in line.line})


def _search(stack: Stack, row: Row, service: str) -> list[LogLine]:
    """Lines of a row, as late as they may be."""
    # Their beginnings are enough: the lines that were too long are long still.
    cut = "| line_format `{{ trunc 1000 __line__ }}`"
    query, now = f'{{service_name="{row.service(service)}"}} |= "{row.instance}-" {cut}', time.time_ns()
    return stack.loki.lines(query, start=now - DAY, end=now + DAY // 24, limit=5000)


_FOUND: Mapping[Signal, Callable[[Stack, Row], int]] = {
    "metrics": _points,
    "traces": _spans,
    "logs": _lines,
    "lines": _lines,
}


def _culprit(stack: Stack, row: Row) -> str:
    """What became of the bad items; :class:`NotYet` while that is not what it should be."""
    shape, sent = row.shape, len(row.places)
    said = []
    if shape.kept:
        found = _kept(stack, row)
        if len(found) != sent:
            raise NotYet(f"{len(found)} of {sent} culprits are found")
        if shape.secret and any(shape.secret in text for text in found):
            raise NotYet(f"{shape.secret} is stored")
        said.append("kept, masked" if shape.secret else "kept")
    if shape.reason:
        counter = "telemetry_changed_total" if shape.kept else "telemetry_refused_total"
        counted = _count(stack, row, counter, f', reason=~".*{shape.reason}.*"')
        if counted != sent:
            raise NotYet(f"{counted} of {sent} culprits are counted as {shape.reason}")
        if shape.kept and (arrived := _arrived(stack, row)) != sent:
            raise NotYet(f"the service's own count is {arrived}, not {sent}")
        said.append(f"counted as {shape.reason}")
    elif not shape.kept:
        said.append("refused by Prometheus" if shape.alone else "left out, without a point to count")
    return ", ".join(said)


def _arrived(stack: Stack, row: Row) -> int:
    """How many spans or records of the bad service the Collector counted: a wrong date must not stop the count."""
    counter = "telemetry_spans_total" if row.shape.signal == "traces" else "telemetry_log_records_total"
    return _count(stack, row, counter)


def _count(stack: Stack, row: Row, counter: str, more: str = "") -> int:
    of = "" if row.shape.signal == "lines" else f', service_instance_id="{row.instance}"'
    return int(stack.prometheus.total(f'{counter}{{service_name="{row.service(BAD)}"{of}{more}}}'))


def _kept(stack: Stack, row: Row) -> list[str]:
    """All that is stored of each bad item, as text."""
    if row.shape.late:
        stack.loki.flush()
    match row.shape.signal:
        case "metrics":
            samples = stack.prometheus.query(f'count_over_time({{marker=~"{row.instance}-.+"}}[1d])')
            return [str(sample.labels) for sample in samples]
        case "traces":
            spans = [span for at in row.places for span in _trace(stack, at)]
            return [str(span) for span in spans if span.resource["service.name"] == BAD]
        case _:
            lines = _search(stack, row, BAD)
            if wrong := {line.labels.get("level", "none") for line in lines} - LEVELS:
                raise NotYet(f"the level is {wrong}")
            return [f"{line.line}\n{line.labels}" for line in lines]


def table(outcomes: Sequence[Outcome]) -> Table:
    """One line a kind."""
    made = Table(title="One bad item in each request, among good ones", title_justify="left")
    for heading in ("bad item", "sent as", "neighbours lost", "culprits"):
        made.add_column(heading, justify="right" if heading == "neighbours lost" else "left", overflow="fold")
    for outcome in outcomes:
        row = outcome.row
        state = outcome.problem or f"{len(row.places)} {outcome.culprit}"
        made.add_row(row.shape.name, row.shape.signal, f"{outcome.lost} of {row.neighbours:,}", state)
    return made


@click.command()
@click.option("--requests", default=REQUESTS, show_default=True, help=f"Of each kind, {TOGETHER} good items in each.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds until everything must be found.")
def main(requests: int, timeout: float) -> None:
    """Send every kind of bad item among good ones; exit status 1 when a good one is lost or a bad one not counted."""
    loaded = settings.load()
    where = target.running(loaded)
    stack = Stack.of(where, loaded.url("collector_loki"))
    with Progress() as progress:
        task = progress.add_task("kinds sent", total=len(bad_telemetry.SHAPES))
        rows = send(stack, bad_telemetry.SHAPES, requests, lambda: progress.advance(task))
        if all(row.problem for row in rows):
            raise UserError(f"{rows[0].problem}: start the stack with `make up`.")
        outcomes = look(stack, rows, timeout)
    screen.console().print(table(outcomes))
    raise SystemExit(0 if all(outcome.good for outcome in outcomes) else 1)


if __name__ == "__main__":
    main()
