"""Hostile OTLP requests and log lines by number: shapes that the JSON form allows, and some that it forbids."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any, Final

from tests.fuzz.sharing import FIELDS, LINES, Item, Sharing

SECOND: Final = 1_000_000_000
PATHS: Final = {"traces": "/v1/traces", "logs": "/v1/logs", "metrics": "/v1/metrics"}


@dataclass(frozen=True)
class Sent:
    """One request to the Collector: the signal, or ``lines`` for the port that takes Loki's own form."""

    signal: str
    body: bytes
    good: Item | None = None
    """What it has of somebody else."""


class Senders:
    """Makes the request of a number; ``secret`` is a text that the Collector masks wherever it stands."""

    def __init__(self, seed: int, service: str, secret: str, sharing: Sharing) -> None:
        self._seed = seed
        self._service = service
        self._secret = secret
        self._sharing = sharing

    def request(self, number: int) -> Sent:
        """Return the request of that number; its times are of now."""
        random = Random(f"{self._seed}:{number}")
        shape = _Shape(random, self._secret, number)
        signal = random.choice((*PATHS, LINES))
        if signal == LINES:
            values = [[str(shape.moment()), shape.line()] for _ in range(random.randrange(1, 4))]
            outer = "streams"
            group: dict[str, Any] = {"stream": {"service_name": self._service}, "values": values}
        else:
            outer, inner, items = FIELDS[signal]
            make = {"traces": shape.span, "logs": shape.record, "metrics": shape.metric}[signal]
            resource = {"attributes": [_pair("service.name", {"stringValue": self._service}), *shape.attributes()]}
            scope = {"scope": shape.scope(), items: [make() for _ in range(random.randrange(4))]}
            group = {"resource": resource, inner: [scope | {"schemaUrl": shape.text()}], "schemaUrl": shape.text()}
        good = self._sharing.shared(signal, number)
        body = {outer: [group, *([self._sharing.group(good)] if good else [])]}
        encoded = json.dumps(body, ensure_ascii=random.random() < 0.5).encode(errors="surrogatepass")
        if random.random() < 0.1:
            return Sent(signal, encoded[: random.randrange(len(encoded))])
        return Sent(signal, encoded, good)


class _Shape:
    """Parts of a request, each of which may be missing, empty, wrong or far too much."""

    def __init__(self, random: Random, secret: str, number: int) -> None:
        self._random = random
        self._secret = secret
        self._number = number
        self._points = count()

    def _one(self, *values: Any) -> Any:
        return self._random.choice(values)

    def _some(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Leave out a field now and then."""
        return {name: value for name, value in fields.items() if self._random.random() < 0.9}

    def text(self) -> str:
        return str(
            self._one(
                "", "a", f"mail {self._secret}", f"{self._secret}", "\x00", "x\ny", '{"a": 1}', "\u202e", "ä" * 300
            )
        )

    def moment(self) -> int:
        """Return a time: mostly now, else long ago, far ahead, zero, or beyond all years."""
        now = time.time_ns()
        other = self._one(
            0, now - 7_200 * SECOND, now + 3_600 * SECOND, now + 10**16, 2**63 - 1, 253_402_300_800 * SECOND
        )
        return int(now if self._random.random() < 0.7 else other)

    def value(self, depth: int = 0) -> Any:
        kinds: list[Any] = [
            {},
            {"stringValue": self.text()},
            {"intValue": str(self._one(0, -(2**63), 2**63 - 1))},
            {"doubleValue": self._one(0.5, "NaN", "-Infinity", 1e308)},
            {"boolValue": True},
            {"bytesValue": "AAECAw=="},
        ]
        if depth < 4:
            kinds.append({"arrayValue": {"values": [self.value(depth + 1) for _ in range(2)]}})
            kinds.append({"kvlistValue": {"values": [_pair(self.text(), self.value(depth + 1))]}})
        return self._random.choice(kinds)

    def attributes(self) -> list[Any]:
        names = ("", "level", "severity", "trace_id", "service.name", "http.request.header.authorization", "k\nv", "ä")
        return [_pair(self._one(*names, self.text()), self.value()) for _ in range(self._random.randrange(4))]

    def scope(self) -> dict[str, Any]:
        return self._some({"name": self.text(), "version": self.text(), "attributes": self.attributes()})

    def ids(self) -> dict[str, Any]:
        trace = self._one("", "0" * 32, self._random.randbytes(16).hex(), self._random.randbytes(16).hex(), "zz")
        span = self._one("", "0" * 16, self._random.randbytes(8).hex(), self._random.randbytes(8).hex(), "12")
        return {"traceId": trace, "spanId": span}

    def span(self) -> dict[str, Any]:
        begin = self.moment()
        return self._some(
            {
                **self.ids(),
                "parentSpanId": self._one("", "0" * 16, self._random.randbytes(8).hex()),
                "traceState": self._one("", "a=b", self.text()),
                "name": self.text(),
                "kind": self._one(0, 1, 2, 3, 99),
                "startTimeUnixNano": str(begin),
                "endTimeUnixNano": str(begin + self._one(0, 1_000, -SECOND)),
                "attributes": self.attributes(),
                "events": [{"name": self.text(), "timeUnixNano": str(self.moment()), "attributes": self.attributes()}],
                # Nothing masks what a link has (docs/decisions/0014-masking-by-one-list.md).
                "links": [{**self.ids(), "attributes": self._without_secret(self.attributes())}],
                "status": {"code": self._one(0, 1, 2, 7), "message": self.text()},
            }
        )

    def _without_secret(self, attributes: list[Any]) -> Any:
        return json.loads(json.dumps(attributes).replace(self._secret, "nobody"))

    def record(self) -> dict[str, Any]:
        return self._some(
            {
                **self.ids(),
                "timeUnixNano": str(self.moment()),
                "observedTimeUnixNano": str(self.moment()),
                "severityNumber": self._one(0, 1, 9, 17, 24, 99),
                "eventName": self.text(),
                "severityText": self._one("", "WARNING", "critical", "nonsense", self.text()),
                "body": self._one(self.value(), {"stringValue": self.line()}),
                "attributes": self.attributes(),
            }
        )

    def line(self) -> str:
        """Return a log line: as a service prints it, changed, or anything."""
        fields = self._some(
            {
                "timestamp": self._one("2026-11-30T00:00:00.000Z", "never", 7, None),
                "severity": self._one("INFO", "WARNING", "critical", "nonsense", self.text(), 7, None),
                "event.name": self._one("test", self.text(), []),
                "message": self._one(self.text(), {"a": self.text()}, [self.text()]),
                "trace_id": self._one(self._random.randbytes(16).hex(), "", "zz", 7),
                self.text(): self.text(),
            }
        )
        whole = json.dumps(fields, ensure_ascii=self._random.random() < 0.5)
        return str(self._one(whole, whole, whole[: len(whole) // 2], self.text(), "", "[1, 2]", "null"))

    def point(self, *, histogram: str = "") -> dict[str, Any]:
        point: dict[str, Any] = {
            "timeUnixNano": str(self.moment()),
            "startTimeUnixNano": str(self.moment()),
            # No two points are of one series: a second value for one time is what nobody can know before.
            "attributes": [
                *self.attributes(),
                _pair("point", {"intValue": str(self._number * 100 + next(self._points))}),
            ],
            "exemplars": [{"timeUnixNano": str(self.moment()), "asDouble": 1, "filteredAttributes": self.attributes()}],
        }
        if histogram == "histogram":
            point |= {
                "count": self._one("2", "0", "7"),
                "sum": self._one(1, "NaN"),
                "explicitBounds": self._one([1], [], [1, 1], ["NaN"]),
            }
            point |= {"bucketCounts": self._one(["1", "1"], [], ["1"])}
        elif histogram == "exponentialHistogram":
            point |= {"count": "2", "sum": 1, "scale": self._one(0, 20, -99), "positive": {"bucketCounts": ["1", "1"]}}
        elif histogram == "summary":
            point |= {"count": "2", "sum": 1, "quantileValues": [{"quantile": self._one(0.5, 7), "value": 1}]}
        else:
            point |= self._one({"asDouble": self._one(1, "NaN", "Infinity")}, {"asInt": "1"}, {})
        return {"attributes": point["attributes"], **self._some(point)}

    def metric(self) -> dict[str, Any]:
        kind = self._one("gauge", "sum", "histogram", "exponentialHistogram", "summary", "")
        metric: dict[str, Any] = {
            "name": self._one("fuzz.value", "fuzz.value", "", "9", "fuzz value\n", f"fuzz.{self.text()}"),
            "unit": self._one("", "s", "1", self.text()),
            "description": self.text(),
            "metadata": self.attributes(),
        }
        if kind:
            points = [self.point(histogram=kind) for _ in range(self._random.randrange(3))]
            metric[kind] = {"dataPoints": points}
        if kind in ("sum", "histogram", "exponentialHistogram"):
            metric[kind]["aggregationTemporality"] = self._one(0, 1, 2, 7)
        if kind == "sum":
            metric[kind]["isMonotonic"] = self._one(True, False)
        return self._some(metric)


def _pair(key: str, value: Any) -> dict[str, Any]:
    return {"key": key, "value": value}
