"""Runs the checks side by side and reports one row each."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sightglass import polling
from sightglass.polling import NotYet
from sightglass.provisioning import DASHBOARDS, DATA_SOURCES
from sightglass.target import Target
from sightglass.verify.links import GRAFANA_LINKS, LINKS
from sightglass.verify.predictions import TEXTS, predict
from sightglass.verify.signals import SIGNALS, Check, Evidence


def checks_of(target: Target) -> tuple[Check, ...]:
    """Every row that the target has: where Grafana runs, each link goes through it as well."""
    return (*SIGNALS, *LINKS, *(GRAFANA_LINKS if target.grafana_url else ()))


TIMEOUT = 30.0
"""Seconds from emission after which a signal counts as lost."""


@dataclass(frozen=True)
class Row:
    """Result of one check; ``seconds`` runs from the emission of the newest prediction to the finding."""

    kind: str
    name: str
    backend: str
    ok: bool
    seconds: float
    detail: str


@dataclass(frozen=True)
class Report:
    """All rows of one run."""

    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Whether every row is green."""
        return all(row.ok for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """The form that ``verify --json`` prints."""
        return {"ok": self.ok, "rows": [asdict(row) for row in self.rows]}


def verify(
    target: Target,
    *,
    timeout: float = TIMEOUT,
    checks: Sequence[Check] | None = None,
    data_sources: Path = DATA_SOURCES,
    dashboards: Path = DASHBOARDS,
    report: Callable[[Row], None] = lambda _row: None,
) -> Report:
    """Make predictions, look for their signals and follow the links between them.

    ``checks`` are all that the target has by default; ``report`` is told each row as soon as it is known.
    """
    if checks is None:
        checks = checks_of(target)
    evidence = Evidence(target, data_sources=data_sources, dashboards=dashboards)
    try:
        evidence.predictions = [predict(target.service_url, text) for text in TEXTS]
    except NotYet as reason:
        evidence.problem = str(reason)
    emitted = time.monotonic()

    def run(check: Check) -> Row:
        row = _row(check, evidence, emitted, timeout)
        report(row)
        return row

    with ThreadPoolExecutor(max_workers=len(checks)) as pool:
        return Report(tuple(pool.map(run, checks)))


def _row(check: Check, evidence: Evidence, emitted: float, timeout: float) -> Row:
    try:
        detail = polling.until(lambda: check.find(evidence), timeout=timeout, what=f"{check.name} in {check.backend}")
        ok = True
    except polling.DeadlineError as error:
        detail, ok = str(error), False
    return Row(check.kind, check.name, check.backend, ok, round(time.monotonic() - emitted, 2), detail)
