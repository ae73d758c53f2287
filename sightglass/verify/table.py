"""The proof as a table for people."""

from rich.table import Table

from sightglass.terminal import screen
from sightglass.verify.run import Report


def verify_table(report: Report) -> Table:
    """One row a signal, with the seconds from emission to being found."""
    table = Table(title="Proof: real predictions, found where they belong", title_justify="left")
    for heading in ("kind", "name", "service", "backend", "", "seconds", "detail"):
        table.add_column(heading, justify="right" if heading == "seconds" else "left", overflow="fold")
    for row in report.rows:
        table.add_row(
            row.kind, row.name, row.service, row.backend, screen.mark(row.ok), f"{row.seconds:.2f}", row.detail
        )
    return table
