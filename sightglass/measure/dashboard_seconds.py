"""How long each query of each dashboard takes on the running stack.

``python -m sightglass.measure.dashboard_seconds`` prints it.
"""

import sys

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from dashboards import catalogue, sent_queries
from dashboards.fill_variables import Filling
from sightglass.clients import backends
from sightglass.clients.polling import NotYet
from sightglass.facts import settings, target
from sightglass.facts.errors import UserError
from sightglass.measure.grafana_queries import Answer, ask

GOAL_MS = 500.0


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--repeat", type=click.IntRange(1), default=3, help="How often each query is sent; the slowest counts.")
@click.option("--goal", type=click.FloatRange(0, min_open=True), default=GOAL_MS, help="Milliseconds; slower fails.")
@click.option("--slowest", type=click.IntRange(1), default=5, help="How many queries of each dashboard are listed.")
def main(repeat: int, goal: float, slowest: int) -> None:
    """Send every query of every dashboard, one after the other, and compare its slowest answer with the goal.

    Exit status 1 when a query takes longer or ends in an error.
    """
    loaded = settings.load()
    where = target.running(loaded)
    try:
        backends.get("prometheus", f"{where.prometheus_url}/-/ready")
    except NotYet as problem:
        raise UserError(f"{problem}: start the stack with `make up`.") from None
    console = Console()
    boards = catalogue.load()
    asked = {board["uid"]: list(sent_queries.of(board)) for board in boards}
    timed: dict[str, list[Answer]] = {}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("asking", total=sum(map(len, asked.values())))
        for board in boards:
            timed[board["uid"]] = []
            for question in asked[board["uid"]]:
                answers = [ask(where, question, Filling.defaults(board)) for _ in range(repeat)]
                timed[board["uid"]].append(max(answers, key=lambda answer: (bool(answer.error), answer.seconds)))
                progress.advance(task)
    console.print(_table(timed, slowest, goal))
    over = [one for group in timed.values() for one in group if 1000 * one.seconds > goal or one.error]
    for one in over:
        why = one.error or f"took {1000 * one.seconds:,.0f} ms where {goal:g} are allowed"
        print(f"FAILED: {one.question.name} {why}", file=sys.stderr)
    total = sum(map(len, timed.values()))
    print(f"{total - len(over)} of {total} queries within {goal:g} ms.")
    sys.exit(1 if over else 0)


def _table(timed: dict[str, list[Answer]], slowest: int, goal: float) -> Table:
    table = Table(title=f"Slowest queries of each dashboard, goal {goal:g} ms", title_justify="left")
    for heading in ("dashboard", "panel", "query", "source", "ms", "of goal"):
        table.add_column(heading, justify="right" if heading in ("ms", "of goal") else "left")
    for uid, group in timed.items():
        ordered = sorted(group, key=lambda one: one.seconds, reverse=True)
        for place, one in enumerate(ordered[:slowest]):
            question, milliseconds = one.question, 1000 * one.seconds
            share = milliseconds / goal
            colour = "red" if share > 1 or one.error else "green"
            table.add_row(
                f"{uid} ({len(group)})" if not place else "",
                question.panel,
                f"{question.letter} {question.kind}",
                question.source,
                f"{milliseconds:,.1f}",
                f"[{colour}]{share:.0%}[/]",
                end_section=place == min(slowest, len(ordered)) - 1,
            )
    return table


if __name__ == "__main__":
    main()
