"""``python -m sightglass.alerting``: writes every rules file and the table of alerts."""

import re
from pathlib import Path

from sightglass.alerting import files, observed, rules, slo
from sightglass.alerting.rule import Alert
from sightglass.facts.errors import UserError
from sightglass.facts.settings import REPOSITORY, SERVICES

PAGE = REPOSITORY / "docs" / "alerts.md"
_TABLE = re.compile(r"(?<=<!-- table of alerts -->\n).*?(?=<!-- end of the table -->)", re.DOTALL)


def alerts() -> list[Alert]:
    """Every alert rule of every rules file, in the order of the table."""
    groups = [*slo.groups(slo.load()), *(group for groups in rules.FILES.values() for group in groups)]
    return [alert for group in groups for alert in group.alerts]


def table() -> str:
    """The table of alerts as Markdown."""
    lines = ["| Alert | Severity | Fires when | For |", "|---|---|---|---|"]
    lines += [f"| [{a.name}](runbooks/{a.name}.md) | {a.severity} | {a.when} | {a.hold} |" for a in alerts()]
    return "\n".join(lines) + "\n"


def generated() -> dict[Path, str]:
    """Text by path of all files that are made here."""
    page = PAGE.read_text()
    if not _TABLE.search(page):
        raise UserError(f"{PAGE} has no place for the table of alerts: put its two comment lines back.")
    services = {rules.RULES_DIR / observed.FILE: observed.text(service.name for service in SERVICES)}
    return {**rules.generated(), **slo.generated(), **services, PAGE: _TABLE.sub(lambda _: table(), page)}


if __name__ == "__main__":
    files.command(generated, "sightglass.alerting")()
