"""Files for kustomize that follow from the code: each program's environment and Prometheus' targets in a cluster.

``make generate`` writes them; they are committed, so that the manifests can be used without Python, and a test says
when one is stale.
"""

from pathlib import Path

from sightglass.facts import environments
from sightglass.facts.cluster import NODE, OBSERVABILITY, ClusterTopology
from sightglass.facts.settings import CANARY, CANARY_INTERVAL, CANARY_TIMEOUT, REPOSITORY, SERVICES
from sightglass.kubernetes import policies, workloads

ENVIRONMENT = "kubernetes.env"
"""Name of the file of environment variables beside a native configuration."""
MANIFESTS = REPOSITORY / "manifests"
_HELM_CONFIG = REPOSITORY / "helm-config"
_CLUSTER_METRICS = {
    # Asked for by the Collector's second file, which only a cluster has.
    "OBSERVABILITY_NAMESPACE": OBSERVABILITY,
    "NODE_NAMESPACE": NODE,
    "KUBELET_TOKEN_FILE": "/var/run/secrets/kubernetes.io/serviceaccount/token",
}
_HEAD = "# Written by `make generate`."


def files(topology: ClusterTopology | None = None) -> dict[Path, str]:
    """Text of every generated file."""
    topology = topology or ClusterTopology()
    application = MANIFESTS / "application"
    variables = {
        _HELM_CONFIG / "loki" / ENVIRONMENT: environments.loki(topology),
        _HELM_CONFIG / "tempo" / ENVIRONMENT: environments.tempo(topology),
        _HELM_CONFIG / "promtail" / ENVIRONMENT: environments.promtail(topology),
        _HELM_CONFIG / "prometheus" / ENVIRONMENT: environments.prometheus(topology),
        _HELM_CONFIG / "grafana" / ENVIRONMENT: environments.grafana(topology),
        REPOSITORY / "collector-config" / ENVIRONMENT: {**environments.collector(topology), **_CLUSTER_METRICS},
        **{
            application / f"{one.name}.env": environments.telemetry(topology, one.name, one.instances[0].track)
            for one in SERVICES
        },
        application / f"{CANARY}.env": environments.canary(topology, interval=CANARY_INTERVAL, timeout=CANARY_TIMEOUT),
        # Buckets and users are made by their address; the region is in the clients' own files.
        MANIFESTS / "storage" / "storage.env": {"S3_ENDPOINT": topology.address("minio")},
    }
    targets = environments.prometheus_targets(topology)
    return {
        **{file: _env(content) for file, content in variables.items()},
        **{application / f"{one.name}.yaml": f"{_HEAD}\n{workloads.text(workloads.objects(one))}" for one in SERVICES},
        application / "kustomization.yaml": (
            f"{_HEAD}\n{workloads.kustomization([one.name for one in SERVICES], [CANARY])}"
        ),
        **{_HELM_CONFIG / "prometheus" / name: f"{_HEAD}\n{text}" for name, text in targets.items()},
        MANIFESTS / "policies" / "arrows.yaml": f"{_HEAD}\n{policies.manifest()}",
    }


def left_over(folder: Path = MANIFESTS / "application") -> list[Path]:
    """Generated files of services that the table has no more."""
    return [
        file
        for file in sorted(folder.iterdir())
        if file not in files() and file.read_text().partition("\n")[0] == _HEAD
    ]


def write() -> list[Path]:
    """Write the files that are stale, and remove those that are left over; returns both."""
    stale = [file for file, text in files().items() if not file.exists() or file.read_text() != text]
    for file in stale:
        file.write_text(files()[file])
    gone = left_over()
    for file in gone:
        file.unlink()
    return [*stale, *gone]


def _env(variables: dict[str, str]) -> str:
    return "\n".join([_HEAD, *(f"{name}={value}" for name, value in variables.items())]) + "\n"


if __name__ == "__main__":
    for written in write():
        print(f"{'wrote' if written.exists() else 'removed'} {written.relative_to(REPOSITORY)}")
