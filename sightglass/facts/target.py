"""Where a stack can be reached: the few lines that differ between one machine and Kubernetes."""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Protocol

from ml_telemetry.declaration import Declaration
from sightglass.facts import credentials as secrets
from sightglass.facts import declarations, object_storage
from sightglass.facts.credentials import Credentials
from sightglass.facts.errors import UserError
from sightglass.facts.services import Service
from sightglass.facts.settings import HOST, Settings


@dataclass(frozen=True)
class Endpoint:
    """A service and where it is reached."""

    service: Service
    url: str
    synthetic_key: str = field(default="", repr=False)
    """With it requests are marked as the stack's own."""

    @property
    def name(self) -> str:
        """Name of the service."""
        return self.service.name

    @property
    def declaration(self) -> Declaration:
        """What its model is."""
        return declarations.of(self.service)


@dataclass(frozen=True)
class Target:
    """Addresses and the read-only S3 user of a stack; ``env`` prints each field with its name in capitals."""

    services: tuple[Endpoint, ...]
    """The services that run; among the lines each has its own."""
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
        hidden = ("services", "grafana_password", "kube_context", "without")
        named = [(f"{one.service.port_name.upper()}_URL", one.url) for one in self.services]
        values = ((f.name.upper(), getattr(self, f.name)) for f in fields(self) if f.name not in hidden)
        # The first also under the name that it had while it was the only one.
        first = [("SERVICE_URL", one.url) for one in self.services[:1]]
        return [f"{name}={value}" for name, value in (*first, *named, *values) if value]

    def endpoint(self, name: str | None = None) -> Endpoint:
        """The service of that name, or the first; :class:`UserError` where there is none."""
        for endpoint in self.services:
            if name in (None, endpoint.name):
                return endpoint
        known = ", ".join(endpoint.name for endpoint in self.services)
        raise UserError(f"There is no service {name!r} in this stack: take one of {known}.")


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
        services=tuple(
            Endpoint(one, settings.url(one.port_name), credentials.synthetic_key) for one in settings.observed
        ),
        loki_url=settings.url("loki_http"),
        tempo_url=settings.url("tempo_http"),
        prometheus_url=settings.url("prometheus"),
        alertmanager_url=settings.url("alertmanager"),
        otlp_http_url=settings.url("collector_otlp_http"),
        otlp_grpc_url=f"http://{HOST}:{settings.ports['collector_otlp_grpc']}",
        s3_endpoint=settings.url("minio"),
        s3_access_key=credentials.reader.access_key,
        s3_secret_key=credentials.reader.secret_key,
        s3_region=object_storage.S3_REGION,
        grafana_url=settings.url("grafana") if grafana else "",
        grafana_password=credentials.grafana_admin_password if grafana else "",
        without=frozenset(one.name for one in settings.all_services) - {one.name for one in settings.observed},
    )


def running(settings: Settings, *, grafana: bool = False) -> Target:
    """The stack that ``up`` started with these settings."""
    return local(settings, secrets.load(secrets.file_in(settings.state_dir)), grafana=grafana)


def in_cluster(
    ports: Ports, credentials: Credentials, context: str, without: frozenset[str], services: Iterable[Service]
) -> Target:
    """The stack in the cluster of a context; what was left out has no address."""

    def url(port: str) -> str:
        return ports.url(port) if ports.has(port) else ""

    return Target(
        services=tuple(
            Endpoint(one, url(one.port_name), credentials.synthetic_key) for one in services if ports.has(one.port_name)
        ),
        loki_url=url("loki_http"),
        tempo_url=url("tempo_http"),
        prometheus_url=url("prometheus"),
        alertmanager_url=url("alertmanager"),
        otlp_http_url=url("collector_otlp_http"),
        otlp_grpc_url=url("collector_otlp_grpc"),
        s3_endpoint=url("minio"),
        s3_access_key=credentials.reader.access_key,
        s3_secret_key=credentials.reader.secret_key,
        s3_region=object_storage.S3_REGION,
        grafana_url=url("grafana"),
        grafana_password=credentials.grafana_admin_password if ports.has("grafana") else "",
        kube_context=context,
        without=without,
    )
