"""Alert and recording rules as typed data, and the text of the rules files that they become."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from sightglass.alerting import links

Severity = Literal["page", "ticket", "none"]
"""Wakes somebody, waits for working hours, or is for machines."""


def percent(share: float) -> str:
    """A share as people write it: 0.01 is ``1 %``."""
    return f"{share * 100:g} %"


@dataclass(frozen=True)
class Recording:
    """A recording rule."""

    name: str
    expr: str
    labels: Mapping[str, str] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The rule as Prometheus reads it."""
        rule: dict[str, Any] = {"record": self.name, "expr": _Text(self.expr)}
        return rule | ({"labels": dict(self.labels)} if self.labels else {})


@dataclass(frozen=True)
class Alert:
    """An alert rule; ``summary``, ``description`` and ``traces`` may hold Prometheus' templates."""

    name: str
    expr: str
    severity: Severity
    when: str
    """When it fires, for the table in ``docs/alerts.md``."""
    summary: str
    description: str
    dashboard: str
    """Uid of the dashboard to look at."""
    traces: str
    """TraceQL for the traces behind the alert."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Variables of that dashboard."""
    hold: str = "0s"
    """How long the expression must hold: Prometheus' ``for``."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """More static labels, which tell rules of the same name apart."""

    @property
    def annotations(self) -> dict[str, str]:
        """Annotations before Prometheus expands them."""
        return {
            "summary": self.summary,
            "description": self.description,
            "runbook_url": links.runbook_url(self.name),
            "dashboard_url": links.dashboard_url(self.dashboard, self.variables),
            "traces_query": self.traces,
            "traces_url": links.traces_url(self.traces),
        }

    def document(self) -> dict[str, Any]:
        """The rule as Prometheus reads it."""
        rule: dict[str, Any] = {"alert": self.name, "expr": _Text(self.expr)}
        if self.hold != "0s":
            rule["for"] = self.hold
        return rule | {"labels": {"severity": self.severity, **self.labels}, "annotations": self.annotations}


@dataclass(frozen=True)
class Group:
    """Rules that are evaluated together, in order; without an interval as often as Prometheus' default says."""

    name: str
    rules: Sequence[Alert | Recording]
    interval: str | None = None

    @property
    def alerts(self) -> list[Alert]:
        """The alert rules of this group."""
        return [rule for rule in self.rules if isinstance(rule, Alert)]

    def document(self) -> dict[str, Any]:
        """The group as Prometheus reads it."""
        head = {"name": self.name} | ({"interval": self.interval} if self.interval else {})
        return head | {"rules": [rule.document() for rule in self.rules]}


def render(groups: Sequence[Group], source: str) -> str:
    """The text of a rules file; ``source`` names what it is made from and how."""
    body = yaml.dump(
        {"groups": [group.document() for group in groups]}, Dumper=_Dumper, sort_keys=False, width=1_000_000
    )
    return f"# Made from {source}: change that, not this.\n{body}"


class _Text(str):
    """A PromQL expression, written as a block where it has several lines."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        """Indent lists, as the other files of this repository do."""
        super().increase_indent(flow, False)


def _represent(dumper: yaml.SafeDumper, text: _Text) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(text), style="|" if "\n" in text else None)


_Dumper.add_representer(_Text, _represent)
