"""Addresses in Grafana that alerts carry: a dashboard, and Explore with a TraceQL query.

Both are annotations, so Prometheus expands them as Go templates: what stands between ``{{`` and ``}}`` is kept as it
is, everything else is encoded for a URL.
"""

import json
import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

GRAFANA_URL: Final = "{{ $externalLabels.grafana_url }}"
RUNBOOKS_URL: Final = "{{ $externalLabels.runbooks_url }}"
TEMPO_UID: Final = "tempo"
TRACES_LIMIT: Final = 20
"""Most traces that Explore lists."""
DASHBOARDS: Final = (
    "sightglass-service",
    "sightglass-model",
    "sightglass-pipeline",
    "sightglass-slo",
    "sightglass-load-test",
    "sightglass-kubernetes",
)
"""Every dashboard's uid."""

_TEMPLATE = re.compile(r"(\{\{.*?\}\})")


def dashboard_url(uid: str, variables: Mapping[str, str]) -> str:
    """Template of a dashboard's address; ``variables`` are its template variables without ``var-``.

    Raises :class:`ValueError` for a uid that no dashboard has.
    """
    if uid not in DASHBOARDS:
        raise ValueError(f"there is no dashboard {uid}; there are {', '.join(DASHBOARDS)}")
    query = "&".join(f"var-{name}={_encode(value)}" for name, value in variables.items())
    return f"{GRAFANA_URL}/d/{uid}" + (f"?{query}" if query else "")


def traces_url(traceql: str) -> str:
    """Template of the address of Grafana's Explore that runs ``traceql`` over the last hour."""
    query = {
        "refId": "A",
        "datasource": {"type": "tempo", "uid": TEMPO_UID},
        "queryType": "traceql",
        "query": traceql,
        "limit": TRACES_LIMIT,
        "tableType": "traces",
    }
    pane = {"datasource": TEMPO_UID, "queries": [query], "range": {"from": "now-1h", "to": "now"}}
    panes = json.dumps({"traces": pane}, separators=(",", ":"))
    return f"{GRAFANA_URL}/explore?schemaVersion=1&orgId=1&panes={_encode(panes)}"


def runbook_url(alert: str) -> str:
    """Template of the address of an alert's runbook page."""
    return f"{RUNBOOKS_URL}/{alert}.md"


def _encode(text: str) -> str:
    """Encode for a URL, except what Prometheus expands; the values it puts in are plain names of services."""
    return "".join(part if _TEMPLATE.fullmatch(part) else quote(part, safe="") for part in _TEMPLATE.split(text))
