"""Seconds from emission to found, measured on the running stack: ``make latency``.

Each request is looked for by its own trace id, side by side in every server, from the moment it was sent.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import click
import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from sightglass.clients import polling
from sightglass.clients.polling import DeadlineError, NotYet
from sightglass.facts import settings, target
from sightglass.facts.errors import UserError
from sightglass.verify.predictions import Prediction, bodies, predict
from sightglass.verify.signal_checks import PREDICTIONS, SECOND, Evidence, expect_tree

GOALS = {"log line": 1.0, "trace by id": 1.0, "trace by search": 3.0, "metric": 5.0}
"""Seconds at the 99th percentile."""
INTERVAL = 0.05
"""Seconds between two looks, which is also the error of each figure."""


class Bench:
    """One run: sends, looks, and keeps the seconds of every signal."""

    def __init__(self, evidence: Evidence, timeout: float) -> None:
        self.evidence = evidence
        self.timeout = timeout
        self.seconds: dict[str, list[float]] = {name: [] for name in GOALS}
        self.lost: dict[str, int] = dict.fromkeys(GOALS, 0)
        self._lock = threading.Lock()

    def look(self, name: str, prediction: Prediction, probe: Callable[[], object]) -> None:
        """Poll until found and note the seconds since the request was sent."""
        try:
            polling.until(probe, timeout=self.timeout, interval=INTERVAL, what=name)
        except DeadlineError:
            with self._lock:
                self.lost[name] += 1
            return
        with self._lock:
            self.seconds[name].append((time.time_ns() - prediction.sent) / SECOND)

    def percentile(self, name: str, share: float) -> float:
        """Seconds of that share of a signal's requests, in percent; infinite where none was found."""
        return float(np.percentile(self.seconds[name] or [np.inf], share))

    def met(self, name: str) -> bool:
        """Whether a signal reached its goal, and was found each time."""
        return not self.lost[name] and self.percentile(name, 99) <= GOALS[name]

    def log_line(self, prediction: Prediction) -> None:
        """Require the prediction's line in Loki."""
        if not self.evidence.log_lines(prediction):
            raise NotYet("no line")

    def trace(self, prediction: Prediction) -> None:
        """Require the prediction's whole trace in Tempo."""
        expect_tree(
            self.evidence.tempo.trace(prediction.trace_id, mode="ingesters"), prediction, self.evidence.contract
        )

    def search(self, prediction: Prediction) -> None:
        """Require that TraceQL finds the prediction."""
        second = prediction.sent // SECOND
        query = f'{{ span.ml.prediction.id = "{prediction.prediction_id}" }}'
        if not self.evidence.tempo.search(query, start=second - 60, end=second + 600):
            raise NotYet("not found")

    def counted(self, goal: int) -> None:
        """Require that the counter has grown by ``goal``."""
        if (grown := self.evidence.grown(PREDICTIONS)) < goal:
            raise NotYet(f"{grown:g} of {goal}")


@click.command()
@click.option("--requests", default=100, show_default=True, help="How many requests are followed.")
@click.option("--every", default=0.5, show_default=True, help="Seconds between two requests.")
@click.option("--timeout", default=30.0, show_default=True, help="Seconds after which a signal counts as lost.")
def main(requests: int, every: float, timeout: float) -> None:
    """Print how long each signal takes from its emission until a query finds it (p50, p99 and most).

    Fails when a signal was lost or a goal was missed.
    """
    loaded = settings.load()
    where = target.running(loaded)
    bench = Bench(Evidence(where), timeout)
    endpoint = where.endpoint()
    sent = bodies(endpoint)
    try:
        predict(endpoint)
    except NotYet as reason:
        raise UserError(f"{reason}: start the stack with `make up`.") from None
    time.sleep(2 * max(every, 1.0))  # the first prediction is counted before the others are made
    bench.evidence.began = time.time_ns()
    console = Console()
    looks: list[Future[None]] = []
    with ThreadPoolExecutor(max_workers=64) as pool, Progress(console=console, transient=True) as progress:
        task = progress.add_task("following requests", total=requests)
        for number in range(requests):
            began = time.monotonic()
            made = predict(endpoint, sent[number % len(sent)])
            goal = number + 1
            probes: dict[str, Callable[[], object]] = {
                "log line": lambda p=made: bench.log_line(p),  # type: ignore[misc]
                "trace by id": lambda p=made: bench.trace(p),  # type: ignore[misc]
                "trace by search": lambda p=made: bench.search(p),  # type: ignore[misc]
                "metric": lambda g=goal: bench.counted(g),  # type: ignore[misc]
            }
            looks += [pool.submit(bench.look, name, made, probe) for name, probe in probes.items()]
            progress.advance(task)
            time.sleep(max(0.0, every - (time.monotonic() - began)))
        for look in looks:
            look.result()
    console.print(_table(bench, requests))
    raise SystemExit(0 if all(bench.met(name) for name in GOALS) else 1)


def _table(bench: Bench, requests: int) -> Table:
    table = Table(title=f"Seconds from emission to found, {requests} requests", title_justify="left")
    for heading in ("signal", "p50", "p99", "most", "goal p99", "", "lost"):
        table.add_column(heading, justify="left" if heading == "signal" else "right")
    for name, goal in GOALS.items():
        seconds = (f"{bench.percentile(name, share):.2f}" for share in (50, 99, 100))
        mark = "[green]met[/]" if bench.met(name) else "[red]missed[/]"
        table.add_row(name, *seconds, f"{goal:.0f}", mark, str(bench.lost[name]))
    return table


if __name__ == "__main__":
    main()
