"""Every release: what its chart makes of our values, from the upstream chart and from the stand-in alike."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sightglass.clients.kubectl import ProgramError
from sightglass.facts import environments
from sightglass.facts.cluster import NAMESPACES, NODE, ClusterTopology
from sightglass.facts.credentials import Credentials
from sightglass.facts.errors import UserError
from sightglass.facts.settings import load as load_settings
from sightglass.facts.versions import Image
from sightglass.kubernetes import charts, manifests, policies, secrets
from sightglass.kubernetes.charts import Chart
from sightglass.local import components
from sightglass.runtime import storage
from tests.kubernetes import checks
from tests.kubernetes.rendering import (
    CHECKSUM,
    IMAGES,
    RELEASES,
    STAND_INS,
    WORKLOADS,
    Object,
    containers,
    origin,
    pod,
    render,
    upstream,
    workload,
)

PLACE = ClusterTopology()
BY_RELEASE = {chart.release: chart for chart in RELEASES}
LIMIT_CORES, LIMIT_BYTES = 1.2, 2.6 * 2**30
"""What all pods together may ask for."""
READ: dict[str, dict[str, tuple[str, str, str]]] = {
    "alertmanager": {
        "/etc/alertmanager/alertmanager.yaml": ("ConfigMap", "alertmanager-config", "alertmanager.yaml"),
        # The native file says channels/log.url; the working directory of the image is /alertmanager.
        "/alertmanager/channels/log.url": ("Secret", "alertmanager-channels", "log.url"),
    },
    "prometheus": {
        "/etc/config/prometheus.yaml": ("ConfigMap", "prometheus-config", "prometheus.yaml"),
        "/etc/config/servers.targets.yaml": ("ConfigMap", "prometheus-config", "servers.targets.yaml"),
        "/etc/secrets/minio.token": ("Secret", "prometheus-minio", "minio.token"),
    },
    "loki": {"/etc/loki/config/config.yaml": ("ConfigMap", "loki-config", "config.yaml")},
    "tempo": {"/etc/tempo/tempo.yaml": ("ConfigMap", "tempo-config", "tempo.yaml")},
    "promtail": {"/etc/promtail/promtail.yaml": ("ConfigMap", "promtail", "promtail.yaml")},
    "grafana": {
        "/etc/sightglass/grafana.ini": ("ConfigMap", "grafana-config", "grafana.ini"),
        "/etc/grafana/provisioning/datasources/datasources.yaml": (
            *("ConfigMap", "grafana-datasources"),
            "datasources.yaml",
        ),
        "/etc/grafana/provisioning/dashboards/dashboards.yaml": (
            *("ConfigMap", "grafana-dashboard-provider"),
            "dashboards.yaml",
        ),
        f"{PLACE.dashboards}/sightglass-slo.json": ("ConfigMap", "grafana-dashboards", "sightglass-slo.json"),
    },
}
"""Files that a program reads, and where each must come from."""
PORTS: dict[str, list[str | int]] = {
    "minio": ["minio"],
    "alertmanager": ["alertmanager"],
    "prometheus": ["prometheus"],
    "loki": ["loki_http", "loki_grpc"],
    "tempo": ["tempo_http", "tempo_otlp_grpc"],
    "promtail": ["promtail_http"],
    "grafana": ["grafana"],
    "kube-state-metrics": [8080],
    "node-exporter": [9100],
}
"""Ports of the Service that has the release's name."""
NODE_EXCEPTIONS = {"promtail": {"volume: hostPath", "runAsNonRoot", "runAsUser"}, "node-exporter": {"volume: hostPath"}}
"""What the two programs that read the node's files do beyond the restricted standard."""


@pytest.fixture(scope="module", params=["upstream", "stand-in"])
def source(request: pytest.FixtureRequest) -> Path:
    return upstream() if request.param == "upstream" else STAND_INS


@pytest.fixture(scope="module", params=BY_RELEASE)
def chart(request: pytest.FixtureRequest) -> Chart:
    return BY_RELEASE[request.param]


@pytest.fixture(scope="module")
def objects(source: Path, chart: Chart, tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    return render(chart, source, tmp_path_factory.mktemp("charts"))


@pytest.fixture(scope="module")
def ours() -> dict[tuple[str, str, str], set[str]]:
    """Keys of each ConfigMap and Secret that a deployment makes, by kind, namespace and name."""
    configmaps = manifests.contents(manifests.render())
    known = Credentials()
    made = secrets.contents(known, PLACE, storage.metrics_token(known.metrics))
    return {key: set(data) for key, data in configmaps.items()} | {
        ("Secret", secrets.namespace(name), name): set(data) for name, data in made.items()
    }


def test_it_is_what_kubernetes_takes(objects: list[Object]) -> None:
    assert checks.schema(objects) == []
    assert checks.labels(objects) == []
    assert checks.duplicates(objects) == []


def test_it_is_one_workload_with_a_service_of_its_name(chart: Chart, objects: list[Object]) -> None:
    found = workload(objects)
    assert f"{found['kind'].lower()}/{found['metadata']['name']}" == chart.workload
    (service,) = [o for o in objects if o["kind"] == "Service" and o["metadata"]["name"] == chart.release]
    offered = {port["port"] for port in service["spec"]["ports"]}
    assert {PLACE.port(port) if isinstance(port, str) else port for port in PORTS[chart.release]} <= offered
    selector, labels = service["spec"]["selector"], found["spec"]["template"]["metadata"]["labels"]
    assert selector.items() <= labels.items()
    assert {o["metadata"].get("namespace", chart.namespace) for o in objects} <= {chart.namespace, *NAMESPACES}
    allowed = {"Service", "ServiceAccount", "ConfigMap", "PersistentVolumeClaim", "Role", "RoleBinding", *WORKLOADS}
    assert {o["kind"] for o in objects} <= allowed, "no hook, no cluster-wide right, no budget"


def test_policies_know_its_pods(chart: Chart, objects: list[Object]) -> None:
    label = workload(objects)["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/name"]
    assert label in {end for arrow in policies.ARROWS for end in (arrow.source, arrow.target)}


def test_it_reads_the_native_configuration(
    chart: Chart, objects: list[Object], ours: dict[tuple[str, str, str], set[str]]
) -> None:
    spec = pod(objects)
    made = {o["metadata"]["name"] for o in objects if o["kind"] == "ConfigMap"}
    for path, wanted in READ.get(chart.release, {}).items():
        assert origin(spec, path) == wanted
        kind, name, key = wanted
        assert name not in made, "the chart makes it itself"
        assert key in ours[kind, chart.namespace, name]
    if chart.release in READ:
        assert read_by(containers(spec)[0]) == next(iter(READ[chart.release]))


def read_by(container: Object) -> str:
    """The configuration that a program is told to read: of a flag that stands twice the last wins."""
    flags = [a.split("=", 1)[1] for a in container.get("args", []) if re.match(r"--?config[.]file=", a)]
    paths = [v["value"] for v in container["env"] if v["name"] == "GF_PATHS_CONFIG"]
    return str([*flags, *paths][-1])


def test_all_it_refers_to_is_made_and_summed(
    chart: Chart, objects: list[Object], ours: dict[tuple[str, str, str], set[str]]
) -> None:
    made = {("ConfigMap", o["metadata"]["name"]) for o in objects if o["kind"] == "ConfigMap"}
    referred = [r for r in checks.references(pod(objects)) if r[:2] not in made]
    for kind, name, key in referred:
        assert (kind, chart.namespace, name) in ours
        assert key is None or key in ours[kind, chart.namespace, name]
    assert {name for kind, name, _ in referred if kind == "ConfigMap"} == set(chart.reads.configmaps)
    assert {name for kind, name, _ in referred if kind == "Secret"} == set(chart.reads.secrets)
    assert checks.checksum(objects, CHECKSUM) == []


def test_its_images_are_ours(chart: Chart, objects: list[Object]) -> None:
    assert [c["image"] for c in containers(pod(objects))] == [IMAGES[name].reference() for name in chart.images]


def test_its_images_come_from_a_mirror(chart: Chart, source: Path, tmp_path: Path) -> None:
    mirrored = render(chart, source, tmp_path, registry="mirror.example:5000/all", digests=False)
    for name, container in zip(chart.images, containers(pod(mirrored)), strict=True):
        repository = IMAGES[name].name.split("/", 1)[1]
        assert container["image"] == f"mirror.example:5000/all/{repository}:{IMAGES[name].tag}"


def test_its_volumes_are_of_the_storage_class(chart: Chart, source: Path, tmp_path: Path) -> None:
    objects = render(chart, source, tmp_path, storage_class="fast")
    claims = [o for o in objects if o["kind"] == "PersistentVolumeClaim"]
    claims += workload(objects)["spec"].get("volumeClaimTemplates", [])
    assert [claim["spec"]["storageClassName"] for claim in claims] == ["fast"] * len(claims)
    assert bool(claims) == (chart.storage_class is not None)


def test_it_holds_the_restricted_standard(chart: Chart, objects: list[Object]) -> None:
    assert checks.pod_security(pod(objects)) == NODE_EXCEPTIONS.get(chart.release, set())
    assert (chart.release in NODE_EXCEPTIONS) == (chart.namespace == NODE)


def test_only_who_asks_the_api_server_has_a_token(chart: Chart, objects: list[Object]) -> None:
    assert checks.token(objects) == (chart.release == "kube-state-metrics")


def test_it_asks_for_what_it_needs(objects: list[Object]) -> None:
    assert checks.resources(objects) == []


def test_it_holds_no_secret(objects: list[Object]) -> None:
    assert checks.confidential(objects) == []


def test_two_pods_never_share_a_volume(objects: list[Object]) -> None:
    found = workload(objects)
    claimed = any("persistentVolumeClaim" in volume for volume in pod(objects).get("volumes", []))
    if found["kind"] == "Deployment" and claimed:
        assert found["spec"]["strategy"]["type"] == "Recreate"


def test_data_is_kept_where_the_environment_says(chart: Chart, objects: list[Object]) -> None:
    if chart.release in ("loki", "tempo", "promtail"):
        mounts = {mount["mountPath"]: mount for mount in containers(pod(objects))[0]["volumeMounts"]}
        assert mounts[PLACE.data(chart.release)].get("readOnly") is not True


@pytest.mark.parametrize("release", ["alertmanager", "prometheus", "loki"])
def test_the_charts_schema_refuses_other_values(release: str, tmp_path: Path) -> None:
    paths = {"alertmanager": "replicaCount", "prometheus": "server.retention", "loki": "deploymentMode"}
    with pytest.raises(ProgramError, match="schema"):
        render(BY_RELEASE[release], upstream(), tmp_path, "--set-json", f'{paths[release]}={{"no": 1}}')


# What follows needs neither helm nor a chart.

GOOD: Object = yaml.safe_load(f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: x, labels: {{app: x}}}}
spec:
  selector: {{matchLabels: {{app: x}}}}
  template:
    metadata: {{labels: {{app: x}}, annotations: {{{charts.CHECKSUM}: {CHECKSUM}}}}}
    spec:
      automountServiceAccountToken: false
      securityContext: {{runAsNonRoot: true, seccompProfile: {{type: RuntimeDefault}}}}
      containers:
        - name: x
          image: x
          args: [-config.file=/conf/x.yaml, -config.file=/etc/x/x.yaml]
          env:
            - {{name: GOMEMLIMIT, value: 100MiB}}
            - name: X_PASSWORD
              valueFrom: {{secretKeyRef: {{name: x, key: password}}}}
          securityContext:
            allowPrivilegeEscalation: false
            capabilities: {{drop: [ALL]}}
            readOnlyRootFilesystem: true
          resources: {{requests: {{cpu: 10m, memory: 100Mi}}, limits: {{memory: 200Mi}}}}
          volumeMounts: [{{name: x, mountPath: /etc/x}}, {{name: y, mountPath: /conf}}]
      volumes: [{{name: x, configMap: {{name: x-config}}}}, {{name: y, configMap: {{name: x}}}}]
""")


def _pod(item: Object) -> Object:
    spec: Object = item["spec"]["template"]["spec"]
    return spec


def _container(item: Object) -> Object:
    container: Object = _pod(item)["containers"][0]
    return container


def _all(item: Object) -> dict[str, Any]:
    objects = [item]
    return {
        "schema": checks.schema(objects),
        "labels": checks.labels(objects),
        "duplicates": checks.duplicates(objects),
        "security": sorted(checks.pod_security(_pod(item))),
        "token": ["a token"] if checks.token(objects) else [],
        "resources": checks.resources(objects),
        "confidential": checks.confidential(objects),
        "checksum": checks.checksum(objects, CHECKSUM),
        "origin": [] if origin(_pod(item), read_by(_container(item))) == ("ConfigMap", "x-config", "x.yaml") else ["x"],
    }


TWINS: dict[str, tuple[Callable[[Object], object], str, str]] = {
    "a field that is no number": (lambda o: o["spec"].update(replicas="three"), "schema", "three"),
    "a field that is not known": (lambda o: _pod(o).update(serviceAcount="x"), "schema", "serviceAcount"),
    "a label with an @": (lambda o: o["metadata"]["labels"].update(v="1@sha256"), "labels", "1@sha256"),
    "a label that is too long": (
        lambda o: o["spec"]["template"]["metadata"]["labels"].update(v="x" * 64),
        "labels",
        "xxx",
    ),
    "a variable twice": (
        lambda o: _container(o)["env"].append({"name": "GOMEMLIMIT", "value": "1MiB"}),
        "duplicates",
        "GOMEMLIMIT stands 2 times",
    ),
    "the node's network": (lambda o: _pod(o).update(hostNetwork=True), "security", "hostNetwork"),
    "a folder of the node": (
        lambda o: _pod(o)["volumes"].append({"name": "z", "hostPath": {"path": "/"}}),
        "security",
        "hostPath",
    ),
    "a port of the node": (
        lambda o: _container(o).update(ports=[{"containerPort": 1, "hostPort": 1}]),
        "security",
        "hostPort",
    ),
    "perhaps root": (lambda o: _pod(o)["securityContext"].pop("runAsNonRoot"), "security", "runAsNonRoot"),
    "root": (lambda o: _container(o)["securityContext"].update(runAsUser=0), "security", "runAsUser"),
    "all system calls": (lambda o: _pod(o)["securityContext"].pop("seccompProfile"), "security", "seccompProfile"),
    "capabilities": (lambda o: _container(o)["securityContext"].pop("capabilities"), "security", "capabilities"),
    "one capability": (
        lambda o: _container(o)["securityContext"]["capabilities"].update(add=["NET_ADMIN"]),
        "security",
        "capabilities",
    ),
    "more rights later": (
        lambda o: _container(o)["securityContext"].pop("allowPrivilegeEscalation"),
        "security",
        "allowPrivilegeEscalation",
    ),
    "all rights": (lambda o: _container(o)["securityContext"].update(privileged=True), "security", "privileged"),
    "a root that can be written": (
        lambda o: _container(o)["securityContext"].pop("readOnlyRootFilesystem"),
        "security",
        "readOnlyRootFilesystem",
    ),
    "a token": (lambda o: _pod(o).pop("automountServiceAccountToken"), "token", "token"),
    "no request": (lambda o: _container(o)["resources"]["requests"].pop("memory"), "resources", "memory"),
    "no limit": (lambda o: _container(o)["resources"].pop("limits"), "resources", "limit of memory"),
    "a limit of the processor": (
        lambda o: _container(o)["resources"]["limits"].update(cpu=1),
        "resources",
        "processor",
    ),
    "Go above the limit": (lambda o: _container(o)["env"][0].update(value="1GiB"), "resources", "GOMEMLIMIT"),
    "a password": (lambda o: _container(o)["env"].append({"name": "PASSWORD", "value": "x"}), "confidential", "PASS"),
    "a password as argument": (lambda o: _container(o)["args"].append("--password=x"), "confidential", "--password"),
    "no sum": (lambda o: o["spec"]["template"]["metadata"].pop("annotations"), "checksum", "None"),
    "the chart's own configuration": (lambda o: _container(o)["args"].pop(), "origin", "x"),
    "a configuration that is not mounted": (lambda o: _container(o)["volumeMounts"].clear(), "origin", "x"),
}


def test_an_object_as_it_should_be_passes() -> None:
    assert not any(_all(GOOD).values()), _all(GOOD)


@pytest.mark.parametrize("twin", TWINS)
def test_a_broken_object_is_found(twin: str) -> None:
    breaks, check, word = TWINS[twin]
    broken = copy.deepcopy(GOOD)
    breaks(broken)
    assert word in " ".join(_all(broken)[check])


def test_references_are_all_seen() -> None:
    broken = copy.deepcopy(GOOD)
    _container(broken)["envFrom"] = [{"secretRef": {"name": "s"}}, {"configMapRef": {"name": "c"}}]
    _pod(broken)["volumes"].append({"name": "z", "secret": {"secretName": "t", "items": [{"key": "k", "path": "p"}]}})
    assert set(checks.references(_pod(broken))) == {
        ("Secret", "s", None),
        ("ConfigMap", "c", None),
        ("Secret", "t", "k"),
        ("Secret", "x", "password"),
        ("ConfigMap", "x-config", None),
        ("ConfigMap", "x", None),
    }


def _values(release: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(BY_RELEASE[release].values.read_text())
    return values


def _requests(values: Any) -> list[dict[str, str]]:
    if not isinstance(values, dict):
        return []
    own = [values["requests"]] if "requests" in values else []
    return [*own, *(found for value in values.values() for found in _requests(value))]


def _fits(asked: list[dict[str, str]]) -> bool:
    cores, memory = (sum(checks.quantity(found[kind]) for found in asked) for kind in ("cpu", "memory"))
    return cores <= LIMIT_CORES and memory <= LIMIT_BYTES


def test_together_they_ask_for_little() -> None:
    asked = [_requests(_values(chart.release)) for chart in RELEASES]
    assert [len(found) for found in asked] == [1] * len(RELEASES)
    flat = [found for (found,) in asked]
    assert _fits(flat)
    assert not _fits([*flat, {"cpu": "500m", "memory": "1Mi"}])
    assert not _fits([*flat, {"cpu": "1m", "memory": "1.5Gi"}])


def test_every_image_is_used_and_pinned() -> None:
    used = {name for chart in RELEASES for name in chart.images} | {"collector", "python"}
    assert used == set(IMAGES)
    for image in IMAGES.values():
        assert re.search(r"\d+[.-]\d+[.-]\d+", image.tag), f"{image.name}:{image.tag} is not one version"


def test_every_release_has_values_and_a_place() -> None:
    assert [chart.release for chart in RELEASES if not chart.values.is_file()] == []
    assert {chart.namespace for chart in RELEASES} <= set(NAMESPACES)
    assert {chart.release for chart in RELEASES} == {
        chart.name if chart.name != "prometheus-node-exporter" else "node-exporter" for chart in STAND_INS.glob("*/")
    }
    for chart in RELEASES:
        about = yaml.safe_load((STAND_INS / chart.chart / "Chart.yaml").read_text())
        assert (about["name"], about["version"]) == (chart.chart, chart.version)


def test_values_agree_with_the_place() -> None:
    assert _values("kube-state-metrics")["namespaces"].split(",") == list(NAMESPACES)
    assert _values("promtail")["config"]["serverPort"] == PLACE.port("promtail_http")
    server = _values("loki")["loki"]["server"]
    assert server == {"http_listen_port": PLACE.port("loki_http"), "grpc_listen_port": PLACE.port("loki_grpc")}


class _Programs(dict[str, Path]):
    """A path for every program."""

    def __missing__(self, name: str) -> Path:
        return Path(name)


def test_servers_are_started_as_on_one_machine() -> None:
    """But for addresses and folders, which the charts set themselves."""
    local = {c.name: c for c in components.build(load_settings(), Credentials(), _Programs(), None)}
    places = re.compile(r"--(config.file|storage.path|storage.tsdb.path|web.listen-address)=")

    def flags(name: str) -> set[str]:
        return {flag for flag in local[name].command[1:] if not places.match(flag)}

    server = _values("prometheus")["server"]
    retention = f"--storage.tsdb.retention.time={server['retention']}"
    assert {retention, *(f"--{flag}" for flag in server["extraFlags"])} == flags("prometheus")
    extra = {f"--{flag}={value}" for flag, value in _values("alertmanager")["extraArgs"].items()}
    assert {flag for flag in extra if not places.match(flag)} == flags("alertmanager")
    secret = {"MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD"}
    environment = {name: value for name, value in local["minio"].environment.items() if name not in secret}
    assert _values("minio")["environment"] == environment


def test_kube_state_metrics_offers_what_dashboards_ask_for() -> None:
    asked = {
        name for file in components.DASHBOARDS.glob("*.json") for name in re.findall(r"\bkube_\w+", file.read_text())
    }
    assert set(_values("kube-state-metrics")["metricAllowlist"]) == asked


def test_prometheus_expands_what_the_environment_sets() -> None:
    variables = {variable["name"] for variable in _values("prometheus")["server"]["env"]} - {"GOMEMLIMIT"}
    assert variables == set(environments.prometheus(PLACE))


def _image(**changes: Any) -> dict[str, Any]:
    return {"name": "docker.io/a/b", "tag": "1.0.0", "digest": None, **changes}


def _chart(**changes: Any) -> dict[str, Any]:
    return {
        "namespace": "n",
        "images": {"b": {"repository": "image.repository", "tag": "image.tag"}},
        "annotations": ["podAnnotations"],
        "reads": {"configmaps": [], "secrets": []},
        "workload": "deployment/b",
        **changes,
    }


PINNED = {"chart": "b", "repository": "https://charts.example", "version": "2.0.0"}


def _loaded(folder: Path, images: object, entries: object, pinned: object = PINNED) -> tuple[list[Chart], Any]:
    file = folder / "versions.yaml"
    file.write_text(yaml.safe_dump({"servers": {}, "images": images, "charts": {"b": pinned}, "scale": {}}))
    (folder / charts.CHARTS).write_text(yaml.safe_dump(entries))
    return charts.load(folder, file)


@pytest.mark.parametrize(
    ("images", "entries", "said"),
    [
        ({"b": _image(digest="sha256:12")}, {"b": _chart()}, r"versions.yaml, images.b.digest: String should match"),
        ({"b": _image(tag=1.0)}, {"b": _chart()}, r"versions.yaml, images.b.tag: Input should be a valid string"),
        ({"b": _image(name="grafana/loki")}, {"b": _chart()}, r"versions.yaml, images.b.name: String should match"),
        ({"b": {"name": "docker.io/a/b"}}, {"b": _chart()}, r"versions.yaml, images.b.tag: Field required"),
        ({"b": _image()}, {"b": _chart(vresion="1")}, r"charts.yaml, b.vresion: Unexpected keyword"),
        ({"b": _image()}, {"b": _chart(workload="loki")}, r"charts.yaml, b.workload: String should match"),
        ({"c": _image()}, {"b": _chart()}, r"charts.yaml: b has the image 'b': add it to versions.yaml"),
        ({"b": _image()}, {"c": _chart()}, r"charts.yaml: c has no chart: add it to versions.yaml"),
        (["b"], {"b": _chart()}, r"versions.yaml, images: Input should be a valid dict"),
    ],
)
def test_a_mistake_in_the_files_is_one_sentence(tmp_path: Path, images: object, entries: object, said: str) -> None:
    with pytest.raises(UserError, match=said) as raised:
        _loaded(tmp_path, images, entries)
    assert "\n" not in raised.value.message


def test_files_without_a_mistake_load(tmp_path: Path) -> None:
    (chart,), images = _loaded(tmp_path, {"b": _image()}, {"b": _chart()})
    assert (chart.release, images["b"]) == ("b", Image("docker.io/a/b", "1.0.0", None))
    file = tmp_path / "versions.yaml"
    file.write_text("b: [")
    with pytest.raises(UserError, match=r"versions.yaml is not YAML"):
        charts.load(tmp_path, file)
    file.unlink()
    with pytest.raises(UserError, match=r"versions.yaml is missing: restore it"):
        charts.load(tmp_path, file)


def test_helm_is_told_image_sum_and_place(tmp_path: Path) -> None:
    digest = f"sha256:{'0' * 64}"
    (chart,), images = _loaded(tmp_path, {"b": _image(digest=digest)}, {"b": _chart(storage_class="disk.class")})
    arguments = charts.helm_arguments(chart, images, "sum", None, "mirror.example", True, "fast")
    assert arguments[:8] == [
        *("b", "b", "--repo", "https://charts.example", "--version", "2.0.0"),
        *("--namespace", "n"),
    ]
    assert arguments[10:] == [
        *("--set-string", "image.repository=mirror.example/a/b", "--set-string", f"image.tag=1.0.0@{digest}"),
        *("--set-string", f"podAnnotations.{charts.CHECKSUM}=sum", "--set-string", "disk.class=fast"),
    ]
    assert "image.tag=1.0.0" in charts.helm_arguments(chart, images, "sum", digests=False)


def test_charts_come_from_a_folder(tmp_path: Path) -> None:
    (chart,), images = _loaded(tmp_path, {"b": _image()}, {"b": _chart()})
    with pytest.raises(UserError, match=r"neither b/ nor b-2.0.0.tgz: get it with `helm pull b --repo https://"):
        charts.helm_arguments(chart, images, "sum", tmp_path)
    (tmp_path / "b" / "templates").mkdir(parents=True)
    about = {"apiVersion": "v2", "name": "b", "version": "1.9.0", "dependencies": [{"name": "c"}]}
    (tmp_path / "b" / "Chart.yaml").write_text(yaml.safe_dump(about))
    with pytest.raises(UserError, match=r"is version 1.9.0 of the chart: put version 2.0.0 there"):
        charts.helm_arguments(chart, images, "sum", tmp_path)
    (tmp_path / "b" / "Chart.yaml").write_text(yaml.safe_dump({**about, "version": "2.0.0"}))
    assert charts.helm_arguments(chart, images, "sum", tmp_path)[1] == str(tmp_path / "b")
    (tmp_path / "b-2.0.0.tgz").touch()
    assert charts.helm_arguments(chart, images, "sum", tmp_path)[1] == str(tmp_path / "b-2.0.0.tgz")


def test_a_checkout_loses_subcharts_that_are_not_in_it(tmp_path: Path) -> None:
    (chart,), _ = _loaded(tmp_path, {"b": _image()}, {"b": _chart()})
    source = tmp_path / "source" / "b"
    source.mkdir(parents=True)
    about = {"apiVersion": "v2", "name": "b", "version": "2.0.0", "dependencies": [{"name": "c"}]}
    (source / "Chart.yaml").write_text(yaml.safe_dump(about))
    usable = charts.usable([chart], source.parent, tmp_path / "usable")
    assert "dependencies" not in yaml.safe_load((usable / "b" / "Chart.yaml").read_text())
    (source / "charts" / "c").mkdir(parents=True)
    kept = charts.usable([chart], source.parent, tmp_path / "kept")
    assert yaml.safe_load((kept / "b" / "Chart.yaml").read_text()) == about
