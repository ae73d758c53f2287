"""The state of the components as a table for people."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from sightglass.local.stack import ComponentStatus


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
