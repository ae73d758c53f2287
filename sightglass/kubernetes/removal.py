"""What ``make undeploy`` removes: what this program made, by its mark; what others have there stays and is named."""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sightglass.clients import polling
from sightglass.clients.kubectl import MANAGER, Kubectl, key, label
from sightglass.clients.polling import NotYet
from sightglass.facts.cluster import NAMESPACES
from sightglass.facts.errors import UserError
from sightglass.kubernetes import releases
from sightglass.kubernetes.charts import Chart
from sightglass.kubernetes.releases import Installed

MADE = "sightglass-made"
"""Annotation of a namespace: ``false`` when it was there before us."""
LEAVE_TIMEOUT = 180.0
"""Seconds until what was deployed must be gone."""
PART_OF = "app.kubernetes.io/part-of=sightglass"
_CLUSTER_WIDE = "clusterroles,clusterrolebindings"
_RELEASE = "meta.helm.sh/release-name"
_OF_KUBERNETES = {("ConfigMap", "kube-root-ca.crt"), ("ServiceAccount", "default"), ("Service", "kubernetes")}
_OF_CONTROLLERS = ("Event", "Endpoints", "EndpointSlice", "PodMetrics")
Object = dict[str, Any]


def ours(found: Object) -> bool:
    """Whether it carries our mark: the API server notes who wrote an object, and nobody else writes in our name."""
    return any(field.get("manager") == MANAGER for field in found["metadata"].get("managedFields", []))


@dataclass(frozen=True)
class Deployment:
    """What of ours is in a cluster."""

    releases: Sequence[tuple[Installed, Chart]]
    objects: Sequence[Object]
    """Without the namespaces, with the volume claims of the releases."""
    namespaces: Sequence[Object]

    @property
    def claims(self) -> list[Object]:
        """Where the data are."""
        return [found for found in self.objects if found["kind"] == "PersistentVolumeClaim"]

    def __bool__(self) -> bool:
        return bool(self.releases or self.objects or self.namespaces)

    def __str__(self) -> str:
        names = ", ".join(chart.release for _, chart in self.releases) or "none"
        return f"{len(self.objects)} objects, {len(self.claims)} of them volume claims with data; releases: {names}"


def find(kubectl: Kubectl, charts: Sequence[Chart]) -> Deployment:
    """Look for everything that carries our mark."""
    known = releases.installed(kubectl)
    installed = [
        (known[chart.release], chart)
        for chart in charts
        if chart.release in known
        and known[chart.release].namespace == chart.namespace
        and known[chart.release].inputs != releases.UNMARKED
    ]
    namespaces = [found for found in _namespaces(kubectl) if ours(found)]
    everything = _everything(kubectl)
    names = {(release.namespace, chart.release) for release, chart in installed}
    claims = list(_claims(everything, names))
    marked = [found for found in everything if ours(found) or found in claims]
    marked += [found for found in _get(kubectl, _CLUSTER_WIDE, f"--selector={PART_OF}") if ours(found)]
    made = [found for found in namespaces if _notes(found).get(MADE) != "false"]
    return Deployment(installed, marked, made)


def remove(kubectl: Kubectl, context: str, found: Deployment) -> list[str]:
    """Remove it, each thing by its name; returns a sentence for each namespace that stays because of others."""
    for claim in found.claims:
        # Else they could not be told from others' once the release is gone and this command was interrupted.
        meta = claim["metadata"]
        place = (meta["name"], f"--namespace={meta['namespace']}")
        kubectl("label", "persistentvolumeclaim", *place, PART_OF, "--overwrite", f"--field-manager={MANAGER}")
    releases.uninstall(
        context,
        {chart.release: release for release, chart in found.releases},
        [chart for _, chart in found.releases],
    )
    if found.objects:
        names = json.dumps({"apiVersion": "v1", "kind": "List", "items": [_name(one) for one in found.objects]})
        kubectl("delete", "--filename=-", "--ignore-not-found", "--wait=false", text=names)
    gone = {key(one) for one in found.objects}
    claims = {key(one)[1:] for one in found.claims}

    def left() -> None:
        there = [label(one) for one in _everything(kubectl) if key(one) in gone or _is_of(one, found)]
        there += [label(one) for one in volumes(kubectl, claims) if not is_kept(one)]
        if there:
            raise NotYet(f"still there: {', '.join(there)}")

    _wait(left)
    stays = {}
    for space in (one["metadata"]["name"] for one in _namespaces(kubectl)):
        foreign = others(kubectl, space)
        if foreign:
            stays[space] = foreign
    empty = [one["metadata"]["name"] for one in found.namespaces if one["metadata"]["name"] not in stays]
    if empty:
        kubectl("delete", "namespaces", *empty, "--ignore-not-found", "--wait=false")

    def empty_left() -> None:
        if there := [one["metadata"]["name"] for one in _namespaces(kubectl) if one["metadata"]["name"] in empty]:
            raise NotYet(f"still there: namespaces {', '.join(there)}")

    _wait(empty_left)
    return [f"Namespace {space} stays, with what is not ours: {', '.join(them)}." for space, them in stays.items()]


def others(kubectl: Kubectl, namespace: str, installed: Collection[str] = ()) -> list[str]:
    """What is in a namespace that neither we, these releases of ours, nor Kubernetes itself put there."""
    return [
        label(found)
        for found in _everything(kubectl, [namespace])
        if not ours(found)
        and (found["kind"], found["metadata"]["name"]) not in _OF_KUBERNETES
        and found["kind"] not in _OF_CONTROLLERS
        and not found["metadata"].get("ownerReferences")
        and _notes(found).get(_RELEASE) not in (*installed,)
        and not (found["kind"] == "Secret" and found["metadata"].get("labels", {}).get("name") in installed)
    ]


def volumes(kubectl: Kubectl, claims: Iterable[tuple[str, str]]) -> list[Object]:
    """The volumes of these claims, by namespace and name, also of those that are gone."""
    wanted = set(claims)
    found = kubectl.get("persistentvolumes")
    references = ((one, one["spec"].get("claimRef", {})) for one in found)
    return [one for one, claim in references if (claim.get("namespace"), claim.get("name")) in wanted]


def is_kept(volume: Object) -> bool:
    """Whether its class keeps the volume of a claim that is gone."""
    return bool(volume["spec"].get("persistentVolumeReclaimPolicy") == "Retain")


def mark_namespaces(kubectl: Kubectl, spaces: Sequence[Object]) -> None:
    """Note in each namespace that is to be applied whether it is ours, or was there before us."""
    present = {found["metadata"]["name"]: found for found in _namespaces(kubectl)}
    for space in spaces:
        before = present.get(space["metadata"]["name"])
        made = before is None or (ours(before) and _notes(before).get(MADE) != "false")
        space["metadata"].setdefault("annotations", {})[MADE] = str(made).lower()


def _wait(probe: Any) -> None:
    try:
        polling.until(probe, timeout=LEAVE_TIMEOUT, interval=1, what="everything to end")
    except polling.DeadlineError as error:
        raise UserError(f"{error}. `kubectl get all,pvc -n NAMESPACE` shows what holds it.") from None


def _get(kubectl: Kubectl, *arguments: str) -> list[Object]:
    return kubectl.get(*arguments, "--show-managed-fields")


def _namespaces(kubectl: Kubectl) -> list[Object]:
    return [found for found in _get(kubectl, "namespaces") if found["metadata"]["name"] in NAMESPACES]


def _everything(kubectl: Kubectl, namespaces: Sequence[str] = NAMESPACES) -> list[Object]:
    """Every object in these namespaces that somebody could have made."""
    kinds = kubectl("api-resources", "--namespaced", "--verbs=list,delete", "--output=name").split()
    wanted = ",".join(kind for kind in kinds if not kind.startswith(("events", "endpoints")))
    return [found for space in namespaces for found in _get(kubectl, wanted, f"--namespace={space}")]


def _claims(everything: Sequence[Object], names: set[tuple[str, str]]) -> Iterable[Object]:
    """The volume claims of releases, by namespace and name: Helm leaves those that a StatefulSet made."""
    patterns = []
    for found in everything:
        meta = found["metadata"]
        if found["kind"] == "StatefulSet" and (meta["namespace"], _notes(found).get(_RELEASE)) in names:
            for template in found["spec"].get("volumeClaimTemplates", []):
                name = re.escape(f"{template['metadata']['name']}-{meta['name']}")
                patterns.append((meta["namespace"], re.compile(rf"{name}-\d+")))
    for found in everything:
        meta = found["metadata"]
        if found["kind"] == "PersistentVolumeClaim":
            of_a_set = any(space == meta["namespace"] and one.fullmatch(meta["name"]) for space, one in patterns)
            if of_a_set or (meta["namespace"], _notes(found).get(_RELEASE)) in names:
                yield found


def _is_of(found: Object, deployment: Deployment) -> bool:
    """Whether it ends with a release or with one of the objects."""
    uids = {one["metadata"]["uid"] for one in deployment.objects}
    owners = {owner["uid"] for owner in found["metadata"].get("ownerReferences", [])}
    names = {(release.namespace, chart.release) for release, chart in deployment.releases}
    return bool(uids & owners) or (found["metadata"].get("namespace"), _notes(found).get(_RELEASE)) in names


def _notes(found: Object) -> Mapping[str, str]:
    notes: Mapping[str, str] = found["metadata"].get("annotations") or {}
    return notes


def _name(found: Object) -> Object:
    meta = {part: found["metadata"][part] for part in ("name", "namespace") if part in found["metadata"]}
    return {"apiVersion": found["apiVersion"], "kind": found["kind"], "metadata": meta}
