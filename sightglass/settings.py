"""Where everything stands that a person may want to move: ports, folders, names. Each fact is here once."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import platformdirs
from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from sightglass.errors import UserError

REPOSITORY = Path(__file__).resolve().parent.parent
PREFIX = "SIGHTGLASS_"
HOST = "127.0.0.1"

SERVICE = "text-classifier"
CANARY = "canary"
NAMESPACE = "sightglass"
S3_REGION = "us-east-1"
LOKI_BUCKET = "loki"
TEMPO_BUCKET = "tempo"
CANARY_INTERVAL, CANARY_TIMEOUT = 15.0, 30.0
"""Seconds between two probes of the canary, and after which one counts as lost."""


@dataclass(frozen=True)
class Port:
    """A TCP port that a component listens on; ``SIGHTGLASS_<NAME>_PORT`` moves it."""

    name: str
    default: int
    component: str
    purpose: str
    in_cluster: int | None = None
    """Number in Kubernetes where it is not the default: each pod has all ports, and a chart may want its own."""

    @property
    def variable(self) -> str:
        """Name of the environment variable that sets this port."""
        return f"{PREFIX}{self.name.upper()}_PORT"


PORTS = (
    Port("service", 8000, SERVICE, "predictions: POST /predict"),
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


class Settings(BaseSettings):
    """What the environment may change, each as ``SIGHTGLASS_<NAME>``; read once per command."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="ignore")

    state_dir: Path = REPOSITORY / ".sightglass"
    cache_dir: Path = Field(default_factory=lambda: Path(platformdirs.user_cache_dir("sightglass")))
    bin_dir: Path | None = None
    port_offset: int = Field(default=0, ge=0, le=40000)
    environment: str = Field(default="local", pattern=r"^[a-z0-9][a-z0-9-]*$")
    alert_pace: float = Field(default=1.0, ge=1.0, le=1000.0)
    alert_webhook_url: SecretStr | None = None
    alert_slack_url: SecretStr | None = None
    alert_pagerduty_key: SecretStr | None = None
    alert_email_to: str | None = None
    alert_email_from: str | None = None
    alert_smtp: str | None = None
    alert_smtp_user: str | None = None
    alert_smtp_password: SecretStr | None = None

    @cached_property
    def ports(self) -> dict[str, int]:
        """TCP port by name: ``SIGHTGLASS_<NAME>_PORT`` if set, else the default plus the offset."""
        return {port.name: self._port(port) for port in PORTS}

    def _port(self, port: Port) -> int:
        text = os.environ.get(port.variable)
        if text is None:
            return port.default + self.port_offset
        if not text.isdecimal() or not 1 <= int(text) <= 65535:
            raise UserError(f"{port.variable} is {text!r}: set it to a port number from 1 to 65535, or unset it.")
        return int(text)

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
        """BentoML's home: the model store."""
        return self.state_dir / "bentoml"


def load() -> Settings:
    """Read the settings from the environment; a value that does not fit raises :class:`UserError`."""
    try:
        settings = Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + str(first["loc"][0]).upper()
        raise UserError(f"{name} does not fit: {first['msg']}. Set it anew or unset it.") from None
    for field in ("state_dir", "cache_dir", "bin_dir"):
        value: Path | None = getattr(settings, field)
        if value is not None:
            setattr(settings, field, value.expanduser().resolve())
    seen: dict[int, str] = {}
    for port in PORTS:
        number = settings.ports[port.name]
        if number in seen:
            raise UserError(f"{seen[number]} and {port.variable} are both {number}: set one of them to another port.")
        seen[number] = port.variable
    return settings
