"""Everything that a cluster pulls is in the lists for a mirror, each under the name that deploying then uses."""

import os
import shlex
import subprocess
import sys
from dataclasses import replace

from sightglass.facts.settings import REPOSITORY
from sightglass.kubernetes import charts, mirror

RELEASES, IMAGES = charts.load()
REGISTRY = "registry.example.com/mirror"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "IMAGE_REGISTRY"}
    command = [sys.executable, "-m", "sightglass.kubernetes.mirror", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, env=kept | environment, capture_output=True, text=True, check=False)


def test_every_image_goes_where_deploying_looks_for_it() -> None:
    done = run("images", IMAGE_REGISTRY=REGISTRY)
    assert done.returncode == 0, done.stderr
    pairs = dict(line.split() for line in done.stdout.splitlines())
    assert set(pairs.values()) == {image.reference(REGISTRY, digests=False) for image in IMAGES.values()}
    assert set(pairs) == {f"{image.name}@{image.digest}" for image in IMAGES.values()}
    # What deploying asks for is what was copied, with the digest behind it.
    asked = {image.reference(REGISTRY) for image in IMAGES.values()}
    assert {reference.split("@")[0] for reference in asked} == set(pairs.values())


def test_an_image_without_a_digest_is_copied_by_its_tag() -> None:
    image = replace(IMAGES["loki"], digest=None)
    (line,) = mirror.image_lines({"loki": image}, REGISTRY)
    assert line == f"{image.name}:{image.tag} {REGISTRY}/grafana/loki:{image.tag}"


def test_without_a_registry_it_says_what_to_set() -> None:
    done = run("images")
    assert (done.returncode, done.stdout) == (2, "")
    assert "IMAGE_REGISTRY is not set: set it to" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_chart_is_pulled_those_of_scale_too() -> None:
    done = run("charts", "my charts")
    assert done.returncode == 0, done.stderr
    pulled = {}
    for line in done.stdout.splitlines():
        helm, pull, name, *options = shlex.split(line)
        given = dict(zip(options[::2], options[1::2], strict=True))
        assert (helm, pull, given["--destination"]) == ("helm", "pull", "my charts")
        pulled[name] = (given["--repo"], given["--version"])
    assert {chart.chart: (chart.repository, chart.version) for chart in RELEASES}.items() < pulled.items()
    assert set(pulled) - {chart.chart for chart in RELEASES} == {"tempo-distributed"}
