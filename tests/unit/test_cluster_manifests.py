"""What is applied to a cluster: fresh, valid, restricted, and of the same configuration as on one machine."""

import copy
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from sightglass.facts import credentials, settings
from sightglass.facts.cluster import NODE, ClusterTopology
from sightglass.facts.settings import REPOSITORY
from sightglass.kubernetes import charts, generated, manifests, secrets
from sightglass.kubernetes.workloads import KEYS
from sightglass.local import components, up
from sightglass.local.grafana import GrafanaHome

HELM_CONFIG = REPOSITORY / "helm-config"
VERSIONS = ("1.33", "1.34", "1.35", "1.36")
Object = dict[str, Any]


@pytest.fixture(scope="module")
def objects() -> list[Object]:
    if shutil.which("kubectl") is None:
        pytest.skip("needs kubectl, whose kustomize renders the manifests")
    return manifests.render()


def configmaps(objects: list[Object]) -> dict[str, dict[str, str]]:
    return {found["metadata"]["name"]: found["data"] for found in objects if found["kind"] == "ConfigMap"}


# One configuration


def natives() -> dict[tuple[str, str], Path]:
    """The native file behind each key of each ConfigMap."""
    prometheus = HELM_CONFIG / "prometheus"
    provisioning = HELM_CONFIG / "grafana" / "provisioning"
    found = {
        ("loki-config", "config.yaml"): HELM_CONFIG / "loki" / "loki.yaml",
        ("tempo-config", "tempo.yaml"): HELM_CONFIG / "tempo" / "tempo.yaml",
        ("promtail", "promtail.yaml"): HELM_CONFIG / "promtail" / "promtail.yaml",
        ("alertmanager-config", "alertmanager.yaml"): HELM_CONFIG / "alertmanager" / "alertmanager.yaml",
        ("collector-config", "collector.yaml"): components.COLLECTOR_CONFIG,
        ("grafana-config", "grafana.ini"): HELM_CONFIG / "grafana" / "grafana.ini",
        ("grafana-datasources", "datasources.yaml"): provisioning / "datasources" / "datasources.yaml",
        ("grafana-dashboard-provider", "dashboards.yaml"): provisioning / "dashboards" / "dashboards.yaml",
    }
    found |= {("prometheus-config", file.name): file for file in prometheus.glob("*.rules.yaml")}
    found[("prometheus-config", "prometheus.yaml")] = prometheus / "prometheus.yaml"
    found |= {("grafana-dashboards", file.name): file for file in components.DASHBOARDS.glob("*.json")}
    return found


def other(maps: dict[str, dict[str, str]]) -> list[tuple[str, str]]:
    """Keys whose content is not that of the native file."""
    return [key for key, file in natives().items() if maps.get(key[0], {}).get(key[1]) != file.read_text()]


def test_every_native_file_is_in_its_configmap_byte_for_byte(objects: list[Object]) -> None:
    assert other(configmaps(objects)) == []


@pytest.mark.parametrize("key", sorted(natives()))
def test_a_changed_byte_is_seen(objects: list[Object], key: tuple[str, str]) -> None:
    maps = copy.deepcopy(configmaps(objects))
    maps[key[0]][key[1]] += " "
    assert other(maps) == [key]


def test_only_what_only_a_cluster_has_is_beside_the_native_files(objects: list[Object]) -> None:
    keys = {(name, key) for name, data in configmaps(objects).items() if not name.endswith("-env") for key in data}
    targets = {("prometheus-config", f"{name}.targets.yaml") for name in ("servers", "minio", "alertmanagers")}
    assert keys - set(natives()) == {("collector-config", "kubernetes.yaml"), *targets}


def local_environments(monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, set[str]]:
    """Names of the variables of each program on one machine."""
    monkeypatch.setenv("SIGHTGLASS_STATE_DIR", str(folder))
    # A service's own settings, which whoever runs the tests may have set.
    for name in [name for name in os.environ if name.startswith(tuple(one.prefix for one in settings.SERVICES))]:
        monkeypatch.delenv(name)
    home = GrafanaHome(folder, ("grafana",))
    made = components.build(settings.load(), credentials.complete(credentials.Credentials()), up.PLANNED_PROGRAMS, home)
    return {component.name: set(component.environment) for component in made}


OWN = {
    # Set by charts, by the image or by the manifest itself, each for its target's own reasons.
    "loki": {"GOMEMLIMIT", "GOGC"},
    "tempo": {"GOMEMLIMIT", "GOGC"},
    "promtail": {"GOGC"},
    "prometheus": {"GOMEMLIMIT"},
    "collector": {"POD_UID", "KUBE_NODE_NAME", "HOST_PROC_MOUNTINFO"},
    **{
        one.name: {"SIGHTGLASS_MODELS_DIR", "BENTOML_HOME", "BENTOML_DO_NOT_TRACK", "PYTHONPATH"}
        for one in settings.SERVICES
    },
    "grafana": {
        *("GF_SERVER_HTTP_ADDR", "GF_SERVER_HTTP_PORT", "GF_PATHS_DATA", "GF_PATHS_LOGS", "GF_PATHS_PLUGINS"),
        *("GF_PATHS_PROVISIONING", "GF_SECURITY_ADMIN_PASSWORD"),
    },
}
ONLY_IN_A_CLUSTER = {"collector": {"OBSERVABILITY_NAMESPACE", "NODE_NAMESPACE", "KUBELET_TOKEN_FILE"}}
OBSERVED = [one.name for one in settings.SERVICES]
SECRETS = {"loki": "loki-s3", "tempo": "tempo-s3", **dict.fromkeys(OBSERVED, KEYS)}
NAMES = ("loki", "tempo", "promtail", "prometheus", "grafana", "collector", *OBSERVED, settings.CANARY)


def cluster_environment(maps: dict[str, dict[str, str]], name: str) -> set[str]:
    content = secrets.contents(credentials.complete(credentials.Credentials()), ClusterTopology(), "token")
    secret = content[SECRETS[name]] if name in SECRETS else {}
    return set(maps[f"{name}-env"]) | set(secret)


@pytest.mark.parametrize("name", NAMES)
def test_both_targets_set_the_same_variables(
    objects: list[Object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    local = local_environments(monkeypatch, tmp_path)[name] - OWN.get(name, set())
    in_cluster = cluster_environment(configmaps(objects), name)
    assert in_cluster - ONLY_IN_A_CLUSTER.get(name, set()) == local
    # The twin: one variable less on one side is no longer the same.
    assert in_cluster - {sorted(in_cluster)[0]} != local | ONLY_IN_A_CLUSTER.get(name, set())


def test_generated_files_of_a_service_that_is_gone_are_left_over(tmp_path: Path) -> None:
    gone, written_by_hand = tmp_path / "gone.yaml", tmp_path / "mine.yaml"
    gone.write_text("# Written by `make generate`.\nkind: Service\n")
    written_by_hand.write_text("kind: Service\n")
    assert generated.left_over(tmp_path) == [gone]


def test_generated_files_are_fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [file for file, text in generated.files().items() if file.read_text() != text] == []
    assert generated.left_over() == []
    other_place = generated.files(ClusterTopology(environment="elsewhere"))
    changed = {file.name for file, text in generated.files().items() if other_place[file] != text}
    assert changed == {"kubernetes.env", *(f"{name}.env" for name in (*OBSERVED, settings.CANARY))}


def test_every_rule_and_dashboard_is_in_its_kustomization() -> None:
    listed = yaml.safe_load((HELM_CONFIG / "prometheus" / "kustomization.yaml").read_text())
    files = set(listed["configMapGenerator"][0]["files"])
    assert {file.name for file in (HELM_CONFIG / "prometheus").glob("*.rules.yaml")} <= files
    boards = yaml.safe_load((REPOSITORY / "dashboards" / "kustomization.yaml").read_text())
    assert set(boards["configMapGenerator"][0]["files"]) == {f"json/{f.name}" for f in components.DASHBOARDS.iterdir()}


def test_what_was_left_out_is_no_target_that_is_down(objects: list[Object]) -> None:
    mine = copy.deepcopy(objects)
    manifests.without_targets(mine, frozenset({"loki", "minio"}))
    before, after = configmaps(objects)["prometheus-config"], configmaps(mine)["prometheus-config"]
    assert "loki" in before["servers.targets.yaml"]
    assert "loki" not in after["servers.targets.yaml"]
    assert yaml.safe_load(after["minio.targets.yaml"]) == []
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"servers.targets.yaml", "minio.targets.yaml"}


# Valid and restricted


@pytest.mark.parametrize("version", VERSIONS)
def test_objects_are_valid_for_every_supported_version(objects: list[Object], version: str) -> None:
    for found in objects:
        kubernetes_validate.validate(found, version, strict=True)
    broken = copy.deepcopy(next(found for found in objects if found["kind"] == "Deployment"))
    broken["spec"]["replicas"] = "many"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, version, strict=True)


def workloads(objects: list[Object]) -> Iterator[Object]:
    return (found for found in objects if found["kind"] in ("Deployment", "Job", "DaemonSet", "StatefulSet"))


def unrestricted(found: Object) -> list[str]:
    """What of a workload the restricted Pod Security Standard, or our own stricter one, refuses."""
    spec = found["spec"]["template"]["spec"]
    pod = spec.get("securityContext", {})
    wrong = [] if pod.get("runAsNonRoot") and pod.get("runAsUser", 0) > 0 else ["root"]
    wrong += [] if pod.get("seccompProfile", {}).get("type") == "RuntimeDefault" else ["seccomp"]
    wrong += ["hostPath"] if any("hostPath" in volume for volume in spec.get("volumes", [])) else []
    for container in spec["containers"]:
        own = container.get("securityContext", {})
        wrong += [] if own.get("allowPrivilegeEscalation") is False else ["escalation"]
        wrong += [] if own.get("capabilities", {}).get("drop") == ["ALL"] else ["capabilities"]
        wrong += [] if own.get("readOnlyRootFilesystem") else ["root file system"]
        wrong += [] if {"cpu", "memory"} <= set(container["resources"]["requests"]) else ["requests"]
        wrong += [] if "memory" in container["resources"]["limits"] else ["limit"]
        wrong += [] if ("readinessProbe" in container) == (found["kind"] != "Job") else ["probe"]
    return wrong


def test_our_pods_are_restricted(objects: list[Object]) -> None:
    found = {workload["metadata"]["name"]: unrestricted(workload) for workload in workloads(objects)}
    assert found == {name: [] for name in ["collector", *OBSERVED, "canary", "storage"]}
    loose = copy.deepcopy(next(workloads(objects)))
    loose["spec"]["template"]["spec"]["containers"][0]["securityContext"] = {}
    loose["spec"]["template"]["spec"]["securityContext"] = {}
    assert unrestricted(loose) == ["root", "seccomp", "escalation", "capabilities", "root file system"]


def test_namespaces_enforce_the_restricted_standard_with_one_exception(objects: list[Object]) -> None:
    enforced = {
        found["metadata"]["name"]: found["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        for found in objects
        if found["kind"] == "Namespace"
    }
    assert enforced.pop(NODE) == "privileged"
    assert set(enforced.values()) == {"restricted"}


def test_only_who_asks_the_api_server_has_a_token(objects: list[Object]) -> None:
    accounts = {
        f["metadata"]["name"]: f["automountServiceAccountToken"] for f in objects if f["kind"] == "ServiceAccount"
    }
    assert set(accounts.values()) == {False}
    asking = {
        found["metadata"]["name"]
        for found in workloads(objects)
        if found["spec"]["template"]["spec"].get("automountServiceAccountToken")
    }
    assert asking == {"collector"}


def test_the_collector_may_only_read(objects: list[Object]) -> None:
    roles = [found for found in objects if found["kind"] in ("ClusterRole", "Role")]
    verbs = {verb for role in roles for rule in role["rules"] for verb in rule["verbs"]}
    resources = {resource for role in roles for rule in role["rules"] for resource in rule["resources"]}
    assert verbs <= {"get", "list", "watch"}
    assert not resources & {"secrets", "configmaps", "nodes/proxy", "*"}


# Requests


def quantity(text: str) -> float:
    """Cores or MiB."""
    match = re.fullmatch(r"([\d.]+)(m|Mi|Gi)?", str(text))
    assert match, text
    return float(match[1]) * {"m": 0.001, "Gi": 1024, "Mi": 1, None: 1}[match[2]]


def requests(found: Any) -> Iterator[dict[str, str]]:
    """Every ``requests`` of a chart's values or of a manifest; what runs before a pod needs no room beside it."""
    if isinstance(found, dict):
        if isinstance(found.get("requests"), dict) and "memory" in found["requests"]:
            yield found["requests"]
        for name, value in found.items():
            if name != "initContainers":
                yield from requests(value)
    elif isinstance(found, list):
        for value in found:
            yield from requests(value)


def test_all_requests_together_fit_the_goal(objects: list[Object]) -> None:
    known, _ = charts.load()
    values = [yaml.safe_load(chart.values.read_text()) for chart in known]
    # The Job is gone before the service takes its place.
    running = [found for found in workloads(objects) if found["kind"] != "Job"]
    asked = [request for source in (*values, *running) for request in requests(source)]
    assert len(asked) == len(known) + len(running)
    cores = sum(quantity(request["cpu"]) for request in asked)
    memory = sum(quantity(request["memory"]) for request in asked)
    assert cores <= 1.2
    assert memory <= 2.6 * 1024


# Secrets


def test_no_secret_value_is_in_a_manifest(objects: list[Object]) -> None:
    assert [found for found in objects if found["kind"] == "Secret"] == []


def test_each_program_gets_its_own_secret_only() -> None:
    known = credentials.Credentials()
    content = secrets.contents(known, ClusterTopology(), "token")
    keys = {name: getattr(known, name).secret_key for name in ("root", "loki", "tempo", "reader", "metrics")}
    holding = {
        name: sorted(user for user, key in keys.items() if key in " ".join(data.values()))
        for name, data in content.items()
    }
    assert holding == {
        # Only the Job that makes the users reads this one.
        "sightglass-credentials": ["loki", "metrics", "reader", "root", "tempo"],
        "minio-root": ["root"],
        "loki-s3": ["loki"],
        "tempo-s3": ["tempo"],
        "prometheus-minio": [],
        "alertmanager-channels": [],
        "grafana-admin": [],
        "service-keys": [],
    }


def test_a_changed_configuration_restarts_exactly_what_reads_it(objects: list[Object]) -> None:
    def sums(changed: str | None = None) -> dict[str, str]:
        mine = copy.deepcopy(objects)
        if changed:
            configmaps(mine)[changed]["one"] = "more"
        manifests.with_checksums(mine, [secret("sightglass-credentials"), secret(KEYS)])
        return {
            found["metadata"]["name"]: found["spec"]["template"]["metadata"]["annotations"][charts.CHECKSUM]
            for found in workloads(mine)
            if found["kind"] != "Job"
        }

    before = sums()
    assert sums() == before
    for changed, expected in (("collector-config", {"collector"}), ("canary-env", {"canary"}), ("loki-config", set())):
        after = sums(changed)
        assert {name for name in before if before[name] != after[name]} == expected


def secret(name: str) -> Object:
    return {"kind": "Secret", "metadata": {"name": name, "namespace": secrets.namespace(name)}, "data": {}}
