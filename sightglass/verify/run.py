"""Runs the checks side by side and reports one row each."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sightglass.clients import polling
from sightglass.clients.polling import NotYet
from sightglass.facts.provisioning import DASHBOARDS, DATA_SOURCES
from sightglass.facts.target import Target
from sightglass.verify.cluster_checks import CLUSTER
from sightglass.verify.link_checks import GRAFANA_LINKS, LINKS
from sightglass.verify.signal_checks import PROMISED, SIGNALS, Check, Evidence


def checks_of(target: Target) -> tuple[Check, ...]:
    """Every row that the target has: where Grafana runs, each link goes through it as well."""
    cluster = CLUSTER if target.kube_context else ()
    # In a cluster Grafana is a release like any other: it is left out by name, and its rows say so.
    grafana = GRAFANA_LINKS if target.grafana_url or target.kube_context else ()
    return (*SIGNALS, *cluster, *LINKS, *grafana)


def of_services(checks: Sequence[Check], target: Target) -> list[tuple[Check, str]]:
    """Each check with the service whose predictions it looks for; what is of the stack takes the first service's."""
    return [
        (check.of(endpoint.name), endpoint.name)
        for number, endpoint in enumerate(target.services)
        for check in checks
        if not (check.once and number)
    ]


def left_out(checks: Sequence[Check], target: Target) -> list[Check]:
    """The checks that need a component which the target was told to do without."""
    return [check for check in checks if target.without & set(check.needs)]


TIMEOUT = PROMISED
SLOWEST = 1.0
"""Seconds between two looks for what takes long."""
GRACE = 0.5
"""Seconds after its time that a row has to say what it saw last."""


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
    service: str = ""
    """The service whose signal it is; empty where a row is of the stack."""


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
    found = [Evidence(target, one, data_sources=data_sources, dashboards=dashboards) for one in target.services]
    for evidence in found:
        try:
            evidence.predict()
        except NotYet as reason:
            evidence.problem = str(reason)
    emitted = time.monotonic()
    by_service = {evidence.service: evidence for evidence in found}
    planned = [(check, by_service[service]) for check, service in of_services(checks, target)]

    def run(check: Check, evidence: Evidence) -> Row:
        row = _row(check, evidence, emitted, timeout)
        report(row)
        return row

    pool = ThreadPoolExecutor(max_workers=max(1, len(planned)))
    looks = [(*plan, pool.submit(run, *plan)) for plan in planned]
    wait([look for _, _, look in looks], timeout=timeout + GRACE)
    # A server that keeps a row waiting is as good as silent.
    pool.shutdown(wait=False, cancel_futures=True)
    rows = [look.result() if look.done() else _silent(check, evidence, timeout) for check, evidence, look in looks]
    return Report((*rows, *_left_out_rows(skipped, target)))


def _silent(check: Check, evidence: Evidence, timeout: float) -> Row:
    detail = f"waited {timeout:g} s for {check.name} in {check.backend}; it has not answered"
    return _made(check, evidence, False, timeout, detail)


def _made(check: Check, evidence: Evidence, ok: bool, seconds: float, detail: str) -> Row:
    service = "" if check.once else evidence.service
    return Row(check.kind, check.name, check.backend, ok, seconds, detail, service)


def _left_out_rows(skipped: Sequence[Check], target: Target) -> Iterator[Row]:
    """One row for each component that was left out, with the number of rows that it would have had."""
    for component in sorted(target.without):
        # A link has a row for the file and one for Grafana, of one name.
        missing = dict.fromkeys(check.name for check in skipped if component in check.needs)
        detail = f"left out (WITHOUT={component}); not proved: {', '.join(missing) or 'what is its own'}"
        yield Row("left out", component, component, None, 0.0, detail)


def _row(check: Check, evidence: Evidence, emitted: float, timeout: float) -> Row:
    end = emitted + timeout
    try:
        with polling.deadline(end):
            detail = polling.until(
                lambda: check.find(evidence),
                timeout=round(end - time.monotonic(), 1),
                interval=check.interval,
                slowest=SLOWEST,
                what=f"{check.name} in {check.backend}",
            )
        ok = True
    except polling.DeadlineError as error:
        detail, ok = str(error), False
    return _made(check, evidence, ok, round(time.monotonic() - emitted, 2), detail)
