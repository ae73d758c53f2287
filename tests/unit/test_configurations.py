"""Every native configuration is accepted by its own server's checker, and agrees with the signal contract."""

import os
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from ml_telemetry import signals
from sightglass.facts import credentials, settings
from sightglass.facts.durations import seconds
from sightglass.facts.settings import PORTS, REPOSITORY
from sightglass.kubernetes import generated
from sightglass.local import components
from sightglass.local.components import Component
from sightglass.local.grafana import GrafanaHome
from sightglass.local.servers import SERVERS_DIR
from sightglass.local.supervise import TAILED
from text_classifier.declaration import CONTRACT

HELM_CONFIG = REPOSITORY / "helm-config"
CLUSTER_CONFIG = components.COLLECTOR_CONFIG.with_name("kubernetes.yaml")
Checker = Callable[[Path], list[str]]


@pytest.fixture
def planned(programs: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Component]:
    """The stack's components by name, in a folder of the test's own."""
    monkeypatch.setenv("SIGHTGLASS_STATE_DIR", str(tmp_path))
    home = GrafanaHome(tmp_path, ("grafana",))
    loaded = settings.load()
    return {c.name: c for c in components.build(loaded, credentials.Credentials(), programs, home)}


def check(component: Component, command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **component.environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


CHECKERS: dict[str, tuple[Path, Callable[[Mapping[str, Path]], Checker], str]] = {
    "loki": (
        HELM_CONFIG / "loki" / "loki.yaml",
        lambda p: lambda f: [str(p["loki"]), f"-config.file={f}", "-config.expand-env=true", "-verify-config"],
        "field no_such_field not found",
    ),
    "tempo": (
        HELM_CONFIG / "tempo" / "tempo.yaml",
        lambda p: lambda f: [*(str(p["tempo"]), f"-config.file={f}", "-config.expand-env=true", "-config.verify=true")],
        "field no_such_field not found",
    ),
    "promtail": (
        HELM_CONFIG / "promtail" / "promtail.yaml",
        lambda p: lambda f: [str(p["promtail"]), f"-config.file={f}", "-config.expand-env=true", "-check-syntax"],
        "field no_such_field not found",
    ),
    "collector": (
        components.COLLECTOR_CONFIG,
        lambda p: lambda f: [str(p["otelcol"]), "validate", *components.COLLECTOR_OPTIONS, f"--config={f}"],
        "has invalid keys: no_such_field",
    ),
    "prometheus": (
        HELM_CONFIG / "prometheus" / "prometheus.yaml",
        lambda p: lambda f: [str(p["promtool"]), "check", "config", "--syntax-only", str(f)],
        "field no_such_field not found",
    ),
    "alertmanager": (
        HELM_CONFIG / "alertmanager" / "alertmanager.yaml",
        lambda p: lambda f: [str(p["amtool"]), "check-config", str(f)],
        "field no_such_field not found",
    ),
}


@pytest.mark.parametrize("name", CHECKERS)
def test_native_configuration_passes_its_servers_checker(
    name: str, planned: dict[str, Component], programs: Mapping[str, Path]
) -> None:
    file, checker, _ = CHECKERS[name]
    done = check(planned[name], checker(programs)(file))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", CHECKERS)
def test_checker_refuses_a_broken_configuration(
    name: str, planned: dict[str, Component], programs: Mapping[str, Path], tmp_path: Path
) -> None:
    file, checker, reason = CHECKERS[name]
    broken = tmp_path / file.name
    broken.write_text(file.read_text() + "\nno_such_field: 1\n")
    done = check(planned[name], checker(programs)(broken))
    assert done.returncode != 0
    assert reason in done.stdout + done.stderr


def unsearched(tempo: dict[str, Any]) -> float:
    """Seconds in which a trace has left the ingester and is too young to be searched for in the object store."""
    search = tempo["query_frontend"].get("search", {})
    # The default is Tempo's own.
    begins = seconds(search.get("query_backend_after", "15m")) + seconds(tempo["storage"]["trace"]["blocklist_poll"])
    return max(0.0, begins - seconds(tempo["ingester"]["complete_block_timeout"]))


@pytest.mark.parametrize("file", ["manifests/collector/deployment.yaml", "helm-config/scale/manifests/gateway.yaml"])
def test_collector_has_the_same_options_in_a_cluster(file: str) -> None:
    found = [
        container["args"]
        for document in yaml.safe_load_all((REPOSITORY / file).read_text())
        if document["kind"] in ("Deployment", "StatefulSet")
        for container in document["spec"]["template"]["spec"]["containers"]
    ]
    assert found
    assert all({*components.COLLECTOR_OPTIONS} < {*arguments} for arguments in found)


def test_search_finds_a_trace_at_every_age() -> None:
    tempo = yaml.safe_load((HELM_CONFIG / "tempo" / "tempo.yaml").read_text())
    assert unsearched(tempo) == 0
    del tempo["query_frontend"]["search"]
    assert unsearched(tempo) == 610


@pytest.fixture
def in_cluster(tmp_path: Path) -> dict[str, str]:
    """The Collector's environment in a pod, with a token that is at hand."""
    lines = generated.files()[CLUSTER_CONFIG.with_name(generated.ENVIRONMENT)].splitlines()
    token = tmp_path / "token"
    token.touch()
    pod = {"POD_UID": "3f8d2c1a-6b7e-4f50-9a1b-2c3d4e5f6071", "KUBE_NODE_NAME": "node1"}
    return dict(line.split("=", 1) for line in lines if "=" in line) | pod | {"KUBELET_TOKEN_FILE": str(token)}


def validate(otelcol: Path, environment: dict[str, str], *files: Path) -> str:
    """What the Collector says against the files, nothing if it takes them."""
    command = [str(otelcol), "validate", *components.COLLECTOR_OPTIONS, *(f"--config={file}" for file in files)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    said = done.stdout + done.stderr
    assert (done.returncode == 0) == (said == "")
    return said


def test_collector_takes_both_files_in_a_cluster(
    programs: Mapping[str, Path], in_cluster: dict[str, str], tmp_path: Path
) -> None:
    native = components.COLLECTOR_CONFIG
    assert validate(programs["otelcol"], in_cluster, native, CLUSTER_CONFIG) == ""
    assert 'references processor "k8s_attributes" which is not configured' in validate(
        programs["otelcol"], in_cluster, native
    )
    misspelt = in_cluster | {"PLATFORM_PROCESSOR": "no_such_processor"}
    assert "no_such_processor" in validate(programs["otelcol"], misspelt, native, CLUSTER_CONFIG)
    broken = tmp_path / CLUSTER_CONFIG.name
    broken.write_text(CLUSTER_CONFIG.read_text().replace("role: node", "role: nodes"))
    assert 'unknown Kubernetes SD role "nodes"' in validate(programs["otelcol"], in_cluster, native, broken)


def leaves(value: Any, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """Paths of everything in nested mappings that is no mapping itself."""
    if not isinstance(value, dict) or not value:
        return {path}
    return {leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))}


def components_of(configuration: dict[str, Any]) -> set[tuple[str, ...]]:
    """Kind and name of each component, and of each pipeline."""
    parts = {kind: section for kind, section in configuration.items() if kind != "service"}
    parts["pipelines"] = configuration["service"]["pipelines"]
    return {(kind, name) for kind, section in parts.items() for name in section}


def test_second_file_of_the_collector_only_adds() -> None:
    native, cluster = load(components.COLLECTOR_CONFIG), load(CLUSTER_CONFIG)
    assert set(cluster["service"]) == {"pipelines"}
    assert components_of(cluster) & components_of(native) == set()
    assert leaves(cluster) & leaves(native) == set()
    # The test sees what is written twice.
    twice = {"processors": native["processors"], "service": {"pipelines": {}}}
    assert ("processors", "memory_limiter") in components_of(twice) & components_of(native)
    assert ("processors", "memory_limiter", "check_interval") in leaves(twice) & leaves(native)


def test_each_pipeline_of_what_others_send_asks_the_platform_before_it_fills_in_defaults() -> None:
    pipelines = load(components.COLLECTOR_CONFIG)["service"]["pipelines"]
    platform = "${env:PLATFORM_PROCESSOR}"
    # What is counted has its origin from what it was counted of, the map has two, the host has no pod, and what was
    # accepted has been asked for.
    accepted = {name for name, pipeline in pipelines.items() if pipeline["receivers"] == ["forward/accepted"]}
    without = {"metrics/counts", "metrics/service_graph", "metrics/host", *accepted}
    assert {name for name, pipeline in pipelines.items() if platform not in pipeline["processors"]} == without
    for name in pipelines.keys() - without:
        order = pipelines[name]["processors"]
        assert order.index(platform) < order.index("resource/deployment"), name
    # By its connection a line would be Promtail's.
    order = pipelines["logs"]["processors"]
    assert order.index("groupbyattrs/service") < order.index(platform)


def kept_by(job: dict[str, Any]) -> set[str]:
    """Names of the metrics that a scrape keeps."""
    (rule,) = [rule for rule in job["metric_relabel_configs"] if rule.get("action") == "keep"]
    assert rule["source_labels"][0] == "__name__"
    match = re.fullmatch(r"[(]([a-zA-Z_|]+)[)](;[.][+])?", rule["regex"])
    assert match is not None, rule["regex"]
    return set(match[1].split("|"))


def test_collector_scrapes_of_a_cluster_exactly_what_is_asked_for() -> None:
    jobs = load(CLUSTER_CONFIG)["receivers"]["prometheus/cluster"]["config"]["scrape_configs"]
    # Of Promtail everything is taken, as Prometheus does of the other servers.
    kept = {job["job_name"]: kept_by(job) for job in jobs if job["job_name"] != "promtail"}
    texts = [file.read_text() for file in sorted(components.DASHBOARDS.glob("*.json"))]
    texts += [file.read_text() for file in (HELM_CONFIG / "prometheus").glob("*.rules.yaml")]
    name = r"\b(?:kube_|kubelet_|container_|node_)[a-zA-Z_]+"
    assert set().union(*kept.values()) == {found for text in texts for found in re.findall(name, text)}
    chart = load(HELM_CONFIG / "kube-state-metrics" / "values.yaml")
    assert set(chart["metricAllowlist"]) == kept["kube-state-metrics"]


def test_rules_pass_promtool(programs: Mapping[str, Path], tmp_path: Path) -> None:
    files = sorted((HELM_CONFIG / "prometheus").glob("*.rules.yaml"))
    command = [str(programs["promtool"]), "check", "rules", "--lint-fatal"]
    good = subprocess.run([*command, *files], capture_output=True, text=True, check=False)
    assert good.returncode == 0, good.stderr
    broken = tmp_path / "broken.rules.yaml"
    watchdog = HELM_CONFIG / "prometheus" / "watchdog.rules.yaml"
    broken.write_text(watchdog.read_text().replace("vector(1)", "vector(1"))
    bad = subprocess.run([*command, str(broken)], capture_output=True, text=True, check=False)
    assert bad.returncode != 0
    assert "unclosed left parenthesis" in bad.stdout + bad.stderr


def variables(text: str) -> set[str]:
    """Names that a native file takes from the environment."""
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return set(re.findall(r"\$\{(?:env:)?([A-Z0-9_]+)\}", code))


def test_cluster_gives_the_collector_exactly_what_both_files_ask_for(in_cluster: dict[str, str]) -> None:
    asked = variables(components.COLLECTOR_CONFIG.read_text()) | variables(CLUSTER_CONFIG.read_text())
    assert set(in_cluster) == asked


@pytest.mark.parametrize("name", ["loki", "tempo", "promtail", "collector"])
def test_environment_gives_exactly_what_the_file_asks_for(name: str, planned: dict[str, Component]) -> None:
    file = CHECKERS[name][0]
    # For Go, for the list of disks, and not asked for by Promtail.
    extra = {"GOGC", "GOMEMLIMIT", "HOST_PROC_MOUNTINFO", "ADVERTISE_ADDRESS"}
    assert variables(file.read_text()) <= set(planned[name].environment)
    assert set(planned[name].environment) - variables(file.read_text()) <= extra


def test_no_native_file_holds_an_address_or_a_port() -> None:
    files = [file for file, _, _ in CHECKERS.values()] + sorted(HELM_CONFIG.rglob("datasources.yaml"))
    files.append(CLUSTER_CONFIG)
    numbers = "|".join(str(port.default) for port in PORTS)
    for file in files:
        found = re.findall(rf"127\.0\.0\.1|(?<![\d.])(?:{numbers})(?![\d.])", file.read_text())
        assert found == [], f"{file} holds {found}"


def load(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def test_prometheus_promotes_the_contracts_resource_attributes() -> None:
    promoted = load(HELM_CONFIG / "prometheus" / "prometheus.yaml")["otlp"]["promote_resource_attributes"]
    assert promoted == [attribute.name for attribute in (*signals.RESOURCE, *signals.RESOURCE_KUBERNETES)]


def test_loki_indexes_few_labels_and_no_identifier() -> None:
    otlp = load(HELM_CONFIG / "loki" / "loki.yaml")["limits_config"]["otlp_config"]
    (resource,) = otlp["resource_attributes"]["attributes_config"]
    assert otlp["resource_attributes"]["ignore_defaults"] is True
    assert resource["attributes"] == [
        *("service.name", "service.namespace", "deployment.environment.name", "k8s.namespace.name")
    ]
    # The Collector sets both, of a few values each, whatever a sender calls so.
    assert otlp["log_attributes"] == [{"action": "index_label", "attributes": ["level", "late"]}]


def test_loki_takes_what_the_collector_cuts() -> None:
    """A line above a limit of Loki's would be lost whole."""
    text = components.COLLECTOR_CONFIG.read_text()
    limits = load(HELM_CONFIG / "loki" / "loki.yaml")["limits_config"]
    (line,) = {int(size) for size in re.findall(r"set\(log\.body, Substring\(log\.body, 0, (\d+), true\)\)", text)}
    assert line < int(limits["max_line_size"].removesuffix("KB")) * 1024
    bytes_of = [int(size) for size in re.findall(r"keep_keys\(attributes, .* > (\d+)\n", text)]
    entries_of = [int(count) for count in re.findall(r"limit\(attributes, (\d+), ", text)]
    assert len(bytes_of) == 3
    assert len(entries_of) == 2
    # Beside attributes of the record, its resource and its scope there are a dozen fields of the record itself.
    assert sum(bytes_of) + 16_384 < int(limits["max_structured_metadata_size"].removesuffix("KB")) * 1024
    assert sum(entries_of) + 16 + 16 < limits["max_structured_metadata_entries_count"]
    assert limits["reject_old_samples_max_age"] == "168h"
    assert "Now()) - 518400000000000" in text, "six days, which leaves one for an outage"


def test_collector_keeps_only_attributes_of_the_contract() -> None:
    text = components.COLLECTOR_CONFIG.read_text()
    (kept,) = re.findall(r'keep_matching_keys\(log\.cache, "\^\((.*)\)\$"\)', text)
    events = (*signals.LOG_EVENTS, CONTRACT.prediction_event)
    names = {attribute.name for event in events for attribute in event.attributes} | {"event.name"}
    pattern = re.compile(kept)
    searchable = {name for name in names if pattern.fullmatch(name)}
    assert searchable == {
        *("event.name", "error.type", "ml.prediction.id", "ml.request.id", "ml.request.synthetic"),
        *("ml.model.name", "ml.model.version", "ml.deployment.track"),
    }


def test_collector_is_built_of_exactly_what_its_configuration_uses() -> None:
    configurations = [load(components.COLLECTOR_CONFIG), load(CLUSTER_CONFIG)]
    manifest = load(SERVERS_DIR / "collector" / "builder.yaml")
    kinds = {
        "receivers": "receiver",
        "processors": "processor",
        "exporters": "exporter",
        "extensions": "extension",
        "connectors": "connector",
    }
    # Where the module is not called like the type: typeprefix without underscores, plus the kind.
    modules = {"otlp_grpc": "otlpexporter", "otlp_http": "otlphttpexporter", "file_storage": "filestorage"}
    for section, kind in kinds.items():
        types = {name.split("/")[0] for each in configurations for name in each.get(section, {})}
        used = {modules.get(name, name.replace("_", "") + kind) for name in types}
        built = {entry["gomod"].split(" ")[0].rsplit("/", 1)[-1] for entry in manifest.get(section, [])}
        assert built == used, section


def test_every_pipeline_limits_memory_first_and_every_exporter_queues_on_disk() -> None:
    configuration = load(components.COLLECTOR_CONFIG)
    pipelines = configuration["service"]["pipelines"] | load(CLUSTER_CONFIG)["service"]["pipelines"]
    for name, pipeline in pipelines.items():
        if pipeline["receivers"] != ["forward/accepted"]:
            assert pipeline["processors"][0] == "memory_limiter", name
    for name, exporter in configuration["exporters"].items():
        assert exporter["sending_queue"]["storage"] == "file_storage/queue", name
        assert exporter["retry_on_failure"]["max_elapsed_time"] == "0s", name


def test_what_others_send_is_marked_counted_and_left_out_before_it_reaches_a_server() -> None:
    pipelines = load(components.COLLECTOR_CONFIG)["service"]["pipelines"]
    foreign = {name: each for name, each in pipelines.items() if {"otlp", "loki"} & set(each["receivers"])}
    assert {name.split("/")[0] for name in foreign} == {"traces", "metrics", "logs"}
    for name, pipeline in foreign.items():
        assert pipeline["exporters"] == ["forward/accepted", "count"], name
        assert pipeline["processors"][-1] == "transform/refusals", name
        accepted = pipelines[f"{name.split('/')[0]}/accepted"]
        assert accepted["receivers"] == ["forward/accepted"]
        assert accepted["processors"][0] == "filter/refused"


MEBIBYTE = 2**20


def test_what_comes_in_can_always_go_out() -> None:
    """An item above max_size would be dropped with its batch, and a batch above a server's limit at every try."""
    collector = load(components.COLLECTOR_CONFIG)
    otlp = collector["receivers"]["otlp"]["protocols"]
    doors = (
        otlp["grpc"]["max_recv_msg_size_mib"] * MEBIBYTE,
        otlp["http"]["max_request_body_size"],
        collector["receivers"]["loki"]["protocols"]["http"]["max_request_body_size"],
    )
    queues = {name: exporter["sending_queue"] for name, exporter in collector["exporters"].items()}
    # Prometheus has no limit, and refuses a request as a whole: nobody's points are put together with another's.
    assert "batch" not in queues.pop("otlp_http/prometheus")
    batches = {queue["batch"]["max_size"] for queue in queues.values()}
    # What processors add to an item, a name and a mark or two, is far below a mebibyte.
    assert max(doors) + MEBIBYTE < min(batches)
    tempo = load(HELM_CONFIG / "tempo" / "tempo.yaml")
    assert max(batches) < tempo["server"]["grpc_server_max_recv_msg_size"]
    grpc = tempo["distributor"]["receivers"]["otlp"]["protocols"]["grpc"]
    assert max(batches) < grpc["max_recv_msg_size_mib"] * MEBIBYTE
    assert max(batches) < tempo["overrides"]["defaults"]["ingestion"]["burst_size_bytes"]
    loki = load(HELM_CONFIG / "loki" / "loki.yaml")["limits_config"]
    assert max(batches) < loki["ingestion_burst_size_mb"] * MEBIBYTE
    assert max(batches) < int(loki["per_stream_rate_limit_burst"].removesuffix("MB")) * MEBIBYTE


def test_promtail_tails_services_only(planned: dict[str, Component]) -> None:
    glob = Path(planned["promtail"].environment["PROMTAIL_LOG_GLOB"])
    tailed = {name for name, component in planned.items() if component.tailed}
    assert tailed == {*(service.name for service in settings.SERVICES), settings.CANARY}
    assert glob.parent == planned[settings.SERVICE].log.parent / TAILED
    assert not [name for name, component in planned.items() if component.log.match(str(glob))]
