"""The stand-ins do what the upstream charts do with our values, but for differences that are listed here."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sightglass.kubernetes.charts import Chart
from tests.kubernetes.rendering import RELEASES, STAND_INS, Object, containers, pod, render, upstream, volume, workload

COPY = "the chart's own copy of a configuration that is not read"
UNUSED = "nothing listens there"
ROLLS = "the chart's own sum, the same whatever we configure"
HEADLESS = "names single replicas, which nothing asks for"
DIFFERENT: dict[str, dict[str, str]] = {
    "minio": {
        "annotation checksum/config": ROLLS,
        "annotation checksum/secrets": ROLLS,
    },
    "alertmanager": {
        "annotation checksum/config": ROLLS,
        "service alertmanager-headless 9093": HEADLESS,
    },
    "prometheus": {},
    "loki": {
        "account loki-memcached": "no pod has it",
        "annotation checksum/config": ROLLS,
        "annotation kubectl.kubernetes.io/default-container": "for kubectl",
        "annotation storage/size": "restarts Loki when its volume grows",
        "mount /etc/loki/runtime-config": "empty, and no configuration of ours names it",
        "port http-memberlist": UNUSED,
        "service loki 9096": UNUSED,
        "service loki-headless 3100": HEADLESS,
        "service loki-headless 3101": HEADLESS,
        "service loki-headless 9096": UNUSED,
        "service loki-memberlist 7946": UNUSED,
    },
    "tempo": {
        "annotation checksum/config": ROLLS,
        "mount /conf": COPY,
        **{f"port {name}": UNUSED for name in ("jaeger-grpc", "jaeger-thrift-b", "jaeger-thrift-c", "jaeger-thrift-h")},
        **{f"port {name}": UNUSED for name in ("otlp-http", "otlp-httplegacy", "otlp-legacy", "zipkin")},
        **{f"service tempo {port}": UNUSED for port in (4318, 6831, 6832, 9411, 14250, 14268, 55680, 55681)},
    },
    "promtail": {"annotation checksum/config": ROLLS},
    "node-exporter": {
        "annotation cluster-autoscaler.kubernetes.io/safe-to-evict": "a DaemonSet's pod keeps no node",
    },
    "kube-state-metrics": {},
    "grafana": {
        "annotation checksum/config": ROLLS,
        "annotation checksum/sc-dashboard-provider-config": ROLLS,
        "annotation kubectl.kubernetes.io/default-container": "for kubectl",
        "mount /etc/grafana/grafana.ini": COPY,
        "port gossip-tcp": UNUSED,
        "port gossip-udp": UNUSED,
        "port profiling": UNUSED,
    },
}
"""What a stand-in leaves out, by release, and why that may be."""


def facts(objects: list[Object]) -> dict[str, Any]:
    """What matters of a release, each fact under a name of its own."""
    return dict([*_facts(objects)])


def _facts(objects: list[Object]) -> Iterator[tuple[str, Any]]:
    found, spec = workload(objects), pod(objects)
    template = found["spec"]["template"]["metadata"]
    yield "workload", (found["kind"], found["metadata"]["name"])
    yield "name label", template["labels"]["app.kubernetes.io/name"]
    yield "strategy", found["spec"].get("strategy", {}).get("type")
    yield from ((f"annotation {name}", value) for name, value in (template.get("annotations") or {}).items())
    for field in ("serviceAccountName", "automountServiceAccountToken", "securityContext"):
        yield field, spec.get(field)
    for container in containers(spec):
        for field in ("name", "image", "command", "args", "envFrom", "securityContext", "resources"):
            yield f"container {field}", container.get(field)
        for probe in ("readinessProbe", "livenessProbe"):
            yield probe, _without_nothing(container.get(probe))
        yield from ((f"variable {v['name']}", v) for v in container.get("env", []))
        for port in container.get("ports", []):
            yield f"port {port.get('name', '')}", (port["containerPort"], port.get("protocol", "TCP"))
        for mount in container.get("volumeMounts", []):
            source = {kind: value for kind, value in volume(spec, mount["name"]).items() if kind != "name"}
            yield f"mount {mount['mountPath']}", (source, mount.get("subPath") or "", mount.get("readOnly", False))
    for item in objects:
        if item["kind"] == "Service":
            for port in item["spec"]["ports"]:
                yield f"service {item['metadata']['name']} {port['port']}", port["targetPort"]
        if item["kind"] == "PersistentVolumeClaim":
            yield f"claim {item['metadata']['name']}", _claim(item)
        if item["kind"] == "Role":
            rules = sorted((rule["resources"], rule["verbs"]) for rule in item["rules"])
            yield f"role in {item['metadata']['namespace']}", rules
        if item["kind"] == "RoleBinding":
            yield f"role binding in {item['metadata']['namespace']}", (item["roleRef"]["name"], item["subjects"])
        if item["kind"] == "ServiceAccount":
            yield f"account {item['metadata']['name']}", item.get("automountServiceAccountToken")
    for claim in found["spec"].get("volumeClaimTemplates", []):
        yield f"claim {claim['metadata']['name']}", _claim(claim)


def _claim(item: Object) -> tuple[Any, Any, Any]:
    spec = item["spec"]
    return spec["accessModes"], spec["resources"]["requests"]["storage"], spec.get("storageClassName")


def _without_nothing(item: Any) -> Any:
    """Without what is null: to Kubernetes it is the same."""
    if isinstance(item, dict):
        return {key: _without_nothing(value) for key, value in item.items() if value is not None}
    return item


def different(one: list[Object], other: list[Object]) -> set[str]:
    """Names of the facts that are not the same in both."""
    first, second = facts(one), facts(other)
    return {name for name in {*first, *second} if first.get(name) != second.get(name)}


@pytest.mark.parametrize("chart", RELEASES, ids=[chart.release for chart in RELEASES])
def test_a_stand_in_differs_only_as_listed(chart: Chart, tmp_path: Path) -> None:
    real = render(chart, upstream(), tmp_path / "real", storage_class="fast")
    ours = render(chart, STAND_INS, tmp_path / "ours", storage_class="fast")
    assert different(real, ours) == set(DIFFERENT[chart.release])
    assert set(facts(ours)) <= set(facts(real)), "nothing that the chart does not have"


@pytest.mark.parametrize("chart", RELEASES, ids=[chart.release for chart in RELEASES])
def test_a_difference_is_seen(chart: Chart, tmp_path: Path) -> None:
    ours = render(chart, STAND_INS, tmp_path)
    assert different(ours, copy.deepcopy(ours)) == set()
    other = copy.deepcopy(ours)
    spec = pod(other)
    spec["securityContext"]["runAsUser"] = 1
    containers(spec)[0]["image"] = "other"
    containers(spec)[0].setdefault("args", []).append("--other")
    containers(spec)[0]["ports"].append({"name": "other", "containerPort": 1})
    next(o for o in other if o["kind"] == "Service")["spec"]["ports"][0]["targetPort"] = 1
    expected = {"securityContext", "container image", "container args", "port other"}
    seen = different(ours, other)
    assert expected <= seen
    assert len(seen) == len(expected) + 1
