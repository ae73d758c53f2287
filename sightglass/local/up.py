"""``make up``: from a checkout to a served model whose every signal is proved to arrive."""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from sightglass.clients import http
from sightglass.facts import credentials, declarations, hash_keys, target
from sightglass.facts import versions as versions_file
from sightglass.facts.errors import UserError
from sightglass.facts.services import Service
from sightglass.facts.settings import CANARY, Settings
from sightglass.local import build, components, grafana, stack, state
from sightglass.local.grafana import GrafanaHome
from sightglass.local.servers import SERVERS
from sightglass.local.supervise import Supervisor
from sightglass.notify import receivers
from sightglass.verify import table
from sightglass.verify.run import Report, verify

PLANNED_PROGRAMS = {program: Path(program) for server in SERVERS for program in server.programs}
"""Stand-ins where a stack is described but not started."""
PLANNED_GRAFANA = GrafanaHome(Path("$GRAFANA_HOME"), ("grafana", "server"))


def grafana_file(settings: Settings) -> Path:
    """Where ``up`` notes why there is no Grafana."""
    return settings.run_dir / "without-grafana"


def dry_run(settings: Settings, console: Console) -> None:
    """Print what ``up`` would start, in which order, without building or starting anything."""
    plan = components.build(settings, credentials.Credentials(), PLANNED_PROGRAMS, PLANNED_GRAFANA)
    for component in plan:
        ports = ", ".join(
            str(settings.ports[port.name]) for port in settings.all_ports if port.component == component.name
        )
        after = f" after {', '.join(component.after)}" if component.after else ""
        console.print(f"[bold]{component.name}[/]{after}, ports {ports}, log {component.log}", soft_wrap=True)
        console.print(f"  {shlex.join(component.command)}", soft_wrap=True, markup=False, highlight=False)


def up(settings: Settings, console: Console) -> Report:
    """Build, train, start, prove; returns the proof."""
    settings.require_services()
    state.claim(settings)
    supply, home = obtain(settings, console)
    secrets = credentials.load_or_create(credentials.file_in(settings.state_dir))
    the_stack = stack.Stack(settings, components.build(settings, secrets, supply.paths, home))
    builds = _Builds(supply, console)
    the_stack.bring_up(
        gates={**{one.name: partial(train, settings, one) for one in settings.observed}, **builds.gates},
        report=lambda name, seconds: console.print(f"  {name} ready after {seconds:.1f} s"),
    )
    ready = time.time() - psutil.Process().create_time()
    where = target.local(settings, secrets, grafana=home is not None)
    with console.status("sending predictions and looking for their signals"):
        report = verify(where)
    console.print(table.verify_table(report))
    for line in differences(settings):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    memory = the_stack.resident_bytes()
    services = [one.name for one in settings.observed]
    servers = sum(size for name, size in memory.items() if name not in services)
    console.print(_addresses(settings, supply, home))
    console.print(receivers.sentence(settings), soft_wrap=True, markup=False, highlight=False)
    console.print(
        f"Everything was ready {ready:.1f} s after the command began. Resident: servers {servers / 2**20:.0f} MiB, "
        f"{', '.join(f'{name} {memory.get(name, 0) / 2**20:.0f} MiB' for name in services)}."
    )
    return report


def rotate_hash_key(settings: Settings, console: Console) -> None:
    """Give the service a new key for the hashes of texts; a running service is started anew with it."""
    file = credentials.file_in(settings.state_dir)
    known = hash_keys.rotated(credentials.load(file), datetime.now(UTC))
    credentials.save(known, file)
    console.print(hash_keys.sentence(known), soft_wrap=True, markup=False, highlight=False)
    if Supervisor(settings.state_dir).pid() is None:
        return
    supply, home = obtain(settings, console)
    the_stack = stack.Stack(settings, components.build(settings, known, supply.paths, home))
    the_stack.bring_up(gates=_Builds(supply, console).gates)
    console.print("The service runs with it.")


class _Builds:
    """Builds what is missing while the servers that are there start already; each waits for its own program."""

    def __init__(self, supply: build.Supply, console: Console) -> None:
        self._there = {server.name: threading.Event() for server in supply.builds}
        self._problem: BaseException | None = None
        self.gates: dict[str, Callable[[], None]] = {name: partial(self._wait, name) for name in self._there}
        if supply.builds:
            threading.Thread(target=self._run, args=(supply, console), daemon=True).start()

    def _run(self, supply: build.Supply, console: Console) -> None:
        try:
            supply.build(console, report=lambda server: self._there[server.name].set())
        except BaseException as problem:
            self._problem = problem
        finally:
            for event in self._there.values():
                event.set()

    def _wait(self, name: str) -> None:
        self._there[name].wait()
        if self._problem is not None:
            raise self._problem


def obtain(settings: Settings, console: Console) -> tuple[build.Supply, GrafanaHome | None]:
    """Every server, fetched or to be built, and Grafana where it can be had; why not is kept for ``status``."""
    given = settings.grafana_home
    archive = grafana.release(given)
    order = list(versions_file.load().servers)
    supply = build.supply(
        bin_dir=settings.bin_dir,
        cache_dir=settings.cache_dir,
        console=console,
        # What others wait for comes first where it has to be built.
        servers=sorted(SERVERS, key=lambda server: order.index(server.name)),
        origin=settings.servers_from,
        mirror=settings.mirror,
        more=[archive] if archive else [],
    )
    name = archive.name if archive else ""
    found = grafana.find(given, supply.homes.get(name), supply.failures.get(name))
    note, kept = grafana_file(settings), versions_kept(settings)
    note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    kept.write_text(json.dumps(dict(supply.versions)))
    if isinstance(found, GrafanaHome):
        note.unlink(missing_ok=True)
        return supply, found
    note.write_text(found.reason)
    console.print(f"Without Grafana: {found.reason}", markup=False, highlight=False, soft_wrap=True)
    return supply, None


def versions_kept(settings: Settings) -> Path:
    """Where ``up`` notes which version of each server it took."""
    return settings.run_dir / "versions.json"


def running_versions(settings: Settings) -> dict[str, str]:
    """Version by server as ``up`` took it; before the first, what it would take."""
    planned = {name: server.version for name, server in versions_file.load().servers.items()}
    try:
        taken: dict[str, str] = json.loads(versions_kept(settings).read_text())
    except FileNotFoundError:
        return planned
    return planned | taken


def cluster_versions() -> dict[str, str]:
    """Version by server in a cluster."""
    return {name: server.version for name, server in versions_file.load().servers.items() if server.image}


def both_versions(settings: Settings) -> dict[str, dict[str, str]]:
    """Version by server, on this machine and in a cluster."""
    running = running_versions(settings)
    return {name: {"here": running[name], "cluster": version} for name, version in cluster_versions().items()}


def differences(settings: Settings) -> list[str]:
    """One sentence for each server that is another version on this machine than in a cluster."""
    running, known = running_versions(settings), versions_file.load().servers
    found = []
    for name, version in cluster_versions().items():
        if running[name] != version:
            origin = known[name].build
            because = f" {origin.because}" if origin and origin.because and running[name] != build.GIVEN else ""
            found.append(f"{name} is {running[name]} on this machine and {version} in a cluster.{because}")
    return found


def train(settings: Settings, service: Service) -> None:
    """Make the model of a service unless its store has it; the trainer's own progress goes to the terminal."""
    if service.training is None:
        return
    state.claim(settings)
    # What is set for another service, or other Python programs, is not for this one.
    foreign = ("BENTOML_", "PYTHONPATH", "PYTHONHOME")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environment |= {**components.service_environment(settings), "PYTHONPATH": str(service.folder)}
    command = [str(service.python), "-m", service.training, "--if-missing"]
    done = subprocess.run(command, env=environment, cwd=service.folder, check=False, stdout=sys.stderr)
    if done.returncode:
        raise UserError(f"The model of {service.name} could not be trained; the reason stands above.")


def versions(settings: Settings, statuses: Iterable[stack.ComponentStatus]) -> dict[str, str]:
    """Version by component; Grafana, which may be anybody's, is asked for its own."""
    found = {
        **running_versions(settings),
        **dict.fromkeys((*(one.name for one in settings.observed), CANARY), metadata.version("sightglass")),
    }
    for status in statuses:
        if status.name == "grafana" and status.ready:
            with contextlib.suppress(http.Error, KeyError, ValueError):
                answer = http.session.get(f"{status.url}/api/health", timeout=5)
                found["grafana"] = answer.json()["version"]
    return found


def _prometheus(settings: Settings, supply: build.Supply) -> dict[str, str]:
    """Prometheus' address, and whether there are pages behind it: a build has none."""
    built = supply.paths["prometheus"].is_relative_to(settings.cache_dir / "servers")
    url = settings.url("prometheus")
    return {"Prometheus (API)": url} if built else {"Prometheus": f"{url}/query"}


def _example(settings: Settings, service: Service) -> str:
    """A command that asks for a prediction."""
    declared = declarations.of(service)
    body = shlex.quote(declared.samples[0].body) if declared.samples else "BODY"
    return f"curl -s {settings.url(service.port_name)}{declared.route} -H content-type:application/json -d {body}"


def _addresses(settings: Settings, supply: build.Supply, home: GrafanaHome | None) -> Table:
    table = Table(title="Where to look, and what to do next", title_justify="left", show_header=False)
    rows: Mapping[str, str] = {
        **{f"predict ({one.name})": _example(settings, one) for one in settings.observed},
        "Grafana": f"{settings.url('grafana')} (admin, password in {credentials.file_in(settings.state_dir)})"
        if home
        else "does not run; `make status` says why",
        **_prometheus(settings, supply),
        "Alertmanager": settings.url("alertmanager"),
        "Loki (API)": settings.url("loki_http"),
        "Tempo (API)": settings.url("tempo_http"),
        "OTLP": f"{settings.url('collector_otlp_http')} (HTTP)",
        "MinIO": settings.url("minio_console"),
        "state": "make status",
        "proof again": "make verify",
        "load": "make load",
        "stop": "make down",
    }
    for name, text in rows.items():
        table.add_row(name, text)
    return table
