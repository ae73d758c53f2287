"""Where link rows find data sources and dashboards: in the provisioned files, or in the Grafana that read them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from sightglass.clients.backends import Auth, Loki, Prometheus, Tempo, get
from sightglass.clients.polling import NotYet
from sightglass.facts.provisioning import DataSource, read_data_sources
from sightglass.facts.target import Target


class Sources(Protocol):
    """Data sources and dashboards by uid; :class:`NotYet` when there is none of that uid."""

    @property
    def auth(self) -> Auth | None:
        """Name and password for the data sources' addresses."""

    def get(self, uid: str) -> DataSource:
        """The data source of that uid."""

    def dashboard(self, uid: str) -> Mapping[str, Any]:
        """The dashboard of that uid."""


@dataclass(frozen=True)
class ProvisionedSources:
    """The files that Grafana reads at its start, whether it runs or not."""

    data_sources: Path
    dashboards: Path
    environment: Mapping[str, str]
    auth: None = None

    @cached_property
    def _sources(self) -> Mapping[str, DataSource]:
        return read_data_sources(self.data_sources, self.environment)

    def get(self, uid: str) -> DataSource:
        """The data source of that uid."""
        if uid not in self._sources:
            raise NotYet(f"the link opens data source {uid!r}; there are {', '.join(self._sources)}")
        return self._sources[uid]

    def dashboard(self, uid: str) -> Mapping[str, Any]:
        """The dashboard of that uid."""
        for file in sorted(self.dashboards.glob("*.json")):
            found: Mapping[str, Any] = json.loads(file.read_text())
            if found.get("uid") == uid:
                return found
        raise NotYet(f"the link opens dashboard {uid!r}, which is not in {self.dashboards}")


@dataclass(frozen=True)
class GrafanaSources:
    """A running Grafana: its own API says what it has, and queries go through it."""

    url: str
    auth: Auth = field(repr=False)

    def get(self, uid: str) -> DataSource:
        """The data source of that uid."""
        answer = get("grafana", f"{self.url}/api/datasources/uid/{uid}", auth=self.auth).json()
        proxy = f"{self.url}/api/datasources/proxy/uid/{uid}"
        return DataSource(answer["uid"], answer["type"], proxy, answer.get("jsonData") or {})

    def dashboard(self, uid: str) -> Mapping[str, Any]:
        """The dashboard of that uid."""
        answer = get("grafana", f"{self.url}/api/dashboards/uid/{uid}", auth=self.auth).json()
        found: Mapping[str, Any] = answer["dashboard"]
        return found


def provisioned(target: Target, data_sources: Path, dashboards: Path) -> ProvisionedSources:
    """The provisioned files with the target's addresses filled in."""
    environment = {
        "PROMETHEUS_URL": target.prometheus_url,
        "LOKI_URL": target.loki_url,
        "TEMPO_URL": target.tempo_url,
        "ALERTMANAGER_URL": target.alertmanager_url,
    }
    return ProvisionedSources(data_sources, dashboards, environment)


def tempo(sources: Sources, uid: str) -> Tempo:
    """The Tempo behind a link."""
    return Tempo(_of_type(sources, uid, "tempo").url, sources.auth)


def loki(sources: Sources, uid: str) -> Loki:
    """The Loki behind a link."""
    return Loki(_of_type(sources, uid, "loki").url, sources.auth)


def prometheus(sources: Sources, uid: str) -> Prometheus:
    """The Prometheus behind a link."""
    return Prometheus(_of_type(sources, uid, "prometheus").url, sources.auth)


def _of_type(sources: Sources, uid: str, kind: str) -> DataSource:
    found = sources.get(uid)
    if found.type != kind:
        raise NotYet(f"data source {uid!r} is of type {found.type}, not {kind}")
    return found
