"""Alerting at a faster pace, for tests: every waiting time of the native files divided by one number.

So are the ranges that rules look back over: an alert clears when they hold nothing of the fault any more. They are not
brought below :data:`SHORTEST_RANGE`, or they would hold too few samples. ``repeat_interval`` stays as it is: it says
when people are told again.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from sightglass.alerting import promql
from sightglass.facts.durations import seconds

SHORTEST = 1.0
"""Seconds that no waiting time is brought below."""
SHORTEST_RANGE = 20.0
"""Seconds that no range is brought below: pushed counters come every five seconds."""
_RANGE = re.compile(r"(\[|(?<=[smhd]):|offset )(\d+[smhd])\b")
_SCRAPE = ("scrape_interval", "scrape_timeout")
_GLOBAL = (*_SCRAPE, "evaluation_interval")
_RULE = ("for", "keep_firing_for")
_ROUTE = ("group_wait", "group_interval")


def faster(waiting: float, pace: float, shortest: float = SHORTEST) -> float:
    """Seconds to wait at that pace; what is below ``shortest`` already stays."""
    return min(waiting, max(shortest, waiting / pace))


def paced(text: str, pace: float) -> str:
    """Return a native file of Prometheus, of its rules or of Alertmanager with its waiting times divided.

    At pace 1 it is the text itself; at any other the YAML is written anew, without its comments.
    """
    if pace == 1:
        return text
    content = yaml.safe_load(text)
    for holder, names in _waiting(content):
        for name in names:
            if name in holder:
                holder[name] = _milliseconds(faster(seconds(str(holder[name])), pace))
        if "expr" in holder:
            holder["expr"] = _RANGE.sub(lambda match: match[1] + _shorter(match[2], pace), holder["expr"])
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000)


def _shorter(range_: str, pace: float) -> str:
    if range_ == promql.START_WINDOW:
        return range_
    return _milliseconds(faster(seconds(range_), pace, SHORTEST_RANGE))


def _milliseconds(number: float) -> str:
    return f"{round(number * 1000)}ms"


def _waiting(content: dict[str, Any]) -> Iterator[tuple[dict[str, Any], tuple[str, ...]]]:
    """Yield every mapping that holds waiting times, with the names that they may have there."""
    yield content.get("global") or {}, _GLOBAL
    for job in content.get("scrape_configs", []):
        yield job, _SCRAPE
    for group in content.get("groups", []):
        yield group, ("interval",)
        for rule in group["rules"]:
            yield rule, _RULE
    routes = [content["route"]] if "route" in content else []
    while routes:
        route = routes.pop()
        yield route, _ROUTE
        routes += route.get("routes", [])
