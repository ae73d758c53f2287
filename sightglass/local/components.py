"""The programs of a stack on one machine: what is started, with which environment, and when it is ready."""

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sightglass.alerting import observed, pace
from sightglass.alerting.pipeline_alerts import DELAY_SECONDS
from sightglass.facts import environments, object_storage
from sightglass.facts.credentials import Credentials
from sightglass.facts.services import Service
from sightglass.facts.settings import CANARY, CANARY_INTERVAL, CANARY_TIMEOUT, HOST, REPOSITORY, Settings
from sightglass.local import logfiles
from sightglass.local.grafana import GrafanaHome
from sightglass.notify import receivers
from sightglass.runtime import queue_files, storage

HELM_CONFIG = REPOSITORY / "helm-config"
_LONGER = 1.2 * DELAY_SECONDS
_IDLE_GOGC = "50"
"""Garbage that may lie beside what is used, in percent: a stack at rest on one machine has more memory than time."""
SERVICE_SETTINGS = ("OTEL_TRACES_SAMPLER", "OTEL_BSP_", "SIGHTGLASS_LOG_BUFFER_BYTES")
"""Beginnings of the variables that a service takes from the environment of ``make up``, beside its own settings."""
COLLECTOR_CONFIG = REPOSITORY / "collector-config" / "collector.yaml"
COLLECTOR_OPTIONS = ("--feature-gates=ottl.functions.enableLambda",)
"""With it statements can add up the buckets of a histogram."""
PROMETHEUS_CONFIG = HELM_CONFIG / "prometheus" / "prometheus.yaml"
DASHBOARDS = REPOSITORY / "dashboards" / "json"
RUNBOOKS = REPOSITORY / "docs" / "runbooks"


@dataclass(frozen=True)
class Component:
    """One supervised program."""

    name: str
    command: list[str]
    ready_url: str
    """Answers 200 when the program can do its work."""
    url: str
    """What a person or a client opens."""
    log: Path
    """Where a person reads its output; of a service's a link to the newest file."""
    environment: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    """Components that must be ready first."""
    feeds: tuple[str, ...] = ()
    """Components that its data goes to: it is stopped before them, so that what it still holds arrives."""
    files: tuple[Path, ...] = ()
    """What it reads at its start, native configuration above all; of a folder all files. A change restarts it."""
    written: Mapping[Path, str] = field(default_factory=dict)
    """Configuration that is written before the start, text by file: a change restarts the program."""
    directory: Path | None = None
    """Working directory, for a program that reads files beside it; None leaves it where the supervisor is."""
    prepare: Callable[[], None] | None = None
    """Runs before the start, e.g. creates folders."""
    finish: Callable[[], None] | None = None
    """Runs once the program is ready, before those that come after it."""
    tailed: bool = False
    """Promtail reads its output, from the files of :mod:`sightglass.local.logfiles`."""
    stop_seconds: int = 10
    """How long the program may take after SIGTERM before it is killed."""

    def digest(self) -> str:
        """Sum over the configuration, native and written; what is still to be made counts as empty."""
        total = hashlib.sha256()
        for given in self.files:
            for file in sorted(given.rglob("*")) if given.is_dir() else (given,):
                total.update(file.read_bytes() if file.is_file() else b"")
        for file, text in self.written.items():
            total.update(f"{file.name}\0{text}\0".encode())
        return total.hexdigest()


def build(
    settings: Settings, credentials: Credentials, programs: Mapping[str, Path], grafana: GrafanaHome | None
) -> list[Component]:
    """All components of the stack in start order; Grafana only where it could be had."""
    maker = _Maker(settings, credentials, programs)
    components = [
        maker.minio(),
        maker.alertmanager(),
        maker.prometheus(),
        maker.loki(),
        maker.tempo(),
        maker.collector(),
        maker.promtail(),
        *(maker.service(service) for service in settings.observed),
        maker.canary(),
    ]
    if grafana is not None:
        components.append(maker.grafana(grafana))
    return components


def prometheus_files() -> list[Path]:
    """Prometheus' native files: its configuration and its rules."""
    rules = sorted(PROMETHEUS_CONFIG.parent.glob("*.rules.yaml"))
    # Which services there are, each stack says itself.
    return [PROMETHEUS_CONFIG, *(file for file in rules if file.name != observed.FILE)]


def _write_all(folder: Path, files: Mapping[Path, str]) -> None:
    """Make the folder hold these files and nothing else, each for its owner only: some hold a secret."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.iterdir():
        if stale.is_dir():
            shutil.rmtree(stale)
        else:
            stale.unlink()
    for file, text in files.items():
        file.parent.mkdir(exist_ok=True)
        file.touch(mode=0o600)
        file.write_text(text)


_TELEMETRY: Final = "ml-telemetry/src/ml_telemetry"


def service_environment(settings: Settings) -> dict[str, str]:
    """What a service and its training need to find their models."""
    return {
        "SIGHTGLASS_MODELS_DIR": str(settings.models_dir),
        "BENTOML_HOME": str(settings.bentoml_dir),
        "BENTOML_DO_NOT_TRACK": "True",
    }


def _own_settings(service: Service) -> dict[str, str]:
    known = (*SERVICE_SETTINGS, service.prefix)
    return {name: value for name, value in os.environ.items() if name.startswith(known)}


def _code(folder: str) -> list[Path]:
    """The modules of a package that runs in a service."""
    return sorted((REPOSITORY / folder).rglob("*.py"))


@dataclass(frozen=True)
class LocalTopology:
    """This machine: see :class:`sightglass.facts.environments.Topology`."""

    settings: Settings
    listen: str = HOST
    advertise: str = HOST
    platform_processor: str = "transform/platform"
    many_nodes: bool = False

    @property
    def environment(self) -> str:
        """As set."""
        return self.settings.environment

    @property
    def runbooks_url(self) -> str:
        """The files of this checkout."""
        return RUNBOOKS.as_uri()

    @property
    def grafana_url(self) -> str:
        """Grafana's own address."""
        return self.settings.url("grafana")

    @property
    def dashboards(self) -> str:
        """The files of this checkout."""
        return str(DASHBOARDS)

    def port(self, name: str) -> int:
        """As set, or the default plus the offset."""
        return self.settings.ports[name]

    def address(self, port: str) -> str:
        """On the loopback address."""
        return f"{HOST}:{self.port(port)}"

    def data(self, component: str) -> str:
        """Below the stack's own folder."""
        return str(self.settings.data_dir(component))

    def log_glob(self) -> str:
        """The services' files, which the runner writes."""
        # Its folder is what it is, also where it looks like a pattern; a class, as YAML's quotes would eat a backslash.
        return re.sub(r"[*?[{]", r"[\g<0>]", str(self.settings.service_logs_dir)) + "/*.log"


@dataclass(frozen=True)
class _Maker:
    settings: Settings
    credentials: Credentials
    programs: Mapping[str, Path]

    @property
    def _place(self) -> LocalTopology:
        return LocalTopology(self.settings)

    def _address(self, port: str) -> str:
        return self._place.address(port)

    def _log(self, name: str) -> Path:
        return self.settings.logs_dir / f"{name}.log"

    def _folder(self, name: str) -> Callable[[], None]:
        return lambda: self.settings.data_dir(name).mkdir(parents=True, exist_ok=True)

    def minio(self) -> Component:
        url = self.settings.url("minio")
        data = self.settings.data_dir("minio")
        return Component(
            name="minio",
            command=[
                # From its folder's folder: braces in a path would be a pattern.
                *(str(self.programs["minio"]), "server", data.name),
                *("--address", self._address("minio"), "--console-address", self._address("minio_console")),
                # Else it wants to write below HOME.
                *(f"--{kind}-dir={self.settings.run_dir / 'minio' / kind}" for kind in ("config", "certs")),
            ],
            environment={
                "MINIO_ROOT_USER": self.credentials.root.access_key,
                "MINIO_ROOT_PASSWORD": self.credentials.root.secret_key,
                "MINIO_REGION": object_storage.S3_REGION,
                "MINIO_UPDATE": "off",
                # Encrypting an administrative request takes 64 MiB, which the collector would otherwise leave lying.
                "GOGC": "20",
                "GOMEMLIMIT": "128MiB",
            },
            ready_url=f"{url}/minio/health/ready",
            url=url,
            log=self._log("minio"),
            directory=data.parent,
            prepare=self._folder("minio"),
            finish=lambda: storage.provision_once(self._address("minio"), self.credentials, data),
        )

    def prometheus(self) -> Component:
        url = self.settings.url("prometheus")
        native = prometheus_files()
        folder = self.settings.run_dir / "prometheus"
        written = {folder / observed.FILE: observed.text(one.name for one in self.settings.observed)}
        if self.settings.alert_pace != 1:
            written |= {folder / file.name: self._paced(file) for file in native}
        return Component(
            name="prometheus",
            command=[
                str(self.programs["prometheus"]),
                # From its folder: with the folder's name before it, a pattern of the file would be another pattern.
                f"--config.file={PROMETHEUS_CONFIG.name}",
                f"--storage.tsdb.path={self.settings.data_dir('prometheus')}",
                "--storage.tsdb.retention.time=15d",
                f"--web.listen-address={self._address('prometheus')}",
                "--web.enable-otlp-receiver",
                # A counter that appears began at zero: without that, the first failure after a start is no increase.
                "--enable-feature=exemplar-storage,created-timestamp-zero-ingestion",
                "--rules.alert.resend-delay=1s",
                "--log.format=json",
            ],
            ready_url=f"{url}/-/ready",
            url=url,
            log=self._log("prometheus"),
            after=("alertmanager",),
            feeds=("alertmanager",),
            files=tuple(native),
            written=written,
            directory=folder,
            prepare=lambda: self._prometheus_folder(folder, native, written),
            environment={**environments.prometheus(self._place), "GOMEMLIMIT": "300MiB"},
        )

    def _paced(self, native: Path) -> str:
        return pace.paced(native.read_text(), self.settings.alert_pace)

    def _prometheus_folder(self, folder: Path, native: list[Path], written: Mapping[Path, str]) -> None:
        """Put the targets files beside the native ones: Prometheus takes paths relative to its configuration."""
        self._folder("prometheus")()
        _write_all(folder, written)
        for file in native:
            if folder / file.name not in written:
                (folder / file.name).symlink_to(file)
        for name, text in environments.prometheus_targets(self._place).items():
            (folder / name).write_text(text)
        # Beside the folder: in Kubernetes no secret can be mounted among the files of a ConfigMap.
        token = folder.with_name("secrets") / "minio.token"
        token.parent.mkdir(exist_ok=True, mode=0o700)
        token.touch(mode=0o600)
        token.write_text(storage.metrics_token(self.credentials.metrics))

    def alertmanager(self) -> Component:
        url = self.settings.url("alertmanager")
        native = HELM_CONFIG / "alertmanager" / receivers.CONFIGURATION
        folder = self.settings.run_dir / "alertmanager"
        channels = receivers.secret_files(self.settings, self.settings.url("collector_alerts"))
        written = {folder / receivers.CHANNELS / name: text for name, text in channels.items()}
        written[folder / receivers.CONFIGURATION] = receivers.configuration(self._paced(native), self.settings)

        def prepare() -> None:
            self._folder("alertmanager")()
            _write_all(folder, written)

        return Component(
            name="alertmanager",
            command=[
                str(self.programs["alertmanager"]),
                f"--config.file={folder / receivers.CONFIGURATION}",
                f"--storage.path={self.settings.data_dir('alertmanager')}",
                f"--web.listen-address={self._address('alertmanager')}",
                "--cluster.listen-address=",
                "--log.format=json",
            ],
            ready_url=f"{url}/-/ready",
            url=url,
            log=self._log("alertmanager"),
            written=written,
            # It takes the names of the files with addresses and keys relative to its working directory.
            directory=folder,
            prepare=prepare,
        )

    def loki(self) -> Component:
        url = self.settings.url("loki_http")
        native = HELM_CONFIG / "loki" / "loki.yaml"
        return Component(
            name="loki",
            command=[str(self.programs["loki"]), f"-config.file={native}", "-config.expand-env=true"],
            environment={
                **environments.loki(self._place),
                **environments.s3_keys(self.credentials.loki),
                "GOGC": _IDLE_GOGC,
                "GOMEMLIMIT": "300MiB",
            },
            ready_url=f"{url}/ready",
            url=url,
            log=self._log("loki"),
            after=("minio",),
            feeds=("minio",),
            files=(native,),
            prepare=self._folder("loki"),
            stop_seconds=30,
        )

    def tempo(self) -> Component:
        url = self.settings.url("tempo_http")
        native = HELM_CONFIG / "tempo" / "tempo.yaml"
        return Component(
            name="tempo",
            command=[str(self.programs["tempo"]), f"-config.file={native}", "-config.expand-env=true"],
            environment={
                **environments.tempo(self._place),
                **environments.s3_keys(self.credentials.tempo),
                "GOGC": _IDLE_GOGC,
                "GOMEMLIMIT": "300MiB",
            },
            ready_url=f"{url}/ready",
            url=url,
            log=self._log("tempo"),
            after=("minio",),
            feeds=("minio",),
            files=(native,),
            prepare=self._folder("tempo"),
            # After a recent query it never ends by itself (docs/decisions/0002-tempo-is-killed.md); what it
            # holds in memory is in its write-ahead log within the first second.
            stop_seconds=5,
        )

    def collector(self) -> Component:
        return Component(
            name="collector",
            # At every start, also the supervisor's own: a queue file that a power cut damaged would be its end.
            command=[
                *(sys.executable, "-m", queue_files.__name__, str(self.settings.data_dir("collector"))),
                *(str(self.programs["otelcol"]), *COLLECTOR_OPTIONS, f"--config={COLLECTOR_CONFIG}"),
            ],
            # Its own origin, which a cluster tells each pod: here it has none.
            environment={
                **environments.collector(self._place),
                **{"POD_UID": "", "KUBE_NODE_NAME": ""},
                # The disks that it sees itself, not those of the first process.
                "HOST_PROC_MOUNTINFO": "/proc/self/mountinfo",
            },
            ready_url=self.settings.url("collector_health"),
            url=self.settings.url("collector_otlp_http"),
            log=self._log("collector"),
            after=("loki", "tempo", "prometheus"),
            feeds=("loki", "tempo", "prometheus"),
            files=(COLLECTOR_CONFIG, Path(queue_files.__file__)),
            prepare=self._folder("collector"),
            stop_seconds=20,
        )

    def promtail(self) -> Component:
        url = self.settings.url("promtail_http")
        native = HELM_CONFIG / "promtail" / "promtail.yaml"
        return Component(
            name="promtail",
            command=[str(self.programs["promtail"]), f"-config.file={native}", "-config.expand-env=true"],
            environment={**environments.promtail(self._place), "GOGC": _IDLE_GOGC},
            ready_url=f"{url}/ready",
            url=url,
            log=self._log("promtail"),
            after=("collector",),
            feeds=("collector",),
            files=(native,),
            prepare=self._promtail_folder,
        )

    def _promtail_folder(self) -> None:
        self._folder("promtail")()
        # Promtail is not ready before it has a file to tail, and finds a new one only by looking every two seconds.
        for name in (*(service.name for service in self.settings.observed), CANARY):
            logfiles.begun(self.settings.service_logs_dir, name)

    def service(self, service: Service) -> Component:
        url = self.settings.url(service.port_name)
        return Component(
            name=service.name,
            command=[str(service.python), *service.arguments(HOST, self._place.port(service.port_name))],
            environment={
                **_own_settings(service),
                **service_environment(self.settings),
                **environments.telemetry(self._place, service.name, service.instances[0].track),
                **environments.service_keys(self.credentials),
                "PYTHONPATH": str(service.folder),
            },
            ready_url=f"{url}/readyz",
            url=url,
            log=self._log(service.name),
            directory=service.folder,
            tailed=True,
            feeds=("promtail", "collector"),
            files=(*service.code(), *_code(_TELEMETRY), self.settings.models_dir / service.name),
            stop_seconds=20,
        )

    def canary(self) -> Component:
        url = self.settings.url(CANARY)
        return Component(
            name=CANARY,
            command=[sys.executable, "-m", "sightglass.runtime.canary"],
            environment=environments.canary(
                self._place,
                interval=CANARY_INTERVAL / self.settings.alert_pace,
                # At any pace long enough for a delay to be called one.
                timeout=max(CANARY_TIMEOUT / self.settings.alert_pace, _LONGER),
            ),
            ready_url=url,
            url=url,
            log=self._log(CANARY),
            tailed=True,
            # What it looks for would be missing until then; nothing waits for the canary itself.
            after=("promtail",),
            feeds=("promtail", "collector"),
            files=(REPOSITORY / "sightglass" / "runtime" / "canary.py", *_code(_TELEMETRY)),
            stop_seconds=3,
        )

    def grafana(self, home: GrafanaHome) -> Component:
        url = self.settings.url("grafana")
        folder = HELM_CONFIG / "grafana"
        native = folder / "grafana.ini"
        return Component(
            name="grafana",
            command=[*home.command, "--homepath", str(home.path), "--config", str(native)],
            environment={
                "GF_SERVER_HTTP_ADDR": HOST,
                "GF_SERVER_HTTP_PORT": str(self._place.port("grafana")),
                "GF_PATHS_DATA": str(self.settings.data_dir("grafana")),
                "GF_PATHS_LOGS": str(self.settings.data_dir("grafana") / "log"),
                "GF_PATHS_PLUGINS": str(self.settings.data_dir("grafana") / "plugins"),
                "GF_PATHS_PROVISIONING": str(folder / "provisioning"),
                "GF_SECURITY_ADMIN_PASSWORD": self.credentials.grafana_admin_password,
                **environments.grafana(self._place),
            },
            ready_url=f"{url}/api/health",
            url=url,
            log=self._log("grafana"),
            files=(native, *sorted((folder / "provisioning").rglob("*.yaml")), *sorted(DASHBOARDS.glob("*.json"))),
            prepare=self._folder("grafana"),
        )
