"""Waiting until everything runs as it was applied, and what a pod that cannot start lacks, in one sentence."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sightglass.clients import polling
from sightglass.clients.kubectl import Kubectl, label
from sightglass.clients.polling import NotYet
from sightglass.facts.cluster import NAMESPACES
from sightglass.facts.errors import UserError
from sightglass.facts.settings import CANARY, SERVICES
from sightglass.kubernetes.manifests import references

TIMEOUT = 300.0
"""Seconds until a workload counts as failed."""
PATIENCE = 20.0
"""Seconds for which a pod may show a problem that passes by itself: a volume that is made, a Secret that comes."""
_INTERVAL = 1.0
_KINDS = "deployments,statefulsets,daemonsets,jobs,pods"
Object = dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """Why a pod does not start, and what to do."""

    pod: str
    sentence: str
    final: bool
    """Whether it stays so without a person."""


def wait(
    kubectl: Kubectl,
    *,
    timeout: float = TIMEOUT,
    patience: float = PATIENCE,
    report: Callable[[str], None] = lambda _line: None,
) -> None:
    """Wait until every workload of ours is rolled out; ``report`` is told each one that becomes ready.

    What is ready at the first look is not reported. Raises :class:`UserError` with one sentence about the first pod
    that cannot start, or about what is left.
    """
    done: set[str] | None = None
    since: dict[tuple[str, str], float] = {}

    def probe() -> None:
        found = [item for item in kubectl.get(_KINDS, "--all-namespaces") if _ours(item)]
        nonlocal done
        waiting = {name: state for name, state in states(found).items() if state}
        ready = set(states(found)) - set(waiting)
        for name in sorted(ready - done) if done is not None else ():
            report(name)
        done = ready | (done or set())
        now = time.monotonic()
        seen = {(problem.pod, problem.sentence): problem for problem in (*problems(found), *_missing(kubectl, found))}
        for gone in set(since) - set(seen):
            del since[gone]
        for key, problem in seen.items():
            if problem.final and now - since.setdefault(key, now) >= patience:
                raise UserError(problem.sentence)
        if waiting:
            first = next(iter(seen.values()), None)
            raise NotYet(
                "; ".join(f"{name} {state}" for name, state in waiting.items())
                + (f" ({first.sentence})" if first else "")
            )

    try:
        polling.until(probe, timeout=timeout, interval=_INTERVAL, what="all workloads to become ready")
    except polling.DeadlineError as error:
        raise UserError(f"{error}. `kubectl get pods -A` and `kubectl describe pod` say more.") from None


def _ours(item: Object) -> bool:
    return item["metadata"].get("namespace") in NAMESPACES


def states(found: list[Object]) -> dict[str, str]:
    """What each workload waits for, by ``kind/name``; empty when it is rolled out."""
    return {label(item): _state(item) for item in found if item["kind"] != "Pod"}


def _state(item: Object) -> str:
    spec, status = item["spec"], item.get("status", {})
    if item["kind"] == "Job":
        return "" if status.get("succeeded", 0) >= spec.get("completions", 1) else "has not completed"
    if status.get("observedGeneration", 0) < item["metadata"].get("generation", 0):
        return "is not seen yet"
    if item["kind"] == "DaemonSet":
        wanted = status.get("desiredNumberScheduled", 0)
        counts = {"updated": status.get("updatedNumberScheduled", 0), "ready": status.get("numberReady", 0)}
    else:
        wanted = spec.get("replicas", 1)
        counts = {"updated": status.get("updatedReplicas", 0), "ready": status.get("readyReplicas", 0)}
        if wanted and status.get("replicas", 0) > wanted:
            return "ends its old pods"
    behind = [f"{count} of {wanted} {word}" for word, count in counts.items() if count < wanted]
    return ", ".join(behind)


def problems(found: list[Object]) -> Iterator[Problem]:
    """What keeps pods from starting."""
    for item in found:
        if item["kind"] == "Pod" and "deletionTimestamp" not in item["metadata"]:
            yield from _unscheduled(item)
            yield from _containers(item)


def _missing(kubectl: Kubectl, found: list[Object]) -> Iterator[Problem]:
    """Volumes of ConfigMaps and Secrets that are not there: such a pod waits without saying for what."""
    creating = [item for item in found if item["kind"] == "Pod" and _is_creating(item)]
    if not creating:
        return
    kept = kubectl.get("configmaps,secrets", "--all-namespaces")
    yield from unmounted(creating, {(i["kind"], i["metadata"]["namespace"], i["metadata"]["name"]) for i in kept})


def unmounted(pods: list[Object], present: set[tuple[str, str, str]]) -> Iterator[Problem]:
    """What these pods refer to and is not among ``present``: kind, namespace and name."""
    for item in pods:
        name, namespace = item["metadata"]["name"], item["metadata"]["namespace"]
        for kind, wanted in sorted(set(references(item["spec"]))):
            if (kind, namespace, wanted) not in present:
                yield _without(name, f'{kind.lower()} "{wanted}" not found')


def _is_creating(pod: Object) -> bool:
    statuses = pod.get("status", {}).get("containerStatuses", [])
    return any(one.get("state", {}).get("waiting", {}).get("reason") == "ContainerCreating" for one in statuses)


def _without(name: str, reason: str) -> Problem:
    remedy = "`make deploy` makes the Secrets and ConfigMaps that are missing"
    return Problem(name, f"{name} cannot start ({reason}): {remedy}.", final=True)


def _unscheduled(pod: Object) -> Iterator[Problem]:
    name = pod["metadata"]["name"]
    for condition in pod.get("status", {}).get("conditions", []):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            message = condition.get("message", "")
            yield Problem(name, f"{name} finds no node: {_room(message)}", final=True)


def _room(message: str) -> str:
    said = message.split(". preemption")[0].rstrip(".")
    for resource in ("memory", "cpu"):
        if f"Insufficient {resource}" in message:
            return (
                f"too little {resource} is left ({said}): give the cluster more, lower the requests in "
                "the values in helm-config/, or leave a server out, such as WITHOUT=grafana."
            )
    if "PersistentVolumeClaim" in message or "persistent volume" in message:
        return (
            f"its volume cannot be made ({said}): `kubectl get storageclass` lists the classes, "
            "and STORAGE_CLASS names one."
        )
    return f"{said}."


def _containers(pod: Object) -> Iterator[Problem]:
    name = pod["metadata"]["name"]
    status = pod.get("status", {})
    for container in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        waiting: Mapping[str, str] = container.get("state", {}).get("waiting", {})
        reason, message = waiting.get("reason", ""), waiting.get("message", "")
        image = container.get("image", "")
        if reason in ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"):
            yield Problem(
                name,
                f"The image of {name}, {image}, cannot be pulled: check the registry, mirror it and set "
                "IMAGE_REGISTRY, or leave the server out by WITHOUT.",
                final=True,
            )
        elif reason in ("CreateContainerConfigError", "CreateContainerError"):
            yield _without(name, message)
        elif _last(container).get("reason") == "OOMKilled" and not container.get("ready"):
            yield Problem(
                name,
                f"{name} was killed for lack of memory {container.get('restartCount', 0)} times: raise its memory "
                f"limit ({_home(pod)}).",
                final=container.get("restartCount", 0) >= 2,
            )
        elif reason == "CrashLoopBackOff":
            namespace = pod["metadata"]["namespace"]
            yield Problem(
                name,
                f"{name} ends again and again, last with code {_last(container).get('exitCode', '?')}: "
                f"`kubectl -n {namespace} logs {name} --previous` says why.",
                # A server that waits for another ends some times, too.
                final=container.get("restartCount", 0) >= 5,
            )


def _last(container: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = container.get("state", {}).get("terminated") or container.get("lastState", {}).get(
        "terminated", {}
    )
    return found


def _home(pod: Object) -> str:
    name = pod["metadata"].get("labels", {}).get("app.kubernetes.io/name", "")
    return (
        "in manifests/"
        if name in {"collector", CANARY, "storage", *(service.name for service in SERVICES)}
        else (f"in helm-config/{name}/values.yaml")
    )
