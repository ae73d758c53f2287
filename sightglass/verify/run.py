"""Runs the checks side by side and reports one row each."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sightglass import polling
from sightglass.polling import NotYet
from sightglass.provisioning import DASHBOARDS, DATA_SOURCES
from sightglass.target import Target
from sightglass.verify.cluster import CLUSTER
from sightglass.verify.links import GRAFANA_LINKS, LINKS
from sightglass.verify.predictions import TEXTS, predict
from sightglass.verify.signals import SIGNALS, Check, Evidence


def checks_of(target: Target) -> tuple[Check, ...]:
    """Every row that the target has: where Grafana runs, each link goes through it as well."""
    cluster = CLUSTER if target.kube_context else ()
    # In a cluster Grafana is a release like any other: it is left out by name, and its rows say so.
    grafana = GRAFANA_LINKS if target.grafana_url or target.kube_context else ()
    return (*SIGNALS, *cluster, *LINKS, *grafana)


def left_out(checks: Sequence[Check], target: Target) -> list[Check]:
    """The checks that need a component which the target was told to do without."""
    return [check for check in checks if target.without & set(check.needs)]


TIMEOUT = 30.0
"""Seconds from emission after which a signal counts as lost."""


@dataclass(frozen=True)
class Row:
    """Result of one check; ``seconds`` runs from the emission of the newest prediction to the finding."""

    kind: str
    name: str
    backend: str
    ok: bool | None
    """None where a component was left out on purpose: not looked for, hence neither found nor missing."""
    seconds: float
    detail: str


@dataclass(frozen=True)
class Report:
    """All rows of one run."""

    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Whether no row is red, and one at least is green."""
        return all(row.ok is not False for row in self.rows) and any(row.ok for row in self.rows)

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
    skipped = left_out(checks, target)
    checks = [check for check in checks if check not in skipped]
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

    with ThreadPoolExecutor(max_workers=max(1, len(checks))) as pool:
        return Report((*pool.map(run, checks), *_left_out_rows(skipped, target)))


def _left_out_rows(skipped: Sequence[Check], target: Target) -> Iterator[Row]:
    """One row for each component that was left out, with the number of rows that it would have had."""
    for component in sorted(target.without):
        # A link has a row for the file and one for Grafana, of one name.
        missing = dict.fromkeys(check.name for check in skipped if component in check.needs)
        detail = f"left out (WITHOUT={component}); not proved: {', '.join(missing) or 'nothing'}"
        yield Row("left out", component, component, None, 0.0, detail)


def _row(check: Check, evidence: Evidence, emitted: float, timeout: float) -> Row:
    try:
        detail = polling.until(lambda: check.find(evidence), timeout=timeout, what=f"{check.name} in {check.backend}")
        ok = True
    except polling.DeadlineError as error:
        detail, ok = str(error), False
    return Row(check.kind, check.name, check.backend, ok, round(time.monotonic() - emitted, 2), detail)
