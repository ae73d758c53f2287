"""The cluster that is deployed to: a kind cluster of our own where none is named, and what it must offer."""

import shutil
from typing import Any

from sightglass.clients.kubectl import Kubectl, ProgramError, require, run
from sightglass.facts.errors import UserError
from sightglass.facts.settings import REPOSITORY
from sightglass.kubernetes.options import KubernetesSettings

KIND_CONFIG = REPOSITORY / "manifests" / "kind.yaml"
OLDEST = (1, 30)
"""Kubernetes before it does not know ``preStop.sleep``."""
MADE = "sightglass-made-this-cluster"
"""ConfigMap that marks a kind cluster as ours."""
_MADE_IN = "--namespace=kube-public"
_DEFAULT = "storageclass.kubernetes.io/is-default-class"


def ensure(settings: KubernetesSettings) -> str:
    """Make the kind cluster unless it is there or another is named; returns a sentence about what was done."""
    name = settings.kind_cluster
    if settings.kube_context is not None or name is None:
        return f"using the cluster of context {settings.context}"
    if shutil.which("kind") is None:
        raise UserError(
            "No cluster is named and kind is not installed: install kind, or name a cluster with KUBE_CONTEXT "
            "(`kubectl config get-contexts` lists them)."
        )
    if name in run(["kind", "get", "clusters"]).split():
        return f"using kind cluster {name}"
    try:
        run(["kind", "create", "cluster", f"--name={name}", f"--config={KIND_CONFIG}", "--wait=120s"], timeout=600)
    except ProgramError as error:
        reason = error.stderr.strip().splitlines()[-1] if error.stderr.strip() else "it said nothing"
        raise UserError(
            f"kind cannot make a cluster ({reason}): mend that, or name a cluster that is there with KUBE_CONTEXT."
        ) from None
    Kubectl(settings.context)("create", "configmap", MADE, _MADE_IN)
    return f"made kind cluster {name}"


def is_gone(settings: KubernetesSettings) -> bool:
    """Whether no cluster is named and there is no kind cluster either."""
    if settings.kube_context is not None or settings.kind_cluster is None:
        return False
    require("kind")
    return settings.kind_cluster not in run(["kind", "get", "clusters"]).split()


def is_made(settings: KubernetesSettings) -> bool:
    """Whether it is a kind cluster that :func:`ensure` made."""
    if settings.kube_context is not None or settings.kind_cluster is None:
        return False
    return bool(Kubectl(settings.context).get("configmap", MADE, _MADE_IN))


def remove(settings: KubernetesSettings) -> None:
    """Remove the kind cluster."""
    run(["kind", "delete", "cluster", f"--name={settings.kind_cluster}"])


def check(kubectl: Kubectl, settings: KubernetesSettings) -> None:
    """Raise :class:`UserError` for a cluster that cannot be reached, is too old or has no class for volumes."""
    version = kubectl.get_raw("/version")
    found = (int(version["major"]), int("".join(filter(str.isdigit, version["minor"]))))
    if found < OLDEST:
        raise UserError(
            f"The cluster of context {settings.context!r} is Kubernetes {found[0]}.{found[1]}: "
            f"{OLDEST[0]}.{OLDEST[1]} or newer is needed."
        )
    _require_storage(kubectl.get("storageclasses"), settings.storage_class)


def _require_storage(classes: list[dict[str, Any]], wanted: str | None) -> None:
    names = sorted(found["metadata"]["name"] for found in classes)
    listed = ", ".join(names) or "none"
    if wanted is not None and wanted not in names:
        raise UserError(f"The cluster has no StorageClass {wanted!r}: set STORAGE_CLASS to one of its own ({listed}).")
    annotations = (found["metadata"].get("annotations", {}) for found in classes)
    if wanted is None and not any(notes.get(_DEFAULT) == "true" for notes in annotations):
        raise UserError(f"The cluster has no default StorageClass: set STORAGE_CLASS to one of its own ({listed}).")


def api_ports(kubectl: Kubectl) -> list[int]:
    """Ports at which the API server itself listens, behind its Service."""
    slices = kubectl.get("endpointslices", "--namespace=default", "--selector=kubernetes.io/service-name=kubernetes")
    return sorted({port["port"] for found in slices for port in found.get("ports") or []})


def has_image(kubectl: Kubectl, image: str) -> bool:
    """Whether every node that takes our pods says that it has the image; a node names its fifty largest."""
    # With Docker as the runtime, a node leaves out the registry that everybody means.
    wanted = {image, image.removeprefix("docker.io/")}
    nodes = [node for node in kubectl.get("nodes") if _takes_pods(node)]
    return bool(nodes) and all(
        any(wanted & set(known.get("names") or []) for known in node["status"].get("images", [])) for node in nodes
    )


def _takes_pods(node: dict[str, Any]) -> bool:
    taints = {taint["effect"] for taint in node["spec"].get("taints", [])}
    return not node["spec"].get("unschedulable") and taints <= {"PreferNoSchedule"}
