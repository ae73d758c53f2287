"""The process supervisor (supervisord) of one stack: configuration, start, control, stop."""

import configparser
import http.client
import os
import re
import resource
import secrets
import shlex
import subprocess
import sys
import xmlrpc.client
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any

import psutil
from supervisor.xmlrpc import Faults, SupervisorTransport

from sightglass.clients import polling
from sightglass.facts.errors import UserError
from sightglass.local import logfiles, processes
from sightglass.local.components import Component

GUARDIAN = "guardian"
TAILED = "services"
"""Folder, below that of the logs, of the files that Promtail reads (:mod:`sightglass.local.logfiles`)."""
LOG_BYTES = "20MB"
LOG_BACKUPS = 3
LEAST_FILES = 1024
MOST_FILES = 65536
SOCKET_PATH_LIMIT = 100
"""Unix socket addresses end at about this many bytes."""

ALIVE = {"RUNNING", "STARTING"}
GIVEN_UP = {"FATAL", "EXITED", "UNKNOWN"}


@dataclass(frozen=True)
class ProcessState:
    """What the supervisor knows of a program."""

    name: str
    state: str
    pid: int
    detail: str


class Supervisor:
    """Control of the supervisor whose files lie in ``run_dir``."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.run_dir = state_dir / "run"
        self.logs_dir = state_dir / "logs"
        self._configuration = self.run_dir / "supervisord.conf"
        self._socket = self.run_dir / "supervisor.sock"
        self._pid_file = self.run_dir / "supervisord.pid"
        self._run_file = self.run_dir / "run"

    def pid(self) -> int | None:
        """Process id of the running supervisor, None when there is none."""
        try:
            pid = int(self._pid_file.read_text())
            # The marker tells a supervisor of ours from a stranger that got the number later.
            return pid if psutil.Process(pid).environ().get(processes.MARKER) == self._marker() else None
        except (FileNotFoundError, ValueError, psutil.Error):
            return None

    def start(self, components: Iterable[Component]) -> None:
        """Start the supervisor with these programs, none of which runs yet."""
        if len(str(self._socket)) > SOCKET_PATH_LIMIT:
            raise UserError(f"{self.state_dir} is too long a path for a socket: set SIGHTGLASS_STATE_DIR to a shorter.")
        _take_all_files()
        self.end_strays()
        for folder in (self.run_dir, self.logs_dir):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._run_file.write_text(secrets.token_hex(8))
        self._write(components)
        log = self.logs_dir / "supervisord.log"
        # Only what a program needs to find its way: secrets go to the one program that they are for.
        environment = {
            name: os.environ[name]
            for name in ("PATH", "HOME", "LANG", "TMPDIR", "TZ", processes.OWNER)
            if name in os.environ
        }
        environment[processes.MARKER] = self._marker()
        # File names are bytes; whatever the locale says, they are read and written as what they mostly are.
        environment["PYTHONUTF8"] = "1"
        command = [
            *(sys.executable, "-m", "sightglass.local.supervisord", str(self.logs_dir / TAILED)),
            *("-c", str(self._configuration)),
        ]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"The process supervisor did not start: {done.stderr.strip()[-500:]} (log: {log})")

        def answers() -> None:
            try:
                self._rpc().getState()
            except OSError as error:
                raise polling.NotYet(str(error)) from None

        polling.until(answers, timeout=10, what="the process supervisor")

    def update(self, components: Iterable[Component]) -> set[str]:
        """Bring a running supervisor to these programs; returns the names of those stopped because they changed."""
        self._write(components)
        ((added, changed, removed),) = self._asked(methodcaller("reloadConfig"))
        for name in [*changed, *removed]:
            self.stop(name)
            self._asked(methodcaller("removeProcessGroup", name))
        for name in [*added, *changed]:
            self._asked(methodcaller("addProcessGroup", name))
        return {*changed, *removed}

    def states(self) -> dict[str, ProcessState]:
        """State of every program by name; empty when the supervisor does not run."""
        if self.pid() is None:
            return {}
        answer: list[dict[str, Any]] = self._asked(methodcaller("getAllProcessInfo"))
        return {
            info["name"]: ProcessState(
                info["name"], info["statename"], info["pid"], info["spawnerr"] or info["description"]
            )
            for info in answer
            if info["name"] != GUARDIAN
        }

    def launch(self, name: str) -> None:
        """Start one program without waiting; fine when it runs already."""
        self._asked(methodcaller("startProcess", name, False), Faults.ALREADY_STARTED)

    def stop(self, name: str) -> None:
        """SIGTERM, after its grace SIGKILL, and wait for the end; fine when it does not run."""
        # A supervisor that ends stops its programs itself.
        self._asked(methodcaller("stopProcess", name, True), Faults.NOT_RUNNING, Faults.SHUTDOWN_STATE)

    def shut_down(self, timeout: float) -> None:
        """End the supervisor and what still runs under it, and wait up to ``timeout`` seconds for that."""
        pid = self.pid()
        if pid is None:
            return
        process = psutil.Process(pid)
        self._asked(methodcaller("shutdown"), Faults.SHUTDOWN_STATE)
        try:
            process.wait(timeout)
        except psutil.TimeoutExpired:
            process.kill()
        self.end_strays()

    def end_strays(self) -> int:
        """End programs of an earlier run that nobody supervises any more; returns how many there were."""
        prefix = f"{self.state_dir}#"
        return processes.end(lambda marker: marker.startswith(prefix), grace=10)

    def _marker(self) -> str:
        return f"{self.state_dir}#{self._run_file.read_text()}"

    def _rpc(self) -> Any:
        # A proxy is not safe across threads, and costs nothing.
        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        return xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport).supervisor

    def _asked(self, call: Callable[[Any], Any], *tolerated: int) -> Any:
        """What the supervisor answers to a call; None for a fault that is tolerated."""
        try:
            return call(self._rpc())
        except xmlrpc.client.Fault as error:
            if error.faultCode in tolerated:
                return None
            if error.faultCode != Faults.SHUTDOWN_STATE:
                raise
        except OSError:
            # It ended meanwhile.
            if Faults.SHUTDOWN_STATE in tolerated:
                return None
        except http.client.HTTPException as error:
            raise UserError(f"The process supervisor does not answer ({error}): run `make down`.") from None
        raise UserError("The stack is being stopped: run the command again when that is done.")

    def _write(self, components: Iterable[Component]) -> None:
        parser = configparser.RawConfigParser()
        parser["supervisord"] = {
            "logfile": _plain(self.logs_dir / "supervisord.log"),
            "pidfile": _plain(self._pid_file),
            "directory": _plain(self.state_dir),
            "umask": "077",
        }
        parser["unix_http_server"] = {"file": _plain(self._socket), "chmod": "0700"}
        parser["rpcinterface:supervisor"] = {
            "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
        }
        guardian_log = str(self.logs_dir / f"{GUARDIAN}.log")
        components = [*components]
        alertmanager = next((component.url for component in components if component.name == "alertmanager"), "")
        watched = [self._marker(), guardian_log, str(self.state_dir), alertmanager]
        guardian = [sys.executable, "-m", "sightglass.local.guardian", *watched]
        parser[f"program:{GUARDIAN}"] = {
            "command": _plain(shlex.join(guardian)),
            "startretries": "1000",
            "stdout_logfile": "NONE",
            "stderr_logfile": "NONE",
        }
        for component in components:
            log, size, backups = component.log, LOG_BYTES, LOG_BACKUPS
            if component.tailed:
                log = log.parent / TAILED / log.name
                size, backups = str(logfiles.FILE_BYTES), logfiles.FILES - 1
            log.parent.mkdir(parents=True, exist_ok=True)
            parser[f"program:{component.name}"] = {
                "command": _plain(shlex.join(component.command)),
                **({"directory": _plain(component.directory)} if component.directory else {}),
                "environment": _environment({**component.environment, "CONFIGURATION_SHA256": component.digest()}),
                "autostart": "false",
                "autorestart": "true",
                "startsecs": "2",
                "startretries": "10",
                "stopsignal": "TERM",
                "stopwaitsecs": str(component.stop_seconds),
                "killasgroup": "true",
                "redirect_stderr": "true",
                # This one is expanded twice.
                "stdout_logfile": _plain(_plain(log)),
                "stdout_logfile_maxbytes": size,
                "stdout_logfile_backups": str(backups),
            }
        # It holds secrets, hence never readable by others, not even while it is written.
        temporary = self._configuration.with_suffix(".new")
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            parser.write(file)
        temporary.replace(self._configuration)


def _take_all_files() -> None:
    """Let the programs open as many files as the system lets them; the supervisor needs 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = hard == resource.RLIM_INFINITY
    if not unlimited and hard < LEAST_FILES:
        raise UserError(
            f"A program may open only {hard} files here, and {LEAST_FILES} are needed: raise the hard limit, with "
            f"`ulimit -Hn {LEAST_FILES}` as root, LimitNOFILE= in systemd, or --ulimit nofile={LEAST_FILES} in Docker."
        )
    wanted = MOST_FILES if unlimited else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _plain(value: object) -> str:
    """A value in which supervisord shall expand nothing and see no comment."""
    # Behind a space a ; or # would begin a comment; an expansion of no characters stands between them.
    return re.sub(r"(?<=\s)(?=[;#])", "%(here).0s", str(value).replace("%", "%%"))


def _environment(values: dict[str, str]) -> str:
    for name, value in values.items():
        if '"' in value or "\n" in value or value != value.strip("'"):
            raise UserError(f"The value of {name} has a quote or a line end, which cannot be passed on: {value!r}.")
    return ",".join(f'{name}="{_plain(value)}"' for name, value in values.items())
