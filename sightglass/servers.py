"""The servers of one machine, as locked Go modules: what each builds, and its version as its lock files have it."""

import hashlib
import platform
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from sightglass.errors import UserError
from sightglass.settings import REPOSITORY

SERVERS_DIR = REPOSITORY / "servers"
BASE_FLAGS = ("-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false")
"""No debug information is made that the linker would leave out: that is a tenth of the build."""
BASE_LDFLAGS = "-s -w"


@dataclass(frozen=True)
class Pin:
    """The module version that a ``go.mod`` requires, and the comment behind it."""

    version: str
    comment: str = ""

    @property
    def revision(self) -> str:
        """First 12 digits of the commit of a pseudo-version, else the version itself, which is a tag."""
        match = re.search(r"\d{14}-([0-9a-f]{12})$", self.version)
        return match[1] if match else self.version

    @property
    def committed(self) -> datetime | None:
        """Time of the commit (UTC) if the version is a pseudo-version."""
        match = re.search(r"(\d{14})-[0-9a-f]{12}$", self.version)
        return datetime.strptime(match[1], "%Y%m%d%H%M%S").replace(tzinfo=UTC) if match else None


def tagged_release(pin: Pin) -> str:
    """``v3.7.6`` is release 3.7.6."""
    return pin.version.removeprefix("v")


def commented_release(pin: Pin) -> str:
    """A pseudo-version names no release; the comment behind it does: ``// indirect; release 2.8.0-rc.0``."""
    match = re.search(r"\brelease (\S+)", pin.comment)
    return match[1] if match else pin.version


def prometheus_release(pin: Pin) -> str:
    """Prometheus 3.14.0 is published as the Go module v0.314.0 (major times 100 plus minor)."""
    _, minor, patch = pin.version.removeprefix("v").split(".", 2)
    return f"{int(minor) // 100}.{int(minor) % 100}.{patch}"


def minio_release(pin: Pin) -> str:
    """MinIO names a release after the time of its commit."""
    return f"RELEASE.{pin.committed:%Y-%m-%dT%H-%M-%SZ}" if pin.committed else pin.version


@dataclass(frozen=True)
class Server:
    """One folder of lock files and the programs that are built from it."""

    name: str
    folder: Path
    module: str
    """The module whose version is the server's version."""
    programs: Mapping[str, str]
    """Main package by program name."""
    stamp: Mapping[str, str] = field(default_factory=dict)
    """Text by Go variable, set while linking; may hold {release}, {revision}, {time} and {year} (of the commit)."""
    tags: tuple[str, ...] = ()
    release: Callable[[Pin], str] = tagged_release
    builder: Path | None = None
    """Lock folder of the OpenTelemetry Collector Builder, which writes the sources from ``builder.yaml``."""

    @property
    def manifest(self) -> Path:
        """The Collector Builder's input."""
        return self.folder / "builder.yaml"

    @property
    def lock_files(self) -> list[Path]:
        """Everything in the repository that decides what is built."""
        files = [self.folder / "go.mod", self.folder / "go.sum"]
        if self.builder:
            files += [self.manifest, self.builder / "go.mod", self.builder / "go.sum"]
        return files

    def pin(self) -> Pin:
        """Required version of :attr:`module`; raises :class:`ValueError` if ``go.mod`` requires none."""
        text = (self.folder / "go.mod").read_text()
        match = re.search(rf"^\s*(?:require\s+)?{re.escape(self.module)}[ \t]+(v\S+)[ \t]*(.*)$", text, re.MULTILINE)
        if match is None:
            raise ValueError(f"{self.folder / 'go.mod'} does not require {self.module}")
        return Pin(match[1], match[2])

    def version(self) -> str:
        """The version that people know the server by."""
        return self.release(self.pin())

    def build_flags(self) -> list[str]:
        """Flags that decide about the compiled packages."""
        return [*BASE_FLAGS, *(["-tags", ",".join(self.tags)] if self.tags else [])]

    def ldflags(self) -> str:
        """Linker flags: no debug information, and the version that the program prints."""
        pin = self.pin()
        committed = pin.committed
        facts = {
            "release": self.release(pin),
            "revision": pin.revision,
            "time": f"{committed:%Y-%m-%dT%H:%M:%SZ}" if committed else "",
            "year": f"{committed:%Y}" if committed else "",
        }
        return " ".join([BASE_LDFLAGS, *(f"-X {name}={text.format(**facts)}" for name, text in self.stamp.items())])

    def key(self, system: str, machine: str) -> str:
        """Name of what would be built: equal inputs give equal keys on every checkout of this repository."""
        digest = hashlib.sha256()
        for path in self.lock_files:
            content = path.read_bytes()
            digest.update(f"{path.parent.name}/{path.name} {len(content)}\n".encode() + content)
        rest = (sorted(self.programs.items()), self.build_flags(), self.ldflags(), system, machine)
        digest.update(repr(rest).encode())
        return digest.hexdigest()[:16]


def host() -> tuple[str, str]:
    """GOOS and GOARCH of this machine; raises :class:`UserError` where the servers are not built."""
    system = platform.system().lower()
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine().lower(), platform.machine().lower())
    if system not in ("linux", "darwin") or machine not in ("amd64", "arm64"):
        raise UserError(f"The servers run on Linux and macOS, amd64 or arm64, and this is {system} on {machine}.")
    return system, machine


_COMMON = "github.com/prometheus/common/version"
_COMMON_STAMP = {f"{_COMMON}.Version": "{release}", f"{_COMMON}.Revision": "{revision}", f"{_COMMON}.Branch": "HEAD"}
_LOKI = "github.com/grafana/loki/v3"
_LOKI_BUILD = f"{_LOKI}/pkg/util/build"
_LOKI_STAMP = {
    f"{_LOKI_BUILD}.Version": "{release}",
    f"{_LOKI_BUILD}.Revision": "{revision}",
    f"{_LOKI_BUILD}.Branch": "HEAD",
}
_TEMPO_STAMP = {"main.Version": "{release}", "main.Revision": "{revision}", "main.Branch": "HEAD"}


def _minio_stamp(package: str) -> dict[str, str]:
    values = {"Version": "{time}", "ReleaseTag": "{release}", "CommitID": "{revision}", "CopyrightYear": "{year}"}
    return {f"{package}.{name}": text for name, text in values.items()}


SERVERS = (
    Server(
        name="minio",
        folder=SERVERS_DIR / "minio",
        module="github.com/minio/minio",
        programs={"minio": "github.com/minio/minio"},
        stamp=_minio_stamp("github.com/minio/minio/cmd") | {"github.com/minio/minio/cmd.ShortCommitID": "{revision}"},
        tags=("kqueue",),
        release=minio_release,
    ),
    Server(
        name="mc",
        folder=SERVERS_DIR / "mc",
        module="github.com/minio/mc",
        programs={"mc": "github.com/minio/mc"},
        stamp=_minio_stamp("github.com/minio/mc/cmd"),
        tags=("kqueue",),
        release=minio_release,
    ),
    Server(
        name="collector",
        folder=SERVERS_DIR / "collector",
        module="go.opentelemetry.io/collector/otelcol",
        programs={"otelcol": "."},
        builder=SERVERS_DIR / "collector-builder",
    ),
    Server(
        name="loki",
        folder=SERVERS_DIR / "loki",
        module=_LOKI,
        programs={"loki": f"{_LOKI}/cmd/loki"},
        stamp=_LOKI_STAMP,
        tags=("netgo",),
    ),
    Server(
        name="promtail",
        folder=SERVERS_DIR / "promtail",
        module=_LOKI,
        programs={"promtail": f"{_LOKI}/clients/cmd/promtail"},
        stamp=_LOKI_STAMP,
        tags=("netgo",),
    ),
    Server(
        name="tempo",
        folder=SERVERS_DIR / "tempo",
        module="github.com/grafana/tempo",
        programs={"tempo": "github.com/grafana/tempo/cmd/tempo"},
        stamp=_TEMPO_STAMP,
        release=commented_release,
    ),
    Server(
        name="prometheus",
        folder=SERVERS_DIR / "prometheus",
        module="github.com/prometheus/prometheus",
        programs={
            "prometheus": "github.com/prometheus/prometheus/cmd/prometheus",
            "promtool": "github.com/prometheus/prometheus/cmd/promtool",
        },
        stamp=_COMMON_STAMP,
        tags=("netgo",),
        release=prometheus_release,
    ),
    Server(
        name="alertmanager",
        folder=SERVERS_DIR / "alertmanager",
        module="github.com/prometheus/alertmanager",
        programs={
            "alertmanager": "github.com/prometheus/alertmanager/cmd/alertmanager",
            "amtool": "github.com/prometheus/alertmanager/cmd/amtool",
        },
        stamp=_COMMON_STAMP,
        tags=("netgo",),
    ),
)


LOAD_GENERATOR = Server(
    name="vegeta",
    folder=SERVERS_DIR / "vegeta",
    module="github.com/tsenart/vegeta/v12",
    programs={"vegeta": "github.com/tsenart/vegeta/v12"},
)
"""What the benchmark of the telemetry's cost sends its requests with; no part of a stack."""


def server_versions(servers: Collection[Server] = SERVERS) -> dict[str, str]:
    """Version by server name, read from the lock files, which are the only place where versions stand."""
    return {server.name: server.version() for server in servers}
