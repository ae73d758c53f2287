"""Our own objects as they are applied: what kustomize renders, with images, environment and checksums filled in."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import yaml

from ml_telemetry import signals
from sightglass.alerting import observed
from sightglass.clients.kubectl import key, run
from sightglass.facts.cluster import OBSERVABILITY
from sightglass.facts.settings import REPOSITORY, Settings
from sightglass.kubernetes.charts import CHECKSUM
from sightglass.notify import receivers

FOLDER = REPOSITORY / "manifests"
RECORD = "sightglass-deployment"
"""ConfigMap that says what was deployed."""
MODEL_VERSION = "SIGHTGLASS_MODEL_VERSION"
_ATTRIBUTES = "OTEL_RESOURCE_ATTRIBUTES"
Object = dict[str, Any]


def render() -> list[Object]:
    """Every object of ``manifests/`` as kustomize makes it."""
    return [found for found in yaml.safe_load_all(run(["kubectl", "kustomize", str(FOLDER)])) if found]


def with_images(objects: list[Object], image: Callable[[str], str]) -> None:
    """Give each container the image that ``image`` makes of its name in the manifest."""
    for spec in _pod_specs(objects):
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            container["image"] = image(container["image"])


def with_environment(objects: list[Object], changes: Mapping[str, str]) -> None:
    """Replace the value of each of these variables in every ConfigMap of environment variables that has it."""
    for found in objects:
        if found["kind"] == "ConfigMap" and found["metadata"]["name"].endswith("-env"):
            data = found["data"]
            data |= {name: value for name, value in changes.items() if name in data}


def with_model_versions(objects: list[Object], versions: Mapping[str, str]) -> None:
    """Say the version for people of each service's model: an image knows the digest only."""
    names = {f"{service}-env": version for service, version in versions.items()}
    for found in objects:
        if found["kind"] == "ConfigMap" and (version := names.get(found["metadata"]["name"])):
            found["data"][MODEL_VERSION] = version


def with_deployment_attribute(objects: list[Object], environment: str) -> None:
    """Name the environment in the resource attributes of our services."""
    for found in objects:
        data = found.get("data", {}) if found["kind"] == "ConfigMap" else {}
        if _ATTRIBUTES in data:
            given = dict(pair.split("=", 1) for pair in data[_ATTRIBUTES].split(","))
            given[signals.DEPLOYMENT_ENVIRONMENT.name] = environment
            data[_ATTRIBUTES] = ",".join(f"{name}={value}" for name, value in given.items())


def without_targets(objects: list[Object], left_out: frozenset[str]) -> None:
    """Take what was left out from Prometheus' targets: it is not down, it is not there."""
    for found in objects:
        if (found["kind"], found["metadata"]["name"]) == ("ConfigMap", "prometheus-config"):
            for name in (name for name in found["data"] if name.endswith(".targets.yaml")):
                groups = yaml.safe_load(found["data"][name])
                kept = [group for group in groups if group["labels"]["service_name"] not in left_out]
                if kept != groups:
                    found["data"][name] = yaml.safe_dump(kept, sort_keys=False)


def with_observed(objects: list[Object], services: Iterable[str]) -> None:
    """Expect these services, and no other."""
    for found in objects:
        if (found["kind"], found["metadata"]["name"]) == ("ConfigMap", "prometheus-config"):
            found["data"][observed.FILE] = observed.text(services)


def with_storage_class(objects: list[Object], name: str) -> None:
    """Take volumes of this class."""
    for found in objects:
        if found["kind"] == "PersistentVolumeClaim":
            found["spec"]["storageClassName"] = name


def with_receivers(objects: list[Object], settings: Settings) -> None:
    """Where the environment names a channel to people, Alertmanager's file has one receiver more."""
    for found in objects:
        if (found["kind"], found["metadata"]["name"]) == ("ConfigMap", "alertmanager-config"):
            data = found["data"]
            data[receivers.CONFIGURATION] = receivers.configuration(data[receivers.CONFIGURATION], settings)


def with_checksums(objects: list[Object], secrets: list[Object]) -> None:
    """Note in each pod template the sum over what it reads, so that a change restarts exactly what reads it."""
    known = contents([*objects, *secrets])
    for found in objects:
        if (template := _template(found)) is not None:
            namespace = found["metadata"]["namespace"]
            wanted = sorted(references(template["spec"]))
            annotations = template.setdefault("metadata", {}).setdefault("annotations", {})
            annotations[CHECKSUM] = checksum(known, [(kind, namespace, name) for kind, name in wanted])


def contents(objects: list[Object]) -> dict[tuple[str, str, str], Any]:
    """Data of every ConfigMap and Secret by kind, namespace and name."""
    return {
        (found["kind"], found["metadata"]["namespace"], found["metadata"]["name"]): found.get("data", {})
        for found in objects
        if found["kind"] in ("ConfigMap", "Secret")
    }


def checksum(known: Mapping[tuple[str, str, str], Any], wanted: list[tuple[str, str, str]]) -> str:
    """Sum over what these ConfigMaps and Secrets hold; :class:`KeyError` for one that is not known."""
    return hashlib.sha256(json.dumps([known[key] for key in wanted], sort_keys=True).encode()).hexdigest()


def _template(found: Object) -> Object | None:
    """The pod template of a workload whose pods are replaced when it changes; a Job's is fixed once it is made."""
    if found["kind"] in ("Deployment", "StatefulSet", "DaemonSet"):
        template: Object = found["spec"]["template"]
        return template
    return None


def _pod_specs(objects: list[Object]) -> Iterator[Object]:
    for found in objects:
        if found["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
            yield found["spec"]["template"]["spec"]


def references(spec: Object) -> Iterator[tuple[str, str]]:
    """Kind and name of every ConfigMap and Secret that a pod cannot start without."""
    for volume in spec.get("volumes", []):
        for kind, field, name in (("ConfigMap", "configMap", "name"), ("Secret", "secret", "secretName")):
            if field in volume and not volume[field].get("optional"):
                yield kind, volume[field][name]
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        for source in container.get("envFrom", []):
            for kind, field in (("ConfigMap", "configMapRef"), ("Secret", "secretRef")):
                if field in source:
                    yield kind, source[field]["name"]
        for variable in container.get("env", []):
            for kind, field in (("ConfigMap", "configMapKeyRef"), ("Secret", "secretKeyRef")):
                if field in variable.get("valueFrom", {}):
                    yield kind, variable["valueFrom"][field]["name"]


def marked(objects: list[Object]) -> list[Object]:
    """The objects with the label that kustomize gives those of this checkout."""
    for found in objects:
        found["metadata"].setdefault("labels", {})["app.kubernetes.io/part-of"] = "sightglass"
    return objects


def stale(rendered: list[Object], present: list[Object]) -> list[Object]:
    """Objects of ours in the cluster that are rendered no more."""
    kept = {key(found) for found in rendered}
    return [found for found in present if key(found) not in kept]


def record(values: Mapping[str, Any]) -> Object:
    """What was deployed, for later commands: a ConfigMap."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": RECORD,
            "namespace": OBSERVABILITY,
            "labels": {"app.kubernetes.io/part-of": "sightglass"},
        },
        "data": {key: json.dumps(value) for key, value in values.items()},
    }
