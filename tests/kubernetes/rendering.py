"""Charts rendered with our values, by the code that deploys them."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from sightglass.clients import kubectl
from sightglass.facts.settings import REPOSITORY
from sightglass.kubernetes import charts
from sightglass.kubernetes.charts import Chart

Object = dict[str, Any]
CHECKSUM = "0123456789abcdef" * 4
STAND_INS = REPOSITORY / "tests" / "kubernetes" / "charts"
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet")
KUBERNETES = "1.34"
RELEASES, IMAGES = charts.load()


def upstream() -> Path:
    """The folder of upstream charts; skips the test where there is none."""
    folder = os.environ.get("CHARTS_DIR")
    if not folder:
        pytest.skip("CHARTS_DIR names no folder with the upstream charts")
    return Path(folder)


def render(chart: Chart, folder: Path, work: Path, *more: str, **options: Any) -> list[Object]:
    """Every object of the release; skips the test without helm."""
    if shutil.which("helm") is None:
        pytest.skip("helm is not installed")
    usable = charts.usable([chart], folder, work)
    arguments = charts.helm_arguments(chart, IMAGES, CHECKSUM, usable, **options)
    text = kubectl.run(["helm", "template", *arguments, "--kube-version", KUBERNETES, *more])
    return [found for found in yaml.safe_load_all(text) if found]


def workload(objects: list[Object]) -> Object:
    """The one workload of a release."""
    (found,) = [found for found in objects if found["kind"] in WORKLOADS]
    return found


def pod(objects: list[Object]) -> Object:
    """Spec of the release's pods."""
    spec: Object = workload(objects)["spec"]["template"]["spec"]
    return spec


def containers(spec: Object) -> list[Object]:
    """All containers of a pod, those that run first included."""
    return [*spec.get("initContainers", []), *spec["containers"]]


def volume(spec: Object, name: str) -> Object:
    """The volume of that name; of a volume that is claimed for each replica, nothing."""
    return next((found for found in spec.get("volumes", []) if found["name"] == name), {"name": name})


def origin(spec: Object, path: str) -> tuple[str, str, str] | None:
    """Kind, name and key of the ConfigMap or Secret that a file comes from; None where it comes from neither."""
    mounts = containers(spec)[0].get("volumeMounts", [])
    above = [mount for mount in mounts if f"{path}/".startswith(f"{mount['mountPath'].rstrip('/')}/")]
    if not above:
        return None
    mount = max(above, key=lambda mount: len(mount["mountPath"]))
    inside = path[len(mount["mountPath"].rstrip("/")) + 1 :]
    source = volume(spec, mount["name"])
    key = mount.get("subPath") or inside
    if "configMap" in source:
        return "ConfigMap", source["configMap"]["name"], key
    return ("Secret", source["secret"]["secretName"], key) if "secret" in source else None
