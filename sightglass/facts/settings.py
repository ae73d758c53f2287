"""Where everything stands that a person may want to move: ports, folders, names. Each fact is here once."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import platformdirs
from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from sightglass.facts import services as table
from sightglass.facts.errors import UserError
from sightglass.facts.services import Service

REPOSITORY = Path(__file__).resolve().parent.parent.parent
PREFIX = "SIGHTGLASS_"
HOST = "127.0.0.1"

SERVICES = table.read(REPOSITORY / "example-service" / "services.yaml")
"""The services of this checkout; the first is the one that commands take where none is named."""
SERVICE = SERVICES[0].name
CANARY = "canary"
NAMESPACE = "sightglass"
Origin = Literal["release", "build"]
"""Where a server's program is taken from: upstream's archive, or a build of its own."""
CANARY_INTERVAL, CANARY_TIMEOUT = 15.0, 30.0
"""Seconds between two probes of the canary, and after which one counts as lost."""


# Quotes of YAML and of the runner end at it or change it, or the Collector expands it.
_NO_PATH = re.compile(r'["\\$\x00-\x1f\x7f]|\s$')


@dataclass(frozen=True)
class Port:
    """A TCP port that a component listens on; ``SIGHTGLASS_<NAME>_PORT`` moves it."""

    name: str
    default: int
    component: str
    purpose: str
    in_cluster: int | None = None
    """Number in Kubernetes where it is not the default: each pod has all ports, and a chart may want its own."""
    older: str = ""
    """Variable that moved this port in earlier versions and still does."""

    @property
    def variable(self) -> str:
        """Name of the environment variable that sets this port."""
        return f"{PREFIX}{self.name.upper()}_PORT"


def service_ports(services: Iterable[Service]) -> tuple[Port, ...]:
    """The public port of each service."""
    older = {SERVICE: f"{PREFIX}SERVICE_PORT"}
    return tuple(
        Port(one.port_name, one.port, one.name, "predictions", older=older.get(one.name, "")) for one in services
    )


PORTS = (
    *service_ports(SERVICES),
    Port("grafana", 3000, "grafana", "dashboards"),
    Port("prometheus", 9090, "prometheus", "metrics: queries, OTLP receiver"),
    Port("alertmanager", 9093, "alertmanager", "alerts"),
    Port("loki_http", 3100, "loki", "logs: queries, OTLP receiver"),
    Port("loki_grpc", 3101, "loki", "between Loki's own parts"),
    Port("tempo_http", 3200, "tempo", "traces: queries"),
    Port("tempo_grpc", 3201, "tempo", "between Tempo's own parts"),
    Port("tempo_otlp_grpc", 3217, "tempo", "spans from the Collector", in_cluster=4317),
    Port("promtail_http", 9080, "promtail", "readiness, metrics"),
    Port("promtail_grpc", 9081, "promtail", "unused, must be free"),
    Port("collector_otlp_grpc", 4317, "collector", "OTLP over gRPC"),
    Port("collector_otlp_http", 4318, "collector", "OTLP over HTTP"),
    Port("collector_loki", 3500, "collector", "log lines from Promtail"),
    Port("collector_alerts", 3501, "collector", "notifications from Alertmanager"),
    Port("collector_health", 13133, "collector", "readiness"),
    Port("collector_metrics", 8888, "collector", "its own metrics"),
    Port("minio", 9000, "minio", "S3 API, metrics"),
    Port("minio_console", 9001, "minio", "object browser"),
    Port("canary", 9464, CANARY, "readiness"),
    Port("locust", 8089, "locust", "load test's own page, with --web"),
)
_OTHER_PORTS = PORTS[len(SERVICES) :]


class Settings(BaseSettings):
    """What the environment may change, each as ``SIGHTGLASS_<NAME>``; read once per command."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="ignore")

    state_dir: Path = Field(
        default=REPOSITORY / ".sightglass",
        description="Data, logs, secrets and models of one stack; another folder and ports make a second stack",
    )
    cache_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_cache_dir("sightglass")),
        description="Fetched and built servers, shared by all checkouts",
    )
    bin_dir: Path | None = Field(
        default=None, description="Ready programs (`loki`, `otelcol`, ...) that are used instead of all others"
    )
    servers_from: Origin | None = Field(
        default=None,
        description="`release` takes upstream's archives only, `build` builds every server from its locked Go modules",
    )
    mirror: str | None = Field(
        default=None,
        pattern=r"^https?://[^/]+",
        description="Address that has upstream's archives at the same paths: `https://mirror.example/github`",
    )
    port_offset: int = Field(default=0, ge=0, le=40000, description="Added to every port")
    environment: str = Field(
        default="local", pattern=r"^[a-z0-9][a-z0-9-]*$", description="`deployment.environment.name` on every signal"
    )
    services: Path | None = Field(
        default=None, description="A table of services of your own, in the form of `example-service/services.yaml`"
    )
    without: str = Field(
        default="",
        validation_alias=AliasChoices(f"{PREFIX}WITHOUT", "WITHOUT"),
        description="Services that are left out, in a cluster releases too, with commas between them",
    )
    grafana_home: Path | None = Field(
        default=None,
        validation_alias=AliasChoices(f"{PREFIX}GRAFANA_HOME", "GRAFANA_HOME"),
        description="An unpacked Grafana release; without it the official archive is fetched with the servers'",
    )
    alert_webhook_url: SecretStr | None = Field(
        default=None, description="Address that every alert is also posted to; see [notifications](notifications.md)"
    )
    alert_slack_url: SecretStr | None = Field(default=None, description="Slack's incoming webhook for alerts")
    alert_pagerduty_key: SecretStr | None = Field(
        default=None, description="Integration key of PagerDuty's Events API v2"
    )
    alert_email_to: str | None = Field(default=None, description="Who gets alerts by e-mail")
    alert_email_from: str | None = Field(default=None, description="Whom they come from")
    alert_smtp: str | None = Field(default=None, description="Mail server, host:port")
    alert_smtp_user: str | None = Field(default=None, description="Its user, where it asks for one")
    alert_smtp_password: SecretStr | None = Field(default=None, description="Its password")
    alert_pace: float = Field(
        default=1.0,
        ge=1.0,
        le=1000.0,
        description="For tests: divides every waiting time of alerting and of the canary",
    )

    @cached_property
    def left_out(self) -> frozenset[str]:
        """Names of what is left out."""
        return frozenset(name.strip() for name in self.without.split(",") if name.strip())

    @cached_property
    def all_services(self) -> tuple[Service, ...]:
        """The services of this checkout and of the user, also those that are left out."""
        own = () if self.services is None else table.read(self.services)
        return table.together((SERVICES, own), frozenset(port.component for port in _OTHER_PORTS))

    @cached_property
    def observed(self) -> tuple[Service, ...]:
        """The services that run."""
        return tuple(service for service in self.all_services if service.name not in self.left_out)

    def require_services(self) -> None:
        """Raise :class:`UserError` where nothing is left that could be observed; what runs can still be stopped."""
        if not self.observed:
            raise UserError("WITHOUT leaves no service that could be observed: leave one.")

    @cached_property
    def all_ports(self) -> tuple[Port, ...]:
        """Every port of this stack."""
        return (*service_ports(self.all_services), *_OTHER_PORTS)

    @cached_property
    def ports(self) -> dict[str, int]:
        """TCP port by name: ``SIGHTGLASS_<NAME>_PORT`` if set, else the default plus the offset."""
        return {port.name: self._port(port) for port in self.all_ports}

    def _port(self, port: Port) -> int:
        for variable in filter(None, (port.variable, port.older)):
            text = os.environ.get(variable)
            if text is None:
                continue
            if not text.isdecimal() or not 1 <= int(text) <= 65535:
                raise UserError(f"{variable} is {text!r}: set it to a port number from 1 to 65535, or unset it.")
            return int(text)
        return port.default + self.port_offset

    def url(self, port: str) -> str:
        """Base URL of the HTTP port of that name."""
        return f"http://{HOST}:{self.ports[port]}"

    @property
    def logs_dir(self) -> Path:
        """Folder of the servers' log files."""
        return self.state_dir / "logs"

    @property
    def service_logs_dir(self) -> Path:
        """Folder of the log files that Promtail tails: services only, so that no server's own errors feed it."""
        return self.logs_dir / "services"

    @property
    def run_dir(self) -> Path:
        """Folder of the runner's own files."""
        return self.state_dir / "run"

    def data_dir(self, component: str) -> Path:
        """Folder in which that component keeps its data."""
        return self.state_dir / "data" / component

    @property
    def models_dir(self) -> Path:
        """The store of models: a folder for each service."""
        return self.state_dir / "models"

    @property
    def bentoml_dir(self) -> Path:
        """BentoML's home."""
        return self.state_dir / "bentoml"


def load() -> Settings:
    """Read the settings from the environment; a value that does not fit raises :class:`UserError`."""
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + str(first["loc"][0]).upper()
        raise UserError(f"{name} does not fit: {first['msg']}. Set it anew or unset it.") from None
    for field in ("state_dir", "cache_dir", "bin_dir", "services", "grafana_home"):
        value: Path | None = getattr(settings, field)
        if value is not None:
            setattr(settings, field, value.expanduser().resolve())
    for what, folder in (("SIGHTGLASS_STATE_DIR is", settings.state_dir), ("The checkout is in", REPOSITORY)):
        if found := _NO_PATH.search(str(folder)):
            raise UserError(
                f"{what} {str(folder)!r}: {found[0]!r} in it cannot be passed on to all programs: take another folder."
            )
    seen: dict[int, str] = {}
    for port in settings.all_ports:
        number = settings.ports[port.name]
        if number in seen:
            raise UserError(f"{seen[number]} and {port.variable} are both {number}: set one of them to another port.")
        seen[number] = port.variable
    return settings
