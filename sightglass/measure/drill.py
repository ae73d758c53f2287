"""A drill on the running stack, at the settings that it was started with: ``make drill``.

Minutes of normal load in which no alert may fire, the dashboards' queries after it, then a server that is stopped:
seconds until a receiver hears of it, and until it hears that it is over. The receiver is the Collector, which every
notification goes to; its records in Loki carry the time at which each came.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass

import click
from rich.progress import Progress
from rich.table import Table

from sightglass.alerting.listing import WATCHDOG
from sightglass.clients import backends, polling
from sightglass.clients.polling import DeadlineError, NotYet
from sightglass.facts import settings, target
from sightglass.facts.errors import UserError
from sightglass.facts.settings import REPOSITORY
from sightglass.facts.target import Target
from sightglass.measure import background, dashboard_seconds
from sightglass.terminal import screen

FAULT_GOAL = 90.0
"""Seconds from a server's death until a receiver knows, and from its return until the receiver knows that."""
LOOK = 5.0
"""Seconds between two looks at what fires."""
SECOND = 1_000_000_000
SERVER = "tempo"


@dataclass(frozen=True)
class Result:
    """One line of the drill's table."""

    name: str
    found: str
    goal: str
    ratio: float | None
    ok: bool


def quiet(where: Target, minutes: float) -> Result:
    """Normal load for that long; every alert that fires meanwhile counts."""
    prometheus = backends.Prometheus(where.prometheus_url)
    fired: set[str] = set()
    looks = 0
    with background.load("--real", "--duration", str(minutes * 60)) as load, Progress(transient=True) as progress:
        task = progress.add_task("normal load, no alert may fire", total=minutes * 60)
        while load.poll() is None:
            firing = prometheus.query(f'ALERTS{{alertstate="firing", alertname!="{WATCHDOG}"}}')
            fired |= {sample.labels["alertname"] for sample in firing}
            looks += 1
            time.sleep(LOOK)
            progress.advance(task, LOOK)
    found = f"{len(fired)} ({', '.join(sorted(fired))})" if fired else f"0 in {looks} looks"
    return Result(f"alerts that fire in {minutes:g} min of normal load", found, "0", None, not fired)


def fault(where: Target, server: str) -> list[Result]:
    """Stop a server, wait for its alert, start it, wait for the end of the alert."""
    results = []
    for command, status, name in (("stop", "firing", "alert for a dead server"), ("start", "resolved", "cleared")):
        began = time.time_ns()
        subprocess.run([sys.executable, "-m", "sightglass", command, server], cwd=REPOSITORY, check=True)
        try:
            came = polling.until(
                lambda status=status, began=began: _notification(where, server, status, began),  # type: ignore[misc]
                timeout=2 * FAULT_GOAL,
                interval=0.5,
                what=f"{status} ServerDown of {server} at the receiver",
            )
        except DeadlineError as error:
            results.append(Result(name, str(error), f"{FAULT_GOAL:g} s", None, False))
            continue
        seconds = (came - began) / SECOND
        found, ratio = f"{seconds:.1f} s", seconds / FAULT_GOAL
        results.append(Result(name, found, f"{FAULT_GOAL:g} s", ratio, seconds <= FAULT_GOAL))
    return results


def _notification(where: Target, server: str, status: str, since: int) -> int:
    """When the receiver heard it, in nanoseconds since the epoch."""
    query = '{service_name="alertmanager"} |= "ServerDown"'
    for line in backends.Loki(where.loki_url).lines(query, start=since, end=time.time_ns() + SECOND):
        for alert in json.loads(line.line)["alerts"]:
            labels = {"alertname": "ServerDown", "service_name": server}
            if alert["status"] == status and labels.items() <= alert["labels"].items():
                return line.timestamp
    raise NotYet("no such notification")


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--minutes", default=10.0, help="Of normal load; 0 leaves it out.")
@click.option("--server", type=click.Choice(["tempo", "promtail"]), default=SERVER, help="Which one is stopped.")
def main(minutes: float, server: str) -> None:
    """Show that nothing fires for nothing, that dashboards answer, and how soon a dead server is known."""
    loaded = settings.load()
    where = target.running(loaded)
    try:
        backends.get("loki", f"{where.loki_url}/ready")
        results = [quiet(where, minutes)] if minutes else []
    except NotYet as reason:
        raise UserError(f"{reason}: start the stack with `make up`.") from None
    answered = _dashboards()
    results += fault(where, server)
    table = Table(title=f"Drill at pace {loaded.alert_pace:g}", title_justify="left")
    for heading in ("what", "found", "goal", "of goal", ""):
        table.add_column(heading)
    for row in results:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        table.add_row(row.name, row.found, row.goal, ratio, screen.mark(row.ok))
    screen.console().print(table)
    sys.exit(0 if answered and all(row.ok for row in results) else 1)


def _dashboards() -> bool:
    try:
        dashboard_seconds.main(args=[], standalone_mode=False)
    except SystemExit as end:
        return end.code == 0
    return True


if __name__ == "__main__":
    main()
