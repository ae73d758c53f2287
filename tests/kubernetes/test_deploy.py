"""`make deploy` on a real cluster: green, idempotent, exact in what it restarts, and clear about what it lacks."""

import json
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from sightglass.clients import http, polling
from sightglass.clients.backends import Loki, Prometheus
from sightglass.clients.kubectl import ProgramError
from sightglass.clients.polling import NotYet
from sightglass.facts.cluster import APPLICATION, NODE, OBSERVABILITY, ClusterTopology
from sightglass.facts.errors import UserError
from sightglass.facts.settings import CANARY, REPOSITORY, SERVICES
from sightglass.kubernetes import deploy, image, manifests, rollout
from sightglass.kubernetes.options import load as load_options
from sightglass.kubernetes.releases import installed
from sightglass.kubernetes.secrets import KEPT
from sightglass.verify.run import checks_of, of_services
from sightglass.verify.signal_checks import SECOND
from tests.integration.walk.test_your_model import FILES
from tests.kubernetes.conftest import Cluster

WAIT = 60.0
pytestmark = pytest.mark.timeout(1200)


def test_deploy_ends_with_every_row_green(cluster: Cluster) -> None:
    assert cluster.first.returncode == 0, cluster.first.stdout
    print(f"from images at hand to a green proof: {cluster.seconds:.0f} s")


def test_verify_has_the_rows_of_one_machine_and_says_what_was_left_out(cluster: Cluster) -> None:
    done = cluster.command("verify", "--target", "kind", "--json")
    report = json.loads(done.stdout)
    assert [row for row in report["rows"] if row["ok"] is False] == []
    assert (done.returncode, report["ok"]) == (0, True)
    without = set(cluster.environment["WITHOUT"].split(","))
    assert {row["name"] for row in report["rows"] if row["ok"] is None} == without
    with reached() as where:
        kept = [check for check in checks_of(where) if not without & set(check.needs)]
        expected = [check.name for check, _ in of_services(kept, where)]
    assert [row["name"] for row in report["rows"] if row["ok"]] == expected
    assert {"traces: pod and node", "logs: pod and node", "kubelet metrics", "events"} <= set(expected)


def test_models_have_the_versions_that_people_know_on_the_machine_that_deployed(cluster: Cluster) -> None:
    versions = image.model_versions(Path(cluster.environment["SIGHTGLASS_STATE_DIR"]) / "models")
    with reached() as where:
        rows = Prometheus(where.prometheus_url).query("ml_model_info")
    assert {row.labels["service_name"]: row.labels["version"] for row in rows} == versions
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d\.\d+", version) for version in versions.values())


@contextmanager
def reached() -> Iterator[Any]:
    with deploy.reached(load_options()) as where:
        yield where


def test_second_deploy_changes_nothing(cluster: Cluster) -> None:
    before, revisions = cluster.pods(), installed(cluster.kubectl)
    done = cluster.command("deploy")
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d+ objects of ours: unchanged", done.stdout)
    assert re.search(r"\d+ releases: unchanged", done.stdout)
    assert cluster.pods() == before
    assert installed(cluster.kubectl) == revisions


def replaced(cluster: Cluster, **changes: str) -> set[str]:
    """Workloads whose pods are others after a deploy with these variables."""
    before = cluster.pods()
    done = cluster.command("deploy", **changes)
    assert done.returncode == 0, done.stdout
    after = cluster.pods()
    gone = {name for name, uid in before.items() if after.get(name) != uid}
    known = (
        "alertmanager",
        "collector",
        "loki",
        "minio",
        "prometheus",
        "promtail",
        "tempo",
        *(service.name for service in SERVICES),
        CANARY,
    )
    return {next(one for one in known if name.split("/")[1].startswith(one)) for name in gone}


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("GRAFANA_URL", "https://grafana.example.org", {"prometheus"}),
        ("SIGHTGLASS_ALERT_WEBHOOK_URL", "http://receiver.example.org/", {"alertmanager"}),
    ],
)
def test_changed_configuration_restarts_exactly_what_reads_it(
    cluster: Cluster, variable: str, value: str, expected: set[str]
) -> None:
    assert replaced(cluster, **{variable: value}) == expected
    assert replaced(cluster) == expected


CONTAINER = """
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
USER 0
COPY flowers /opt/own/flowers
ENV PYTHONPATH=/opt/own:/opt/sightglass SIGHTGLASS_MODELS_DIR=/opt/own/models
RUN python -m flowers.training
USER 10001:10001
WORKDIR /opt/own
CMD ["python", "-m", "uvicorn", "flowers.service:app", "--host", "0.0.0.0", "--port", "8020", "--no-access-log"]
"""
OWN_IMAGE = "docker.io/example/flowers:1"


def objects_of(cluster: Cluster, service: str) -> set[str]:
    kinds = "configmaps,networkpolicies,deployments,services,serviceaccounts,poddisruptionbudgets,pods"
    found = cluster.kubectl.get(kinds, f"--namespace={APPLICATION}")
    return {f"{one['kind']}/{one['metadata']['name']}" for one in found if one["metadata"]["name"].startswith(service)}


def test_a_service_of_the_users_own_is_deployed_proved_and_taken_back(cluster: Cluster, tmp_path: Path) -> None:
    if not os.environ.get("IMAGE_LOADER") or shutil.which("docker") is None:
        pytest.skip("needs docker, and IMAGE_LOADER, which gives an image to the nodes")
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "Dockerfile").write_text(CONTAINER)
    record = deploy.deployed(cluster.kubectl)
    assert record
    build = ["docker", "build", "--tag", OWN_IMAGE, f"--build-arg=BASE_IMAGE={record['service_image']}", str(tmp_path)]
    subprocess.run(build, env={**os.environ, "DOCKER_BUILDKIT": "0"}, check=True, timeout=300)
    subprocess.run(["docker", "save", OWN_IMAGE, "--output", str(tmp_path / "image.tar")], check=True, timeout=120)
    subprocess.run([*shlex.split(os.environ["IMAGE_LOADER"]), str(tmp_path / "image.tar")], check=True, timeout=120)
    table = tmp_path / "services.yaml"
    table.write_text(f"{table.read_text()}  image: {OWN_IMAGE}\n")
    before = cluster.pods()
    done = cluster.command("deploy", SIGHTGLASS_SERVICES=str(table))
    assert done.returncode == 0, done.stdout
    report = json.loads(
        cluster.command("verify", "--target", "kubernetes", "--json", SIGHTGLASS_SERVICES=str(table)).stdout
    )
    own = [row for row in report["rows"] if row["service"] == "flowers"]
    assert len(own) > 10
    assert [row for row in own if row["ok"] is False] == []
    assert len(objects_of(cluster, "flowers")) == 7
    # The twin, and the way back: without its row in the table it is gone, and all others stay.
    done = cluster.command("deploy")
    assert done.returncode == 0, done.stdout

    def gone() -> None:
        if left := objects_of(cluster, "flowers"):
            raise NotYet(f"still there: {left}")

    polling.until(gone, timeout=WAIT, what="the objects of the user's service")
    services = {name: uid for name, uid in cluster.pods().items() if name.startswith(f"{APPLICATION}/")}
    assert services.items() <= before.items()


def test_the_api_server_takes_every_object(cluster: Cluster) -> None:
    objects = manifests.render()
    # What it would change of a Job that is there it has to refuse.
    next(found for found in objects if found["kind"] == "Job")["metadata"]["name"] = "another"
    cluster.kubectl("apply", "--server-side", "--dry-run=server", "--force-conflicts", "-f", "-", text=as_list(objects))
    objects[-1]["spec"] = {"no_such_field": True}
    with pytest.raises(ProgramError, match="no_such_field"):
        cluster.kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", text=as_list(objects[-1:]))


def as_list(objects: list[Any]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})


@pytest.mark.parametrize(("namespace", "refused"), [(APPLICATION, True), (OBSERVABILITY, True), (NODE, False)])
def test_the_api_server_refuses_a_pod_that_is_not_restricted(cluster: Cluster, namespace: str, refused: bool) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "root", "namespace": namespace},
        "spec": {"containers": [{"name": "root", "image": "any", "securityContext": {"runAsUser": 0}}]},
    }
    create = ("create", "--dry-run=server", "-f", "-")
    if not refused:
        cluster.kubectl(*create, text=json.dumps(pod))
        return
    with pytest.raises(ProgramError) as error:
        cluster.kubectl(*create, text=json.dumps(pod))
    assert "violates PodSecurity" in error.value.stderr


# Pods' own output


def printing(cluster: Cluster, script: str, *arguments: str) -> str:
    """Run a pod that prints; returns its name once it has ended."""
    name = f"printing-{secrets.token_hex(4)}"
    image = deploy.deployed(cluster.kubectl)
    assert image
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": APPLICATION},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [
                {
                    "name": "printing",
                    "image": image["service_image"],
                    "command": ["python", "-c", script, *arguments],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }
    cluster.kubectl("create", "-f", "-", text=json.dumps(pod))
    cluster.kubectl(
        "wait", f"pod/{name}", f"-n{APPLICATION}", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s"
    )
    return name


def test_lines_of_pods_arrive_whole_once_and_with_their_pod(cluster: Cluster) -> None:
    mark = secrets.token_hex(8)
    long = "x" * 40_000
    script = (
        f"import sys, traceback\nprint('{mark} plain')\nprint('{mark} {long}')\n"
        f"try:\n    raise ValueError('{mark} raised')\nexcept ValueError:\n    traceback.print_exc()\n"
    )
    since = time.time_ns()
    name = printing(cluster, script)
    with reached() as where:
        loki = Loki(where.loki_url)

        def three() -> list[Any]:
            query = f'{{k8s_namespace_name="{APPLICATION}", service_name="printing"}} |= "{mark}"'
            found = loki.lines(query, start=since - 60 * SECOND, end=time.time_ns() + 60 * SECOND)
            if len(found) != 3:
                raise NotYet(f"{len(found)} records: {[item.line[:60] for item in found]}")
            return found

        lines = polling.until(three, timeout=WAIT, what="three records of the pod")
        polling.stays(three, duration=2, what="three records and no more")
    assert {line.labels["k8s_pod_name"] for line in lines} == {name}
    assert all(line.labels["k8s_node_name"] for line in lines)
    texts = sorted((line.line for line in lines), key=len)
    assert texts[0] == f"{mark} plain"
    assert texts[2] == f"{mark} {long}"
    assert texts[1].startswith("Traceback (most recent call last):")
    assert texts[1].rstrip().endswith(f"ValueError: {mark} raised")
    cluster.kubectl("delete", "pod", name, f"-n{APPLICATION}", "--wait=false")


# Ports, alerts, policies


def test_connect_opens_every_port_until_it_is_interrupted(cluster: Cluster) -> None:
    # Clear of a stack on this machine, and of another that the tests start.
    environment = {**cluster.environment, "SIGHTGLASS_PORT_OFFSET": "22000", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "sightglass", "connect"]
    with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        # They come at once, when every port takes connections.
        address = process.stdout.readline().removeprefix("SERVICE_URL=").strip()
        assert http.session.get(f"{address}/readyz", timeout=5).status_code == 200
        process.send_signal(signal.SIGINT)
        lines = process.stdout.read()
        assert process.wait(20) == 0
    assert {"LOKI_URL", "TEMPO_URL", "PROMETHEUS_URL", "S3_ENDPOINT"} <= {
        line.split("=")[0] for line in lines.splitlines()
    }

    def closed() -> None:
        with suppress(http.Error):
            raise NotYet(f"{http.session.get(f'{address}/readyz', timeout=2).status_code}")

    polling.until(closed, timeout=10, what="the ports to be closed")


def test_alerts_of_the_cluster_are_listed(cluster: Cluster) -> None:
    done = cluster.command("alerts", "--target", "kind", "--json")
    assert done.returncode == 0, done.stdout
    assert isinstance(json.loads(done.stdout), dict)


CONNECTING = """
import socket, sys, time
def state(name):
    host, port = name.split(":")
    try:
        socket.create_connection((host, int(port)), 2).close()
        return "open"
    except OSError:
        return "closed"
# A plugin hears of a new pod a moment after it runs.
end = time.monotonic() + 10
while "open" in (found := [state(name) for name in sys.argv[1:]]) and time.monotonic() < end:
    time.sleep(0.5)
for pair in zip(sys.argv[1:], found):
    print(*pair)
"""


def test_policies_refuse_what_is_no_arrow(cluster: Cluster) -> None:
    topology = ClusterTopology()
    allowed, refused = topology.address(SERVICES[0].port_name), topology.address("minio")
    name = printing(cluster, CONNECTING, allowed, refused)
    said = dict(line.split() for line in cluster.kubectl("logs", name, f"-n{APPLICATION}").splitlines())
    cluster.kubectl("delete", "pod", name, f"-n{APPLICATION}", "--wait=false")
    if said == {allowed: "open", refused: "open"}:
        pytest.skip("the network plugin of this cluster enforces no NetworkPolicy")
    # A pod that nobody knows may resolve names and nothing else.
    assert said == {allowed: "closed", refused: "closed"}


# What goes wrong


def repaired(cluster: Cluster) -> None:
    done = cluster.command("deploy")
    assert done.returncode == 0, done.stdout


def explained(cluster: Cluster, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        rollout.wait(cluster.kubectl, timeout=WAIT, patience=2)


def canary_memory(cluster: Cluster, amount: str) -> None:
    both = (f"--requests=memory={amount}", f"--limits=memory={amount}")
    cluster.kubectl("set", "resources", f"-n{APPLICATION}", "deployment/canary", *both)


@pytest.mark.parametrize(
    ("kind", "name", "namespace", "component"),
    [
        # One that gives variables, and one that is mounted, about which the pod itself says nothing.
        ("configmap", "canary-env", APPLICATION, "canary"),
        ("secret", "prometheus-minio", OBSERVABILITY, "prometheus"),
    ],
)
def test_what_is_missing_is_named_and_made_again(
    cluster: Cluster, kind: str, name: str, namespace: str, component: str
) -> None:
    cluster.kubectl("delete", kind, name, f"-n{namespace}")
    cluster.kubectl("delete", "pods", f"-n{namespace}", "-l", f"app.kubernetes.io/name={component}")
    explained(cluster, rf'{component}-\S+ cannot start \({kind} "{name}" not found\): `make deploy` makes')
    repaired(cluster)


def test_keys_that_are_gone_are_not_made_anew(cluster: Cluster) -> None:
    (kept,) = cluster.kubectl.get("secret", KEPT, f"-n{OBSERVABILITY}")
    cluster.kubectl("delete", "secret", KEPT, f"-n{OBSERVABILITY}")
    before = cluster.pods()
    done = cluster.command("deploy")
    assert done.returncode == 2
    assert re.search(rf"Secret {KEPT} in namespace {OBSERVABILITY} is gone", done.stdout), done.stdout
    assert cluster.pods() == before
    del kept["metadata"]["resourceVersion"], kept["metadata"]["uid"]
    cluster.kubectl("create", "-f", "-", text=json.dumps(kept))
    repaired(cluster)


def test_image_that_cannot_be_pulled_is_named(cluster: Cluster) -> None:
    cluster.kubectl("set", "image", f"-n{APPLICATION}", "deployment/canary", "canary=registry.invalid/none:1")
    explained(cluster, r"The image of canary-\S+, registry.invalid/none:1, cannot be pulled: check the registry")
    repaired(cluster)


def test_pod_that_finds_no_room_says_what_is_too_little(cluster: Cluster) -> None:
    cluster.kubectl(
        "set", "resources", f"-n{APPLICATION}", "deployment/canary", "--requests=memory=900Gi", "--limits=memory=900Gi"
    )
    explained(cluster, r"canary-\S+ finds no node: too little memory is left .*WITHOUT=grafana")
    repaired(cluster)


def test_pod_killed_for_lack_of_memory_says_which_limit_to_raise(cluster: Cluster) -> None:
    cluster.kubectl(
        "set", "resources", f"-n{APPLICATION}", "deployment/canary", "--requests=memory=12Mi", "--limits=memory=12Mi"
    )
    explained(cluster, r"canary-\S+ was killed for lack of memory \d+ times: raise its memory limit \(in manifests/\)")
    repaired(cluster)


def test_wrong_storage_class_is_named(cluster: Cluster) -> None:
    done = cluster.command("deploy", STORAGE_CLASS="no-such-class")
    assert done.returncode == 2
    assert "The cluster has no StorageClass 'no-such-class': set STORAGE_CLASS to one of its own (" in done.stdout


def test_half_installed_release_says_how_to_go_on_and_that_works(cluster: Cluster) -> None:
    """As an interrupted upgrade leaves it: a revision more, which is pending."""
    release = installed(cluster.kubectl)["promtail"]
    (kept,) = cluster.kubectl.get("secret", f"sh.helm.release.v1.promtail.v{release.revision}", f"-n{NODE}")
    meta = kept["metadata"]
    labels = {**meta["labels"], "version": str(release.revision + 1), "status": "pending-upgrade"}
    name = f"sh.helm.release.v1.promtail.v{release.revision + 1}"
    pending = {**kept, "metadata": {"name": name, "namespace": NODE, "labels": labels}}
    cluster.kubectl("create", "-f", "-", text=json.dumps(pending))
    done = cluster.command("deploy")
    assert done.returncode == 2
    match = re.search(r"Release promtail is half installed \(pending-upgrade\): run `([^`]+)`", done.stdout)
    assert match, done.stdout
    cluster.kubectl("delete", "secret", name, f"-n{NODE}")
    repaired(cluster)
