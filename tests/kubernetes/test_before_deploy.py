"""`make undeploy` on a real cluster, of a deployment whose pods need not run: what is ours goes, all else stays.

It comes before the tests that deploy everything to the same cluster.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sightglass.clients.kubectl import Kubectl
from sightglass.facts import settings
from sightglass.facts.cluster import APPLICATION, NAMESPACES, NODE, OBSERVABILITY
from sightglass.facts.credentials import Credentials
from sightglass.kubernetes import deploy
from sightglass.kubernetes.options import load as load_options
from sightglass.kubernetes.releases import install
from tests.kubernetes.conftest import Cluster, left_over
from tests.kubernetes.rendering import STAND_INS

PART_OF = {"app.kubernetes.io/part-of": "sightglass"}
pytestmark = pytest.mark.timeout(600)


def other(kind: str, name: str, namespace: str | None = None, version: str = "v1", **more: Any) -> dict[str, Any]:
    """Something of others, which even carries the label of ours."""
    place = {"namespace": namespace} if namespace else {}
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "labels": PART_OF, **place}, **more}


CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
OTHERS = [
    other("ConfigMap", "precious", APPLICATION, data={"a": "1"}),
    other("Secret", "precious", OBSERVABILITY),
    other("PersistentVolumeClaim", "precious", OBSERVABILITY, spec=CLAIM),
    other("Pod", "precious", NODE, spec={"containers": [{"name": "one", "image": "none.invalid/none:1"}]}),
    other("ClusterRole", "precious", version="rbac.authorization.k8s.io/v1", rules=[]),
]
WITHOUT = "grafana,kube-state-metrics,node-exporter"
RECORD = {"service_image": "none:1"}


@dataclass
class EmptyCluster:
    """A cluster to which nothing is deployed yet, and a deployment without images."""

    cluster: Cluster
    folder: Path
    others: list[dict[str, Any]] = field(default_factory=list)

    @property
    def kubectl(self) -> Kubectl:
        return self.cluster.kubectl

    def deploy(self) -> None:
        planned = deploy.plan(load_options(), settings.load())
        objects, secrets = deploy._objects(planned, Credentials(), RECORD)
        deploy._apply(planned, objects, secrets, RECORD, fresh_store=True)
        install(planned.settings.context, list(deploy._wanted(planned, objects, secrets)), {})

    def add(self, *objects: dict[str, Any]) -> None:
        self.others += objects
        self.kubectl("create", "--filename=-", text=as_list(objects))


def as_list(objects: Any) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmptyCluster]:
    context = os.environ.get("KUBE_CONTEXT")
    if not context:
        pytest.skip("KUBE_CONTEXT names no cluster that the tests may change")
    own = {
        "SIGHTGLASS_STATE_DIR": str(tmp_path / "state"),
        "CHARTS_DIR": str(STAND_INS),
        "WITHOUT": WITHOUT,
        "IMAGE_DIGESTS": "off",
    }
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    environment = {name: value for name, value in os.environ.items() if name not in ("YES", "SIGHTGLASS_YES")}
    made = EmptyCluster(Cluster(context, environment, None), tmp_path)  # type: ignore[arg-type]
    if left_over(made.kubectl):
        pytest.skip(f"something is deployed to {context} already: `make undeploy` takes it back")
    yield made
    made.cluster.command("undeploy", YES="1")
    if made.others:
        made.kubectl("delete", "--filename=-", "--ignore-not-found", text=as_list(made.others))
    made.kubectl("delete", "namespaces", *NAMESPACES, "--ignore-not-found")


def names(kubectl: Kubectl, objects: list[dict[str, Any]]) -> set[tuple[str, str]]:
    answer = kubectl("get", "--filename=-", "--ignore-not-found", "--output=json", text=as_list(objects))
    found = json.loads(answer) if answer.strip() else {"items": []}
    return {(one["kind"], one["metadata"]["name"]) for one in found.get("items", [found])}


def test_undeploy_of_nothing_removes_nothing_and_says_so(empty: EmptyCluster) -> None:
    empty.kubectl("create", "namespace", APPLICATION)
    empty.add(OTHERS[0], OTHERS[-1])
    done = empty.cluster.command("undeploy", YES="1")
    assert done.returncode == 0, done.stdout
    assert f"Nothing of ours is in the cluster of context {empty.cluster.context}: nothing was removed." in done.stdout
    assert names(empty.kubectl, empty.others) == {("ConfigMap", "precious"), ("ClusterRole", "precious")}


def test_undeploy_leaves_nothing_of_ours(empty: EmptyCluster) -> None:
    empty.deploy()
    made = set(left_over(empty.kubectl))
    assert made >= {f"namespace/{name}" for name in NAMESPACES}
    asked = empty.cluster.command("undeploy")
    assert asked.returncode == 2
    assert "Nobody can be asked here: YES=1 says yes." in asked.stdout
    assert "volume claims with data; releases: " in asked.stdout
    assert made <= set(left_over(empty.kubectl))
    done = empty.cluster.command("undeploy", YES="1")
    assert done.returncode == 0, done.stdout
    assert left_over(empty.kubectl) == []


def test_what_is_not_ours_stays_with_its_namespace_and_is_named(empty: EmptyCluster) -> None:
    empty.deploy()
    empty.add(*OTHERS)
    # A second deploy takes no ConfigMap of others for a stale one of ours.
    empty.deploy()
    done = empty.cluster.command("undeploy", YES="1")
    assert done.returncode == 0, done.stdout
    assert names(empty.kubectl, empty.others) == {(one["kind"], "precious") for one in OTHERS}
    stays = {
        APPLICATION: "configmap/precious",
        OBSERVABILITY: "persistentvolumeclaim/precious, secret/precious",
        NODE: "pod/precious",
    }
    for namespace, them in stays.items():
        assert f"Namespace {namespace} stays, with what is not ours: {them}." in done.stdout
    # What Kubernetes itself puts into a namespace is all that is left beside them.
    kinds = "configmaps,secrets,services,deployments,statefulsets,daemonsets,jobs,networkpolicies,serviceaccounts,pvc"
    for namespace in NAMESPACES:
        left = {one["metadata"]["name"] for one in empty.kubectl.get(kinds, f"--namespace={namespace}")}
        assert left <= {"kube-root-ca.crt", "default", "precious"}, namespace


def test_namespace_that_was_there_before_us_stays_when_it_is_empty(empty: EmptyCluster) -> None:
    empty.kubectl("create", "namespace", APPLICATION)
    empty.deploy()
    empty.deploy()
    done = empty.cluster.command("undeploy", YES="1")
    assert done.returncode == 0, done.stdout
    assert [space["metadata"]["name"] for space in empty.kubectl.get("namespaces", *NAMESPACES)] == [APPLICATION]
