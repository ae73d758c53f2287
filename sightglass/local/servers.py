"""The servers of one machine as locked Go modules: what each builds, and how."""

import hashlib
import platform
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sightglass.facts import versions
from sightglass.facts.errors import UserError
from sightglass.facts.settings import REPOSITORY
from sightglass.local.fetch import Archive

SERVERS_DIR = REPOSITORY / "servers"
BASE_FLAGS = ("-trimpath", "-buildvcs=false", "-gcflags=all=-dwarf=false")
"""No debug information is made that the linker would leave out: that is a tenth of the build."""
BASE_LDFLAGS = "-s -w"


@dataclass(frozen=True)
class Pin:
    """The module version that a ``go.mod`` requires."""

    version: str

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
    release: str | None = None
    """What people know the version by, where it is not the tag without its ``v``."""
    seconds: float = 60.0
    """What a build took on two quiet cores, for the time left of the first one on a machine."""
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
        match = re.search(rf"^\s*(?:require\s+)?{re.escape(self.module)}[ \t]+(v\S+)", text, re.MULTILINE)
        if match is None:
            raise ValueError(f"{self.folder / 'go.mod'} does not require {self.module}")
        return Pin(match[1])

    def version(self) -> str:
        """The version that people know the built server by."""
        return self.release or self.pin().version.removeprefix("v")

    def build_flags(self) -> list[str]:
        """Flags that decide about the compiled packages."""
        return [*BASE_FLAGS, *(["-tags", ",".join(self.tags)] if self.tags else [])]

    def ldflags(self) -> str:
        """Linker flags: no debug information, and the version that the program prints."""
        pin = self.pin()
        committed = pin.committed
        facts = {
            "release": self.version(),
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


def _server(name: str, programs: Mapping[str, str], **more: Any) -> Server:
    """A server of the file of versions, whose module and version stand there."""
    known = versions.load().servers[name]
    assert known.build is not None  # noqa: S101 - every name below has one, which a test sees to
    release = known.build.release or known.version
    return Server(name, SERVERS_DIR / name, known.build.module, programs, release=release, **more)


SERVERS = (
    _server(
        "minio",
        {"minio": "github.com/minio/minio"},
        stamp=_minio_stamp("github.com/minio/minio/cmd") | {"github.com/minio/minio/cmd.ShortCommitID": "{revision}"},
        tags=("kqueue",),
        seconds=70,
    ),
    _server("collector", {"otelcol": "."}, builder=SERVERS_DIR / "collector-builder", seconds=220),
    _server("loki", {"loki": f"{_LOKI}/cmd/loki"}, stamp=_LOKI_STAMP, tags=("netgo",), seconds=180),
    _server("promtail", {"promtail": f"{_LOKI}/clients/cmd/promtail"}, stamp=_LOKI_STAMP, tags=("netgo",), seconds=155),
    _server("tempo", {"tempo": "github.com/grafana/tempo/cmd/tempo"}, stamp=_TEMPO_STAMP, seconds=120),
    _server(
        "prometheus",
        {
            "prometheus": "github.com/prometheus/prometheus/cmd/prometheus",
            "promtool": "github.com/prometheus/prometheus/cmd/promtool",
        },
        stamp=_COMMON_STAMP,
        tags=("netgo",),
        seconds=220,
    ),
    _server(
        "alertmanager",
        {
            "alertmanager": "github.com/prometheus/alertmanager/cmd/alertmanager",
            "amtool": "github.com/prometheus/alertmanager/cmd/amtool",
        },
        stamp=_COMMON_STAMP,
        tags=("netgo",),
        seconds=22,
    ),
)


LOAD_GENERATOR = _server("vegeta", {"vegeta": "github.com/tsenart/vegeta/v12"})
"""What the benchmark of the telemetry's cost sends its requests with; no part of a stack."""


def archive(name: str, system: str, machine: str) -> Archive | None:
    """Upstream's release archive of a server for that GOOS and GOARCH, None where there is none."""
    known = versions.load().servers.get(name)
    release = known.release if known else None
    platform_name = f"{system}-{machine}"
    if known is None or release is None or platform_name not in release.platforms:
        return None

    def filled(text: str) -> str:
        return text.format(system=system, machine=machine)

    url, sha256 = filled(release.url), release.sha256.get(platform_name)
    members = {program: filled(path) for program, path in release.members.items()}
    digest = hashlib.sha256(repr((url, sha256, sorted(members.items()))).encode()).hexdigest()[:12]
    return Archive(f"{name} {known.version}", f"{name}-{digest}", url, sha256, filled(release.checksums), members)


def server_versions(servers: Collection[Server] = SERVERS) -> dict[str, str]:
    """Version by name of each server as it is built."""
    return {server.name: server.version() for server in servers}
