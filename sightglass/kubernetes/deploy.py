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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from sightglass.clients.kubectl import Kubectl, key, label, require
from sightglass.facts import credentials, environments, hash_keys
from sightglass.facts.cluster import NAMESPACES, OBSERVABILITY, ClusterTopology
from sightglass.facts.credentials import Credentials
from sightglass.facts.errors import UserError
from sightglass.facts.services import Service
from sightglass.facts.settings import SERVICES, Settings
from sightglass.facts.settings import load as load_settings
from sightglass.facts.target import Target, in_cluster
from sightglass.facts.versions import Image
from sightglass.kubernetes import (
    charts,
    cluster,
    image,
    manifests,
    policies,
    releases,
    removal,
    rollout,
    secrets,
    workloads,
)
from sightglass.kubernetes.charts import Chart
from sightglass.kubernetes.forward import Forwards
from sightglass.kubernetes.options import KubernetesSettings
from sightglass.kubernetes.releases import Wanted
from sightglass.local import up
from sightglass.notify import receivers
from sightglass.verify import table
from sightglass.verify.run import Report, verify


@dataclass(frozen=True)
class Plan:
    """What is deployed, and with what."""

    settings: KubernetesSettings
    local: Settings
    charts: Sequence[Chart]
    """The releases that are installed, in order."""
    images: Mapping[str, Image]

    @property
    def own_services(self) -> tuple[Service, ...]:
        """The user's services: those that are not of this checkout."""
        return tuple(one for one in self.local.observed if one not in SERVICES)

    @property
    def kubectl(self) -> Kubectl:
        """kubectl on the plan's cluster."""
        return Kubectl(self.settings.context)

    @property
    def topology(self) -> ClusterTopology:
        """Addresses and names in the cluster."""
        environment = self.local.environment if "environment" in self.local.model_fields_set else ""
        return ClusterTopology(
            environment=environment or ClusterTopology().environment,
            grafana_url=self.settings.grafana_url,
            runbooks_url=self.settings.runbooks_url,
        )

    def image_of(self, name: str, service: str) -> str:
        """Reference of an image of the manifests; ``service`` is that of our own."""
        if name == workloads.IMAGE:
            return service
        if any(one.image == name for one in self.own_services):
            return name
        known = next(image for image in self.images.values() if image.name == name)
        return known.reference(self.settings.image_registry, self.settings.image_digests == "on")


def plan(settings: KubernetesSettings, local: Settings) -> Plan:
    """Read what is to be deployed; a name in WITHOUT that is no release raises :class:`UserError`."""
    known, images = charts.load()
    names = [*(chart.release for chart in known), *(one.name for one in local.all_services)]
    if unknown := sorted(settings.left_out - set(names)):
        raise UserError(
            f"WITHOUT names {', '.join(unknown)}, which is no release and no service: take some of {', '.join(names)}."
        )
    if "minio" in settings.left_out:
        raise UserError("WITHOUT names minio, in which Loki and Tempo keep their data: it cannot be left out.")
    local.require_services()
    planned = Plan(settings, local, [chart for chart in known if chart.release not in settings.left_out], images)
    for one in planned.own_services:
        if not one.image:
            raise UserError(
                f"The service {one.name!r} has no image for a cluster: set `image` in {local.services} to one that its "
                f"nodes can pull, or leave it out with WITHOUT={one.name}."
            )
    return planned


def dry_run(planned: Plan, console: Console) -> None:
    """Print what would be done, without asking the cluster anything."""
    settings = planned.settings

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False, highlight=False)

    made = " (a kind cluster, made if it is missing)" if settings.kube_context is None else ""
    say(f"cluster     context {settings.context}{made}")
    say(f"namespaces  {', '.join(NAMESPACES)}")
    say(f"image       {workloads.IMAGE}, built with the newest trained model, {_way(settings)}")
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
    values = {
        "without": sorted(planned.settings.left_out),
        "service_image": service,
        "model_versions": image.model_versions(planned.local.models_dir),
        "services": [one.name for one in planned.local.observed],
    }
    objects, secret_objects = _objects(planned, credentials.complete(kept or Credentials()), values)
    changed = _apply(planned, objects, secret_objects, values, fresh_store="minio" not in known)
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
    console.print(table.verify_table(report))
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
    # The image has the services of this checkout, also those that are left out.
    for one in SERVICES:
        up.train(planned.local, one)
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


def _objects(planned: Plan, kept: Credentials, record: Mapping[str, Any]) -> tuple[list[Any], list[Any]]:
    """Our objects and Secrets as they are applied; ``record`` is what later commands read of the deployment."""
    topology = planned.topology
    objects = [
        found
        for found in manifests.render()
        if not any(workloads.is_of(found, one.name) for one in SERVICES if one not in planned.local.observed)
    ]
    for one in planned.own_services:
        objects += manifests.marked(workloads.objects(one))
        objects.append(workloads.environment(one, environments.telemetry(topology, one.name, one.instances[0].track)))
        objects += policies.for_service(one)
    manifests.with_images(objects, lambda name: planned.image_of(name, record["service_image"]))
    attributes = {
        "DEPLOYMENT_ENVIRONMENT": topology.environment,
        "GRAFANA_URL": topology.grafana_url,
        "RUNBOOKS_URL": topology.runbooks_url,
    }
    manifests.with_environment(objects, attributes)
    manifests.with_model_versions(objects, record.get("model_versions", {}))
    manifests.with_deployment_attribute(objects, topology.environment)
    manifests.without_targets(objects, planned.settings.left_out)
    manifests.with_observed(objects, (one.name for one in planned.local.observed))
    manifests.with_receivers(objects, planned.local)
    if ports := receivers.ports(planned.local):
        objects.append(policies.to_receivers(ports))
    objects += policies.to_api_server(cluster.api_ports(planned.kubectl))
    if planned.settings.storage_class:
        manifests.with_storage_class(objects, planned.settings.storage_class)
    made = secrets.objects(planned.kubectl, kept, topology)
    manifests.with_checksums(objects, made)
    return objects, made


def _apply(
    planned: Plan, objects: list[Any], secret_objects: list[Any], record: Mapping[str, Any], *, fresh_store: bool
) -> list[str]:
    """Apply the namespaces, then all else; returns what changed. A fresh store has neither buckets nor users yet."""
    kubectl = planned.kubectl
    spaces = [found for found in objects if found["kind"] == "Namespace"]
    rest = [found for found in objects if found["kind"] != "Namespace"]
    removal.mark_namespaces(kubectl, spaces)
    changed = kubectl.apply(spaces)
    _forget_useless_job(kubectl, record["service_image"], fresh_store=fresh_store)
    changed += kubectl.apply([*secret_objects, *rest, manifests.record(record)])
    # Of a service that is no longer observed everything goes: it has no data.
    kinds = "configmaps,networkpolicies,deployments.apps,services,serviceaccounts,poddisruptionbudgets.policy"
    ours = f"--selector={removal.PART_OF}"
    present = [
        found
        for found in kubectl.get(kinds, "--all-namespaces", ours, "--show-managed-fields")
        if found["metadata"]["namespace"] in NAMESPACES and removal.ours(found)
    ]
    for stale in manifests.stale([*rest, manifests.record(record)], present):
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


def rotate_hash_key(planned: Plan, console: Console) -> None:
    """Give the service a new key for the hashes of texts, and wait until its pods have it."""
    kubectl = planned.kubectl
    kept, record = secrets.read(kubectl), deployed(kubectl)
    if kept is None or record is None:
        raise UserError(_nothing(planned.settings))
    rotated = hash_keys.rotated(kept, datetime.now(UTC))
    objects, secret_objects = _objects(planned, rotated, record)
    keys = {found["metadata"]["name"]: found for found in secret_objects}
    # First where it is kept: no text may be hashed under a key that nobody knows.
    kubectl.apply([keys[secrets.KEPT]])
    console.print(hash_keys.sentence(rotated), soft_wrap=True, markup=False, highlight=False)
    observed = [one.name for one in planned.local.observed]
    running = [found for found in objects if found["kind"] == "Deployment" and found["metadata"]["name"] in observed]
    kubectl.apply([keys[workloads.KEYS], *running])
    with console.status("waiting for pods"):
        rollout.wait(kubectl, report=lambda _: None)
    console.print("The services run with it.")


def known(settings: KubernetesSettings) -> Credentials:
    """The secrets of what is deployed."""
    kept = secrets.read(Kubectl(settings.context))
    if kept is None:
        raise UserError(_nothing(settings))
    return kept


def _nothing(settings: KubernetesSettings) -> str:
    return f"Nothing is deployed to the cluster of context {settings.context!r}: run `make deploy`."


@contextmanager
def reached(settings: KubernetesSettings, ports: Mapping[str, int] | None = None) -> Iterator[Target]:
    """The deployed stack as a target, its ports forwarded to this machine while the context is entered."""
    kubectl = Kubectl(settings.context)
    kept = secrets.read(kubectl)
    record = deployed(kubectl)
    if kept is None or record is None:
        raise UserError(_nothing(settings))
    without = frozenset(record["without"])
    # A deployment of an earlier version does not say: it has those of the checkout.
    names = record.get("services", [one.name for one in SERVICES])
    services = [one for one in load_settings().all_services if one.name in names]
    with Forwards(settings.context, services, without=without, ports=ports) as forwards:
        forwards.wait()
        yield in_cluster(forwards, kept, settings.context, without, services)


def deployed(kubectl: Kubectl) -> dict[str, Any] | None:
    """What the last ``make deploy`` noted; None where there was none."""
    found = kubectl.get("configmap", manifests.RECORD, f"--namespace={OBSERVABILITY}")
    return {key: json.loads(value) for key, value in found[0]["data"].items()} if found else None


def undeploy(planned: Plan, console: Console, agree: Callable[[str], None]) -> None:
    """Take everything back that :func:`deploy` made: releases, objects, data, and the kind cluster where it made one.

    ``agree`` asks before anything goes, and raises where the answer is no.
    """
    settings, kubectl = planned.settings, planned.kubectl

    def say(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False, highlight=False)

    if cluster.is_gone(settings):
        say(f"There is no kind cluster {settings.kind_cluster}: nothing was removed.")
        return
    made = cluster.is_made(settings)
    if made and not (foreign := _others(kubectl)):
        agree(f"Remove kind cluster {settings.kind_cluster} with all data in it?")
        cluster.remove(settings)
        say(f"Removed kind cluster {settings.kind_cluster}.")
        return
    everything, _ = charts.load()
    found = removal.find(kubectl, everything)
    if not found:
        say(f"Nothing of ours is in the cluster of context {settings.context}: nothing was removed.")
        return
    agree(f"Remove from the cluster of context {settings.context} what `make deploy` made ({found})?")
    with console.status("removing"):
        stays = removal.remove(kubectl, settings.context, found)
    names = ", ".join(chart.release for _, chart in found.releases) or "no release"
    say(f"Uninstalled {names}, removed {len(found.objects)} objects. Nothing of ours is left.")
    for sentence in stays:
        say(sentence)
    if made:
        say(f"Kind cluster {settings.kind_cluster} stays, with what is not ours: {', '.join(foreign)}.")
    claims = [key(claim)[1:] for claim in found.claims]
    if kept := [volume["metadata"]["name"] for volume in removal.volumes(kubectl, claims)]:
        say(f"Their class keeps volumes: `kubectl delete pv {' '.join(kept)}` gives them up.")


def _others(kubectl: Kubectl) -> list[str]:
    """What others have in a kind cluster."""
    system = ("kube-system", "kube-public", "kube-node-lease", "local-path-storage")
    spaces = [space["metadata"]["name"] for space in kubectl.get("namespaces")]
    foreign = [f"namespace/{name}" for name in spaces if name not in (*system, "default", *NAMESPACES)]
    known = [name for name in spaces if name in ("default", *NAMESPACES)]
    releases_ = {chart.release for chart in charts.load()[0]}
    return foreign + [thing for name in known for thing in removal.others(kubectl, name, releases_)]
