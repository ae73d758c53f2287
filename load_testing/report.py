"""The files that a run leaves: locust's own report, and the requests that can be opened as traces."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from locust.env import Environment
from locust.html import get_html_report

from load_testing.outcome import Outcome, Request
from load_testing.traces import TraceLinks


@dataclass(frozen=True)
class Files:
    """Paths of one run's files."""

    report: Path
    requests: Path
    slow: Path


def write(
    folder: Path,
    environment: Environment,
    outcome: Outcome,
    violations: Sequence[str],
    links: TraceLinks,
    facts: Mapping[str, Any],
) -> Files:
    """Write all files into a new folder below ``folder``, named by the time in UTC; ``facts`` say what was run."""
    now = datetime.now(UTC)
    # Milliseconds, so that two runs never share a folder.
    place = folder / f"{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03d}Z"
    place.mkdir(parents=True)
    files = Files(place / "report.html", place / "requests.json", place / "slow.md")
    files.report.write_text(get_html_report(environment, show_download_link=False), "utf-8")  # type: ignore[no-untyped-call]
    summary = {name: value for name, value in asdict(outcome).items() if name not in ("slowest", "failed")}
    document = {
        **facts,
        **summary,
        "failure_ratio": outcome.failure_ratio,
        "violations": list(violations),
        "slowest": [_linked(request, links) for request in outcome.slowest],
        "failed": [_linked(request, links) for request in outcome.failed],
    }
    files.requests.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    files.slow.write_text("\n".join(_markdown(outcome, violations, links, facts)) + "\n", "utf-8")
    return files


def _linked(request: Request, links: TraceLinks) -> dict[str, Any]:
    grafana = links.grafana(request.trace_id, request.started)
    return {**asdict(request), "tempo": links.tempo(request.trace_id), **({"grafana": grafana} if grafana else {})}


def _markdown(
    outcome: Outcome, violations: Sequence[str], links: TraceLinks, facts: Mapping[str, Any]
) -> Iterator[str]:
    yield "# Requests of a load test, as traces"
    yield ""
    yield from (f"- {name}: {value}" for name, value in _flat(facts))
    yield ""
    yield f"{outcome.requests} requests, {outcome.failures} failed; the statistics are in [report.html](report.html)."
    if violations:
        yield ""
    yield from (f"- {sentence}" for sentence in violations)
    yield ""
    yield "## Slowest"
    yield ""
    yield from _table(outcome.slowest, links)
    yield ""
    left = outcome.failures - len(outcome.failed)
    yield f"## Failed{f' (the first {len(outcome.failed)}; {left} more are counted in the report)' if left else ''}"
    yield ""
    yield from _table(outcome.failed, links) if outcome.failed else ["None."]


def _flat(facts: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}, ")
        else:
            yield group + name, value


def _table(requests: Sequence[Request], links: TraceLinks) -> Iterator[str]:
    yield "| ms | status | request | problem | trace |"
    yield "| --: | --: | --- | --- | --- |"
    for request in requests:
        grafana = links.grafana(request.trace_id, request.started)
        trace = f"`{request.trace_id}` [Tempo]({links.tempo(request.trace_id)})"
        trace += f", [Grafana]({grafana})" if grafana else ""
        problem = request.problem.replace("|", "/")
        yield f"| {request.milliseconds:.1f} | {request.status or 'none'} | {request.name} | {problem} | {trace} |"
