"""What goes wrong with a cluster is one sentence that says what to do: wrong settings, missing programs, stuck pods."""

import base64
import json
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from ml_telemetry import hashing
from sightglass.clients import polling
from sightglass.clients.kubectl import Kubectl, ProgramError
from sightglass.clients.polling import NotYet
from sightglass.facts import credentials
from sightglass.facts.cluster import OBSERVABILITY
from sightglass.facts.errors import UserError
from sightglass.facts.settings import HOST, PORTS, REPOSITORY, SERVICES
from sightglass.facts.settings import load as load_settings
from sightglass.facts.target import Endpoint, Target
from sightglass.kubernetes import cluster, deploy, releases, removal, rollout, secrets, workloads
from sightglass.kubernetes.charts import load
from sightglass.kubernetes.forward import Forwards
from sightglass.kubernetes.options import KubernetesSettings
from sightglass.kubernetes.options import load as load_options
from sightglass.kubernetes.releases import Installed
from sightglass.terminal import screen
from sightglass.verify import run
from sightglass.verify.signal_checks import Check, Evidence
from tests.unit.ports import free_port

VARIABLES = [name.upper() for name in KubernetesSettings.model_fields]
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


# Settings


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("CHARTS_DIR", "/no/such/folder", "CHARTS_DIR is /no/such/folder, which is no folder"),
        ("IMAGE_DIGESTS", "maybe", "IMAGE_DIGESTS does not fit"),
        ("IMAGE_LOADER", "minikube 'image load", "IMAGE_LOADER does not fit: .*No closing quotation"),
        ("WITHOUT", "minio", "WITHOUT names minio, in which Loki and Tempo keep their data"),
        ("WITHOUT", "grafana, grafna", "WITHOUT names grafna, which is no release and no service: take some of minio"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=sentence):
        deploy.plan(load_options(), load_settings())
    monkeypatch.delenv(name)
    assert len(deploy.plan(load_options(), load_settings()).charts) == len(load()[0])


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sightglass", *arguments],
        cwd=REPOSITORY,
        env={"HOME": str(Path.home()), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@needs_kubectl
def test_dry_run_prints_the_plan_and_asks_nobody() -> None:
    path = str(Path(str(shutil.which("kubectl"))).parent)
    done = command("deploy", "--dry-run", PATH=path, KUBE_CONTEXT="nowhere", WITHOUT="grafana", KUBECONFIG="/none")
    assert done.returncode == 0, done.stderr
    assert "context nowhere" in done.stdout
    assert "left out    grafana" in done.stdout
    charts, _ = load()
    lines = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert {chart.release for chart in charts} - {"grafana"} <= lines
    assert "grafana" not in lines


# Programs and clusters


def test_missing_program_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="kubectl is not installed: install kubectl"):
        Kubectl("any").get("nodes")
    with pytest.raises(UserError, match="No cluster is named and kind is not installed: install kind, or name"):
        cluster.ensure(load_options())


@needs_kubectl
def test_a_cluster_that_does_not_answer_and_a_context_that_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "dead", "cluster": {"server": "https://127.0.0.1:1"}}],
        "contexts": [{"name": "dead", "context": {"cluster": "dead", "user": "nobody"}}],
        "users": [{"name": "nobody", "user": {}}],
    }
    file = tmp_path / "config"
    file.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(file))
    with pytest.raises(UserError, match=r"The cluster of context 'dead' cannot be reached .* KUBE_CONTEXT the right"):
        Kubectl("dead").get("nodes")
    with pytest.raises(UserError, match="kubectl knows no context 'other': `kubectl config get-contexts`"):
        Kubectl("other").get("nodes")


def fake(folder: Path, name: str, body: str) -> None:
    """A program that notes how it was called."""
    file = folder / name
    file.write_text(f'#!/bin/sh\necho "$0 $@" >> {folder}/calls\n{body}\n')
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def calls(folder: Path) -> list[str]:
    return [line.replace(f"{folder}/", "") for line in (folder / "calls").read_text().splitlines()]


def test_kind_cluster_is_made_once_and_only_where_none_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    fake(tmp_path, "kind", "[ $1 = get ] && echo other; true")
    fake(tmp_path, "kubectl", "true")
    assert cluster.ensure(load_options()) == "made kind cluster sightglass"
    made = f"kind create cluster --name=sightglass --config={cluster.KIND_CONFIG} --wait=120s"
    mark = f"configmap {cluster.MADE} --namespace=kube-public"
    assert calls(tmp_path) == ["kind get clusters", made, f"kubectl --context=kind-sightglass create {mark}"]
    assert cluster.is_gone(load_options())
    fake(tmp_path, "kind", "[ $1 = get ] && echo sightglass; true")
    assert cluster.ensure(load_options()) == "using kind cluster sightglass"
    assert calls(tmp_path).count(made) == 1
    monkeypatch.setenv("KUBE_CONTEXT", "kind-other")
    assert cluster.ensure(load_options()) == "using the cluster of context kind-other"
    assert not cluster.is_gone(load_options())
    assert not cluster.is_made(load_options())
    monkeypatch.delenv("KUBE_CONTEXT")
    assert not cluster.is_gone(load_options())
    assert not cluster.is_made(load_options())
    fake(tmp_path, "kubectl", """echo '{"kind": "ConfigMap", "metadata": {}}'""")
    assert cluster.is_made(load_options())
    cluster.remove(load_options())
    assert calls(tmp_path)[-1] == "kind delete cluster --name=sightglass"
    fake(tmp_path, "kind", "[ $1 = get ] || { echo 'no such host' >&2; exit 1; }")
    with pytest.raises(UserError, match=r"kind cannot make a cluster \(no such host\): mend that, or name a cluster"):
        cluster.ensure(load_options())


@pytest.mark.parametrize(
    ("classes", "wanted", "sentence"),
    [
        ([], None, r"no default StorageClass: set STORAGE_CLASS to one of its own \(none\)"),
        (["slow"], None, r"no default StorageClass: set STORAGE_CLASS to one of its own \(slow\)"),
        (["slow"], "fast", r"no StorageClass 'fast': set STORAGE_CLASS to one of its own \(slow\)"),
    ],
)
def test_storage_class_that_is_not_there(classes: list[str], wanted: str | None, sentence: str) -> None:
    found = [{"metadata": {"name": name}} for name in classes]
    with pytest.raises(UserError, match=sentence):
        cluster._require_storage(found, wanted)
    marked = [{"metadata": {"name": "slow", "annotations": {cluster._DEFAULT: "true"}}}]
    cluster._require_storage(marked, None)
    cluster._require_storage([*found, {"metadata": {"name": "fast"}}], wanted or "fast")


def test_half_installed_release_says_how_to_go_on() -> None:
    charts, _ = load()
    for status, mend in (("pending-install", "uninstall"), ("pending-upgrade", "rollback")):
        known = {"loki": Installed("loki", "sightglass-observability", status, 1, "")}
        with pytest.raises(UserError, match=f"loki is half installed .*`helm .* {mend} loki`, then `make deploy`"):
            releases.require_whole("here", known, charts)
    whole = {"loki": Installed("loki", "sightglass-observability", "failed", 1, "")}
    releases.require_whole("here", whole, charts)


def test_releases_of_other_people_are_none_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    lines = ("monitoring loki pending-upgrade 9 <none>", "sightglass-observability loki deployed 2 sum")
    fake(tmp_path, "kubectl", "\n".join(f"echo '{line}'" for line in lines))
    assert releases.installed(Kubectl("here")) == {"loki": Installed("loki", OBSERVABILITY, "deployed", 2, "sum")}


def test_release_that_helm_refuses_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    fake(tmp_path, "helm", "echo first >&2; echo 'Error: chart not found' >&2; exit 1")
    wanted = releases.Wanted(load()[0][0], ["minio", str(tmp_path)])
    with pytest.raises(UserError, match="Release minio could not be installed: Error: chart not found"):
        releases.install("here", [wanted], {})
    fake(tmp_path, "helm", "true")
    assert releases.install("here", [wanted], {}) == ["minio"]
    same = {"minio": Installed("minio", "sightglass-observability", "deployed", 1, wanted.inputs)}
    assert releases.install("here", [wanted], same) == []


# What is there


class Known(Kubectl):
    """A cluster that has these objects; what else it is asked to do is noted."""

    def __init__(self, **objects: list[dict[str, Any]]) -> None:
        super().__init__("here")
        object.__setattr__(self, "objects", objects)
        object.__setattr__(self, "asked", [])

    def __call__(self, *arguments: str, text: str | None = None, timeout: float = 0) -> str:
        self.asked.append(arguments)  # type: ignore[attr-defined]
        return ""

    def get(self, *arguments: str) -> list[dict[str, Any]]:
        return list(self.objects.get(arguments[0], []))  # type: ignore[attr-defined]


def node(*images: str, **spec: Any) -> dict[str, Any]:
    return {"spec": spec, "status": {"images": [{"names": list(images)}]}}


def test_image_is_there_when_every_node_has_it_under_its_very_name() -> None:
    ours = "docker.io/sightglass/text-classifier:1"
    assert cluster.has_image(Known(nodes=[node(ours), node("sightglass/text-classifier:1")]), ours)
    assert not cluster.has_image(Known(nodes=[node(ours), node()]), ours)
    assert not cluster.has_image(Known(nodes=[node(f"localhost/{ours.removeprefix('docker.io/')}")]), ours)
    control_plane = node(taints=[{"effect": "NoSchedule"}])
    assert cluster.has_image(Known(nodes=[node(ours), control_plane, node(unschedulable=True)]), ours)
    assert not cluster.has_image(Known(nodes=[control_plane]), ours)


def job(image: str, *conditions: str) -> dict[str, Any]:
    spec = {"template": {"spec": {"containers": [{"image": image}]}}}
    return {"spec": spec, "status": {"conditions": [{"type": name, "status": "True"} for name in conditions]}}


@pytest.mark.parametrize(
    ("found", "fresh", "forgotten"),
    [
        (job("ours", "Complete"), False, False),
        (job("other", "Complete"), False, True),
        (job("ours", "Failed"), False, True),
        (job("ours", "Complete"), True, True),
    ],
)
def test_storage_is_set_up_anew_where_it_has_to_be(found: dict[str, Any], fresh: bool, forgotten: bool) -> None:
    known = Known(job=[found])
    deploy._forget_useless_job(known, "ours", fresh_store=fresh)
    assert bool(known.asked) == forgotten  # type: ignore[attr-defined]


def test_volumes_that_their_class_keeps_are_not_waited_for() -> None:
    ours: Any = {"metadata": {"name": "pv-1"}, "spec": {"claimRef": {"namespace": OBSERVABILITY, "name": "one"}}}
    others: Any = {"metadata": {"name": "pv-2"}, "spec": {"claimRef": {"namespace": OBSERVABILITY, "name": "two"}}}
    known = Known(persistentvolumes=[ours, others, {"metadata": {"name": "pv-3"}, "spec": {}}])
    assert removal.volumes(known, [(OBSERVABILITY, "one")]) == [ours]
    assert not removal.is_kept(ours)
    assert removal.is_kept({**ours, "spec": {**ours["spec"], **RETAIN}})


RETAIN = {"persistentVolumeReclaimPolicy": "Retain"}


def test_ports_of_an_api_server_behind_its_service() -> None:
    found: list[dict[str, Any]] = [{"ports": [{"name": "https", "port": 16443}]}, {"ports": None}]
    assert cluster.api_ports(Known(endpointslices=found)) == [16443]


def test_port_that_somebody_listens_at_is_not_forwarded() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"Port {number} \(loki: .*SIGHTGLASS_LOKI_HTTP_PORT"):
            Forwards("here", ports={"loki_http": number})
        assert not Forwards("here", without=frozenset({"loki"}), ports={"loki_http": number}).has("loki_http")


ONLY_LOKI = frozenset(port.component for port in PORTS) - {"loki"}


FORWARDS = "echo 'Forwarding from 127.0.0.1:51685 -> 3100'; exec sleep 60"
WATCHES = """
until [ -e $(dirname $0)/leaves ]; do sleep 0.02; done
mv $(dirname $0)/leaves $(dirname $0)/left; cat $(dirname $0)/left; exec sleep 60
"""


def fake_kubectl(folder: Path, monkeypatch: pytest.MonkeyPatch, forwards: str) -> None:
    """A kubectl whose watch says what is written to the file ``leaves``."""
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    fake(folder, "kubectl", f'case "$*" in *port-forward*) {forwards};; esac\n{WATCHES}')


def forwards_asked(folder: Path, at_least: int = 1) -> list[str]:
    """The ports of each forward, local and remote, once there are so many."""

    def ports() -> list[str]:
        found = [call.split()[-1] for call in calls(folder) if "port-forward" in call]
        if len(found) < at_least:
            raise NotYet(f"asked for {found}")
        return found

    return polling.until(ports, timeout=10, interval=0.02, what=f"{at_least} forwards")


def test_forwarded_port_is_the_one_that_kubectl_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_kubectl(tmp_path, monkeypatch, FORWARDS)
    with Forwards("here", without=ONLY_LOKI) as forwards:
        forwards.wait()
        assert forwards.url("loki_http") == "http://127.0.0.1:51685"
    assert forwards_asked(tmp_path) == [":3100"]


def test_forward_that_ended_comes_again_at_the_same_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends_once = "[ -e $(dirname $0)/once ] || { touch $(dirname $0)/once; exit; }"
    fake_kubectl(tmp_path, monkeypatch, f"echo 'Forwarding from 127.0.0.1:51685 -> 3100'; {ends_once}; exec sleep 60")
    with Forwards("here", without=ONLY_LOKI) as forwards:
        forwards.wait()
        assert forwards_asked(tmp_path, 2) == [":3100", "51685:3100"]
        forwards.wait()
        assert forwards.url("loki_http") == "http://127.0.0.1:51685"


def test_forward_begins_anew_when_its_pod_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_kubectl(tmp_path, monkeypatch, FORWARDS)
    with Forwards("here", without=ONLY_LOKI) as forwards:
        forwards.wait()
        (tmp_path / "told").write_text("loki-0 2026-01-01T00:00:00Z\n")
        (tmp_path / "told").rename(tmp_path / "leaves")
        assert forwards_asked(tmp_path, 2) == [":3100", "51685:3100"]


@pytest.mark.parametrize("pod", ["loki-0 ", "lokiless-0 2026-01-01T00:00:00Z"])
def test_forward_stays_while_its_pod_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pod: str) -> None:
    fake_kubectl(tmp_path, monkeypatch, FORWARDS)
    with Forwards("here", without=ONLY_LOKI - {"tempo"}) as forwards:
        forwards.wait()
        (tmp_path / "told").write_text(f"{pod}\ntempo-0 2026-01-01T00:00:00Z\n")
        (tmp_path / "told").rename(tmp_path / "leaves")
        assert sorted(forwards_asked(tmp_path, 3)) == ["51685:3200", ":3100", ":3200"]


def test_who_listens_in_place_of_kubectl_is_not_taken_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    number = free_port()
    fake_kubectl(tmp_path, monkeypatch, f"echo 'unable to listen on port {number}' >&2; exit 1")
    # Somebody takes the port after it was found to be free.
    with Forwards("here", without=ONLY_LOKI, ports={"loki_http": number}) as forwards:
        taken = socket.create_server((HOST, number))
        with taken, pytest.raises(UserError, match=f"loki to be reachable .*unable to listen on port {number}"):
            forwards.wait(timeout=1)


# Pods


def pod(**status: Any) -> dict[str, Any]:
    meta = {"name": "loki-0", "namespace": "sightglass-observability", "labels": {"app.kubernetes.io/name": "loki"}}
    return {"kind": "Pod", "metadata": meta, "status": status}


def waiting(reason: str, message: str = "", restarts: int = 0, ended: dict[str, Any] | None = None) -> dict[str, Any]:
    container = {
        "image": "docker.io/grafana/loki:1.2.3",
        "ready": False,
        "restartCount": restarts,
        "state": {"waiting": {"reason": reason, "message": message}},
        "lastState": {"terminated": ended} if ended else {},
    }
    return pod(containerStatuses=[container])


def unscheduled(message: str) -> dict[str, Any]:
    return pod(conditions=[{"type": "PodScheduled", "status": "False", "message": message}])


@pytest.mark.parametrize(
    ("found", "sentence", "final"),
    [
        (waiting("ImagePullBackOff"), "The image of loki-0, docker.io/grafana/loki:1.2.3, cannot be pulled", True),
        (
            waiting("CreateContainerConfigError", 'secret "loki-s3" not found'),
            'loki-0 cannot start (secret "loki-s3" not found): `make deploy` makes',
            True,
        ),
        (
            unscheduled("0/1 nodes are available: 1 Insufficient memory. preemption: no"),
            "loki-0 finds no node: too little memory is left (0/1 nodes are available: 1 Insufficient memory)",
            True,
        ),
        (
            unscheduled("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."),
            "loki-0 finds no node: its volume cannot be made",
            True,
        ),
        (
            waiting("CrashLoopBackOff", restarts=2, ended={"reason": "OOMKilled", "exitCode": 137}),
            "loki-0 was killed for lack of memory 2 times: raise its memory limit (in helm-config/loki/values.yaml)",
            True,
        ),
        (
            waiting("CrashLoopBackOff", restarts=1, ended={"reason": "Error", "exitCode": 3}),
            "loki-0 ends again and again, last with code 3: `kubectl -n sightglass-observability logs loki-0",
            False,
        ),
    ],
)
def test_stuck_pod_is_explained(found: dict[str, Any], sentence: str, final: bool) -> None:
    (problem,) = rollout.problems([found])
    assert problem.sentence.startswith(sentence)
    assert problem.final is final
    running = pod(containerStatuses=[{"ready": True, "restartCount": 0, "state": {"running": {}}, "image": ""}])
    assert list(rollout.problems([running])) == []


def test_pod_that_waits_for_a_volume_says_which_one() -> None:
    waits = waiting("ContainerCreating")
    waits["spec"] = {
        "containers": [{"name": "loki", "envFrom": [{"secretRef": {"name": "loki-s3"}}]}],
        "volumes": [
            {"name": "config", "configMap": {"name": "loki-config"}},
            {"name": "maybe", "secret": {"secretName": "extra", "optional": True}},
        ],
    }
    space = "sightglass-observability"
    present = {("ConfigMap", space, "loki-config"), ("Secret", space, "loki-s3")}
    assert list(rollout.unmounted([waits], present)) == []
    (problem,) = rollout.unmounted([waits], present - {("ConfigMap", space, "loki-config")})
    assert problem.sentence.startswith('loki-0 cannot start (configmap "loki-config" not found): `make deploy` makes')
    assert rollout._is_creating(waits)
    assert not rollout._is_creating(waiting("CrashLoopBackOff"))


@pytest.mark.parametrize(
    ("kind", "spec", "status", "state"),
    [
        ("Deployment", {"replicas": 1}, {"observedGeneration": 2, "updatedReplicas": 1, "readyReplicas": 1}, ""),
        ("Deployment", {"replicas": 1}, {"observedGeneration": 1}, "is not seen yet"),
        ("Deployment", {"replicas": 2}, {"observedGeneration": 2, "updatedReplicas": 2}, "0 of 2 ready"),
        (
            *("Deployment", {"replicas": 1}),
            {"observedGeneration": 2, "updatedReplicas": 1, "readyReplicas": 1, "replicas": 2},
            "ends its old pods",
        ),
        ("DaemonSet", {}, {"observedGeneration": 2, "desiredNumberScheduled": 1}, "0 of 1 updated, 0 of 1 ready"),
        ("Job", {}, {}, "has not completed"),
        ("Job", {}, {"succeeded": 1}, ""),
    ],
)
def test_state_of_a_workload(kind: str, spec: dict[str, Any], status: dict[str, Any], state: str) -> None:
    item = {"kind": kind, "metadata": {"name": "one", "generation": 2}, "spec": spec, "status": status}
    assert rollout.states([item]) == {f"{kind.lower()}/one": state}


# What was left out


def test_verify_says_what_was_left_out_instead_of_passing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [
        Check("signal", "one", "loki", ("loki",), lambda _evidence: "found"),
        Check("via grafana", "two", "loki", ("loki", "grafana"), lambda _evidence: "found"),
    ]
    monkeypatch.setattr(Evidence, "predict", lambda *_arguments: None)
    fields: dict[str, Any] = {name: "" for name in Target.__dataclass_fields__ if name != "without"}
    fields["services"] = (Endpoint(SERVICES[0], "http://nowhere"),)
    whole = run.verify(Target(**fields), checks=made)
    assert [(row.name, row.ok) for row in whole.rows] == [("one", True), ("two", True)]
    report = run.verify(Target(**fields, without=frozenset({"grafana"})), checks=made)
    assert [(row.name, row.ok) for row in report.rows] == [("one", True), ("grafana", None)]
    assert report.rows[-1].detail == "left out (WITHOUT=grafana); not proved: two"
    assert report.ok
    nothing = run.verify(Target(**fields, without=frozenset({"loki"})), checks=made)
    assert not nothing.ok
    assert json.loads(json.dumps(report.as_json()))["rows"][-1]["ok"] is None


def test_program_error_carries_the_last_line() -> None:
    assert ProgramError("helm upgrade", "first\nlast\n").message == "`helm upgrade` failed: last"
    assert ProgramError("helm upgrade", "").message == "`helm upgrade` failed: it said nothing"


def test_plan_gives_each_image_its_pin(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = deploy.plan(load_options(), load_settings())
    name = "docker.io/otel/opentelemetry-collector-contrib"
    assert planned.image_of(name, "ours:1").startswith(f"{name}:{planned.images['collector'].tag}@sha256:")
    assert planned.image_of(workloads.IMAGE, "ours:1") == "ours:1"
    monkeypatch.setenv("IMAGE_REGISTRY", "mirror.example.org/all")
    monkeypatch.setenv("IMAGE_DIGESTS", "off")
    mirrored = deploy.plan(load_options(), load_settings())
    tag = planned.images["collector"].tag
    assert mirrored.image_of(name, "") == f"mirror.example.org/all/otel/opentelemetry-collector-contrib:{tag}"


def test_dry_run_of_a_plan_names_how_the_image_gets_to_the_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert deploy._way(load_options()) == "loaded into the kind cluster"
    monkeypatch.setenv("KUBE_CONTEXT", "cloud")
    assert deploy._way(load_options()) == "expected on the nodes"
    monkeypatch.setenv("IMAGE_LOADER", "minikube image load")
    assert deploy._way(load_options()) == "given to the nodes by `minikube image load ARCHIVE`"
    monkeypatch.setenv("IMAGE_REGISTRY", "registry.example.org")
    assert deploy._way(load_options()) == "pushed to registry.example.org"


# Keys of hashes


class Applied(Known):
    """Notes what is applied, in which order."""

    def apply(self, objects: Sequence[dict[str, Any]]) -> list[str]:
        self.asked.append([found["metadata"]["name"] for found in objects])  # type: ignore[attr-defined]
        self.objects["applied"] = [*self.objects.get("applied", []), *objects]  # type: ignore[attr-defined]
        return []


@needs_kubectl
def test_new_key_is_kept_before_it_is_used_and_only_the_service_is_started_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = credentials.complete(credentials.Credentials())
    kept = {"data": {secrets.KEPT_KEY: base64.b64encode(credentials.to_json(before).encode()).decode()}}
    record = {"data": {"service_image": '"sightglass/services:1"', "without": "[]"}}
    token = {"data": {secrets.TOKEN_KEY: base64.b64encode(b"token").decode()}}
    cluster_of = Applied(configmap=[record])
    monkeypatch.setattr(
        Applied,
        "get",
        lambda self, *asked: (
            [{secrets.KEPT: kept, secrets.TOKEN: token}.get(asked[1], {})]
            if asked[0] == "secret"
            else Known.get(self, *asked)
        ),
    )
    monkeypatch.setattr(deploy.Plan, "kubectl", cluster_of)
    monkeypatch.setattr(rollout, "wait", lambda *_, **__: None)
    deploy.rotate_hash_key(deploy.plan(load_options(), load_settings()), screen.console())
    observed = [service.name for service in SERVICES]
    assert cluster_of.asked == [[secrets.KEPT], [workloads.KEYS, *observed]]  # type: ignore[attr-defined]
    one, keys, *deployments = cluster_of.objects["applied"]  # type: ignore[attr-defined]
    now = credentials.from_json(base64.b64decode(one["data"][secrets.KEPT_KEY]).decode())
    assert [key.key for key in now.hash_keys[:1]] == [key.key for key in before.hash_keys]
    used = now.hash_keys[-1]
    assert base64.b64decode(keys["data"][hashing.KEY_VARIABLE]).decode() == f"{used.id}:{used.key}"
    assert [workload["kind"] for workload in deployments] == ["Deployment" for _ in observed]
    images = {workload["spec"]["template"]["spec"]["containers"][0]["image"] for workload in deployments}
    assert images == {"sightglass/services:1"}
