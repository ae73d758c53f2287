"""``make up``: from a checkout to a served model whose every signal is proved to arrive."""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from sightglass import build, components, credentials, grafana, http, stack, tables, target
from sightglass.alerting import receivers
from sightglass.errors import UserError
from sightglass.grafana import GrafanaHome
from sightglass.servers import SERVERS, server_versions
from sightglass.settings import CANARY, PORTS, REPOSITORY, SERVICE, Settings
from sightglass.verify.run import Report, verify

PLANNED_PROGRAMS = {program: Path(program) for server in SERVERS for program in server.programs}
"""Stand-ins where a stack is described but not started."""
PLANNED_GRAFANA = GrafanaHome(Path("$GRAFANA_HOME"), ("grafana", "server"))


def credentials_file(settings: Settings) -> Path:
    """Where a stack's generated secrets are."""
    return settings.state_dir / "credentials.json"


def grafana_file(settings: Settings) -> Path:
    """Where ``up`` notes why there is no Grafana."""
    return settings.run_dir / "without-grafana"


def dry_run(settings: Settings, console: Console) -> None:
    """Print what ``up`` would start, in which order, without building or starting anything."""
    plan = components.build(settings, credentials.Credentials(), PLANNED_PROGRAMS, PLANNED_GRAFANA)
    for component in plan:
        ports = ", ".join(str(settings.ports[port.name]) for port in PORTS if port.component == component.name)
        after = f" after {', '.join(component.after)}" if component.after else ""
        console.print(f"[bold]{component.name}[/]{after}, ports {ports}, log {component.log}", soft_wrap=True)
        console.print(f"  {shlex.join(component.command)}", soft_wrap=True, markup=False, highlight=False)


def up(settings: Settings, console: Console) -> Report:
    """Build, train, start, prove; returns the proof."""
    programs = build.ensure_binaries(bin_dir=settings.bin_dir, cache_dir=settings.cache_dir, console=console)
    home = find_grafana(settings, console)
    secrets = credentials.load_or_create(credentials_file(settings))
    the_stack = stack.Stack(settings, components.build(settings, secrets, programs, home))
    the_stack.bring_up(
        gates={SERVICE: lambda: train(settings)},
        report=lambda name, seconds: console.print(f"  {name} ready after {seconds:.1f} s"),
    )
    ready = time.time() - psutil.Process().create_time()
    where = target.local(settings, secrets, grafana=home is not None)
    with console.status("sending predictions and looking for their signals"):
        report = verify(where)
    console.print(tables.verify_table(report))
    memory = the_stack.resident_bytes()
    servers = sum(size for name, size in memory.items() if name != SERVICE)
    console.print(_addresses(settings, home))
    console.print(receivers.sentence(settings), soft_wrap=True, markup=False, highlight=False)
    console.print(
        f"Everything was ready {ready:.1f} s after the command began. Resident: servers {servers / 2**20:.0f} MiB, "
        f"service {memory.get(SERVICE, 0) / 2**20:.0f} MiB."
    )
    return report


def find_grafana(settings: Settings, console: Console) -> GrafanaHome | None:
    """Grafana where it can be had; why not is said in one line and kept for ``status``."""
    home = os.environ.get("GRAFANA_HOME")
    found = grafana.find_grafana(
        grafana_home=Path(home).expanduser().resolve() if home else None,
        cache_dir=settings.cache_dir,
        console=console,
    )
    note = grafana_file(settings)
    note.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if isinstance(found, GrafanaHome):
        note.unlink(missing_ok=True)
        return found
    note.write_text(found.reason)
    console.print(f"Without Grafana: {found.reason}")
    return None


def train(settings: Settings) -> None:
    """Train the classifier unless the model store has it; the trainer's own progress goes to the terminal."""
    environment = {**os.environ, **components.service_environment(settings)}
    command = [sys.executable, "-m", "text_classifier.training", "--if-missing"]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, check=False, stdout=sys.stderr)
    if done.returncode:
        raise UserError("The classifier could not be trained; the reason stands above.")


def versions(statuses: Iterable[stack.ComponentStatus]) -> dict[str, str]:
    """Version by component; Grafana, which may be anybody's, is asked for its own."""
    found = {**server_versions(), **dict.fromkeys((SERVICE, CANARY), metadata.version("sightglass"))}
    for status in statuses:
        if status.name == "grafana" and status.ready:
            with contextlib.suppress(http.Error, KeyError, ValueError):
                answer = http.session.get(f"{status.url}/api/health", timeout=5)
                found["grafana"] = answer.json()["version"]
    return found


def clean(settings: Settings) -> None:
    """Forget the stack's data, secrets and models; the built servers stay in the cache."""
    if settings.state_dir.exists() and not any(
        sign.exists() for sign in (settings.run_dir, credentials_file(settings), settings.models_dir)
    ):
        raise UserError(f"{settings.state_dir} does not look like a stack's folder: nothing was deleted.")
    shutil.rmtree(settings.state_dir, ignore_errors=True)


def _addresses(settings: Settings, home: GrafanaHome | None) -> Table:
    table = Table(title="Where to look, and what to do next", title_justify="left", show_header=False)
    rows: Mapping[str, str] = {
        "predict": f"curl -s {settings.url('service')}/predict -H content-type:application/json "
        """-d '{"text": "a puck in the net"}'""",
        "Grafana": f"{settings.url('grafana')} (admin, password in {credentials_file(settings)})"
        if home
        else "does not run; `make status` says why",
        "Prometheus (API)": settings.url("prometheus"),
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
