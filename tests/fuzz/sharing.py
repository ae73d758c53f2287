"""Well-behaved senders beside a hostile one, and the search for what was lost of theirs."""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from sightglass.clients import backends, polling
from sightglass.clients.polling import DeadlineError, NotYet
from sightglass.facts.target import Target
from sightglass.measure import bad_telemetry

LINES: Final = "lines"
"""Loki's own form, at the port for Promtail."""
FIELDS: Final = {
    "traces": ("resourceSpans", "scopeSpans", "spans"),
    "logs": ("resourceLogs", "scopeLogs", "logRecords"),
    "metrics": ("resourceMetrics", "scopeMetrics", "metrics"),
}
EVERY: Final = 4
"""Of so many hostile requests one has an item of a good sender too, and another is followed by a request of its own."""
SPANS: Final = 100
"""Hostile requests whose good spans are of one trace."""


@dataclass(frozen=True)
class Item:
    """One item of a good sender."""

    signal: str
    number: int
    place: str

    @property
    def name(self) -> str:
        """What it is found by."""
        return f"{self.place}-{self.number}"


@dataclass(frozen=True)
class Sharing:
    """Makes items in the requests of a hostile sender, and such in requests of their own."""

    word: str

    @property
    def service(self) -> str:
        """The name of the good sender."""
        return f"good-{self.word}"

    def shared(self, signal: str, number: int) -> Item | None:
        """Return the item that shares the hostile request of that number, if one does."""
        return Item(signal, number, "shared") if number % EVERY == 0 else None

    def beside(self, signal: str, number: int) -> Item | None:
        """Return the item that is sent after it, if one is."""
        return Item(signal, number, "beside") if number % EVERY == EVERY // 2 else None

    def group(self, item: Item) -> dict[str, Any]:
        """Return what a request has of an item: a resource, or a stream."""
        now = time.time_ns()
        if item.signal == LINES:
            return {"stream": {"service_name": self.service}, "values": [[str(now), item.name]]}
        _, scope, inner = FIELDS[item.signal]
        match item.signal:
            case "traces":
                made = bad_telemetry.span(self._trace_id(item), secrets.token_hex(8), now, item.name)
            case "logs":
                made = bad_telemetry.record(item.name, now)
            case _:
                made = bad_telemetry.gauge("fuzz.good", 1, now, {"item": item.name})
        resource = {"attributes": bad_telemetry.attributes({"service.name": self.service})}
        return {"resource": resource, scope: [{inner: [made]}]}

    def request(self, item: Item) -> bytes:
        """Return a request with nothing else."""
        outer = "streams" if item.signal == LINES else FIELDS[item.signal][0]
        return json.dumps({outer: [self.group(item)]}).encode()

    def _trace_id(self, item: Item) -> str:
        return hashlib.sha256(f"{self.word} {item.number // SPANS}".encode()).hexdigest()[:32]

    def missing(self, where: Target, items: Iterable[Item], since: float, timeout: float) -> list[str]:
        """Return what is not found of the items; wait until nothing is missing, or the time is over."""
        wanted = {(item.signal, item.name) for item in items}
        traces = {self._trace_id(item) for item in items if item.signal == "traces"}
        lost = wanted

        def all_there() -> None:
            nonlocal lost
            lost = wanted - self._found(where, traces, since)
            if lost:
                raise NotYet(f"{len(lost)} items are missing")

        try:
            polling.until(all_there, timeout=timeout, interval=1.0, what="the items of good senders")
        except DeadlineError:
            return sorted(f"{signal} {name}" for signal, name in lost)
        return []

    def _found(self, where: Target, traces: Iterable[str], since: float) -> set[tuple[str, str]]:
        loki, tempo = backends.Loki(where.loki_url), backends.Tempo(where.tempo_url)
        prometheus = backends.Prometheus(where.prometheus_url)
        start, end = int(since * bad_telemetry.SECOND), time.time_ns() + bad_telemetry.SECOND
        found: set[tuple[str, str]] = set()
        for place in ("shared", "beside"):
            for line in loki.lines(
                f'{{service_name="{self.service}"}} |= "{place}-"', start=start, end=end, limit=5_000
            ):
                # A line and a record look the same here: their numbers tell them apart.
                found |= {("logs", line.line), (LINES, line.line)}
        age = int(time.time() - since) + 60
        for sample in prometheus.query(f'last_over_time(fuzz_good{{service_name="{self.service}"}}[{age}s])'):
            found.add(("metrics", sample.labels["item"]))
        for trace_id in traces:
            found |= {("traces", span.name) for span in tempo.trace(trace_id)}
        return found
