"""Addresses under which one request of a load test can be opened as a trace."""

import json
from dataclasses import dataclass
from urllib.parse import urlencode

_DATA_SOURCE = "tempo"
_AROUND_SECONDS = 300


@dataclass(frozen=True)
class TraceLinks:
    """Makes the addresses; an empty ``grafana_url`` means that there is no Grafana."""

    tempo_url: str
    grafana_url: str

    def tempo(self, trace_id: str) -> str:
        """The trace as Tempo's API has it."""
        return f"{self.tempo_url}/api/v2/traces/{trace_id}"

    def grafana(self, trace_id: str, started: float) -> str:
        """The trace in Grafana's Explore, with the minutes around ``started`` (seconds since the epoch), or nothing."""
        if not self.grafana_url:
            return ""
        source = {"type": _DATA_SOURCE, "uid": _DATA_SOURCE}
        pane = {
            "datasource": source["uid"],
            "queries": [{"refId": "A", "datasource": source, "queryType": "traceql", "query": trace_id}],
            "range": {name: str(round((started + offset) * 1000)) for name, offset in _RANGE.items()},
        }
        query = {"schemaVersion": 1, "orgId": 1, "panes": json.dumps({"load": pane}, separators=(",", ":"))}
        return f"{self.grafana_url}/explore?{urlencode(query)}"


_RANGE = {"from": -_AROUND_SECONDS, "to": _AROUND_SECONDS}
