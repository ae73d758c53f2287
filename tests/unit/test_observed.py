"""Prometheus is told which services there must be: those of the table, without what was left out."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sightglass.alerting import observed
from sightglass.facts import credentials, settings
from sightglass.kubernetes import manifests
from sightglass.local import components
from sightglass.local.up import PLANNED_PROGRAMS

FIRST, *OTHERS = (service.name for service in settings.SERVICES)


def named(text: str) -> list[str]:
    (group,) = yaml.safe_load(text)["groups"]
    return [rule["labels"]["service_name"] for rule in group["rules"] if rule["record"] == observed.OBSERVED]


def written() -> list[str]:
    planned = components.build(settings.load(), credentials.Credentials(), PLANNED_PROGRAMS, None)
    (prometheus,) = (component for component in planned if component.name == "prometheus")
    assert observed.FILE not in {file.name for file in prometheus.files}
    (text,) = (text for file, text in prometheus.written.items() if file.name == observed.FILE)
    return named(text)


@pytest.mark.parametrize("pace", ["1", "10"])
def test_a_stack_expects_the_services_of_its_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pace: str) -> None:
    monkeypatch.setenv("SIGHTGLASS_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("SIGHTGLASS_ALERT_PACE", pace)
    assert written() == [FIRST, *OTHERS]
    monkeypatch.setenv("WITHOUT", FIRST)
    assert written() == OTHERS
    table = tmp_path / "mine.yaml"
    table.write_text("mine: {kind: asgi, application: 'a:b', declaration: 'a:c', port: 8123}")
    monkeypatch.setenv("SIGHTGLASS_SERVICES", str(table))
    assert written() == [*OTHERS, "mine"]


def test_a_cluster_expects_what_is_deployed() -> None:
    data = {observed.FILE: observed.text([FIRST]), "other.rules.yaml": "groups: []"}
    config: dict[str, Any] = {"kind": "ConfigMap", "metadata": {"name": "prometheus-config"}, "data": data}
    foreign: dict[str, Any] = {"kind": "ConfigMap", "metadata": {"name": "loki-config"}, "data": {}}
    manifests.with_observed([config, foreign], [*OTHERS, "mine"])
    assert named(config["data"][observed.FILE]) == [*OTHERS, "mine"]
    assert (config["data"]["other.rules.yaml"], foreign["data"]) == ("groups: []", {})
