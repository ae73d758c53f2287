"""The one file of versions, and the places in files of other kinds that repeat some of it.

python -m sightglass.facts.versions    # write the versions where they have to be repeated; `make generate` does it
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from sightglass.facts.errors import UserError
from sightglass.facts.settings import REPOSITORY

FILE = REPOSITORY / "versions.yaml"
_STRICT = ConfigDict(extra="forbid")
T = TypeVar("T")

Sum = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Platform = Annotated[str, Field(pattern=r"^(linux|darwin)-(amd64|arm64)$")]


@dataclass(frozen=True)
class Image:
    """A container image, pinned by tag and, where it is known, by the digest of the tag's index."""

    __pydantic_config__ = _STRICT

    name: Annotated[str, Field(pattern=r"^[^/]+\.[^/]+/[^:@]+$")]
    """Registry host and repository: ``docker.io/grafana/loki``."""
    tag: Annotated[str, Field(min_length=1)]
    digest: Annotated[str | None, Field(pattern=r"^sha256:[0-9a-f]{64}$")]

    def parts(self, registry: str | None = None) -> tuple[str, str]:
        """Registry and repository; another registry, such as a mirror's, replaces the host."""
        host, _, repository = self.name.partition("/")
        return registry or host, repository

    def version(self, digests: bool = True) -> str:
        """What stands behind the colon: the tag, and the digest where it is known and wanted."""
        return f"{self.tag}@{self.digest}" if digests and self.digest else self.tag

    def reference(self, registry: str | None = None, digests: bool = True) -> str:
        """The whole reference, as a pod has it."""
        return f"{'/'.join(self.parts(registry))}:{self.version(digests)}"


@dataclass(frozen=True)
class Release:
    """Upstream's archives of a server, one for each system and machine."""

    __pydantic_config__ = _STRICT

    url: str
    checksums: str
    """Upstream's own list of checksums."""
    platforms: tuple[Platform, ...]
    members: Mapping[str, str] = field(default_factory=dict)
    """Place in the archive by program; empty where the whole archive is one program's home."""
    sha256: Mapping[Platform, Sum] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    """Who publishes the checksums."""


@dataclass(frozen=True)
class Build:
    """The Go module that a server is built from."""

    __pydantic_config__ = _STRICT

    module: str
    version: str
    release: str | None = None
    """What people know this version by, where the module's version does not say it."""
    because: str | None = None
    """Why a build is another version than the archive and the image."""


@dataclass(frozen=True)
class ServerVersions:
    """All that is known of one server."""

    __pydantic_config__ = _STRICT

    version: str
    licence: str
    release: Release | None = None
    build: Build | None = None
    image: Image | None = None


@dataclass(frozen=True)
class ChartVersion:
    """An upstream chart."""

    __pydantic_config__ = _STRICT

    chart: str
    repository: str
    """Address for ``helm --repo``."""
    version: str


@dataclass(frozen=True)
class Versions:
    """The whole file."""

    __pydantic_config__ = _STRICT

    servers: Mapping[str, ServerVersions]
    images: Mapping[str, Image]
    charts: Mapping[str, ChartVersion]
    scale: Mapping[str, ChartVersion]

    def all_images(self) -> dict[str, Image]:
        """Every image by the name of its server, or its own."""
        return {name: server.image for name, server in self.servers.items() if server.image} | dict(self.images)


def read(file: Path) -> Versions:
    """Read a file of versions; :class:`UserError` where it lacks something or says what is not known."""
    content = parse(file)
    for server in (content.get("servers") or {}).values() if isinstance(content, dict) else ():
        _fill(server)
    return validate(file, TypeAdapter(Versions), content)


def _fill(server: dict[str, Any]) -> None:
    """Put the version of a server where its other entries ask for it."""
    version = str(server.get("version"))
    for part, keys in (("release", ("url", "checksums")), ("image", ("tag",))):
        found = server.get(part)
        for key in keys:
            if isinstance(found, dict) and isinstance(found.get(key), str):
                found[key] = found[key].replace("{version}", version)
    release = server.get("release")
    if isinstance(release, dict) and isinstance(release.get("members"), dict):
        release["members"] = {
            name: str(path).replace("{version}", version) for name, path in release["members"].items()
        }


@cache
def load() -> Versions:
    """The versions of this checkout."""
    return read(FILE)


def parse(file: Path) -> Any:
    """Content of a YAML file of the repository; :class:`UserError` where there is none or it is no YAML."""
    try:
        return yaml.safe_load(file.read_text())
    except FileNotFoundError:
        raise UserError(f"{file} is missing: restore it from the repository.") from None
    except yaml.YAMLError as error:
        raise UserError(f"{file} is not YAML: {error}".replace("\n", " ")) from None


def validate(file: Path, adapter: TypeAdapter[T], content: object) -> T:
    """Content in the form of the adapter; the first thing that does not fit is named in one sentence."""
    try:
        return adapter.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the top"
        raise UserError(f"{file}, {field}: {first['msg']}.") from None


# Mentions of a version in other files


@dataclass(frozen=True)
class Mention:
    """Text of a file that has to be a version: the first group of the pattern, wherever the pattern is found."""

    file: Path
    pattern: str
    version: str

    def written(self, text: str) -> str:
        """The text with the version at its place; :class:`ValueError` where the file has no such place."""

        def put(match: re.Match[str]) -> str:
            start, end = match.start(1) - match.start(), match.end(1) - match.start()
            return match[0][:start] + self.version + match[0][end:]

        changed, count = re.subn(self.pattern, put, text, flags=re.MULTILINE)
        if not count:
            raise ValueError(f"{self.file} has no place for {self.version}: {self.pattern}")
        return changed


def go_version() -> str:
    """The newest Go that a server's lock asks for."""
    found = {
        match[1]
        for file in (REPOSITORY / "servers").glob("*/go.mod")
        if (match := re.search(r"^go (\S+)$", file.read_text(), re.MULTILINE))
    }
    return max(found, key=lambda version: tuple(int(part) for part in version.split(".")))


def mentions() -> Iterator[Mention]:
    """Every place outside the file of versions where one of them stands."""
    known = load()
    for name, server in known.servers.items():
        if build := server.build:
            pattern = rf"^\s*(?:require\s+)?{re.escape(build.module)}[ \t]+(v\S+)"
            yield Mention(REPOSITORY / "servers" / name / "go.mod", pattern, build.version)
    yield Mention(
        REPOSITORY / "servers" / "collector" / "builder.yaml", r"^  version: (\S+)$", known.servers["collector"].version
    )
    scale = REPOSITORY / "helm-config" / "scale"
    images = known.all_images()
    for name, file, pattern in (
        ("prometheus", scale / "prometheus.yaml", r"image: \S+/prometheus:(\S+)$"),
        ("tempo", scale / "tempo.yaml", r"^    tag: (\S+)$"),
    ):
        yield Mention(file, pattern, images[name].version())
    for release, chart in known.charts.items():
        stand_in = REPOSITORY / "tests" / "kubernetes" / "charts" / chart.chart / "Chart.yaml"
        yield Mention(stand_in, r"^version: (\S+)$", chart.version)
        if release in ("loki", "prometheus", "grafana"):
            pattern = rf"helm upgrade {release} {chart.chart} --repo \S+ --version (\S+)"
            yield Mention(REPOSITORY / "docs" / "scaling.md", pattern, chart.version)
    tempo = known.scale["tempo"]
    yield Mention(REPOSITORY / "docs" / "scaling.md", r"tempo-distributed --repo \S+ --version (\S+)", tempo.version)
    yield Mention(REPOSITORY / "docs" / "scaling.md", r"^in one copy\. (\S+) is the last", tempo.version)
    for name, pattern in (
        ("README.md", r"Go (1\.\S+) or newer"),
        ("docs/troubleshooting.md", r"needs Go (1\.\S+) or newer"),
    ):
        yield Mention(REPOSITORY / name, pattern, go_version())


def main() -> None:
    """Write every version where it has to be repeated."""
    for mention in mentions():
        text = mention.file.read_text()
        if (written := mention.written(text)) != text:
            mention.file.write_text(written)


if __name__ == "__main__":
    main()
