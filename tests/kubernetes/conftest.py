"""A cluster that the tests may change: everything is deployed to it once, by the command of a person."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from rich.console import Console

from sightglass.clients.kubectl import Kubectl, label
from sightglass.facts import settings
from sightglass.facts.settings import REPOSITORY
from sightglass.kubernetes import deploy
from sightglass.kubernetes.options import load as load_options
from sightglass.local import build
from tests.kubernetes import server_images
from tests.kubernetes.rendering import STAND_INS

NOT_AT_HAND = "grafana,kube-state-metrics,node-exporter"
"""Releases whose programs are not among the local builds."""


@dataclass
class Cluster:
    """A cluster with everything deployed."""

    context: str
    environment: dict[str, str]
    first: subprocess.CompletedProcess[str] = field(repr=False)
    """The first `make deploy`."""
    seconds: float = 0.0

    @property
    def kubectl(self) -> Kubectl:
        return Kubectl(self.context)

    def command(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run ``python -m sightglass`` against the cluster, with these variables more."""
        return run(arguments, {**self.environment, **more}, 600)

    def pods(self) -> dict[str, str]:
        """Uid of every pod of ours that is not on its way out, by namespace and name."""
        return {
            f"{found['metadata']['namespace']}/{found['metadata']['name']}": found["metadata"]["uid"]
            for found in self.kubectl.get("pods", "-A")
            if found["metadata"]["namespace"].startswith("sightglass")
            and "deletionTimestamp" not in found["metadata"]
            and found["status"].get("phase") != "Succeeded"
        }


def run(arguments: tuple[str, ...], environment: dict[str, str], timeout: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sightglass", *arguments],
        cwd=REPOSITORY,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if not os.environ.get("KUBE_CONTEXT"):
        pytest.skip("KUBE_CONTEXT names no cluster that the tests may change")
    folder = tmp_path_factory.mktemp("deploy")
    own = {
        # Beside a person's stack: the model is trained in a folder of the tests' own.
        "SIGHTGLASS_STATE_DIR": os.environ.get("SIGHTGLASS_STATE_DIR", str(folder / "state")),
        "CHARTS_DIR": os.environ.get("CHARTS_DIR", str(STAND_INS)),
        "WITHOUT": os.environ.get("WITHOUT", NOT_AT_HAND),
        "IMAGE_DIGESTS": "off",
    }
    alerts = [name for name in os.environ if name.startswith("SIGHTGLASS_ALERT_")]
    environment = {name: value for name, value in os.environ.items() if name not in alerts} | own
    # Only while they are read: other tests ask the environment what there is.
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setenv(name, value)
        loaded, local = load_options(), settings.load()
        if deploy.deployed(Kubectl(loaded.context)) is not None:
            pytest.skip(f"something is deployed to {loaded.context} already: `make undeploy` takes it back")
    built = build.ensure_binaries(bin_dir=local.bin_dir, cache_dir=local.cache_dir, console=Console(stderr=True))
    if loaded.loader:
        base = os.environ.get("BASE_IMAGE", "debian:bookworm-slim")
        server_images.load(loaded.loader, server_images.write(built, base, folder))
    began = time.monotonic()
    first = run(("deploy",), environment, 900)
    made = Cluster(loaded.context, environment, first, time.monotonic() - began)
    print(first.stdout)
    assert left_over(made.kubectl)
    yield made
    gone = made.command("undeploy", YES="1")
    print(gone.stdout)
    assert gone.returncode == 0, gone.stdout
    assert left_over(made.kubectl) == []


def left_over(kubectl: Kubectl) -> list[str]:
    """What is still there of a deployment, in every namespace and of none."""
    kinds = "namespaces,clusterroles,clusterrolebindings,persistentvolumes"
    found = [item for kind in kinds.split(",") for item in kubectl.get(kind)]
    return [label(item) for item in found if "sightglass" in json.dumps(item)]
