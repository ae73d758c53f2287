"""Past one machine: what the charts make of helm-config/scale, and the manifests beside it; none of it is run here."""

import copy
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from sightglass.clients import kubectl
from sightglass.clients.kubectl import ProgramError
from sightglass.facts import settings, versions
from sightglass.facts.cluster import NODE, OBSERVABILITY
from sightglass.facts.errors import UserError
from sightglass.facts.settings import REPOSITORY, SERVICES
from sightglass.kubernetes import charts
from sightglass.kubernetes.charts import Chart
from sightglass.local import build
from sightglass.local.components import COLLECTOR_OPTIONS
from tests.kubernetes import checks
from tests.kubernetes.rendering import IMAGES, KUBERNETES, RELEASES, WORKLOADS, Object, containers, upstream

HELM_CONFIG = REPOSITORY / "helm-config"
SCALE = HELM_CONFIG / "scale"
OVERLAY = SCALE / "manifests"
COLLECTOR_CONFIG = REPOSITORY / "collector-config"
SCALED = ("minio", "loki", "tempo", "prometheus", "grafana")
ZONE = "topology.kubernetes.io/zone"
ZONES = {"zone-a", "zone-b", "zone-c"}
ELSEWHERE = {"prometheus-remote-write", "grafana-regions"}
"""Secrets that a person makes: they are for what is outside this cluster."""
DISKLESS = {"loki-index-gateway", "loki-ruler"}
"""StatefulSets whose disk is a cache, or that have no pod."""
NO_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount"
"""An empty folder in the place of a token."""
PLACES = {"minio-root", "loki-s3", "tempo-s3", "prometheus-minio", "grafana-admin", "service-keys"}
"""Secrets that deploying makes."""
Workloads = Mapping[str, Object]


def _chart(release: str) -> Chart:
    """The chart of a release as it is past one machine."""
    known = next(chart for chart in RELEASES if chart.release == release)
    other = versions.load().scale.get(release)
    return replace(known, **vars(other)) if other else known


def _arguments(release: str) -> list[str]:
    """What Helm is told of a release's values, as docs/scaling.md says."""
    if release == "tempo":
        config = HELM_CONFIG / "tempo" / "tempo.yaml"
        return ["--values", str(SCALE / "tempo.yaml"), "--set-file", f"config={config}"]
    return ["--values", str(HELM_CONFIG / release / "values.yaml"), "--values", str(SCALE / f"{release}.yaml")]


def _template(release: str, work: Path, *more: str) -> list[Object]:
    if shutil.which("helm") is None:
        pytest.skip("helm is not installed")
    chart = _chart(release)
    try:
        folder = charts.usable([chart], upstream(), work)
    except UserError as error:
        pytest.skip(error.message)
    archive = folder / f"{chart.chart}-{chart.version}.tgz"
    source = archive if archive.is_file() else folder / chart.chart
    command = ["helm", "template", release, str(source), "--namespace", chart.namespace, "--kube-version", KUBERNETES]
    text = kubectl.run([*command, *_arguments(release), *more])
    return [found for found in yaml.safe_load_all(text) if found]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Object]]:
    """Every object of a release, rendered once."""

    @cache
    def of(release: str) -> list[Object]:
        return _template(release, tmp_path_factory.mktemp(release))

    return of


@pytest.fixture(scope="module")
def overlay() -> list[Object]:
    """Every object of the overlay."""
    return _kustomize(OVERLAY)


@cache
def _kustomize(folder: Path) -> list[Object]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    return [found for found in yaml.safe_load_all(kubectl.run(["kubectl", "kustomize", str(folder)])) if found]


@pytest.fixture(scope="module")
def servers() -> dict[str, Path]:
    loaded = settings.load()
    return build.ensure_binaries(bin_dir=loaded.bin_dir, cache_dir=loaded.cache_dir, console=Console(stderr=True))


def workloads(objects: list[Object]) -> dict[str, Object]:
    """Deployments, StatefulSets and DaemonSets by name."""
    return {found["metadata"]["name"]: found for found in objects if found["kind"] in WORKLOADS}


def pod_of(workload: Object) -> Object:
    spec: Object = workload["spec"]["template"]["spec"]
    return spec


def named(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = [one for one in objects if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def new(objects: list[Object]) -> list[Object]:
    """What the overlay has and manifests/ has not."""
    known = {(found["kind"], found["metadata"]["name"]) for found in _kustomize(REPOSITORY / "manifests")}
    return [found for found in objects if (found["kind"], found["metadata"]["name"]) not in known]


# Rendered and valid


@pytest.mark.parametrize("release", SCALED)
def test_objects_are_what_kubernetes_takes(release: str, rendered: Callable[[str], list[Object]]) -> None:
    objects = rendered(release)
    assert objects
    assert checks.schema(objects) == []
    assert checks.labels(objects) == []


def test_overlay_is_what_kubernetes_takes(overlay: list[Object]) -> None:
    assert checks.schema(overlay) == []
    broken = copy.deepcopy(named(overlay, "StatefulSet", "collector-gateway"))
    broken["spec"]["replicas"] = "three"
    assert len(checks.schema([broken])) == len(checks.SCHEMAS)


@pytest.mark.parametrize(
    ("release", "wrong"),
    [
        ("loki", "ingester.zoneAwareReplication.enabled=perhaps"),
        ("prometheus", "server.env=none"),
        ("tempo", "ingester.zoneAwareReplication.zones=null"),
    ],
)
def test_charts_refuse_values_that_are_wrong(release: str, wrong: str, tmp_path: Path) -> None:
    with pytest.raises(ProgramError):
        _template(release, tmp_path, "--set", wrong)


# Three copies in three zones


def copies(release: str, objects: list[Object]) -> set[int]:
    """Replication factors that the parts of a server are told."""
    if release == "loki":
        found = workloads(objects).values()
        flags = [flag for one in found for flag in containers(pod_of(one))[0]["args"] if "replication-factor" in flag]
        assert len(flags) == len(found), "a part is told nothing"
        return {int(flag.split("=")[1]) for flag in flags}
    config = yaml.safe_load(named(objects, "ConfigMap", "tempo-distributed-config")["data"]["tempo.yaml"])
    ring = config["ingester"]["lifecycler"]["ring"]
    return {ring["replication_factor"]} if ring["zone_awareness_enabled"] else set()


def ring_zones(objects: list[Object]) -> dict[str, Object]:
    """Ingesters by the zone that they name in the ring."""
    found = {}
    for workload in workloads(objects).values():
        for flag in containers(pod_of(workload))[0].get("args", []):
            if flag.startswith("-ingester.availability-zone="):
                found[flag.split("=")[1]] = workload
    return found


def apart(spec: Object) -> bool:
    """Whether pods of one ring zone can only run in one zone of the cluster, and no other zone's pods there."""
    if ZONE in spec.get("nodeSelector", {}):
        return True
    rules = (
        spec.get("affinity", {}).get("podAntiAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", [])
    )
    return any(rule["topologyKey"] == ZONE for rule in rules)


@pytest.mark.parametrize("release", ["loki", "tempo"])
def test_everything_is_written_three_times_in_three_zones(
    release: str, rendered: Callable[[str], list[Object]]
) -> None:
    objects = rendered(release)
    assert copies(release, objects) == {3}
    ingesters = ring_zones(objects)
    assert set(ingesters) == ZONES
    for ingester in ingesters.values():
        assert ingester["kind"] == "StatefulSet"
        assert ingester["spec"]["replicas"] >= 1
        # Not two zones at a time.
        assert ingester["spec"]["updateStrategy"] == {"type": "OnDelete"}
        assert apart(pod_of(ingester))
    selectors = [pod_of(found).get("nodeSelector", {}).get(ZONE) for found in ingesters.values()]
    assert len(set(selectors)) in (1, 3), "two zones of the ring are one of the cluster"


@pytest.mark.parametrize("release", ["loki", "tempo"])
def test_fewer_copies_or_zones_are_noticed(release: str, tmp_path: Path) -> None:
    wrong = {
        "loki": ("--set-json", 'defaults.extraArgs=["-distributor.replication-factor=1"]'),
        "tempo": ("--set", "tempo.structuredConfig.ingester.lifecycler.ring.replication_factor=1"),
    }[release]
    assert copies(release, _template(release, tmp_path / "copies", *wrong)) == {1}
    flat = _template(release, tmp_path / "zones", "--set", "ingester.zoneAwareReplication.enabled=false")
    assert set(ring_zones(flat)) != ZONES
    assert not any(apart(pod_of(found)) for found in workloads(flat).values())


def test_rules_of_one_server_do_not_hold_off_the_other(rendered: Callable[[str], list[Object]]) -> None:
    """Both charts keep ingesters of one rollout group out of each other's zones, and both are in one namespace."""
    groups = [
        {
            found["spec"]["template"]["metadata"]["labels"]["rollout-group"]
            for found in ring_zones(rendered(name)).values()
        }
        for name in ("loki", "tempo")
    ]
    assert [len(group) for group in groups] == [1, 1]
    assert not groups[0] & groups[1]


def spread(workload: Object) -> bool:
    """Whether replicas go to several zones where they can."""
    rules = pod_of(workload).get("topologySpreadConstraints", [])
    apart = pod_of(workload).get("affinity", {}).get("podAntiAffinity", {})
    wishes = apart.get("preferredDuringSchedulingIgnoredDuringExecution", [])
    return any(rule["topologyKey"] == ZONE and rule["maxSkew"] == 1 for rule in rules) or any(
        wish["podAffinityTerm"]["topologyKey"] == ZONE for wish in wishes
    )


def _several(rendered: Callable[[str], list[Object]], overlay: list[Object]) -> Workloads:
    """What has several replicas, and what keeps data, past one machine."""
    releases = [workloads(rendered(release)) for release in ("minio", "loki", "tempo")]
    return {name: found for known in [*releases, workloads(new(overlay))] for name, found in known.items()}


def test_replicas_without_data_are_spread_as_well(
    rendered: Callable[[str], list[Object]], overlay: list[Object]
) -> None:
    known = _several(rendered, overlay)
    several = {name: found for name, found in known.items() if found["spec"].get("replicas", 0) > 1}
    assert len(several) > 8
    assert [name for name, found in several.items() if not spread(found)] == []
    assert all(found["spec"].get("replicas", 0) > 1 for name, found in known.items() if "query" in name)
    twin = copy.deepcopy(several["loki-distributor"])
    pod_of(twin)["topologySpreadConstraints"][0]["topologyKey"] = "kubernetes.io/hostname"
    assert not spread(twin)


# What must last


def in_pod(workload: Object) -> set[str]:
    """Folders of the first container that end with the pod, but for /tmp."""
    claims = {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
    spec = pod_of(workload)
    empty = {volume["name"] for volume in spec.get("volumes", []) if "emptyDir" in volume} - claims
    mounts = spec["containers"][0].get("volumeMounts", [])
    return {mount["mountPath"] for mount in mounts if mount["name"] in empty} - {"/tmp"}


def test_what_must_last_is_on_volumes(rendered: Callable[[str], list[Object]], overlay: list[Object]) -> None:
    known = _several(rendered, overlay)
    keep = {name: found for name, found in known.items() if found["kind"] in ("StatefulSet", "DaemonSet")}
    assert {"minio", "loki-compactor", "loki-ingester-zone-a", "tempo-ingester-zone-a", "collector-gateway"} < set(keep)
    own = {name: in_pod(found) - {NO_TOKEN} for name, found in keep.items()}
    assert {name for name, folders in own.items() if folders} == DISKLESS
    prometheus = workloads(rendered("prometheus"))["prometheus"]
    # The configuration is put together anew by each pod; the data are not there.
    assert in_pod(prometheus) == {"/etc/prometheus"}
    twin = copy.deepcopy(keep["tempo-ingester-zone-a"])
    del twin["spec"]["volumeClaimTemplates"]
    pod_of(twin)["volumes"].append({"name": "data", "emptyDir": {}})
    assert in_pod(twin) == {"/var/tempo"}


def test_agents_keep_their_queue_on_the_node(overlay: list[Object]) -> None:
    spec = pod_of(named(overlay, "DaemonSet", "collector-agent"))
    config = yaml.safe_load((OVERLAY / "collector-agent.yaml").read_text())
    folder = config["extensions"]["file_storage/queue"]["directory"]
    (mount,) = [mount for mount in spec["containers"][0]["volumeMounts"] if mount["mountPath"] == folder]
    (volume,) = [volume for volume in spec["volumes"] if volume["name"] == mount["name"]]
    assert "hostPath" in volume
    for name, exporter in config["exporters"].items():
        assert exporter["sending_queue"]["storage"] == "file_storage/queue", name
        assert exporter["retry_on_failure"]["max_elapsed_time"] == "0s", name


# Safe


def exceptions(objects: list[Object]) -> dict[str, set[str]]:
    """What of the restricted Pod Security Standard a workload does not keep."""
    found = {name: checks.pod_security(pod_of(workload)) for name, workload in workloads(objects).items()}
    return {name: wrong for name, wrong in found.items() if wrong}


@pytest.mark.parametrize("release", SCALED)
def test_pods_are_restricted_and_know_no_secret_by_value(release: str, rendered: Callable[[str], list[Object]]) -> None:
    objects = rendered(release)
    assert exceptions(objects) == {}
    assert [problem for found in workloads(objects).values() for problem in checks.confidential([found])] == []
    assert [found for found in objects if found["kind"] == "Secret"] == []


def test_agents_are_the_one_exception(overlay: list[Object]) -> None:
    added = new(overlay)
    assert exceptions(added) == {"collector-agent": {"volume: hostPath", "runAsNonRoot", "runAsUser"}}
    agent = named(added, "DaemonSet", "collector-agent")
    assert agent["metadata"]["namespace"] == NODE
    assert pod_of(agent)["automountServiceAccountToken"] is False
    assert [problem for found in workloads(added).values() for problem in checks.confidential([found])] == []
    for found in workloads(added).values():
        assert checks.resources([found]) == []


def test_no_file_holds_a_credential() -> None:
    wrong = re.compile(r"(?i)(password|secret_?key|token|credentials)['\"]?\s*[:=]\s*['\"]?(?!\$)[^\s{'\"/]{6,}")
    for file in SCALE.rglob("*.yaml"):
        assert [line for line in file.read_text().splitlines() if wrong.search(line)] == [], file
    assert wrong.search("    password: hunter22")


# Nothing that a pod asks for is missing


def _data(objects: list[Object]) -> set[tuple[str, str]]:
    return {(found["kind"], found["metadata"]["name"]) for found in objects if found["kind"] in ("ConfigMap", "Secret")}


def missing(objects: list[Object], known: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """ConfigMaps and Secrets that pods read and nothing makes."""
    asked = {
        (kind, name) for found in workloads(objects).values() for kind, name, _ in checks.references(pod_of(found))
    }
    return asked - known


def test_pods_find_their_configuration(rendered: Callable[[str], list[Object]], overlay: list[Object]) -> None:
    objects = [*overlay, *(found for release in SCALED for found in rendered(release))]
    known = _data(objects) | {("Secret", name) for name in ELSEWHERE | PLACES}
    assert missing(objects, known) == set()
    assert missing(objects, known - {("ConfigMap", "collector-gateway-config")})


def test_charts_and_manifests_make_no_object_twice(
    rendered: Callable[[str], list[Object]], overlay: list[Object]
) -> None:
    seen: set[tuple[str, str, str]] = set()
    for objects in (overlay, *(rendered(release) for release in SCALED)):
        names = {
            (found["kind"], found["metadata"].get("namespace", ""), found["metadata"]["name"]) for found in objects
        }
        assert not seen & names
        seen |= names


def addresses(objects: list[Object]) -> Iterator[tuple[str, str, int]]:
    """Service, namespace and port of every address inside the cluster that a variable or a target names."""
    pattern = re.compile(r"\b([a-z0-9-]+)\.(sightglass[a-z-]*)\.svc:(\d+)")
    for found in objects:
        if found["kind"] == "ConfigMap":
            for text in found["data"].values():
                yield from ((name, space, int(port)) for name, space, port in pattern.findall(text))


def offered(objects: list[Object]) -> set[tuple[str, str, int]]:
    return {
        (found["metadata"]["name"], found["metadata"].get("namespace", OBSERVABILITY), port["port"])
        for found in objects
        if found["kind"] == "Service"
        for port in found["spec"]["ports"]
    }


def test_every_address_is_that_of_a_service(rendered: Callable[[str], list[Object]], overlay: list[Object]) -> None:
    scaled = [found for release in SCALED for found in rendered(release)]
    unchanged = {"alertmanager": 9093}
    there = offered([*overlay, *scaled]) | {(name, OBSERVABILITY, port) for name, port in unchanged.items()}
    asked = set(addresses(overlay))
    assert asked <= there, asked - there
    assert ("loki-distributor", OBSERVABILITY, 3100) in asked
    assert not {(name, port) for name, _, port in asked} & {("loki", 3100), ("tempo", 3200), ("tempo", 4317)}
    agent = pod_of(named(overlay, "DaemonSet", "collector-agent"))["containers"][0]
    gateways = {v["value"].split(".")[0] for v in agent["env"] if v["name"].startswith("GATEWAY")}
    assert {(name, OBSERVABILITY, 4317) for name in gateways} <= there
    assert len(gateways) == 2


def test_parts_of_loki_and_tempo_look_for_each_other_where_they_are(
    rendered: Callable[[str], list[Object]],
) -> None:
    for release, ports in (("loki", {3101, 7946}), ("tempo", {9095, 7946})):
        objects = rendered(release)
        there = {(name, port) for name, _, port in offered(objects)}
        text = yaml.safe_dump(objects)
        asked = {(name, int(port)) for name, port in re.findall(rf"\b({release}-[a-z-]+):(\d{{4}})\b", text)}
        assert asked
        assert asked <= there
        assert {port for _, port in asked} <= ports
    members = {flag for flag in yaml.safe_dump(rendered("loki")).split() if flag.startswith("-memberlist.join=")}
    assert members == {"-memberlist.join=loki-memberlist"}
    assert named(rendered("loki"), "Service", "loki-memberlist")["spec"]["clusterIP"] == "None"


# One configuration


def test_native_files_stay_as_they_are(overlay: list[Object]) -> None:
    base = {(found["kind"], found["metadata"]["name"]): found for found in _kustomize(REPOSITORY / "manifests")}
    scaled = {(found["kind"], found["metadata"]["name"]): found for found in overlay}
    changed = {name for name, found in base.items() if scaled[name] != found}
    programs = (*(service.name for service in SERVICES), "canary", "promtail", "collector", "grafana")
    environments = {f"{name}-env" for name in programs}
    files = {"prometheus-config", "grafana-datasources"}
    assert changed == {*(("ConfigMap", name) for name in environments | files), ("Deployment", "collector")}
    for name in environments:
        before, after = (found["ConfigMap", name]["data"] for found in (base, scaled))
        assert {key for key in before if after[key] != before[key]} <= {
            *("LOKI_URL", "TEMPO_URL", "TEMPO_OTLP_GRPC_ADDRESS", "COLLECTOR_LOKI_URL", "OTEL_EXPORTER_OTLP_ENDPOINT")
        }
    for name in files:
        before, after = (found["ConfigMap", name]["data"] for found in (base, scaled))
        assert {key for key in before if after[key] != before[key]} <= {"servers.targets.yaml"}
    targets = [
        yaml.safe_load(found["ConfigMap", "prometheus-config"]["data"]["servers.targets.yaml"])
        for found in (base, scaled)
    ]
    assert [one for one in targets[0] if one not in targets[1]] == [
        one for one in targets[0] if one["labels"]["service_name"] in ("loki", "tempo")
    ]
    collector = scaled["ConfigMap", "collector-config"]["data"]["collector.yaml"]
    assert collector == (COLLECTOR_CONFIG / "collector.yaml").read_text()


def test_a_gateway_adds_little_to_the_native_file() -> None:
    def load(file: Path) -> Any:
        return yaml.safe_load(file.read_text())

    native, kubernetes = load(COLLECTOR_CONFIG / "collector.yaml"), load(COLLECTOR_CONFIG / "kubernetes.yaml")
    gateway = load(OVERLAY / "collector-gateway.yaml")
    own, one = (found["processors"]["k8s_attributes"] for found in (gateway, kubernetes))
    connection = {"sources": [{"from": "connection"}]}
    address = {"sources": [{"from": "resource_attribute", "name": "k8s.pod.ip"}]}
    assert one["pod_association"][-1] == connection
    assert own == {**one, "pod_association": [*one["pod_association"][:-1], address]}
    for name, pipeline in gateway["service"]["pipelines"].items():
        processors = native["service"]["pipelines"][name]["processors"]
        assert pipeline == {"processors": [*processors, "transform/gateway"]}
    # Every pipeline that counts what passes: each gateway has its own share.
    counting = {
        name
        for name, pipeline in native["service"]["pipelines"].items()
        if {
            receiver for receiver in set(pipeline["receivers"]) & set(native["connectors"]) if "forward" not in receiver
        }
    }
    assert set(gateway["service"]["pipelines"]) == counting


def test_other_regions_are_linked_as_this_one() -> None:
    def sources(file: Path) -> dict[str, Any]:
        return {found["uid"]: found for found in yaml.safe_load(file.read_text())["datasources"]}

    native = sources(HELM_CONFIG / "grafana" / "provisioning" / "datasources" / "datasources.yaml")
    regions = sources(OVERLAY / "regions.yaml")
    uids = {"loki": "loki-region-2", "tempo": "tempo-region-2", "prometheus": "global"}

    def elsewhere(value: Any) -> Any:
        """The same for the other region; a dashboard of this one is no link of its lines."""
        if isinstance(value, dict):
            moved = {key: elsewhere(one) for key, one in value.items()}
            if "datasourceUid" in moved:
                moved["datasourceUid"] = uids[moved["datasourceUid"]]
            if moved.get("query", "").startswith(("sum", "histogram")):
                moved["query"] = moved["query"].replace("{$$__tags}", '{region="region-2", $$__tags}')
            return moved
        if isinstance(value, list):
            return [elsewhere(one) for one in value if not (isinstance(one, dict) and one.get("name") == "Service")]
        return value

    assert set(regions) == {"global", "loki-region-2", "tempo-region-2"}
    for uid in ("loki", "tempo"):
        theirs = {key: one for key, one in regions[uids[uid]]["jsonData"].items() if key != "httpHeaderName1"}
        assert theirs == elsewhere(native[uid]["jsonData"])
    opened = [link["datasourceUid"] for link in regions["global"]["jsonData"]["exemplarTraceIdDestinations"]]
    assert opened == ["tempo", "tempo-region-2"]


def test_images_are_those_of_the_one_list() -> None:
    tempo = yaml.safe_load((SCALE / "tempo.yaml").read_text())["tempo"]["image"]["tag"]
    assert tempo == IMAGES["tempo"].version()
    values = yaml.safe_load((SCALE / "prometheus.yaml").read_text())["server"]
    assert values["extraInitContainers"][0]["image"] == IMAGES["prometheus"].reference()
    base = yaml.safe_load((HELM_CONFIG / "prometheus" / "values.yaml").read_text())["server"]

    def without_limit(variables: list[Any]) -> list[Any]:
        return [variable for variable in variables if variable["name"] != "GOMEMLIMIT"]

    assert without_limit(values["env"]) == without_limit(base["env"])


def test_every_file_says_what_was_done_with_it() -> None:
    for file in SCALE.rglob("*.yaml"):
        assert file.read_text().lstrip().startswith("#"), file
    for file in SCALE.glob("*.yaml"):
        head = " ".join(line for line in file.read_text().splitlines() if line.startswith("#"))
        assert "Rendered and validated, not run." in head, file


# The servers' own checkers


def _environment(objects: list[Object], config: str, folder: Path) -> dict[str, str]:
    data: dict[str, str] = named(objects, "ConfigMap", config)["data"]
    secret = {"S3_ACCESS_KEY": "a", "S3_SECRET_KEY": "b", "ADVERTISE_ADDRESS": "127.0.0.1", "POD_IP": "127.0.0.1"}
    return {"PATH": os.environ["PATH"], "HOME": str(folder), **data, **secret}


def _run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_loki_takes_the_flags_above_its_native_file(
    rendered: Callable[[str], list[Object]], overlay: list[Object], servers: dict[str, Path], tmp_path: Path
) -> None:
    environment = _environment(overlay, "loki-env", tmp_path) | {"LOKI_DATA_DIR": str(tmp_path)}
    native = tmp_path / "config.yaml"
    native.write_text(named(overlay, "ConfigMap", "loki-config")["data"]["config.yaml"])
    parts = workloads(rendered("loki"))
    assert len(parts) >= 9
    for name, found in parts.items():
        arguments = [
            f"-config.file={native}" if flag.startswith("-config.file") else flag.replace("$(POD_IP)", "127.0.0.1")
            for flag in containers(pod_of(found))[0]["args"]
        ]
        done = _run([str(servers["loki"]), *arguments, "-verify-config", "-print-config-stderr"], environment)
        assert done.returncode == 0, name + done.stderr[-2000:]
        # The configuration as it is understood, before the first line of the log.
        effective = yaml.safe_load(re.split(r"^\{", done.stderr, maxsplit=1, flags=re.MULTILINE)[0])
        lifecycler = effective["ingester"]["lifecycler"]
        assert lifecycler["ring"]["replication_factor"] == 3, name
        assert lifecycler["ring"]["kvstore"]["store"] == "memberlist", name
        if "ingester-zone" in name:
            assert lifecycler["availability_zone"] == name.removeprefix("loki-ingester-")
        if name in ("loki-distributor", "loki-querier"):
            assert lifecycler["ring"]["zone_awareness_enabled"] is True
        assert effective["common"]["storage"]["s3"]["bucketnames"] == "loki"
    broken = _run([str(servers["loki"]), *arguments, "-no.such-flag=1", "-verify-config"], environment)
    assert broken.returncode != 0
    assert "no.such-flag" in broken.stderr + broken.stdout


def test_tempo_takes_what_the_chart_makes_of_the_native_file(
    rendered: Callable[[str], list[Object]], overlay: list[Object], servers: dict[str, Path], tmp_path: Path
) -> None:
    environment = _environment(overlay, "tempo-env", tmp_path) | {
        "TEMPO_DATA_DIR": str(tmp_path),
        "TEMPO_GRPC_PORT": "9095",
    }
    text = named(rendered("tempo"), "ConfigMap", "tempo-distributed-config")["data"]["tempo.yaml"]
    made = yaml.safe_load(text)
    native = yaml.safe_load((HELM_CONFIG / "tempo" / "tempo.yaml").read_text())
    assert {key: made[key] for key in ("storage", "server", "usage_report")} == {
        key: native[key] for key in ("storage", "server", "usage_report")
    }
    file = tmp_path / "tempo.yaml"
    for content, good in ((text, True), (f"{text}\nno_such_field: 1\n", False)):
        file.write_text(content)
        for found in workloads(rendered("tempo")).values():
            arguments = [
                f"-config.file={file}" if flag.startswith("-config.file") else flag
                for flag in containers(pod_of(found))[0]["args"]
            ]
            done = _run([str(servers["tempo"]), *arguments, "-config.verify=true"], environment)
            assert (done.returncode == 0) is good, done.stdout + done.stderr


def test_prometheus_takes_both_files_as_one(
    rendered: Callable[[str], list[Object]], servers: dict[str, Path], tmp_path: Path
) -> None:
    (init,) = pod_of(workloads(rendered("prometheus"))["prometheus"])["initContainers"]
    native, more = HELM_CONFIG / "prometheus", tmp_path / "remote-write"
    shutil.copytree(native, tmp_path / "config")
    (tmp_path / "prometheus").mkdir()
    more.mkdir()
    shutil.copy(OVERLAY / "remote-write.yaml", more)

    def put_together() -> subprocess.CompletedProcess[str]:
        script = init["command"][2]
        for folder in ("config", "remote-write", "prometheus"):
            script = re.sub(rf"/etc/{folder}\b", str(tmp_path / folder), script)
        subprocess.run([*init["command"][:2], script], check=True)
        command = [
            str(servers["promtool"]),
            "check",
            "config",
            "--syntax-only",
            f"{tmp_path}/prometheus/prometheus.yaml",
        ]
        return _run(command, dict(os.environ))

    done = put_together()
    assert done.returncode == 0, done.stdout + done.stderr
    whole = yaml.safe_load((tmp_path / "prometheus" / "prometheus.yaml").read_text())
    (target,) = whole.pop("remote_write")
    assert whole == yaml.safe_load((native / "prometheus.yaml").read_text())
    assert target["send_exemplars"] is True
    assert target["url"].startswith("https://")
    assert {"target_label", "replacement"} <= set(target["write_relabel_configs"][0])
    assert {file.name for file in (tmp_path / "prometheus").iterdir()} >= {f.name for f in native.glob("*.rules.yaml")}
    (more / "remote-write.yaml").write_text((more / "remote-write.yaml").read_text().replace("url:", "urls:"))
    assert put_together().returncode != 0


def _validate(servers: dict[str, Path], overlay: list[Object], folder: Path, *files: Path) -> str:
    """What the Collector says of these files, nothing where they are right."""
    token = folder / "token"
    token.touch()
    environment = _environment(overlay, "collector-env", folder) | {
        "COLLECTOR_QUEUE_DIR": str(folder),
        "KUBELET_TOKEN_FILE": str(token),
        **{name: name.lower() for name in ("POD_UID", "POD_NAME", "KUBE_NODE_NAME", "GATEWAY")},
    }
    command = [str(servers["otelcol"]), "validate", *COLLECTOR_OPTIONS, *(f"--config={file}" for file in files)]
    done = _run(command, environment)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "before"), [("gateway", ["collector.yaml"]), ("cluster", ["collector.yaml", "kubernetes.yaml"])]
)
def test_collector_takes_what_is_added(
    name: str, before: list[str], servers: dict[str, Path], overlay: list[Object], tmp_path: Path
) -> None:
    files = [COLLECTOR_CONFIG / file for file in before]
    own = OVERLAY / f"collector-{name}.yaml"
    assert _validate(servers, overlay, tmp_path, *files, own) == ""
    broken = tmp_path / own.name
    broken.write_text(own.read_text().replace("[memory_limiter, ", "[no_such_processor, ", 1))
    assert "no_such_processor" in _validate(servers, overlay, tmp_path, *files, broken)


def test_collector_takes_the_agents_file(servers: dict[str, Path], overlay: list[Object], tmp_path: Path) -> None:
    """But for load_balancing, which this project's build does not have: its exporters are put in its place."""
    config = yaml.safe_load((OVERLAY / "collector-agent.yaml").read_text())
    balancing = config["exporters"].pop("load_balancing")
    assert balancing["routing_key"] == "traceID"
    assert set(balancing["resolver"]) == {"dns"}
    assert set(balancing) == {"routing_key", "resolver", "protocol", "retry_on_failure", "sending_queue"}
    # Unlike other exporters it has no defaults for these, and does not retry unless it is told to.
    assert balancing["retry_on_failure"]["enabled"] is True
    assert {"initial_interval", "randomization_factor", "multiplier", "max_interval"} < set(
        balancing["retry_on_failure"]
    )
    assert {"queue_size", "sizer", "num_consumers", "batch"} < set(balancing["sending_queue"])
    queue = {name: balancing[name] for name in ("retry_on_failure", "sending_queue")}
    # What one gateway did not take must come back to be given to another.
    assert [balancing["protocol"]["otlp"][name]["enabled"] for name in queue] == [False, False]
    exporter = {**balancing["protocol"]["otlp"], "endpoint": "gateway:4317"}
    config["exporters"] |= {"otlp_grpc/one": exporter, "otlp_grpc/all": {**exporter, **queue}}
    config["service"]["pipelines"]["traces"]["exporters"] = ["otlp_grpc/one", "otlp_grpc/all"]
    file = tmp_path / "agent.yaml"
    file.write_text(yaml.safe_dump(config))
    assert _validate(servers, overlay, tmp_path, file) == ""
    config["exporters"]["otlp_grpc/all"]["sending_queue"]["no_such_field"] = 1
    file.write_text(yaml.safe_dump(config))
    assert "no_such_field" in _validate(servers, overlay, tmp_path, file)
