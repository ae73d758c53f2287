"""What each program takes from its environment, on one machine and in Kubernetes.

The keys are the same on every target; only the topology decides about addresses and folders. Secrets are kept apart,
because each target has its own way to hand them over.
"""

from collections.abc import Mapping
from typing import Protocol

import yaml

from ml_telemetry import hashing, signals, synthetic
from sightglass.facts import object_storage
from sightglass.facts.credentials import Credentials, S3User
from sightglass.facts.services import Track
from sightglass.facts.settings import CANARY, NAMESPACE

SCRAPED: Mapping[str, str] = {
    "prometheus": "prometheus",
    "alertmanager": "alertmanager",
    "loki": "loki_http",
    "tempo": "tempo_http",
    "promtail": "promtail_http",
}
"""Servers that Prometheus scrapes itself without credentials, with the port of each."""
ON_EVERY_NODE = ("promtail",)
"""Of these a cluster has one a node, which no single address finds: there the Collector looks for the pods."""


class Topology(Protocol):
    """Where the programs of a target listen, reach each other and keep what they have."""

    @property
    def listen(self) -> str:
        """Address that programs listen on."""

    @property
    def advertise(self) -> str:
        """Address at which the parts of one program reach each other."""

    @property
    def environment(self) -> str:
        """``deployment.environment.name`` on every signal."""

    @property
    def platform_processor(self) -> str:
        """The Collector's processor that knows where a signal comes from."""

    @property
    def many_nodes(self) -> bool:
        """Whether some programs run once on every node."""

    @property
    def runbooks_url(self) -> str:
        """Folder of the runbooks."""

    @property
    def grafana_url(self) -> str:
        """Where people open Grafana; links in alerts begin with it."""

    @property
    def dashboards(self) -> str:
        """Folder of the dashboards' JSON."""

    def port(self, name: str) -> int:
        """Number of a port of :data:`sightglass.facts.settings.PORTS`."""

    def address(self, port: str) -> str:
        """``host:port`` at which others reach it."""

    def data(self, component: str) -> str:
        """Folder in which a component keeps its data."""

    def log_glob(self) -> str:
        """Files that Promtail tails."""


def url(topology: Topology, port: str) -> str:
    """Base URL of an HTTP port."""
    return f"http://{topology.address(port)}"


def s3_keys(user: S3User) -> dict[str, str]:
    """The secret part of what Loki and Tempo are given."""
    return {"S3_ACCESS_KEY": user.access_key, "S3_SECRET_KEY": user.secret_key}


def service_keys(credentials: Credentials) -> dict[str, str]:
    """The secret part of what the service is given: of the keys of hashes only the one in use."""
    keys = {synthetic.KEY_VARIABLE: credentials.synthetic_key}
    if credentials.hash_keys:
        used = credentials.hash_keys[-1]
        keys[hashing.KEY_VARIABLE] = f"{used.id}:{used.key}"
    return keys


def loki(topology: Topology) -> dict[str, str]:
    """Loki without its :func:`s3_keys`."""
    return {
        **_listen(topology, "loki_http", "loki_grpc"),
        **s3(topology),
        "LOKI_S3_BUCKET": object_storage.LOKI_BUCKET,
        "LOKI_DATA_DIR": topology.data("loki"),
    }


def tempo(topology: Topology) -> dict[str, str]:
    """Tempo without its :func:`s3_keys`."""
    return {
        **_listen(topology, "tempo_http", "tempo_grpc", "tempo_otlp_grpc"),
        **s3(topology),
        "TEMPO_S3_BUCKET": object_storage.TEMPO_BUCKET,
        "TEMPO_DATA_DIR": topology.data("tempo"),
    }


def collector(topology: Topology) -> dict[str, str]:
    """The Collector."""
    ports = ("otlp_grpc", "otlp_http", "loki", "alerts", "health", "metrics")
    return {
        **_listen(topology, *(f"collector_{port}" for port in ports)),
        "COLLECTOR_QUEUE_DIR": topology.data("collector"),
        "COLLECTOR_MEMORY_MIB": "400",
        "TEMPO_OTLP_GRPC_ADDRESS": topology.address("tempo_otlp_grpc"),
        "LOKI_URL": url(topology, "loki_http"),
        "PROMETHEUS_URL": url(topology, "prometheus"),
        "SERVICE_NAMESPACE": NAMESPACE,
        "DEPLOYMENT_ENVIRONMENT": topology.environment,
        "PLATFORM_PROCESSOR": topology.platform_processor,
    }


def promtail(topology: Topology) -> dict[str, str]:
    """Promtail."""
    return {
        **_listen(topology, "promtail_http", "promtail_grpc"),
        "PROMTAIL_POSITIONS_FILE": f"{topology.data('promtail')}/positions.yaml",
        "PROMTAIL_LOG_GLOB": topology.log_glob(),
        "COLLECTOR_LOKI_URL": url(topology, "collector_loki"),
    }


def prometheus(topology: Topology) -> dict[str, str]:
    """Prometheus: links in alerts, expanded in its external labels."""
    return {"GRAFANA_URL": topology.grafana_url, "RUNBOOKS_URL": topology.runbooks_url}


def prometheus_targets(topology: Topology) -> dict[str, str]:
    """Text of the targets files that ``prometheus.yaml`` names, by file name."""
    left = ON_EVERY_NODE if topology.many_nodes else ()
    files = {
        "servers.targets.yaml": {name: port for name, port in SCRAPED.items() if name not in left},
        "minio.targets.yaml": {"minio": "minio"},
        "alertmanagers.targets.yaml": {"alertmanager": "alertmanager"},
    }
    return {name: _targets(topology, ports) for name, ports in files.items()}


def grafana(topology: Topology) -> dict[str, str]:
    """What Grafana's provisioning files ask for."""
    return {
        "LOKI_URL": url(topology, "loki_http"),
        "TEMPO_URL": url(topology, "tempo_http"),
        "PROMETHEUS_URL": url(topology, "prometheus"),
        "ALERTMANAGER_URL": url(topology, "alertmanager"),
        "DASHBOARDS_DIR": topology.dashboards,
    }


def telemetry(topology: Topology, name: str, track: Track | None = None) -> dict[str, str]:
    """What OpenTelemetry's SDK needs to know in a program of that name; an observed service has a track."""
    attributes = f"service.namespace={NAMESPACE},deployment.environment.name={topology.environment}"
    if track:
        attributes += f",{signals.DEPLOYMENT_TRACK.name}={track}"
    return {
        "OTEL_SERVICE_NAME": name,
        "OTEL_RESOURCE_ATTRIBUTES": attributes,
        "OTEL_EXPORTER_OTLP_ENDPOINT": url(topology, "collector_otlp_http"),
    }


def canary(topology: Topology, *, interval: float, timeout: float) -> dict[str, str]:
    """The canary; ``interval`` and ``timeout`` are seconds."""
    return {
        **_listen(topology, CANARY),
        **telemetry(topology, CANARY),
        "TEMPO_URL": url(topology, "tempo_http"),
        "LOKI_URL": url(topology, "loki_http"),
        "PROMETHEUS_URL": url(topology, "prometheus"),
        "CANARY_INTERVAL_SECONDS": f"{interval:g}",
        "CANARY_TIMEOUT_SECONDS": f"{timeout:g}",
        # Few threads that do little: memory pools of their own would only lie empty.
        "MALLOC_ARENA_MAX": "1",
    }


def _listen(topology: Topology, *ports: str) -> dict[str, str]:
    listen = {"LISTEN_ADDRESS": topology.listen, "ADVERTISE_ADDRESS": topology.advertise}
    return listen | {f"{name.upper()}_PORT": str(topology.port(name)) for name in ports}


def s3(topology: Topology) -> dict[str, str]:
    """Where object storage is."""
    return {"S3_ENDPOINT": topology.address("minio"), "S3_REGION": object_storage.S3_REGION, "S3_INSECURE": "true"}


def _targets(topology: Topology, ports: Mapping[str, str]) -> str:
    groups = [
        {"targets": [topology.address(port)], "labels": {"service_name": component}}
        for component, port in ports.items()
    ]
    return yaml.safe_dump(groups, sort_keys=False)
