"""Where a stack can be reached: the few lines that differ between one machine and Kubernetes."""

from dataclasses import dataclass, field, fields
from typing import Protocol

from minio import Minio

from sightglass import settings as names
from sightglass.credentials import Credentials, S3User
from sightglass.settings import HOST, Settings
from sightglass.storage import client


@dataclass(frozen=True)
class Target:
    """Addresses and the read-only S3 user of a stack; ``env`` prints each field with its name in capitals."""

    service_url: str
    loki_url: str
    tempo_url: str
    prometheus_url: str
    alertmanager_url: str
    otlp_http_url: str
    otlp_grpc_url: str
    s3_endpoint: str
    s3_access_key: str
    s3_secret_key: str
    s3_region: str
    grafana_url: str = ""
    grafana_password: str = field(default="", repr=False)
    """The administrator's; not among the lines."""
    kube_context: str = ""
    """Context of kubectl where the stack runs in a cluster; not among the lines."""
    without: frozenset[str] = frozenset()
    """Components that were left out on purpose; not among the lines."""

    def lines(self) -> list[str]:
        """KEY=VALUE lines; what does not run has none."""
        hidden = ("grafana_password", "kube_context", "without")
        values = ((f.name.upper(), getattr(self, f.name)) for f in fields(self) if f.name not in hidden)
        return [f"{name}={value}" for name, value in values if value]

    def s3(self) -> Minio:
        """S3 client of the read-only user."""
        return client(self.s3_endpoint.removeprefix("http://"), S3User(self.s3_access_key, self.s3_secret_key))


class Ports(Protocol):
    """Where the ports of a cluster are on this machine."""

    def has(self, port: str) -> bool:
        """Whether that port is forwarded."""

    def address(self, port: str) -> str:
        """``host:port``."""

    def url(self, port: str) -> str:
        """Base URL."""


def local(settings: Settings, credentials: Credentials, *, grafana: bool) -> Target:
    """The stack on this machine."""
    return Target(
        service_url=settings.url("service"),
        loki_url=settings.url("loki_http"),
        tempo_url=settings.url("tempo_http"),
        prometheus_url=settings.url("prometheus"),
        alertmanager_url=settings.url("alertmanager"),
        otlp_http_url=settings.url("collector_otlp_http"),
        otlp_grpc_url=f"http://{HOST}:{settings.ports['collector_otlp_grpc']}",
        s3_endpoint=settings.url("minio"),
        s3_access_key=credentials.reader.access_key,
        s3_secret_key=credentials.reader.secret_key,
        s3_region=names.S3_REGION,
        grafana_url=settings.url("grafana") if grafana else "",
        grafana_password=credentials.grafana_admin_password if grafana else "",
    )


def in_cluster(ports: Ports, credentials: Credentials, context: str, without: frozenset[str]) -> Target:
    """The stack in the cluster of a context; what was left out has no address."""

    def url(port: str) -> str:
        return ports.url(port) if ports.has(port) else ""

    return Target(
        service_url=url("service"),
        loki_url=url("loki_http"),
        tempo_url=url("tempo_http"),
        prometheus_url=url("prometheus"),
        alertmanager_url=url("alertmanager"),
        otlp_http_url=url("collector_otlp_http"),
        otlp_grpc_url=url("collector_otlp_grpc"),
        s3_endpoint=url("minio"),
        s3_access_key=credentials.reader.access_key,
        s3_secret_key=credentials.reader.secret_key,
        s3_region=names.S3_REGION,
        grafana_url=url("grafana"),
        grafana_password=credentials.grafana_admin_password if ports.has("grafana") else "",
        kube_context=context,
        without=without,
    )
