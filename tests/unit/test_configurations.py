"""Every native configuration is accepted by its own server's checker, and agrees with the signal contract."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from ml_telemetry import signals
from sightglass import build, components, credentials, settings
from sightglass.components import Component
from sightglass.grafana import GrafanaHome
from sightglass.servers import SERVERS_DIR
from sightglass.settings import PORTS, REPOSITORY

HELM_CONFIG = REPOSITORY / "helm-config"
Checker = Callable[[Path], list[str]]


@pytest.fixture(scope="module")
def programs() -> dict[str, Path]:
    loaded = settings.load()
    return build.ensure_binaries(bin_dir=loaded.bin_dir, cache_dir=loaded.cache_dir, console=Console(stderr=True))


@pytest.fixture
def planned(programs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Component]:
    """The stack's components by name, in a folder of the test's own."""
    monkeypatch.setenv("SIGHTGLASS_STATE_DIR", str(tmp_path))
    home = GrafanaHome(tmp_path, ("grafana",))
    loaded = settings.load()
    return {c.name: c for c in components.build(loaded, credentials.Credentials(), programs, home)}


def check(component: Component, command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **component.environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


CHECKERS: dict[str, tuple[Path, Callable[[dict[str, Path]], Checker], str]] = {
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
        lambda p: lambda f: [str(p["otelcol"]), "validate", f"--config={f}"],
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
    name: str, planned: dict[str, Component], programs: dict[str, Path]
) -> None:
    file, checker, _ = CHECKERS[name]
    done = check(planned[name], checker(programs)(file))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", CHECKERS)
def test_checker_refuses_a_broken_configuration(
    name: str, planned: dict[str, Component], programs: dict[str, Path], tmp_path: Path
) -> None:
    file, checker, reason = CHECKERS[name]
    broken = tmp_path / file.name
    broken.write_text(file.read_text() + "\nno_such_field: 1\n")
    done = check(planned[name], checker(programs)(broken))
    assert done.returncode != 0
    assert reason in done.stdout + done.stderr


def test_rules_pass_promtool(programs: dict[str, Path], tmp_path: Path) -> None:
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


@pytest.mark.parametrize("name", ["loki", "tempo", "promtail", "collector"])
def test_environment_gives_exactly_what_the_file_asks_for(name: str, planned: dict[str, Component]) -> None:
    file = CHECKERS[name][0]
    extra = {"GOMEMLIMIT", "ADVERTISE_ADDRESS"}  # the first is for Go, the second not asked for by Promtail
    assert variables(file.read_text()) <= set(planned[name].environment)
    assert set(planned[name].environment) - variables(file.read_text()) <= extra


def test_no_native_file_holds_an_address_or_a_port() -> None:
    files = [file for file, _, _ in CHECKERS.values()] + sorted(HELM_CONFIG.rglob("datasources.yaml"))
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
    assert otlp["log_attributes"] == [{"action": "index_label", "attributes": ["level"]}]


def test_collector_keeps_only_attributes_of_the_contract() -> None:
    text = components.COLLECTOR_CONFIG.read_text()
    (kept,) = re.findall(r'keep_matching_keys\(log\.attributes, "\^\((.*)\)\$"\)', text)
    names = {attribute.name for attribute in signals.attributes()} | {"event.name"}
    pattern = re.compile(kept.replace("service_name|", ""))
    searchable = {name for name in names if pattern.fullmatch(name)}
    assert searchable == {
        *("event.name", "error.type", "ml.prediction.id", "ml.request.id"),
        *("ml.model.name", "ml.model.version", "ml.deployment.track"),
    }


def test_collector_is_built_of_exactly_what_its_configuration_uses() -> None:
    configuration = load(components.COLLECTOR_CONFIG)
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
        types = {name.split("/")[0] for name in configuration.get(section, {})}
        used = {modules.get(name, name.replace("_", "") + kind) for name in types}
        built = {entry["gomod"].split(" ")[0].rsplit("/", 1)[-1] for entry in manifest.get(section, [])}
        assert built == used, section


def test_every_pipeline_limits_memory_first_and_every_exporter_queues_on_disk() -> None:
    configuration = load(components.COLLECTOR_CONFIG)
    for name, pipeline in configuration["service"]["pipelines"].items():
        assert pipeline["processors"][0] == "memory_limiter", name
    for name, exporter in configuration["exporters"].items():
        assert exporter["sending_queue"]["storage"] == "file_storage/queue", name
        assert exporter["retry_on_failure"]["max_elapsed_time"] == "0s", name


def test_promtail_tails_services_only(planned: dict[str, Component]) -> None:
    glob = Path(planned["promtail"].environment["PROMTAIL_LOG_GLOB"])
    tailed = {name for name, component in planned.items() if component.log.match(str(glob))}
    assert tailed == {settings.SERVICE, settings.CANARY}
