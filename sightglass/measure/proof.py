"""`make verify` beside others' traffic, again and again: ``make proof`` prints how often it was green, and how soon.

What the proof sends must always be found, whatever others send. Each run is the command that a person types.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat

import click
import numpy as np
from rich.progress import Progress
from rich.table import Table

from sightglass.clients import backends, polling
from sightglass.clients.polling import DeadlineError, NotYet
from sightglass.facts import settings, target
from sightglass.facts.errors import UserError
from sightglass.facts.settings import REPOSITORY
from sightglass.facts.target import Target
from sightglass.terminal import screen
from sightglass.verify.run import TIMEOUT
from sightglass.verify.signal_checks import HTTP_COUNT

FULL = "full"
"""As many requests as the service answers."""
RATES = ("0", "15", "100", FULL)
"""Requests a second of the others."""
RUNS = 20
TOGETHER = 4
"""How many proofs the last line starts in one moment."""
DAY = 86_400
START = 60.0
"""Seconds until the others' requests are seen in Prometheus."""


@dataclass(frozen=True)
class Run:
    """One proof: the red rows with what was seen, and the seconds that the command took."""

    red: dict[str, str]
    seconds: float


@contextmanager
def others(where: Target, rate: str) -> Iterator[None]:
    """Others' requests, from when they arrive until the end of the block."""
    if rate == "0":
        yield
        return
    speed = [] if rate == FULL else ["--rate", rate]
    command = [sys.executable, "-m", "load_testing", "--duration", str(DAY), *speed]
    with tempfile.TemporaryFile("w+") as said:
        load = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=said)

        def arriving() -> None:
            if load.poll() is not None:
                said.seek(0)
                raise UserError(f"The load test failed: {said.read().strip()}")
            if (found := _per_second(where)) < (1 if rate == FULL else float(rate) / 2):
                raise NotYet(f"{found:.1f} requests/s")

        try:
            polling.until(arriving, timeout=START, interval=1, what=f"the others' {rate} requests/s")
            yield
        except DeadlineError as reason:
            raise UserError(f"The load test has not begun: {reason}") from None
        finally:
            load.terminate()
            load.wait()


def _per_second(where: Target) -> float:
    """Requests for predictions of the first service, which is the one that `sightglass load` asks."""
    first = where.services[0]
    count = f'{HTTP_COUNT}{{service_name="{first.name}", http_route="{first.declaration.route}"}}'
    return backends.Prometheus(where.prometheus_url).total(f"sum(rate({count}[15s]))")


def prove(timeout: float) -> Run:
    """Run the proof once."""
    began = time.monotonic()
    command = [sys.executable, "-m", "sightglass", "verify", "--json", "--timeout", str(timeout)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    try:
        rows = json.loads(done.stdout)["rows"]
    except ValueError:
        return Run({"(no report)": done.stderr.strip()}, seconds)
    return Run({f"{row['kind']}: {row['name']}": row["detail"] for row in rows if row["ok"] is False}, seconds)


def prove_at_once(count: int, timeout: float) -> list[Run]:
    """Run so many proofs side by side."""
    with ThreadPoolExecutor(max_workers=count) as pool:
        return list(pool.map(prove, repeat(timeout, count)))


def _line(table: Table, name: str, per_second: float, runs: Sequence[Run]) -> None:
    red = Counter(row for run in runs for row in run.red)
    p50, most = np.percentile([run.seconds for run in runs], [50, 100])
    green = sum(not run.red for run in runs)
    rows = ", ".join(f"{row} ({count})" for row, count in red.most_common()) or "none"
    table.add_row(name, f"{per_second:.0f}", f"{green} of {len(runs)}", f"{p50:.1f}", f"{most:.1f}", rows)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--runs", default=RUNS, help="Proofs at each rate.")
@click.option(
    "--rates", default=",".join(RATES), help="Requests a second of the others; `full` is all that are answered."
)
@click.option("--together", default=TOGETHER, help="Proofs in one moment, without others; 0 leaves them out.")
@click.option("--timeout", default=TIMEOUT, help="Seconds until a signal counts as lost.")
def main(runs: int, rates: str, together: int, timeout: float) -> None:
    """Print how often `make verify` is green beside others' traffic; exit status 1 when one was not."""
    loaded = settings.load()
    where = target.running(loaded)
    table = Table(title="make verify beside others' traffic", title_justify="left")
    for heading in ("others", "requests/s", "green", "p50 s", "most s", "red rows"):
        table.add_column(heading, justify="left" if heading in ("others", "red rows") else "right")
    wanted = [rate.strip() for rate in rates.split(",") if rate.strip()]
    found: list[Run] = []
    console = screen.console()
    with Progress(console=screen.console(stderr=True), transient=True) as progress:
        for rate in wanted:
            task = progress.add_task(f"others: {rate} requests/s", total=runs)
            with others(where, rate):
                made = _repeated(lambda: prove(timeout), runs, lambda task=task: progress.advance(task))  # type: ignore[misc]
                _line(table, rate, _per_second(where), made)
            found += made
        if together:
            made = prove_at_once(together, timeout)
            _line(table, f"{together} at once", _per_second(where), made)
            found += made
    console.print(table)
    for run in found:
        for row, detail in run.red.items():
            console.print(f"{row}: {detail}", markup=False)
    sys.exit(1 if any(run.red for run in found) else 0)


def _repeated(run: Callable[[], Run], times: int, done: Callable[[], None]) -> list[Run]:
    made = []
    for _ in range(times):
        made.append(run())
        done()
    return made


if __name__ == "__main__":
    main()
