"""``make deploy``, from a checkout to a cluster where every signal is proved to arrive, and ``make undeploy``."""

import json
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from sightglass import polling, tables, up
from sightglass.alerting import receivers
from sightglass.credentials import Credentials
from sightglass.errors import UserError
from sightglass.kubernetes import charts, cluster, image, manifests, policies, releases, rollout, secrets
from sightglass.kubernetes.charts import Chart, Image
from sightglass.kubernetes.forward import Forwards
from sightglass.kubernetes.place import NAMESPACES, OBSERVABILITY, ClusterPlace
from sightglass.kubernetes.programs import Kubectl, label, require
from sightglass.kubernetes.releases import Wanted
from sightglass.kubernetes.settings import KubernetesSettings
from sightglass.polling import NotYet
from sightglass.settings import Settings
from sightglass.target import Target, in_cluster
from sightglass.verify.run import Report, verify

SERVICE_IMAGE = "sightglass/text-classifier"
"""Name of our own image in the manifests."""
LEAVE_TIMEOUT = 180.0
"""Seconds until what was deployed must be gone."""
_PART_OF = "app.kubernetes.io/part-of=sightglass"
_CLUSTER_WIDE = "clusterroles,clusterrolebindings"


@dataclass(frozen=True)
class Plan:
    """What is deployed, and with what."""

    settings: KubernetesSettings
    local: Settings
    charts: Sequence[Chart]
    """The releases that are installed, in order."""
    images: Mapping[str, Image]

    @property
    def kubectl(self) -> Kubectl:
        """kubectl on the plan's cluster."""
        return Kubectl(self.settings.context)

    @property
    def place(self) -> ClusterPlace:
        """Addresses and names in the cluster."""
        environment = self.local.environment if "environment" in self.local.model_fields_set else ""
        return ClusterPlace(
            environment=environment or ClusterPlace().environment,
            grafana_url=self.settings.grafana_url,
            runbooks_url=self.settings.runbooks_url,
        )

    def image_of(self, name: str, service: str) -> str:
        """Reference of an image of the manifests; ``service`` is that of our own."""
        if name == SERVICE_IMAGE:
            return service
        known = next(image for image in self.images.values() if image.name == name)
        return known.reference(self.settings.image_registry, self.settings.image_digests == "on")


def plan(settings: KubernetesSettings, local: Settings) -> Plan:
    """Read what is to be deployed; a name in WITHOUT that is no release raises :class:`UserError`."""
    known, images = charts.load()
    names = [chart.release for chart in known]
    if unknown := sorted(settings.left_out - set(names)):
        raise UserError(f"WITHOUT names {', '.join(unknown)}, which is no release: take some of {', '.join(names)}.")
    if "minio" in settings.left_out:
        raise UserError("WITHOUT names minio, in which Loki and Tempo keep their data: it cannot be left out.")
    return Plan(settings, local, [chart for chart in known if chart.release not in settings.left_out], images)


def dry_run(planned: Plan, console: Console) -> None:
    """Print what would be done, without asking the cluster anything."""
    settings = planned.settings

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False, highlight=False)

    made = " (a kind cluster, made if it is missing)" if settings.kube_context is None else ""
    say(f"cluster     context {settings.context}{made}")
    say(f"namespaces  {', '.join(NAMESPACES)}")
    say(f"image       {SERVICE_IMAGE}, built with the newest trained model, {_way(settings)}")
    source = f"from {settings.charts_dir}" if settings.charts_dir else "from their repositories"
    say(f"charts      {source}, images by {'tag and digest' if settings.image_digests == 'on' else 'tag'}:")
    for chart in planned.charts:
        used = ", ".join(
            planned.images[name].reference(settings.image_registry, settings.image_digests == "on")
            for name in chart.images
        )
        say(f"  {chart.release:<22}{chart.chart} {chart.version} in {chart.namespace}: {used}")
    if settings.left_out:
        say(f"left out    {', '.join(sorted(settings.left_out))}")
    say("manifests   of `kubectl kustomize manifests`:")
    objects = manifests.render()
    for kind in sorted({found["kind"] for found in objects}):
        names = ", ".join(found["metadata"]["name"] for found in objects if found["kind"] == kind)
        say(f"  {kind:<22}{names}")


def _way(settings: KubernetesSettings) -> str:
    if settings.image_registry:
        return f"pushed to {settings.image_registry}"
    if settings.image_loader:
        return f"given to the nodes by `{settings.image_loader} ARCHIVE`"
    return "loaded into the kind cluster" if settings.kind_cluster else "expected on the nodes"


def deploy(planned: Plan, console: Console) -> Report:
    """Deploy everything that is not there as wanted, wait for it, and prove it."""
    began = time.monotonic()
    settings, kubectl = planned.settings, planned.kubectl

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - began:6.1f} s  {text}", soft_wrap=True, markup=False, highlight=False)

    require("kubectl", "helm", *settings.loader[:1])
    say(cluster.ensure(settings))
    cluster.check(kubectl, settings)
    known = releases.installed(kubectl)
    releases.require_whole(settings.context, known, planned.charts)
    service = _service_image(planned, console, say)
    kept = secrets.read(kubectl)
    if kept is None and deployed(kubectl) is not None:
        raise UserError(
            f"Secret {secrets.KEPT} in namespace {OBSERVABILITY} is gone, and with it the keys to all data: restore it "
            "from a backup, or `make undeploy` forgets the data."
        )
    objects, secret_objects = _objects(planned, kept or Credentials(), service)
    changed = _apply(planned, objects, secret_objects, service, fresh_store="minio" not in known)
    say(f"{len(objects) + len(secret_objects)} objects of ours: {_summary(changed)}")
    wanted = list(_wanted(planned, objects, secret_objects))
    done = releases.install(settings.context, wanted, known, say)
    say(f"{len(wanted)} releases: {_summary(done)}")
    for name in sorted(settings.left_out & set(known)):
        # It may have data, which go with a release.
        say(f"{name} was installed before and stays: `helm -n {known[name].namespace} uninstall {name}` removes it")
    with console.status("waiting for pods"):
        rollout.wait(kubectl, report=lambda name: say(f"{name} is ready"))
    say("everything is ready")
    with reached(settings) as where, console.status("sending predictions and looking for their signals"):
        report = verify(where)
    console.print(tables.verify_table(report))
    console.print(receivers.sentence(planned.local), soft_wrap=True, markup=False, highlight=False)
    context = f"KUBE_CONTEXT={settings.kube_context} " if settings.kube_context else ""
    say(f"done; `{context}make connect` opens the ports, `{context}make undeploy` takes everything back")
    return report


def _summary(changed: Sequence[str]) -> str:
    if not changed:
        return "unchanged"
    first = ", ".join(changed[:4])
    return f"{len(changed)} changed ({first}{', ...' if len(changed) > 4 else ''})"


def _service_image(planned: Plan, console: Console, say: Callable[[str], None]) -> str:
    """Train and build what is not built yet, and bring it to the nodes; returns the image's reference."""
    settings = planned.settings
    up.train(planned.local)
    built = image.ensure(planned.local.models_dir, settings, console)
    if settings.image_registry:
        reference = f"{settings.image_registry}/{built.removeprefix(image.HOST)}"
        image.push(built, reference)
        say(f"{reference} is pushed")
        return reference
    if cluster.has_image(planned.kubectl, built):
        say(f"{built} is on the nodes")
        return built
    loader = settings.loader
    if not loader and settings.kind_cluster:
        loader = ["kind", "load", "image-archive", f"--name={settings.kind_cluster}"]
    if not loader:
        raise UserError(
            f"The nodes of {settings.context} do not have {built}: set IMAGE_REGISTRY to a registry that they pull "
            "from, or IMAGE_LOADER to the command that gives them an archive, such as `minikube image load`."
        )
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "image.tar"
        image.save(built, archive)
        _load([*loader, str(archive)])
    say(f"{built} is loaded")
    return built


def _load(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        reason = said[-1] if said else "it said nothing"
        raise UserError(f"The nodes did not take the image (`{shlex.join(command[:-1])}`): {reason}.")


def _objects(planned: Plan, kept: Credentials, service: str) -> tuple[list[Any], list[Any]]:
    """Our objects and Secrets as they are applied."""
    place = planned.place
    objects = manifests.render()
    manifests.with_images(objects, lambda name: planned.image_of(name, service))
    attributes = {
        "DEPLOYMENT_ENVIRONMENT": place.environment,
        "GRAFANA_URL": place.grafana_url,
        "RUNBOOKS_URL": place.runbooks_url,
    }
    manifests.with_environment(objects, attributes)
    manifests.with_deployment_attribute(objects, place.environment)
    manifests.without_targets(objects, planned.settings.left_out)
    manifests.with_receivers(objects, planned.local)
    if ports := receivers.ports(planned.local):
        objects.append(policies.to_receivers(ports))
    objects += policies.to_api_server(cluster.api_ports(planned.kubectl))
    if planned.settings.storage_class:
        manifests.with_storage_class(objects, planned.settings.storage_class)
    made = secrets.objects(planned.kubectl, kept, place)
    manifests.with_checksums(objects, made)
    return objects, made


def _apply(
    planned: Plan, objects: list[Any], secret_objects: list[Any], service: str, *, fresh_store: bool
) -> list[str]:
    """Apply the namespaces, then all else; returns what changed. A fresh store has neither buckets nor users yet."""
    kubectl = planned.kubectl
    spaces = [found for found in objects if found["kind"] == "Namespace"]
    rest = [found for found in objects if found["kind"] != "Namespace"]
    changed = kubectl.apply(spaces)
    _forget_useless_job(kubectl, service, fresh_store=fresh_store)
    values = {"without": sorted(planned.settings.left_out), "service_image": service}
    changed += kubectl.apply([*secret_objects, *rest, manifests.record(values)])
    present = kubectl.get("configmaps,networkpolicies", "--all-namespaces", f"--selector={_PART_OF}")
    for stale in manifests.stale([*rest, manifests.record(values)], present):
        kubectl("delete", stale["kind"], stale["metadata"]["name"], f"--namespace={stale['metadata']['namespace']}")
        changed.append(f"{label(stale)} (deleted)")
    return changed


def _forget_useless_job(kubectl: Kubectl, service: str, *, fresh_store: bool) -> None:
    """Delete the Job that has to run anew: of another image, failed, or done on a store that is gone."""
    for job in kubectl.get("job", "storage", f"--namespace={OBSERVABILITY}"):
        other = job["spec"]["template"]["spec"]["containers"][0]["image"] != service
        conditions = job.get("status", {}).get("conditions", [])
        failed = any(one["type"] == "Failed" and one["status"] == "True" for one in conditions)
        if other or failed or fresh_store:
            kubectl("delete", "job", "storage", f"--namespace={OBSERVABILITY}")


def _wanted(planned: Plan, objects: list[Any], secret_objects: list[Any]) -> Iterator[Wanted]:
    """Each release with the sum over what its pods read."""
    settings = planned.settings
    charts_dir = settings.charts_dir
    if charts_dir is not None:
        folder = planned.local.run_dir / "charts"
        shutil.rmtree(folder, ignore_errors=True)
        charts_dir = charts.usable(planned.charts, charts_dir, folder)
    known = manifests.contents([*objects, *secret_objects])
    for chart in planned.charts:
        reads = [("ConfigMap", chart.namespace, name) for name in chart.reads.configmaps]
        reads += [("Secret", chart.namespace, name) for name in chart.reads.secrets]
        arguments = charts.helm_arguments(
            chart,
            planned.images,
            manifests.checksum(known, reads),
            charts_dir=charts_dir,
            registry=settings.image_registry,
            digests=settings.image_digests == "on",
            storage_class=settings.storage_class,
        )
        yield Wanted(chart, arguments)


@contextmanager
def reached(settings: KubernetesSettings, ports: Mapping[str, int] | None = None) -> Iterator[Target]:
    """The deployed stack as a target, its ports forwarded to this machine while the context is entered."""
    kubectl = Kubectl(settings.context)
    kept = secrets.read(kubectl)
    record = deployed(kubectl)
    if kept is None or record is None:
        raise UserError(f"Nothing is deployed to the cluster of context {settings.context!r}: run `make deploy`.")
    without = frozenset(record["without"])
    with Forwards(settings.context, without=without, ports=ports) as forwards:
        forwards.wait()
        yield in_cluster(forwards, kept, settings.context, without)


def deployed(kubectl: Kubectl) -> dict[str, Any] | None:
    """What the last ``make deploy`` noted; None where there was none."""
    found = kubectl.get("configmap", manifests.RECORD, f"--namespace={OBSERVABILITY}")
    return {key: json.loads(value) for key, value in found[0]["data"].items()} if found else None


def undeploy(planned: Plan, console: Console) -> None:
    """Take everything back: releases, objects, data, and the kind cluster where :func:`deploy` made it."""
    settings, kubectl = planned.settings, planned.kubectl
    if cluster.remove(settings):
        console.print(f"Removed kind cluster {settings.kind_cluster} with all that was in it.")
        return
    everything, _ = charts.load()
    with console.status("uninstalling"):
        gone = releases.uninstall(settings.context, releases.installed(kubectl), everything)
        kubectl("delete", "namespaces", *NAMESPACES, "--ignore-not-found", "--wait=false")
        kubectl("delete", _CLUSTER_WIDE, f"--selector={_PART_OF}", "--ignore-not-found")
        try:
            polling.until(lambda: _nothing_left(kubectl), timeout=LEAVE_TIMEOUT, interval=1, what="everything to end")
        except polling.DeadlineError as error:
            raise UserError(f"{error}. `kubectl get all,pvc -n NAMESPACE` shows what holds it.") from None
    console.print(f"Uninstalled {', '.join(gone) or 'no release'}. Nothing is left of {', '.join(NAMESPACES)}.")
    if kept := [volume["metadata"]["name"] for volume in _volumes(kubectl)]:
        console.print(f"Their class keeps volumes: `kubectl delete pv {' '.join(kept)}` gives them up.", soft_wrap=True)


def _nothing_left(kubectl: Kubectl) -> None:
    left = [label(found) for found in kubectl.get("namespaces") if found["metadata"]["name"] in NAMESPACES]
    left += [label(volume) for volume in _volumes(kubectl) if not _is_kept(volume)]
    if left:
        raise NotYet(f"still there: {', '.join(left)}")


def _volumes(kubectl: Kubectl) -> list[dict[str, Any]]:
    """The volumes of our claims, also of those that are gone."""
    found = kubectl.get("persistentvolumes")
    return [volume for volume in found if volume["spec"].get("claimRef", {}).get("namespace") in NAMESPACES]


def _is_kept(volume: dict[str, Any]) -> bool:
    return bool(volume["spec"].get("persistentVolumeReclaimPolicy") == "Retain")
