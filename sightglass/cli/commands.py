"""Commands for people and programs; ``make`` targets stand in front of them."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import filelock
from click.shell_completion import get_completion_class

from sightglass.alerting import listing
from sightglass.cli.elsewhere import COMMANDS
from sightglass.clients.polling import NotYet
from sightglass.facts import credentials, hash_keys, settings, target
from sightglass.facts.errors import UserError
from sightglass.facts.provisioning import DASHBOARDS, DATA_SOURCES
from sightglass.facts.settings import Settings
from sightglass.kubernetes import deploy
from sightglass.kubernetes.options import load as load_options
from sightglass.local import checkout, components, disk, stack, state, status_table, up
from sightglass.terminal import screen
from sightglass.verify import table
from sightglass.verify.run import TIMEOUT, Row, verify


class _TargetName(click.Choice[str]):
    """``kind`` is what earlier versions called any cluster."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(KUBERNETES if value == "kind" else value, param, ctx)


KUBERNETES = "kubernetes"
_TARGET = click.option(
    "--target",
    "where",
    type=_TargetName(["local", KUBERNETES]),
    default="local",
    show_default=True,
    help="This machine, or the cluster of KUBE_CONTEXT.",
)
_YES = click.option(
    "--yes", is_flag=True, envvar=["SIGHTGLASS_YES", "YES"], help="Do not ask; also YES=1 in the environment."
)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run the stack on this machine or in a cluster, and prove that every signal of the service arrives."""
    checkout.require_own()


@main.command("up")
@click.option("--dry-run", is_flag=True, help="Print the plan; build and start nothing.")
def up_command(dry_run: bool) -> None:
    """Build, train, start everything, then prove it. What runs already is left alone."""
    loaded = settings.load()
    if dry_run:
        up.dry_run(loaded, screen.console())
        return
    with _alone(loaded):
        report = up.up(loaded, screen.console())
    if not report.ok:
        raise UserError("Not every signal arrived: the red rows above say which and what was seen last.")


@main.command()
def down() -> None:
    """Stop everything; data and models stay."""
    loaded = settings.load()
    with _alone(loaded):
        _down(loaded)


@main.command()
@_YES
def clean(yes: bool) -> None:
    """Stop everything and forget data, secrets and models; what others have in the folder stays."""
    loaded = settings.load()
    with _alone(loaded):
        if not (ours := state.owned(loaded)):
            print(f"There is no stack in {loaded.state_dir}: nothing was removed.")
            return
        named = ", ".join(str(path.relative_to(loaded.state_dir)) for path in ours)
        _agree(f"Stop the stack in {loaded.state_dir} and remove its data, secrets and models ({named})?", yes)
        _down(loaded)
        left = state.remove(loaded)
    if left:
        print(f"{loaded.state_dir} stays, with what is not of the stack: {', '.join(path.name for path in left)}.")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of a table.")
def status(as_json: bool) -> None:
    """State of every component; exit status 1 when one is not ready, or when the disk is full."""
    loaded = settings.load()
    the_stack = _known_stack(loaded)
    statuses = the_stack.status()
    versions, elsewhere = up.versions(loaded, statuses), up.cluster_versions()
    full = disk.problem(loaded.state_dir)
    if as_json:
        fields = ("pid", "ready", "url", "state", "detail")
        answer = {
            s.name: {
                **{name: getattr(s, name) for name in fields},
                "version": versions.get(s.name, ""),
                "cluster_version": elsewhere.get(s.name, versions.get(s.name, "")),
            }
            for s in statuses
        }
        print(json.dumps({"components": answer, "disk": full}, indent=2))
    else:
        console = screen.console()
        console.print(status_table.status_table(statuses, versions, the_stack.resident_bytes()))
        for line in up.differences(loaded):
            console.print(line, soft_wrap=True, markup=False, highlight=False)
        note = up.grafana_file(loaded)
        if note.exists():
            console.print(f"Without Grafana: {note.read_text()}")
        if full:
            console.print(full, soft_wrap=True, markup=False, highlight=False)
    sys.exit(0 if all(s.ready for s in statuses) and not full else 1)


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
    planned = deploy.plan(load_options(), loaded)
    if dry_run:
        deploy.dry_run(planned, screen.console())
        return
    _end_orderly()
    with _alone(loaded):
        report = deploy.deploy(planned, screen.console())
    if not report.ok:
        raise UserError("Not every signal arrived: the red rows above say which and what was seen last.")


@main.command()
@_YES
def undeploy(yes: bool) -> None:
    """Take back what `deploy` made, data and all; what others have in the namespaces stays."""
    loaded = settings.load()
    with _alone(loaded):
        deploy.undeploy(deploy.plan(load_options(), loaded), screen.console(), lambda text: _agree(text, yes))


@main.command()
def connect() -> None:
    """Open the cluster's ports on this machine until it is interrupted, and print their addresses."""
    loaded = settings.load()
    over = threading.Event()
    # Also where whoever started it ignores the one, as a shell does for what it puts into the background.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: over.set())
    with deploy.reached(load_options(), ports=loaded.ports) as where:
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
    console = screen.console(stderr=as_json)
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
        print(json.dumps(report.as_json() | {"versions": up.both_versions(settings.load())}, indent=2))
    else:
        console.print(table.verify_table(report))
        for line in up.differences(settings.load()):
            console.print(line, soft_wrap=True, markup=False, highlight=False)
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
        hint = "`make deploy` says what it lacks" if where == KUBERNETES else "see `make status`"
        print(f"sightglass: {reason}: {hint}.", file=sys.stderr)
        sys.exit(1)
    if as_json:
        print(found.as_json())
    else:
        listing.show(found, screen.console())


@main.command("rotate-hash-key")
@_TARGET
def rotate_hash_key(where: str) -> None:
    """Hash texts under a new key from now on; old keys are kept while lines made with them are."""
    loaded = settings.load()
    with _alone(loaded):
        if where == KUBERNETES:
            deploy.rotate_hash_key(deploy.plan(load_options(), loaded), screen.console())
        else:
            up.rotate_hash_key(loaded, screen.console())


@main.command("hash")
@_TARGET
@click.option("--exact", is_flag=True, help="Keep a line end at the end of the text.")
def hash_command(where: str, exact: bool) -> None:
    """Print the hash of the text on standard input under each key: id, hash, and when the key was in use."""
    text = sys.stdin.buffer.read().decode()
    text = text if exact else text.removesuffix("\n").removesuffix("\r")
    if where == KUBERNETES:
        known = deploy.known(load_options())
    else:
        known = credentials.load(credentials.file_in(settings.load().state_dir))
    found = list(hash_keys.hashes(known, text))
    if not found:
        raise UserError("This stack has no key for hashes yet: `make up` (in a cluster `make deploy`) makes one.")
    for one in found:
        print(one.key.id, one.value, one.key.created, one.key.retired or "in use")
    print(f"In Loki: {hash_keys.query(found, settings.load().observed)}", file=sys.stderr)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "fish", "zsh"]))
def completion(shell: str) -> None:
    """Print what makes a shell complete commands and options: eval "$(sightglass completion bash)"."""
    made = get_completion_class(shell)
    if made is None:
        raise UserError(f"There is no completion for {shell}.")
    print(made(main, {}, "sightglass", "_SIGHTGLASS_COMPLETE").source())


for _command in COMMANDS:
    main.add_command(_command)


@contextmanager
def _alone(loaded: Settings) -> Iterator[None]:
    """One command at a time brings a stack up or down."""
    # Beside the folder, because `clean` removes the folder itself.
    file = loaded.state_dir.with_name(f"{loaded.state_dir.name}.lock")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(file)
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise UserError(
            f"Another command that brings a stack up or down is at work in {loaded.state_dir}: wait for its end."
        ) from None
    except OSError as error:
        raise UserError(f"{error}: set SIGHTGLASS_STATE_DIR to a folder inside one that you can write.") from None
    try:
        yield
    finally:
        lock.release()


def _agree(question: str, yes: bool) -> None:
    """Ask before data go; where nobody can be asked, YES=1 must have said it."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UserError(f"{question} Nobody can be asked here: YES=1 says yes. Nothing was removed.")
    if not click.confirm(question):
        raise UserError("Nothing was removed.")


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
    # It is described only: what runs has its secrets, and what is damaged can still be stopped and removed.
    return stack.Stack(loaded, components.build(loaded, credentials.Credentials(), up.PLANNED_PROGRAMS, home))


def _end_orderly() -> None:
    """Also a closed terminal ends what forwards the cluster's ports."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda caught, _frame: sys.exit(128 + caught))


@contextmanager
def _reached(where: str) -> Iterator[target.Target]:
    """The target that ``--target`` names."""
    if where == KUBERNETES:
        _end_orderly()
        with deploy.reached(load_options()) as found:
            yield found
    else:
        yield _target(settings.load())


def _target(loaded: Settings) -> target.Target:
    return target.running(loaded, grafana=not up.grafana_file(loaded).exists())
