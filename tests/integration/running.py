"""A stack that is up, and what the tests ask of it."""

import subprocess
import sys
from dataclasses import dataclass

from sightglass import credentials
from sightglass.backends import Loki, Prometheus, Tempo
from sightglass.settings import REPOSITORY, Settings
from sightglass.supervise import Supervisor
from sightglass.target import Target


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
            [sys.executable, "-m", "sightglass", *arguments],
            cwd=REPOSITORY,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
