"""What a cluster without a way out needs: every image with its place in a registry of one's own, and every chart.

IMAGE_REGISTRY=registry.example.com python -m sightglass.kubernetes.mirror images   # SOURCE TARGET, one a line
python -m sightglass.kubernetes.mirror charts charts                                # commands that fill charts/
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import yaml

from sightglass.errors import UserError
from sightglass.kubernetes import charts
from sightglass.kubernetes import settings as environment
from sightglass.kubernetes.charts import Chart, Image

SCALE = charts.HELM_CONFIG / "scale" / charts.CHARTS
"""Charts that are other ones past one machine."""


def image_lines(images: Mapping[str, Image], registry: str) -> Iterator[str]:
    """``SOURCE TARGET`` of every image: by digest where it is known, which not every tool takes beside a tag."""
    for image in images.values():
        source = f"{image.name}@{image.digest}" if image.digest else image.reference()
        yield f"{source} {image.reference(registry, digests=False)}"


def chart_commands(known: Sequence[Chart], folder: str, scale: Path = SCALE) -> Iterator[str]:
    """``helm pull`` of every chart into that folder, those of ``scale`` too; the archives are what CHARTS_DIR takes."""
    others: dict[str, dict[str, Any]] = yaml.safe_load(scale.read_text())
    pinned = [(chart.chart, chart.repository, chart.version) for chart in known]
    pinned += [(other["chart"], other["repository"], other["version"]) for other in others.values()]
    for name, repository, version in pinned:
        yield shlex.join(["helm", "pull", name, "--repo", repository, "--version", version, "--destination", folder])


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Print what to copy for a cluster without a way out."""


@main.command()
def images() -> None:
    """SOURCE TARGET of every image, for `crane copy` or `skopeo copy`; IMAGE_REGISTRY is where they go."""
    registry = environment.load().image_registry
    if not registry:
        raise UserError("IMAGE_REGISTRY is not set: set it to the registry that your nodes pull from.")
    _, known = charts.load()
    for line in image_lines(known, registry):
        click.echo(line)


@main.command("charts")
@click.argument("folder", default="charts")
def charts_command(folder: str) -> None:
    """Commands that pull every chart into FOLDER, which CHARTS_DIR then names."""
    known, _ = charts.load()
    for line in chart_commands(known, folder):
        click.echo(line)


if __name__ == "__main__":
    main(prog_name="python -m sightglass.kubernetes.mirror")
