"""A stack of the tests' own, on ports and in a folder of its own, started by the same command as a person's."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from sightglass.clients.backends import Loki, Prometheus, Tempo
from sightglass.facts import credentials, settings, target
from sightglass.facts.settings import REPOSITORY, Settings
from sightglass.facts.target import Target
from sightglass.local import processes, state, up
from sightglass.local.supervise import Supervisor
from tests.integration.receiver import Receiver

PORT_OFFSET = 12000 + int(os.environ.get("SIGHTGLASS_PORT_OFFSET", "0"))
"""Clear of a person's own ports, of a second stack 10,000 above, and of the ports that the system gives to clients."""
PACE = 10
"""How much faster than native this stack's alerting is."""


ODD = "a%2Fb #1 ;2 [3] é"
"""Name of the stack's folder: each part is syntax to some program."""


@cache
def private() -> list[str]:
    """Begins a command whose mounts nobody else sees, and which end with it; empty where that is not allowed."""
    command = ["unshare", "--mount", "--"]
    try:
        allowed = subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return []
    return command if allowed else []


@dataclass(frozen=True)
class Running:
    """A stack that is up."""

    settings: Settings
    environment: dict[str, str]
    target: Target
    credentials: credentials.Credentials

    @property
    def tempo(self) -> Tempo:
        return Tempo(self.target.tempo_url)

    @property
    def loki(self) -> Loki:
        return Loki(self.target.loki_url)

    @property
    def prometheus(self) -> Prometheus:
        return Prometheus(self.target.prometheus_url)

    def supervisor_pids(self) -> dict[str, int]:
        """Process id of every component by name."""
        return {name: state.pid for name, state in Supervisor(self.settings.state_dir).states().items()}

    def command(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run ``python -m sightglass`` on this stack."""
        return subprocess.run(
            [*private(), sys.executable, "-m", "sightglass", *arguments],
            cwd=REPOSITORY,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


_models: list[Path] = []
"""The model store of the first stack: later ones need not train."""


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[Running]:
    """A stack for the tests of one folder: what the others do to theirs leaves no trace in it."""
    folder = tmp_path_factory.mktemp("stack") / ODD
    own = {
        "SIGHTGLASS_STATE_DIR": str(folder),
        # As a machine may be set up for other programs.
        "LC_ALL": "C",
        "BENTOML_CONFIG": "/no/such/file",
        "SIGHTGLASS_PORT_OFFSET": str(PORT_OFFSET),
        "SIGHTGLASS_ALERT_PACE": str(PACE),
        "SIGHTGLASS_ALERT_WEBHOOK_URL": receiver.url("/webhook"),
    }
    foreign = [name for name in os.environ if name.endswith("_PORT") or name.startswith("SIGHTGLASS_ALERT_")]
    clean = {name: value for name, value in os.environ.items() if name not in foreign}
    with pytest.MonkeyPatch.context() as patch:
        for name in foreign:
            patch.delenv(name)
        for name, value in own.items():
            patch.setenv(name, value)
        loaded = settings.load()
    environment = {**clean, **own}
    if _models:
        state.claim(loaded)
        shutil.copytree(_models[0], loaded.models_dir, symlinks=True)
    try:
        done = subprocess.run(
            [*private(), sys.executable, "-m", "sightglass", "up"],
            cwd=REPOSITORY,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=2400,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        if not _models:
            kept = tmp_path_factory.mktemp("models") / "bentoml"
            _models.append(shutil.copytree(loaded.models_dir, kept, symlinks=True))
        secrets = credentials.load(credentials.file_in(loaded.state_dir))
        running = Running(
            loaded, environment, target.local(loaded, secrets, grafana=not up.grafana_file(loaded).exists()), secrets
        )
        yield running
        down = running.command("down")
        assert down.returncode == 0, down.stderr
        left = processes.find(lambda marker: marker.startswith(f"{folder}#"))
        assert left == []
    finally:
        processes.end(lambda marker: marker.startswith(f"{folder}#"), grace=5)
