"""What the commands print for people."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from sightglass.stack import ComponentStatus
from sightglass.verify.run import Report

WIDTH = 150
"""Columns where there is no terminal to ask."""
_GREEN, _RED, _YELLOW = "[green]ok[/]", "[red]FAILED[/]", "[yellow]left out[/]"


def console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal, or wide enough for a table's rows where there is none."""
    made = Console(stderr=stderr)
    return made if made.is_terminal else Console(stderr=stderr, width=WIDTH)


def mark(ok: bool | None) -> str:
    """The word for a thing that holds, or does not; None is a thing that was not looked at on purpose."""
    return _YELLOW if ok is None else _GREEN if ok else _RED


def verify_table(report: Report) -> Table:
    """One row a signal, with the seconds from emission to being found."""
    table = Table(title="Proof: real predictions, found where they belong", title_justify="left")
    for heading in ("kind", "name", "backend", "", "seconds", "detail"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left", overflow="fold")
    for row in report.rows:
        table.add_row(row.kind, row.name, row.backend, mark(row.ok), f"{row.seconds:.2f}", row.detail)
    return table


def status_table(statuses: Sequence[ComponentStatus], versions: Mapping[str, str], memory: Mapping[str, int]) -> Table:
    """One row a component."""
    table = Table(title="Components", title_justify="left")
    for heading in ("name", "state", "pid", "MiB", "version", "url", "detail"):
        table.add_column(heading, justify="right" if heading in ("pid", "MiB") else "left", overflow="fold")
    for status in statuses:
        table.add_row(
            status.name,
            "[green]ready[/]" if status.ready else f"[red]{status.state}[/]",
            str(status.pid or ""),
            f"{memory[status.name] / 2**20:.0f}" if status.name in memory else "",
            versions.get(status.name, ""),
            status.url,
            status.detail,
        )
    return table
