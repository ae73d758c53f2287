"""Fills the variables of a query as Grafana does, from a dashboard's own defaults."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from dashboards.sent_queries import Question
from sightglass.facts import variables
from sightglass.facts.durations import seconds

_POINTS = 1000
"""Points that a wide panel asks for."""
SCRAPE_SECONDS = 15.0
"""What Grafana takes for the interval between two samples unless its data source says otherwise."""
_ALL = "$__all"


@dataclass(frozen=True)
class Filling:
    """Values of variables and a time range in seconds since the epoch."""

    start: float
    end: float
    values: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def defaults(cls, dashboard: Mapping[str, Any], now: float | None = None) -> Self:
        """What a person sees who opens the dashboard: its own time range, the first choice of every variable."""
        end = time.time() if now is None else now
        text = dashboard["time"]["from"]
        span = seconds(text.removeprefix("now-"))
        values = {v["name"]: _current(v, span) for v in dashboard["templating"]["list"]}
        return cls(end - span, end, values)

    def choose(self, **values: str) -> Self:
        """The same with other values; each variable must be there already."""
        known = {name: value for name, value in values.items() if name in self.values}
        return replace(self, values={**self.values, **known})

    def step(self, minimum: float = 0.0) -> float:
        """Seconds between two points of a graph."""
        return float(max(round((self.end - self.start) / _POINTS), minimum, SCRAPE_SECONDS))

    def fill(self, question: Question) -> str:
        """The query as it is sent; a variable that nobody sets raises :class:`ValueError`."""
        step = self.step(question.minimum_step)
        built_in = {
            "__interval": f"{step:.0f}s",
            "__rate_interval": f"{max(step + SCRAPE_SECONDS, 4 * SCRAPE_SECONDS):.0f}s",
            "__range": f"{self.end - self.start:.0f}s",
        }

        def value(name: str) -> str:
            for values in (self.values, built_in):
                if name in values:
                    return values[name]
            raise ValueError(f"{question.name}: nobody sets the variable {name}")

        return variables.fill(question.text, value)


def _current(variable: Mapping[str, Any], span: float) -> str:
    if "current" not in variable:
        raise ValueError(f"variable {variable['name']} has no first choice")
    value = variable["current"]["value"]
    if variable["type"] == "interval" and value.startswith("$__auto"):
        return f"{max(span / variable['auto_count'], seconds(variable['auto_min'])):.0f}s"
    chosen = [value] if isinstance(value, str) else list(value)
    if chosen == [_ALL]:
        return str(variable["allValue"])
    return chosen[0] if len(chosen) == 1 else f"({'|'.join(chosen)})"
