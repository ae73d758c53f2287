"""Releases of upstream charts: what is installed, and what is installed anew because something of it changed."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sightglass.clients.kubectl import Kubectl, ProgramError, run
from sightglass.facts.cluster import NAMESPACES
from sightglass.facts.errors import UserError
from sightglass.kubernetes.charts import Chart

INPUTS = "sightglass-inputs"
"""Label of a release: the sum over all that Helm was told."""
UNMARKED = "<none>"
"""What kubectl prints for a label that is not there: a release of others."""
_PARALLEL = 3
_HISTORY = "3"
_PENDING = "pending-"


@dataclass(frozen=True)
class Installed:
    """The newest revision of a release, as Helm keeps it."""

    name: str
    namespace: str
    status: str
    revision: int
    inputs: str


def installed(kubectl: Kubectl) -> dict[str, Installed]:
    """Every release in the namespaces of ours by name; only the newest revision of each.

    Elsewhere a cluster may have releases of the same names that are none of ours.
    """
    columns = "NS:.metadata.namespace,NAME:.metadata.labels.name,STATUS:.metadata.labels.status,"
    columns += f"REVISION:.metadata.labels.version,INPUTS:.metadata.labels.{INPUTS}"
    text = kubectl(
        "get", "secrets", "-A", "--selector=owner=helm", "--no-headers", f"--output=custom-columns={columns}"
    )
    found: dict[str, Installed] = {}
    for line in text.splitlines():
        if len(words := line.split()) == 5:
            namespace, name, status, revision, inputs = words
            if namespace not in NAMESPACES:
                continue
            if name not in found or found[name].revision < int(revision):
                found[name] = Installed(name, namespace, status, int(revision), inputs)
    return found


@dataclass(frozen=True)
class Wanted:
    """A release as it should be: Helm's arguments for it, release name first."""

    chart: Chart
    arguments: Sequence[str]

    @cached_property
    def inputs(self) -> str:
        """Sum over the arguments, our values and, where it is a folder or an archive, the chart itself."""
        release, location, *rest = self.arguments
        source = Path(location)
        files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
        # What is in a folder counts, not where it is.
        words = [release, *([] if files else [location]), *rest]
        total = hashlib.sha256("\0".join(words).encode())
        for file in [self.chart.values, *files]:
            total.update(file.read_bytes())
        # A label's value has at most 63 characters.
        return total.hexdigest()[:32]


def require_whole(context: str, known: Mapping[str, Installed], charts: Sequence[Chart]) -> None:
    """Raise :class:`UserError` for a release that an interrupted command left half done."""
    for chart in charts:
        release = known.get(chart.release)
        if release is None or not release.status.startswith(_PENDING):
            continue
        command = f"helm --kube-context {context} -n {chart.namespace}"
        # What was never installed has no data; an upgrade goes back to what ran before.
        mend = "uninstall" if release.status == f"{_PENDING}install" else "rollback"
        raise UserError(
            f"Release {chart.release} is half installed ({release.status}): run `{command} {mend} {chart.release}`, "
            "then `make deploy` again."
        )


def install(
    context: str,
    wanted: Sequence[Wanted],
    known: Mapping[str, Installed],
    report: Callable[[str], None] = lambda _line: None,
) -> list[str]:
    """Install or upgrade the releases that are not as wanted; returns their names."""

    def one(release: Wanted) -> str | None:
        chart, present = release.chart, known.get(release.chart.release)
        if present and (present.status, present.inputs) == ("deployed", release.inputs):
            return None
        command = ["helm", "upgrade", "--install", *release.arguments, f"--kube-context={context}"]
        try:
            run([*command, f"--labels={INPUTS}={release.inputs}", f"--history-max={_HISTORY}"])
        except ProgramError as error:
            raise UserError(f"Release {chart.release} could not be installed: {_last_line(error.stderr)}") from None
        report(f"{chart.release} {'upgraded' if present else 'installed'} ({chart.chart} {chart.version})")
        return chart.release

    with ThreadPoolExecutor(max_workers=_PARALLEL) as pool:
        return [name for name in pool.map(one, wanted) if name]


def uninstall(context: str, known: Mapping[str, Installed], charts: Sequence[Chart]) -> list[str]:
    """Uninstall every release of ours, whatever its state; returns their names."""
    gone = [chart for chart in charts if chart.release in known and known[chart.release].namespace == chart.namespace]

    def one(chart: Chart) -> str:
        run(["helm", "uninstall", chart.release, f"--namespace={chart.namespace}", f"--kube-context={context}"])
        return chart.release

    with ThreadPoolExecutor(max_workers=_PARALLEL) as pool:
        return list(pool.map(one, gone))


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "Helm said nothing."
