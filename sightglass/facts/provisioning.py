"""Grafana's provisioned data sources, read from their file as Grafana reads it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sightglass.facts.errors import UserError
from sightglass.facts.settings import REPOSITORY
from sightglass.facts.variables import fill

DATA_SOURCES = REPOSITORY / "helm-config" / "grafana" / "provisioning" / "datasources" / "datasources.yaml"
DASHBOARDS = REPOSITORY / "dashboards" / "json"


@dataclass(frozen=True)
class DataSource:
    """One data source; ``options`` is what Grafana calls ``jsonData``."""

    uid: str
    type: str
    url: str
    options: Mapping[str, Any] = field(default_factory=dict)


def expand(text: str, environment: Mapping[str, str]) -> str:
    """Fill in ``$NAME`` and ``${NAME}``; what is not set becomes empty, and ``$$`` is a literal dollar sign."""

    return "$".join(fill(part, lambda name: environment.get(name, "")) for part in text.split("$$"))


def read_data_sources(file: Path, environment: Mapping[str, str]) -> dict[str, DataSource]:
    """The data sources of a provisioning file by uid; :class:`UserError` when it is none."""
    try:
        content = yaml.safe_load(file.read_text())
        found = [_expanded(entry, environment) for entry in content["datasources"]]
        sources = [DataSource(d["uid"], d["type"], d["url"], d.get("jsonData") or {}) for d in found]
    except OSError as error:
        raise UserError(f"The data sources cannot be read: {error}.") from None
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{file} is no provisioning file of data sources with uid, type and url: {error}.") from None
    return {source.uid: source for source in sources}


def _expanded(value: Any, environment: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return expand(value, environment)
    if isinstance(value, list):
        return [_expanded(item, environment) for item in value]
    if isinstance(value, dict):
        return {key: _expanded(item, environment) for key, item in value.items()}
    return value
