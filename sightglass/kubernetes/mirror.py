"""What a cluster without a way out needs: every image with its place in a registry of one's own, and every chart.

IMAGE_REGISTRY=registry.example.com python -m sightglass.kubernetes.mirror images   # SOURCE TARGET, one a line
python -m sightglass.kubernetes.mirror charts charts                                # commands that fill charts/
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence

import click

from sightglass.facts import versions
from sightglass.facts.errors import UserError
from sightglass.facts.versions import ChartVersion, Image
from sightglass.kubernetes import charts
from sightglass.kubernetes.charts import Chart
from sightglass.kubernetes.options import load as load_options


def image_lines(images: Mapping[str, Image], registry: str) -> Iterator[str]:
    """``SOURCE TARGET`` of every image: by digest where it is known, which not every tool takes beside a tag."""
    for image in images.values():
        source = f"{image.name}@{image.digest}" if image.digest else image.reference()
        yield f"{source} {image.reference(registry, digests=False)}"


def chart_commands(known: Sequence[Chart | ChartVersion], folder: str) -> Iterator[str]:
    """``helm pull`` of every chart into that folder; the archives are what CHARTS_DIR takes."""
    for chart in known:
        options = ["--repo", chart.repository, "--version", chart.version, "--destination", folder]
        yield shlex.join(["helm", "pull", chart.chart, *options])


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Print what to copy for a cluster without a way out."""


@main.command()
def images() -> None:
    """SOURCE TARGET of every image, for `crane copy` or `skopeo copy`; IMAGE_REGISTRY is where they go."""
    registry = load_options().image_registry
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
    # Those past one machine too.
    for line in chart_commands([*known, *versions.load().scale.values()], folder):
        click.echo(line)


if __name__ == "__main__":
    main(prog_name="python -m sightglass.kubernetes.mirror")
