"""What must hold for the objects of every release; each check returns what it finds wrong, in words."""

import re
from collections import Counter
from collections.abc import Iterator

import kubernetes_validate

from sightglass.kubernetes.charts import CHECKSUM
from sightglass.kubernetes.workloads import IMAGE
from tests.kubernetes.rendering import WORKLOADS, Object, containers, pod, workload

SCHEMAS = ("1.33", "1.34", "1.35", "1.36")
_SAFE_VOLUMES = {
    "configMap",
    "emptyDir",
    "persistentVolumeClaim",
    "projected",
    "secret",
    "downwardAPI",
    "csi",
    "ephemeral",
}
_LABEL = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_CONFIDENTIAL = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|CREDENTIAL", re.IGNORECASE)
_UNITS = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "MiB": 2**20, "GiB": 2**30}


def schema(objects: list[Object]) -> list[str]:
    """Kubernetes' own schemas, of every version that is supported."""
    found = []
    for item in objects:
        for version in SCHEMAS:
            try:
                kubernetes_validate.validate(item, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                found.append(f"{item['kind']} {version}: {error.message}")
    return found


def labels(objects: list[Object]) -> list[str]:
    """Values of labels, which a schema does not describe: the API server refuses one that is longer or has an @."""
    found = []
    for item in objects:
        template = item.get("spec", {}).get("template", {}) if item["kind"] in WORKLOADS else {}
        for metadata in (item["metadata"], template.get("metadata", {})):
            for name, value in (metadata.get("labels") or {}).items():
                if not _LABEL.fullmatch(str(value)):
                    found.append(f"{item['kind']}: label {name} is {value!r}")
    return found


def duplicates(objects: list[Object]) -> list[str]:
    """Entries of a list with the same key, which the API server refuses when Helm applies them on its side."""
    found: list[str] = []
    for item in objects:
        lists: list[tuple[str, list[Object], tuple[str, ...]]] = []
        if item["kind"] == "Service":
            lists.append(("port", item["spec"]["ports"], ("port", "protocol")))
        for container in containers(item["spec"]["template"]["spec"]) if item["kind"] in WORKLOADS else []:
            lists.append(("variable", container.get("env", []), ("name",)))
            lists.append(("port", container.get("ports", []), ("containerPort", "protocol")))
            lists.append(("mount", container.get("volumeMounts", []), ("mountPath",)))
        for kind, entries, keys in lists:
            seen = Counter(tuple(entry.get(key, "TCP") for key in keys) for entry in entries)
            found += [f"{kind} {key[0]} stands {times} times" for key, times in seen.items() if times > 1]
    return found


def pod_security(spec: Object) -> set[str]:
    """The restricted Pod Security Standard, and a root file system that nobody can write."""
    found = {f"pod: {name}" for name in ("hostNetwork", "hostPID", "hostIPC") if spec.get(name)}
    for volume in spec.get("volumes", []):
        found |= {f"volume: {kind}" for kind in volume if kind != "name" and kind not in _SAFE_VOLUMES}
    for container in containers(spec):
        own, pods = container.get("securityContext", {}), spec.get("securityContext", {})
        both = {**pods, **own}
        if both.get("runAsNonRoot") is not True:
            found.add("runAsNonRoot")
        if both.get("runAsUser") == 0:
            found.add("runAsUser")
        if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            found.add("seccompProfile")
        if own.get("capabilities", {}).get("drop") != ["ALL"] or own["capabilities"].get("add"):
            found.add("capabilities")
        if own.get("allowPrivilegeEscalation") is not False:
            found.add("allowPrivilegeEscalation")
        if own.get("privileged"):
            found.add("privileged")
        if own.get("readOnlyRootFilesystem") is not True:
            found.add("readOnlyRootFilesystem")
        if any("hostPort" in port for port in container.get("ports", [])):
            found.add("hostPort")
    return found


def token(objects: list[Object]) -> bool:
    """Whether the pods get a token for the API server."""
    spec = pod(objects)
    place = "/var/run/secrets/kubernetes.io/serviceaccount"
    covered = all(place in {mount["mountPath"] for mount in one.get("volumeMounts", [])} for one in containers(spec))
    return spec.get("automountServiceAccountToken") is not False and not covered


def resources(objects: list[Object]) -> list[str]:
    """Requests and a limit of memory for every container, none of the processor, and Go's limit below the pod's."""
    found = []
    for container in containers(pod(objects)):
        asked, limits = (container.get("resources", {}).get(kind, {}) for kind in ("requests", "limits"))
        found += [f"no request of {name}" for name in ("cpu", "memory") if name not in asked]
        if "memory" not in limits:
            found.append("no limit of memory")
        # What runs from our own image is Python.
        elif container["image"].partition(":")[0].removeprefix("docker.io/") != IMAGE and not any(
            variable["name"] == "GOMEMLIMIT"
            and ("value" not in variable or quantity(variable["value"]) < quantity(limits["memory"]))
            for variable in container.get("env", [])
        ):
            found.append("GOMEMLIMIT does not keep below the limit of memory")
        if "cpu" in limits:
            found.append("a limit of the processor")
    return found


def confidential(objects: list[Object]) -> list[str]:
    """Secrets that stand in the manifests, which Helm keeps and shows."""
    found = [f"Secret {item['metadata']['name']}" for item in objects if item["kind"] == "Secret"]
    for container in containers(pod(objects)):
        for variable in container.get("env", []):
            if _CONFIDENTIAL.search(variable["name"]) and "secretKeyRef" not in variable.get("valueFrom", {}):
                found.append(f"variable {variable['name']}")
        for argument in [*container.get("args", []), *container.get("command", [])]:
            if re.search(rf"({_CONFIDENTIAL.pattern})\w*[= ]\S", argument, re.IGNORECASE):
                found.append(f"argument {argument}")
    return found


def references(spec: Object) -> Iterator[tuple[str, str, str | None]]:
    """Kind, name and key of all that a pod takes from ConfigMaps and Secrets; key None where it takes all keys."""
    for volume in spec.get("volumes", []):
        for kind, field, name in (("ConfigMap", "configMap", "name"), ("Secret", "secret", "secretName")):
            if field in volume:
                keys = [item["key"] for item in volume[field].get("items", [])] or [None]
                yield from ((kind, volume[field][name], key) for key in keys)
    for container in containers(spec):
        for kind, field in (("ConfigMap", "configMap"), ("Secret", "secret")):
            for source in container.get("envFrom", []):
                if f"{field}Ref" in source:
                    yield kind, source[f"{field}Ref"]["name"], None
            for variable in container.get("env", []):
                if (source := variable.get("valueFrom", {}).get(f"{field}KeyRef")) is not None:
                    yield kind, source["name"], source["key"]


def checksum(objects: list[Object], value: str) -> list[str]:
    """The sum over the configuration stands on the pods, not on the workload."""
    annotations = workload(objects)["spec"]["template"]["metadata"].get("annotations") or {}
    return [] if annotations.get(CHECKSUM) == value else [f"annotation {CHECKSUM} is {annotations.get(CHECKSUM)!r}"]


def quantity(text: str | int) -> float:
    """Bytes or cores of a quantity as Kubernetes and Go write it."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", str(text)).groups()  # type: ignore[union-attr]
    return float(number) / 1000 if unit == "m" else float(number) * _UNITS[unit]
