"""Every query that Grafana sends for a dashboard, read from its JSON: panels, exemplars, annotations, variables."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dashboards.names import Source
from sightglass.facts.durations import seconds

_LABEL_VALUES = re.compile(r"label_values\((?P<series>.+), (?P<label>\w+)\)")


class Kind(StrEnum):
    """Which of a server's APIs a query goes to."""

    RANGE = "range"
    INSTANT = "instant"
    EXEMPLARS = "exemplars"
    VALUES = "values"
    LOGS = "logs"
    SEARCH = "search"


@dataclass(frozen=True)
class Question:
    """One query as it stands in the JSON, its variables not filled yet.

    ``panel`` is the panel's title, or "annotation: ..." or "variable: ..."; ``letter`` tells its queries apart.
    ``minimum_step`` is seconds, ``limit`` rows.
    """

    dashboard: str
    panel: str
    letter: str
    source: Source
    kind: Kind
    text: str
    label: str = ""
    minimum_step: float = 0.0
    limit: int = 0

    @property
    def name(self) -> str:
        """How a report names it."""
        exemplars = ", exemplars" if self.kind is Kind.EXEMPLARS else ""
        return f"{self.dashboard} / {self.panel} ({self.letter}{exemplars})"


def of(dashboard: Mapping[str, Any]) -> Iterator[Question]:
    """All questions of a dashboard's JSON, in the order in which they stand there."""
    uid = dashboard["uid"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield _variable(uid, variable)
    for annotation in dashboard["annotations"]["list"]:
        name = f"annotation: {annotation['name']}"
        yield Question(uid, name, "A", Source(annotation["datasource"]["uid"]), Kind.RANGE, annotation["expr"])
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield from _target(uid, panel, target)


def _variable(uid: str, variable: Mapping[str, Any]) -> Question:
    parsed = _LABEL_VALUES.fullmatch(variable["query"])
    if parsed is None:
        raise ValueError(f"{uid}: the query of variable {variable['name']} is not label_values(series, label)")
    source = Source(variable["datasource"]["uid"])
    name = f"variable: {variable['name']}"
    return Question(uid, name, "A", source, Kind.VALUES, parsed["series"], label=parsed["label"])


def _target(uid: str, panel: Mapping[str, Any], target: Mapping[str, Any]) -> Iterator[Question]:
    source = Source(target["datasource"]["uid"])
    where = (uid, panel["title"], target["refId"], source)
    step = seconds(panel["interval"]) if "interval" in panel else 0.0
    match source:
        case Source.TEMPO:
            yield Question(*where, Kind.SEARCH, target["query"], limit=target["limit"])
        case Source.LOKI:
            limit = target.get("maxLines", 0)
            yield Question(*where, Kind.LOGS if limit else Kind.RANGE, target["expr"], minimum_step=step, limit=limit)
        case Source.PROMETHEUS:
            kind = Kind.INSTANT if target.get("instant") else Kind.RANGE
            yield Question(*where, kind, target["expr"], minimum_step=step)
            if target.get("exemplar"):
                yield Question(*where, Kind.EXEMPLARS, target["expr"], minimum_step=step)
