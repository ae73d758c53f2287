"""Commands for people and programs; ``make`` targets stand in front of them."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import filelock

from sightglass import components, credentials, settings, stack, tables, target, up
from sightglass.alerting import listing
from sightglass.errors import UserError
from sightglass.kubernetes import deploy
from sightglass.kubernetes import settings as kubernetes
from sightglass.polling import NotYet
from sightglass.provisioning import DASHBOARDS, DATA_SOURCES
from sightglass.settings import Settings
from sightglass.verify.run import TIMEOUT, Row, verify

_TARGET = click.option(
    "--target",
    "where",
    type=click.Choice(["local", "kind"]),
    default="local",
    show_default=True,
    help="This machine, or the cluster of KUBE_CONTEXT.",
)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run the stack on this machine or in a cluster, and prove that every signal of the service arrives."""


@main.command("up")
@click.option("--dry-run", is_flag=True, help="Print the plan; build and start nothing.")
def up_command(dry_run: bool) -> None:
    """Build, train, start everything, then prove it. What runs already is left alone."""
    loaded = settings.load()
    if dry_run:
        up.dry_run(loaded, tables.console())
        return
    with _alone(loaded):
        report = up.up(loaded, tables.console())
    if not report.ok:
        raise UserError("Not every signal arrived: the red rows above say which and what was seen last.")


@main.command()
def down() -> None:
    """Stop everything; data and models stay."""
    loaded = settings.load()
    with _alone(loaded):
        _down(loaded)


@main.command()
def clean() -> None:
    """Stop everything and forget data, secrets and models."""
    loaded = settings.load()
    with _alone(loaded):
        _down(loaded)
        up.clean(loaded)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def status(as_json: bool) -> None:
    """State of every component; exit status 1 when one is not ready."""
    loaded = settings.load()
    the_stack = _known_stack(loaded)
    statuses = the_stack.status()
    versions = up.versions(statuses)
    if as_json:
        fields = ("pid", "ready", "url", "state", "detail")
        answer = {
            s.name: {**{name: getattr(s, name) for name in fields}, "version": versions.get(s.name, "")}
            for s in statuses
        }
        print(json.dumps({"components": answer}, indent=2))
    else:
        console = tables.console()
        console.print(tables.status_table(statuses, versions, the_stack.resident_bytes()))
        note = up.grafana_file(loaded)
        if note.exists():
            console.print(f"Without Grafana: {note.read_text()}")
    sys.exit(0 if all(s.ready for s in statuses) else 1)


@main.command()
def env() -> None:
    """Addresses and the read-only S3 user as KEY=VALUE lines."""
    print("\n".join(_target(settings.load()).lines()))


@main.command()
@click.argument("name")
@click.option("-n", "--lines", default=40, show_default=True, help="How many lines from the end.")
@click.option("-f", "--follow", is_flag=True, help="Go on printing what comes.")
def logs(name: str, lines: int, follow: bool) -> None:
    """Print the end of a component's log."""
    loaded = settings.load()
    files = {component.name: component.log for component in _known_stack(loaded).components}
    files["supervisord"] = loaded.logs_dir / "supervisord.log"
    if name not in files:
        raise UserError(f"There is no component {name!r}: take one of {', '.join(sorted(files))}.")
    if not files[name].exists():
        raise UserError(f"{name} has no log yet, {files[name]}: start the stack with `make up`.")
    command = ["tail", "-n", str(lines), *(["-F"] if follow else []), str(files[name])]
    sys.exit(subprocess.run(command, check=False).returncode)


@main.command("deploy")
@click.option("--dry-run", is_flag=True, help="Print the plan; ask and change nothing.")
def deploy_command(dry_run: bool) -> None:
    """Deploy everything to a Kubernetes cluster, then prove it. What is there unchanged is left alone."""
    loaded = settings.load()
    planned = deploy.plan(kubernetes.load(), loaded)
    if dry_run:
        deploy.dry_run(planned, tables.console())
        return
    _end_orderly()
    with _alone(loaded):
        report = deploy.deploy(planned, tables.console())
    if not report.ok:
        raise UserError("Not every signal arrived: the red rows above say which and what was seen last.")


@main.command()
def undeploy() -> None:
    """Take back what `deploy` made, data and all."""
    loaded = settings.load()
    with _alone(loaded):
        deploy.undeploy(deploy.plan(kubernetes.load(), loaded), tables.console())


@main.command()
def connect() -> None:
    """Open the cluster's ports on this machine until it is interrupted, and print their addresses."""
    loaded = settings.load()
    over = threading.Event()
    # Also where whoever started it ignores the one, as a shell does for what it puts into the background.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: over.set())
    with deploy.reached(kubernetes.load(), ports=loaded.ports) as where:
        print("\n".join(where.lines()), flush=True)
        print("These addresses are open until Ctrl-C.", file=sys.stderr, flush=True)
        over.wait()


@main.command("verify")
@_TARGET
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
@click.option("--timeout", default=TIMEOUT, show_default=True, help="Seconds until a signal counts as lost.")
@click.option("--data-sources", type=_FILE, default=DATA_SOURCES, help="Provisioning file whose links are followed.")
@click.option("--dashboards", type=_FOLDER, default=DASHBOARDS, help="Folder of the dashboards that links lead to.")
def verify_command(where: str, as_json: bool, timeout: float, data_sources: Path, dashboards: Path) -> None:
    """Make predictions, find each signal where it belongs and follow each link; exit status 1 when a row is red."""
    console = tables.console(stderr=as_json)
    found: list[str] = []

    with console.status("looking") as spinner:

        def progress(row: Row) -> None:
            found.append(row.name)
            spinner.update(f"{len(found)} rows known, newest: {row.name}")

        with _reached(where) as found_at:
            report = verify(
                found_at, timeout=timeout, data_sources=data_sources, dashboards=dashboards, report=progress
            )
    if as_json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        console.print(tables.verify_table(report))
    sys.exit(0 if report.ok else 1)


@main.command()
@_TARGET
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
def alerts(where: str, as_json: bool) -> None:
    """Print what is firing and pending, and why; exit status 1 when Prometheus or Alertmanager cannot be asked."""
    try:
        with _reached(where) as found_at:
            found = listing.ask(found_at)
    except NotYet as reason:
        hint = "`make deploy` says what it lacks" if where == "kind" else "see `make status`"
        print(f"sightglass: {reason}: {hint}.", file=sys.stderr)
        sys.exit(1)
    if as_json:
        print(found.as_json())
    else:
        listing.show(found, tables.console())


@contextmanager
def _alone(loaded: Settings) -> Iterator[None]:
    """One command at a time brings a stack up or down."""
    # Beside the folder, because `clean` removes the folder itself.
    file = loaded.state_dir.with_name(f"{loaded.state_dir.name}.lock")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(file, blocking=False):
            yield
    except filelock.Timeout:
        raise UserError(
            f"Another command that brings a stack up or down is at work in {loaded.state_dir}: wait for its end."
        ) from None


def _down(loaded: Settings) -> None:
    stopped = _known_stack(loaded).tear_down(lambda name: print(f"stopped {name}"))
    print("Nothing is left running." if stopped else "Nothing was running.")


def _control(verb: str, action: Callable[[stack.Stack, str], None]) -> None:
    @main.command(verb, help=f"{verb.capitalize()} one component.")
    @click.argument("name")
    def command(name: str) -> None:
        the_stack = _known_stack(settings.load())
        known = [component.name for component in the_stack.components]
        if name not in known:
            raise UserError(f"There is no component {name!r}: take one of {', '.join(known)}.")
        if the_stack.supervisor.pid() is None:
            raise UserError("The stack does not run: start it with `make up`.")
        action(the_stack, name)


_control("stop", lambda the_stack, name: the_stack.supervisor.stop(name))
_control("start", lambda the_stack, name: the_stack.start(name))


def _known_stack(loaded: Settings) -> stack.Stack:
    """The stack as it was started, without building or fetching anything."""
    home = None if up.grafana_file(loaded).exists() else up.PLANNED_GRAFANA
    file = up.credentials_file(loaded)
    secrets = credentials.load_or_create(file) if file.exists() else credentials.Credentials()
    return stack.Stack(loaded, components.build(loaded, secrets, up.PLANNED_PROGRAMS, home))


def _end_orderly() -> None:
    """Also a closed terminal ends what forwards the cluster's ports."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda caught, _frame: sys.exit(128 + caught))


@contextmanager
def _reached(where: str) -> Iterator[target.Target]:
    """The target that ``--target`` names."""
    if where == "kind":
        _end_orderly()
        with deploy.reached(kubernetes.load()) as found:
            yield found
    else:
        yield _target(settings.load())


def _target(loaded: Settings) -> target.Target:
    secrets = credentials.load(up.credentials_file(loaded))
    return target.local(loaded, secrets, grafana=not up.grafana_file(loaded).exists())
