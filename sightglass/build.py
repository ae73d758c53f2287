"""Builds the servers from their locked Go modules, once for all checkouts of one machine.

A built server is the folder ``<cache>/servers/<server>-<key>/bin``; the key is a digest of everything that decides
about the result, so an unchanged server is never built again and two versions stand side by side.

    python -m sightglass.build                    # build what is missing, print where every program is
    python -m sightglass.build --lock collector   # resolve a module anew after its version or manifest was changed
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TextIO

import click
import filelock
import yaml
from rich.console import Console

from sightglass import settings
from sightglass.errors import UserError
from sightglass.progress import Meter
from sightglass.servers import LOAD_GENERATOR, SERVERS, Server, host, server_versions

__all__ = ["ensure_binaries", "lock", "server_versions"]

BUILDER_PACKAGE = "go.opentelemetry.io/collector/cmd/builder"
BIN_DIR_HINT = "set SIGHTGLASS_BIN_DIR to a folder that holds ready programs"
LOG_TAIL = 20
"""Lines of the log that an error shows."""


def ensure_binaries(
    *,
    bin_dir: Path | None,
    cache_dir: Path,
    console: Console,
    names: Collection[str] | None = None,
    servers: Collection[Server] = SERVERS,
) -> dict[str, Path]:
    """Return the absolute path of every program in ``names`` (all by default), building those that are missing.

    A program in ``bin_dir`` is taken as it is. Raises :class:`UserError` if Go is missing or too old, if a build
    fails, or if ``bin_dir`` is no folder; :class:`ValueError` for a name that no server has.
    """
    known = {program for server in servers for program in server.programs}
    wanted = known if names is None else set(names)
    if unknown := sorted(wanted - known):
        raise ValueError(f"no server has the program {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    paths = _ready_programs(bin_dir, wanted)
    needed = [server for server in servers if (wanted & server.programs.keys()) - paths.keys()]
    if not needed:
        return paths
    system, machine = host()
    folder = cache_dir.absolute() / "servers"
    homes = {server.name: folder / f"{server.name}-{server.key(system, machine)}" for server in needed}
    missing = [server for server in needed if not _is_complete(server, homes[server.name])]
    if missing:
        environment = _go_environment(missing) | {"GOOS": system, "GOARCH": machine}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{error}: set SIGHTGLASS_CACHE_DIR to a folder that can be written.") from None
        for position, server in enumerate(missing, 1):
            label = f"building server {position} of {len(missing)}: {server.name} {server.version()}"
            _build_once(server, homes[server.name], environment, console, label)
    for server in needed:
        for program in wanted & server.programs.keys():
            paths.setdefault(program, homes[server.name] / "bin" / program)
    return paths


def _ready_programs(bin_dir: Path | None, wanted: Collection[str]) -> dict[str, Path]:
    if bin_dir is None:
        return {}
    if not bin_dir.is_dir():
        raise UserError(f"SIGHTGLASS_BIN_DIR is {bin_dir}, which is no folder: correct it or unset it.")
    found = {name: bin_dir.absolute() / name for name in sorted(wanted) if (bin_dir / name).is_file()}
    for path in found.values():
        if not os.access(path, os.X_OK):
            raise UserError(f"{path} may not be executed: run chmod +x on it or remove it.")
    return found


def _is_complete(server: Server, home: Path) -> bool:
    return all((home / "bin" / program).is_file() for program in server.programs)


# Go itself


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _required_go(server: Server) -> str:
    """The newest Go that the lock files of a server ask for."""
    texts = [path.read_text() for path in server.lock_files if path.name == "go.mod"]
    return max((match[1] for text in texts if (match := re.search(r"^go (\S+)$", text, re.MULTILINE))), key=_number)


def _go_environment(servers: Collection[Server]) -> dict[str, str]:
    """Environment of every ``go`` command: the person's own Go settings, and the lock files as the last word."""
    most = max(servers, key=lambda server: _number(_required_go(server)))
    required = _required_go(most)
    remedy = f"install it from https://go.dev/dl/, or {BIN_DIR_HINT}."
    if shutil.which("go") is None:
        raise UserError(f"Building the servers needs Go {required} or newer and there is no go on the PATH: {remedy}")
    environment = {**os.environ, "GOWORK": "off", "CGO_ENABLED": "0"}
    # Asked inside the module, because there Go may switch to a newer toolchain of its own or refuse to work.
    command = ["go", "env", "-json", "GOVERSION", "GOFLAGS"]
    answer = subprocess.run(command, cwd=most.folder, env=environment, capture_output=True, text=True, check=False)
    found = json.loads(answer.stdout) if answer.returncode == 0 else {}
    version = found.get("GOVERSION", "")
    if answer.returncode != 0 or (version.startswith("go1") and _number(version) < _number(required)):
        reason = version or (answer.stderr.strip().splitlines() or ["it gives no version"])[-1]
        raise UserError(f"{most.name} needs Go {required} or newer, not this one ({reason}): {remedy}")
    return environment | {"GOFLAGS": f"{found['GOFLAGS']} -mod=readonly"}


# One build


class _CommandError(Exception):
    """A program of a build ended with an error; the log has its words."""


@dataclass(frozen=True)
class _Commands:
    """Runs the programs of one build: every line goes to the log and, on its way, to who counts progress."""

    environment: Mapping[str, str]
    log: TextIO

    def run(
        self,
        command: list[str],
        cwd: Path,
        heard: Callable[[str], None],
        output: IO[str] | int = subprocess.STDOUT,
        **environment: str,
    ) -> None:
        """Run to the end; ``heard`` gets each line of standard error (and of standard output, unless redirected)."""
        self.log.write(f"$ {' '.join(command)}\n")
        both = output == subprocess.STDOUT
        with subprocess.Popen(
            command,
            cwd=cwd,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if both else output,
            stderr=subprocess.STDOUT if both else subprocess.PIPE,
            text=True,
            errors="replace",
        ) as process:
            stream = process.stdout if both else process.stderr
            assert stream is not None  # noqa: S101 - it is piped above
            try:
                for line in stream:
                    self.log.write(line)
                    self.log.flush()
                    heard(line.rstrip())
            except BaseException:
                process.terminate()
                raise
        if process.returncode != 0:
            raise _CommandError(f"{command[0]} ended with status {process.returncode}")


def _build_once(server: Server, home: Path, environment: Mapping[str, str], console: Console, label: str) -> None:
    """Build unless another process has done so while this one waited for it."""
    guard = filelock.FileLock(home.with_name(f"{home.name}.lock"))
    try:
        guard.acquire(timeout=0)
    except filelock.Timeout:
        console.print(f"waiting for another process that builds {server.name}", markup=False, highlight=False)
        guard.acquire()
    try:
        if not _is_complete(server, home):
            _build(server, home, environment, console, label)
    finally:
        guard.release()


def _build(server: Server, home: Path, environment: Mapping[str, str], console: Console, label: str) -> None:
    for leftover in home.parent.glob(f".{home.name}.*"):  # of a build that was killed
        shutil.rmtree(leftover)
    log_path = home.with_name(f"{home.name}.log")
    work = Path(tempfile.mkdtemp(prefix=f".{home.name}.", dir=home.parent))
    try:
        with log_path.open("w") as log, Meter(console, label, lambda count: f"{count:.0f} packages") as meter:
            commands = _Commands(environment, log)
            source = _generate(server, work, commands, meter) if server.builder else server.folder
            _compile(server, source, work / "result" / "bin", commands, meter)
        if home.exists():
            shutil.rmtree(home)
        (work / "result").rename(home)
    except _CommandError as error:
        what = f"Building {server.name} {server.version()} failed ({error})"
        raise UserError(f"{what}; the whole log is {log_path}; it ends with:\n{_end(log_path)}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _end(log_path: Path) -> str:
    return "\n".join(f"  {line}" for line in log_path.read_text(errors="replace").splitlines()[-LOG_TAIL:])


def _compile(server: Server, source: Path, target: Path, commands: _Commands, meter: Meter) -> None:
    """Build the programs from a module folder into ``target``; the meter counts compiled packages."""
    flags = server.build_flags()
    packages = list(server.programs.values())
    stale = _stale_packages([*flags, *packages], source, commands, meter)
    meter.total(len(stale))
    compiled = 0

    def count(line: str) -> None:
        nonlocal compiled
        if line in stale:
            compiled += 1
            meter.done(compiled)

    target.mkdir(parents=True)
    for program, package in server.programs.items():
        result = str(target / program)
        commands.run(["go", "build", "-v", *flags, "-ldflags", server.ldflags(), "-o", result, package], source, count)


def _stale_packages(arguments: list[str], source: Path, commands: _Commands, meter: Meter) -> frozenset[str]:
    """Import paths of the packages that Go's own cache lacks; fetches the modules that are not there yet."""
    downloads = 0

    def count(line: str) -> None:
        nonlocal downloads
        if line.startswith("go: downloading "):
            downloads += 1
            meter.note(f"{downloads} modules fetched")

    with tempfile.TemporaryFile("w+") as listing:
        template = "{{if .Stale}}{{.ImportPath}}{{end}}"
        commands.run(["go", "list", "-deps", "-f", template, *arguments], source, count, output=listing)
        listing.seek(0)
        return frozenset(listing.read().split())


def _generate(server: Server, work: Path, commands: _Commands, meter: Meter, *, with_go_mod: bool = False) -> Path:
    """Let the Collector Builder write the sources that its manifest describes, and put the lock files beside them.

    ``with_go_mod`` keeps the ``go.mod`` that it derives from the manifest instead.
    """
    assert server.builder is not None  # noqa: S101 - asked by the callers
    program, source = work / "builder", work / "source"
    meter.note("building the Collector Builder")
    commands.run(["go", "build", *server.build_flags(), "-o", str(program), BUILDER_PACKAGE], server.builder, _ignore)
    manifest = yaml.safe_load(server.manifest.read_text())
    manifest["dist"]["output_path"] = str(source)
    # It would fetch modules of every operating system, some of which are not published: we resolve them ourselves.
    manifest["dist"]["go"] = shutil.which("true") or "true"
    copy = work / "builder.yaml"
    copy.write_text(yaml.safe_dump(manifest))
    skip = [] if with_go_mod else ["--skip-get-modules"]
    command = [str(program), "--config", str(copy), "--skip-compilation", *skip]
    commands.run(command, work, _ignore, TMPDIR=str(work))  # it leaves an empty folder there
    for name in ["go.sum"] if with_go_mod else ["go.mod", "go.sum"]:
        shutil.copyfile(server.folder / name, source / name)
    return source


def _ignore(_line: str) -> None:
    """Nothing to count."""


# Locking


def lock(server: Server, console: Console) -> None:
    """Resolve a server's modules anew and write its ``go.mod`` and ``go.sum`` back.

    What stays is what a person decides: the version of the server, its replacements, the Collector's manifest.
    Known checksums are kept and checked. Raises :class:`UserError` if a module cannot be had.
    """
    environment = _go_environment([server]) | {"GOFLAGS": "-mod=mod"}
    with tempfile.TemporaryDirectory(prefix="sightglass-lock.") as name:
        work = Path(name)
        log_path = work / "log"
        label = f"resolving {server.name}"
        try:
            with log_path.open("w") as log, Meter(console, label, lambda count: f"{count:.0f} modules") as meter:
                commands = _Commands(environment, log)
                if server.builder:
                    _resolve(_requirement(server.builder, BUILDER_PACKAGE, work), [BUILDER_PACKAGE], commands, meter)
                    _copy_lock(work / server.builder.name, server.builder)
                    source = _generate(server, work, commands, meter, with_go_mod=True)
                else:
                    source = _requirement(server.folder, server.module, work)
                _resolve(source, list(server.programs.values()), commands, meter)
                _copy_lock(source, server.folder)
        except _CommandError as error:
            raise UserError(f"{server.name} cannot be resolved ({error}):\n{_end(log_path)}") from None


def _copy_lock(source: Path, target: Path) -> None:
    for name in ("go.mod", "go.sum"):
        shutil.copyfile(source / name, target / name)


def _requirement(folder: Path, module: str, work: Path) -> Path:
    """Copy a lock folder, with the one requirement that a person wrote and without all that was derived from it."""
    source = work / folder.name
    shutil.copytree(folder, source)
    derived = re.compile(rf"^(?:require)?\s+(?!{re.escape(module)} )\S+ v\S+ // indirect.*\n", re.MULTILINE)
    (source / "go.mod").write_text(derived.sub("", (folder / "go.mod").read_text()))
    return source


def _resolve(source: Path, packages: list[str], commands: _Commands, meter: Meter) -> None:
    fetched = 0

    def count(line: str) -> None:
        nonlocal fetched
        if line.startswith("go: downloading "):
            fetched += 1
            meter.done(fetched)

    try:
        commands.run(["go", "mod", "tidy"], source, count)
    except _CommandError:
        # Tidying also wants what only the tests of others import; without that the programs can still be built.
        commands.run(["go", "list", "-deps", *packages], source, count, output=subprocess.DEVNULL)


@click.command()
@click.argument("programs", nargs=-1)
@click.option("--lock", "to_lock", metavar="SERVER", help="Resolve this server's modules anew instead of building.")
def main(programs: tuple[str, ...], to_lock: str | None) -> None:
    """Build PROGRAMS (all by default) and print where they are."""
    console = Console(stderr=True)
    by_name = {server.name: server for server in (*SERVERS, LOAD_GENERATOR)}
    if to_lock is not None:
        if to_lock not in by_name:
            raise click.BadParameter(f"{to_lock!r} is none of {', '.join(by_name)}.")
        lock(by_name[to_lock], console)
        return
    here = settings.load()
    try:
        paths = ensure_binaries(bin_dir=here.bin_dir, cache_dir=here.cache_dir, console=console, names=programs or None)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    for name, path in sorted(paths.items()):
        click.echo(f"{name} {path}")


if __name__ == "__main__":
    main()
