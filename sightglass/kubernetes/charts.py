"""The upstream charts: which release is made of which chart and images, and what Helm is told about each."""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ConfigDict, Field, TypeAdapter

from sightglass.facts import versions
from sightglass.facts.errors import UserError
from sightglass.facts.settings import REPOSITORY
from sightglass.facts.versions import Image

HELM_CONFIG = REPOSITORY / "helm-config"
CHARTS = "charts.yaml"
CHECKSUM = "checksum/configuration"
"""Pod annotation with the sum over the configuration that the pod reads: another sum is another pod."""

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Paths:
    """Where the parts of an image stand in a chart's values, as for ``--set``."""

    __pydantic_config__ = _STRICT

    repository: str
    tag: str
    registry: str | None = None
    """None where the chart has no value for it: the repository then begins with the registry."""


@dataclass(frozen=True)
class Reads:
    """ConfigMaps and Secrets that a release's pods mount or take variables from."""

    __pydantic_config__ = _STRICT

    configmaps: tuple[str, ...]
    secrets: tuple[str, ...]


@dataclass(frozen=True)
class Chart:
    """One release of an upstream chart."""

    __pydantic_config__ = _STRICT

    release: str
    """Name of the release, of its workload and of its Service."""
    chart: str
    repository: str
    """Address for ``helm --repo``."""
    version: str
    namespace: str
    images: dict[str, Paths]
    """By the image's name in versions.yaml."""
    annotations: tuple[str, ...]
    """Paths of the values that hold annotations of the pods."""
    reads: Reads
    workload: Annotated[str, Field(pattern=r"^(deployment|statefulset|daemonset)/[a-z0-9-]+$")]
    """What is ready when the release is: ``statefulset/loki``."""
    storage_class: str | None = None
    """Path of the value that holds the StorageClass of its volume, if it has one."""

    @property
    def values(self) -> Path:
        """Our values for the chart."""
        return HELM_CONFIG / self.release / "values.yaml"


def load(folder: Path = HELM_CONFIG, file: Path = versions.FILE) -> tuple[list[Chart], dict[str, Image]]:
    """The releases in the order of their installation, and all images by name.

    ``file`` has their versions. Raises :class:`UserError` when a file lacks something or says what is not known.
    """
    known = versions.load() if file == versions.FILE else versions.read(file)
    images = known.all_images()
    entries = versions.validate(
        folder / CHARTS, TypeAdapter(dict[str, dict[str, Any]]), versions.parse(folder / CHARTS)
    )
    for release in entries:
        if release not in known.charts:
            raise UserError(f"{folder / CHARTS}: {release} has no chart: add it to {file.name}.")
    named = {
        release: {"release": release, **vars(known.charts[release]), **entry} for release, entry in entries.items()
    }
    charts = versions.validate(folder / CHARTS, TypeAdapter(dict[str, Chart]), named)
    for release, chart in charts.items():
        for image in chart.images:
            if image not in images:
                raise UserError(f"{folder / CHARTS}: {release} has the image {image!r}: add it to {file.name}.")
    return list(charts.values()), images


def helm_arguments(
    chart: Chart,
    images: Mapping[str, Image],
    checksum: str,
    charts_dir: Path | None = None,
    registry: str | None = None,
    digests: bool = True,
    storage_class: str | None = None,
) -> list[str]:
    """Arguments for ``helm template`` and ``helm upgrade --install``: release, chart, namespace and values.

    ``checksum`` is the sum over what the release reads. The chart comes from ``charts_dir`` if there is one, a folder
    of unpacked charts or of archives, else from its repository. ``registry`` stands for every image's registry,
    ``storage_class`` for the cluster's default one.
    """
    settings: dict[str, str] = {}
    for name, paths in chart.images.items():
        host, repository = images[name].parts(registry)
        if paths.registry:
            settings |= {paths.registry: host, paths.repository: repository}
        else:
            settings[paths.repository] = f"{host}/{repository}"
        settings[paths.tag] = images[name].version(digests)
    settings |= {f"{path}.{CHECKSUM}": checksum for path in chart.annotations}
    if chart.storage_class and storage_class:
        settings[chart.storage_class] = storage_class
    return [
        chart.release,
        *_location(chart, charts_dir),
        *("--namespace", chart.namespace, "--values", str(chart.values)),
        *(argument for path, value in settings.items() for argument in ("--set-string", f"{path}={value}")),
    ]


def usable(charts: Iterable[Chart], charts_dir: Path, folder: Path) -> Path:
    """Fill the folder with the charts in a form that Helm takes, and return it.

    Helm refuses a checkout whose subcharts are not in it, even if the values turn every one off, as ours do: such a
    chart is copied without its list of subcharts. Raises :class:`UserError` for a chart that is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for chart in charts:
        source = Path(_location(chart, charts_dir)[0])
        copy = folder / source.name
        if source.is_file():
            shutil.copyfile(source, copy)
            continue
        shutil.copytree(source, copy, dirs_exist_ok=True)
        about = yaml.safe_load((copy / "Chart.yaml").read_text())
        wanted = [dependency["name"] for dependency in about.get("dependencies", [])]
        if not all((copy / "charts" / name).is_dir() or any(copy.glob(f"charts/{name}-*.tgz")) for name in wanted):
            del about["dependencies"]
            (copy / "Chart.yaml").write_text(yaml.safe_dump(about))
            (copy / "Chart.lock").unlink(missing_ok=True)
    return folder


def _location(chart: Chart, charts_dir: Path | None) -> list[str]:
    if charts_dir is None:
        return [chart.chart, "--repo", chart.repository, "--version", chart.version]
    archive = charts_dir / f"{chart.chart}-{chart.version}.tgz"
    if archive.is_file():
        return [str(archive)]
    about = charts_dir / chart.chart / "Chart.yaml"
    if not about.is_file():
        raise UserError(
            f"CHARTS_DIR has neither {chart.chart}/ nor {archive.name}: get it with "
            f"`helm pull {chart.chart} --repo {chart.repository} --version {chart.version}`, or unset CHARTS_DIR."
        )
    version = yaml.safe_load(about.read_text()).get("version")
    if version != chart.version:
        raise UserError(
            f"{about.parent} is version {version} of the chart: put version {chart.version} there, "
            f"or change {versions.FILE.name} and try the values with it."
        )
    return [str(about.parent)]
