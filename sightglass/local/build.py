"""Where the servers' programs come from: a folder that the person names, upstream's archives, or a build.

A server that was fetched is the folder ``<cache>/releases/<server>-<key>``, one that was built
``<cache>/servers/<server>-<key>``; each key is a digest of everything that decides about the result, so what did not
change is never fetched or built again, and two versions stand side by side, for all checkouts of one machine.

    python -m sightglass.local.build                    # have what is missing, print where every program is
    python -m sightglass.local.build --lock collector   # resolve a module anew after its manifest was changed
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TextIO

import click
import filelock
import yaml
from rich.console import Console
from rich.filesize import decimal

from sightglass.facts import settings, versions
from sightglass.facts.errors import UserError
from sightglass.facts.settings import Origin
from sightglass.local import fetch, pagecache
from sightglass.local.fetch import Archive, Fetcher
from sightglass.local.servers import LOAD_GENERATOR, SERVERS, Server, archive, host, server_versions
from sightglass.terminal.progress import Expected, Meter, elapsed

__all__ = ["built_binaries", "ensure_binaries", "lock", "server_versions", "supply"]

BUILDER_PACKAGE = "go.opentelemetry.io/collector/cmd/builder"
BIN_DIR_HINT = "set SIGHTGLASS_BIN_DIR to a folder that holds ready programs"
GIVEN = "of SIGHTGLASS_BIN_DIR"
"""Stands for the version of a program that the person gives."""
BUILD_ROOM = 3_000_000_000
"""Bytes that one build may take, with modules and Go's own cache."""
DURATIONS = "durations.json"
"""Seconds that each build took on this machine."""
LOG_TAIL = 20
"""Lines of the log that an error shows."""


@dataclass(frozen=True)
class Supply:
    """Where every program is, or will be once what is missing was built."""

    paths: Mapping[str, Path]
    versions: Mapping[str, str]
    """By server."""
    builds: Sequence[Server]
    """What has to be built, in the order in which it will be."""
    homes: Mapping[str, Path]
    """Where each further archive was unpacked, by its name."""
    failures: Mapping[str, str]
    """Why a further archive could not be had, by its name."""
    _folder: Path = field(repr=False, default=Path())
    _environment: Mapping[str, str] = field(repr=False, default_factory=dict)

    def build(self, console: Console, report: Callable[[Server], None] = lambda _server: None) -> None:
        """Build what is missing; ``report`` is told each server that is there."""
        durations = _durations(self._folder)
        for position, server in enumerate(self.builds, 1):
            label = f"building server {position} of {len(self.builds)}: {server.name} {server.version()}"
            seconds = [durations.get(one.name, one.seconds) for one in self.builds[position - 1 :]]
            expected = Expected(seconds[0], sum(seconds[1:]))
            _build_once(server, self._folder / _home(server), self._environment, console, label, expected)
            report(server)


def ensure_binaries(
    *,
    bin_dir: Path | None,
    cache_dir: Path,
    console: Console,
    names: Collection[str] | None = None,
    servers: Collection[Server] = SERVERS,
    origin: Origin | None = None,
    mirror: str | None = None,
) -> dict[str, Path]:
    """Return the absolute path of every program in ``names`` (all by default); what is missing is fetched or built.

    See :func:`supply`. Raises :class:`UserError` if a build fails.
    """
    found = supply(
        bin_dir=bin_dir,
        cache_dir=cache_dir,
        console=console,
        names=names,
        servers=servers,
        origin=origin,
        mirror=mirror,
    )
    found.build(console)
    return dict(found.paths)


def supply(
    *,
    bin_dir: Path | None,
    cache_dir: Path,
    console: Console,
    names: Collection[str] | None = None,
    servers: Collection[Server] = SERVERS,
    origin: Origin | None = None,
    mirror: str | None = None,
    more: Collection[Archive] = (),
) -> Supply:
    """Find or fetch every program in ``names`` (all by default), and say what has to be built, and why.

    A program in ``bin_dir`` is taken as it is; then comes upstream's archive, then a build of the locked modules. What
    is in the cache is taken without asking anybody. ``origin`` forces one of the two, ``more`` are archives that are
    fetched along. Raises :class:`UserError` if Go is needed and missing or too old, if ``bin_dir`` is no folder, or if
    there is no room; :class:`ValueError` for a name that no server has.
    """
    known = {program for server in servers for program in server.programs}
    wanted = known if names is None else set(names)
    if unknown := sorted(wanted - known):
        raise ValueError(f"no server has the program {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    paths = _ready_programs(bin_dir, wanted)
    needed = [server for server in servers if (wanted & server.programs.keys()) - paths.keys()]
    told = {server.name: GIVEN for server in servers if server not in needed and wanted & server.programs.keys()}
    if not needed and not more:
        return Supply(paths, told, (), {}, {})
    system, machine = host()
    cache = cache_dir.absolute()
    folder, releases = cache / "servers", cache / "releases"
    archives = {server.name: found for server in needed if (found := archive(server.name, system, machine))}

    def is_built(server: Server) -> bool:
        return origin != "release" and _is_complete(server, folder / _home(server))

    def is_fetched(server: Server) -> bool:
        found = archives.get(server.name)
        return origin != "build" and found is not None and fetch.complete(releases / found.name)

    open_servers = [server for server in needed if not is_fetched(server) and not is_built(server)]
    asked = [archives[server.name] for server in open_servers if server.name in archives and origin != "build"]
    environment: dict[str, str] = {}
    reasons: dict[str, str] = {}

    def decide(failures: Mapping[str, str]) -> list[Server]:
        """What has to be built, said with the reason before it begins."""
        builds = []
        for server in open_servers:
            found = archives.get(server.name)
            if origin == "build":
                reason = "as asked for"
            elif found is None:
                reason = f"there is no archive for {system} on {machine}"
            elif found.name in failures:
                reason = failures[found.name]
            else:
                continue
            builds.append(server)
            if origin == "release":
                raise UserError(f"{server.name} cannot be fetched, and nothing is to be built: {reason}.")
            if server.name not in reasons:
                reasons[server.name] = reason
        fresh = [server for server in builds if server.name in reasons and server.name not in environment_for]
        if fresh:
            environment.update(_go_environment(builds) | {"GOOS": system, "GOARCH": machine})
            _say_builds(console, fresh, reasons)
            _require_room(cache, len(builds))
            environment_for.update(server.name for server in fresh)
        return builds

    environment_for: set[str] = set()
    fetcher = Fetcher(releases, console, mirror)
    began = time.monotonic()
    result = fetcher.fetch([*asked, *more], before=decide)
    if result.fetched:
        seconds = time.monotonic() - began
        _say(console, f"fetched {decimal(result.fetched)} in {elapsed(seconds)}, from {mirror or 'upstream'}")
    builds = decide(result.failures)
    for server in needed:
        found = archives.get(server.name)
        fetched = found is not None and (found.name in result.homes or is_fetched(server))
        home = releases / found.name if fetched and found else folder / _home(server)
        told[server.name] = versions.load().servers[server.name].version if fetched else server.version()
        for program in wanted & server.programs.keys():
            paths.setdefault(program, home / "bin" / program)
    if builds:
        fetch.make(folder)
    return Supply(paths, told, builds, result.homes, result.failures, folder, environment)


def built_binaries(*, bin_dir: Path | None, cache_dir: Path, servers: Collection[Server] = SERVERS) -> dict[str, Path]:
    """Return the absolute path of every program that is there already; nothing is fetched or built."""
    system, machine = host()
    found = _ready_programs(bin_dir, {program for server in servers for program in server.programs})
    for server in servers:
        release = archive(server.name, system, machine)
        home = cache_dir.absolute() / "releases" / release.name if release else None
        if home is None or not fetch.complete(home):
            home = cache_dir.absolute() / "servers" / _home(server)
        if _is_complete(server, home):
            found = {program: home / "bin" / program for program in server.programs} | found
    return found


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _say_builds(console: Console, builds: Iterable[Server], reasons: Mapping[str, str]) -> None:
    """One line for each reason."""
    names: dict[str, list[str]] = {}
    for server in builds:
        names.setdefault(reasons[server.name], []).append(f"{server.name} {server.version()}")
    for reason, servers in names.items():
        _say(console, f"to be built, with Go: {', '.join(servers)} ({reason})")


def _require_room(cache: Path, builds: int) -> None:
    fetch.make(cache)
    free = shutil.disk_usage(cache).free
    if free < BUILD_ROOM:
        raise UserError(
            f"Building {builds} servers may take {decimal(BUILD_ROOM)} and {cache} has {decimal(free)} of room: make "
            "room, or set SIGHTGLASS_CACHE_DIR to a folder on another disk."
        )


def _home(server: Server) -> str:
    return f"{server.name}-{server.key(*host())}"


def _durations(folder: Path) -> dict[str, float]:
    try:
        found: dict[str, float] = json.loads((folder / DURATIONS).read_text())
    except (OSError, ValueError):
        return {}
    return found


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


def _build_once(
    server: Server, home: Path, environment: Mapping[str, str], console: Console, label: str, expected: Expected
) -> None:
    """Build unless another process has done so while this one waited for it."""
    guard = filelock.FileLock(home.with_name(f"{home.name}.lock"))
    try:
        guard.acquire(timeout=0)
    except filelock.Timeout:
        console.print(f"waiting for another process that builds {server.name}", markup=False, highlight=False)
        guard.acquire()
    try:
        if not _is_complete(server, home):
            began = time.monotonic()
            _build(server, home, environment, console, label, expected)
            durations = _durations(home.parent) | {server.name: round(time.monotonic() - began, 1)}
            fetch.replace(home.with_name(DURATIONS), json.dumps(durations, indent=2))
    finally:
        guard.release()


def _build(
    server: Server, home: Path, environment: Mapping[str, str], console: Console, label: str, expected: Expected
) -> None:
    for leftover in home.parent.glob(f".{home.name}.*"):  # of a build that was killed
        shutil.rmtree(leftover)
    log_path = home.with_name(f"{home.name}.log")
    work = Path(tempfile.mkdtemp(prefix=f".{home.name}.", dir=home.parent))
    try:
        with log_path.open("w") as log, Meter(console, label, _packages, expected) as meter:
            commands = _Commands(environment, log)
            source = _generate(server, work, commands, meter) if server.builder else server.folder
            _compile(server, source, work / "result" / "bin", commands, meter)
        if home.exists():
            shutil.rmtree(home)
        pagecache.forget(work / "result")
        (work / "result").rename(home)
    except _CommandError as error:
        what = f"Building {server.name} {server.version()} failed ({error})"
        raise UserError(f"{what}; the whole log is {log_path}; it ends with:\n{_end(log_path)}") from None
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _packages(count: float) -> str:
    return f"{count:.0f} packages"


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
@click.option(
    "--from", "origin", type=click.Choice(["release", "build"]), help="Only upstream's archives, or only builds."
)
def main(programs: tuple[str, ...], to_lock: str | None, origin: Origin | None) -> None:
    """Have PROGRAMS (all by default), fetched or built, and print where they are."""
    console = Console(stderr=True)
    by_name = {server.name: server for server in (*SERVERS, LOAD_GENERATOR)}
    if to_lock is not None:
        if to_lock not in by_name:
            raise click.BadParameter(f"{to_lock!r} is none of {', '.join(by_name)}.")
        lock(by_name[to_lock], console)
        return
    here = settings.load()
    try:
        paths = ensure_binaries(
            bin_dir=here.bin_dir,
            cache_dir=here.cache_dir,
            console=console,
            names=programs or None,
            origin=origin or here.servers_from,
            mirror=here.mirror,
        )
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    for name, path in sorted(paths.items()):
        click.echo(f"{name} {path}")


if __name__ == "__main__":
    main()
