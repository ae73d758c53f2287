"""Every link of request after request, from the moment it was sent: ``make links``.

Each request is followed by itself: its own log line, its own spans, its own exemplar.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
from rich.progress import Progress
from rich.table import Table

from sightglass.clients import polling
from sightglass.clients.polling import DeadlineError, NotYet
from sightglass.facts import settings, target
from sightglass.facts.errors import UserError
from sightglass.facts.target import Target
from sightglass.terminal import screen
from sightglass.verify import link_checks as rows
from sightglass.verify.predictions import bodies
from sightglass.verify.signal_checks import SECOND, Check, Evidence

GOAL = 10.0
"""Seconds from a request until each of its links leads to it."""
INTERVAL = 0.2
"""Seconds between two looks, which is also the error of each figure."""
LINKS = tuple(link for link in rows.LINKS if link.name != rows.DANGLING)
"""Every link that leads from one request; the share of those that open nothing belongs to none."""
AT_ONCE = 8
"""Requests that are followed side by side."""
EVERY = 1.05
"""Seconds between two requests, so that eight are done before the ninth is sent on a busy machine too."""


@dataclass(frozen=True)
class Followed:
    """One link of one request: seconds until it led there, or why it did not."""

    link: str
    trace_id: str
    seconds: float
    problem: str


def follow(
    where: Target,
    requests: int,
    *,
    every: float = EVERY,
    timeout: float = GOAL,
    links: Sequence[Check] = LINKS,
    report: Callable[[], Any] = lambda: None,
) -> list[Followed]:
    """Send that many requests and follow each link of each; ``report`` is told when one request is done."""

    def one(evidence: Evidence) -> list[Followed]:
        with ThreadPoolExecutor(max_workers=len(links)) as looks:
            found = list(looks.map(lambda link: _look(evidence, link, timeout), links))
        report()
        return found

    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        futures = []
        for number in range(requests):
            if number:
                time.sleep(every)
            evidence = Evidence(where)
            evidence.predict(bodies(evidence.endpoint)[0])
            # The service map waits for the caller's span, though not for long.
            evidence.sent_client_spans()
            futures.append(pool.submit(one, evidence))
        return [found for future in futures for found in future.result()]


def _look(evidence: Evidence, link: Check, timeout: float) -> Followed:
    (prediction,) = evidence.made()
    left = timeout - (time.time_ns() - prediction.sent) / SECOND
    try:
        polling.until(lambda: link.find(evidence), timeout=max(left, 0), interval=INTERVAL, what=link.name)
        problem = ""
    except DeadlineError as error:
        problem = str(error)
    return Followed(link.name, prediction.trace_id, (time.time_ns() - prediction.sent) / SECOND, problem)


@click.command()
@click.option("--requests", default=100, show_default=True, help="How many requests are followed.")
def main(requests: int) -> None:
    """Print how long each link takes until it leads to the request it came from (p50, p99 and most)."""
    loaded = settings.load()
    where = target.running(loaded)
    try:
        with Progress() as progress:
            task = progress.add_task("requests followed", total=requests)
            found = follow(where, requests, report=lambda: progress.advance(task))
    except NotYet as reason:
        raise UserError(f"{reason}: start the stack with `make up`.") from None
    console = screen.console()
    table = Table(title=f"Links of {requests} requests, seconds from the request", title_justify="left")
    for heading in ("link", "resolved", "p50", "p99", "most", "most / goal"):
        table.add_column(heading, justify="left" if heading == "link" else "right")
    for link in LINKS:
        seconds = [item.seconds for item in found if item.link == link.name and not item.problem]
        p50, p99, most = np.percentile(seconds, [50, 99, 100]) if seconds else (np.nan,) * 3
        row = (f"{p50:.2f}", f"{p99:.2f}", f"{most:.2f}", f"{most / GOAL:.2f}")
        table.add_row(link.name, f"{len(seconds)} of {requests}", *row)
    console.print(table)
    lost = [item for item in found if item.problem]
    for item in lost[:10]:
        console.print(f"{item.link} of {item.trace_id}: {item.problem}")
    raise SystemExit(1 if lost else 0)


if __name__ == "__main__":
    main()
