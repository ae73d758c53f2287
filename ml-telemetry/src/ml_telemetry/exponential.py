"""Histograms of values of any range: buckets that grow by a constant factor, as OTLP's exponential histograms have.

Prometheus keeps them as native histograms.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import AggregationTemporality, Buckets, ExponentialHistogramDataPoint
from opentelemetry.sdk.metrics.export import ExponentialHistogram as HistogramData
from opentelemetry.sdk.metrics.export import Metric as MetricData

from ml_telemetry.histograms import Labels, Traces, exemplar
from ml_telemetry.signals import Metric

_FIRST_SCALE: Final = 5
"""Two neighbouring bounds differ by the factor 2^(1/32), about 2 %."""
_LOWEST_SCALE: Final = -4
_MOST_BUCKETS: Final = 160
_MOST_EXEMPLARS: Final = 10


class ExponentialSeries:
    """One exponential histogram with one set of labels; its buckets hold ``(lower, upper]``."""

    def __init__(self, labels: Labels, start: int) -> None:
        self._labels = dict(labels)
        self.reset(start)

    def reset(self, start: int) -> None:
        """Forget everything; ``start`` in nanoseconds since the epoch begins the next point."""
        self._start = start
        self._scale = _FIRST_SCALE
        self._positive: Counter[int] = Counter()
        self._negative: Counter[int] = Counter()
        self._zeros = self._count = 0
        self._sum = 0.0
        self._minimum, self._maximum = math.inf, -math.inf
        self._exemplars: dict[tuple[int, int], Exemplar] = {}

    def add(self, values: Sequence[float], traces: Traces) -> int:
        """Sort values into buckets, and return how many were left out, since they are no finite number."""
        rows: Sequence[int] = range(len(values))
        total = sum(values)
        if total - total != 0:
            # Mostly there is none to leave out; a sum that is too large for a float is looked into as well.
            rows = [row for row, value in enumerate(values) if value - value == 0]
        finite = values if len(rows) == len(values) else [values[row] for row in rows]
        if not finite:
            return len(values)
        zeros = finite.count(0.0)
        smallest, largest = min(finite), max(finite)
        if smallest > 0:
            self._sort(finite, rows, self._positive, traces, 1)
        else:
            for sign, buckets in ((1, self._positive), (-1, self._negative)):
                chosen = [row for row in rows if sign * values[row] > 0]
                self._sort([abs(values[row]) for row in chosen], chosen, buckets, traces, sign)
        self._zeros += zeros
        self._count += len(finite)
        self._sum += total if finite is values else sum(finite)
        self._minimum, self._maximum = min(self._minimum, smallest), max(self._maximum, largest)
        while self._scale > _LOWEST_SCALE and max(map(_width, (self._positive, self._negative))) > _MOST_BUCKETS:
            self._coarser()
        return len(values) - len(finite)

    def _sort(
        self, sizes: Sequence[float], rows: Sequence[int], buckets: Counter[int], traces: Traces, sign: int
    ) -> None:
        """Count sizes above 0 in their buckets; the newest of each power of two becomes its exemplar."""
        factor = 2.0**self._scale
        indexes = [math.ceil(math.log2(size) * factor) - 1 for size in sizes]
        buckets.update(indexes)
        shift = max(self._scale, 0)
        references = traces.references
        # A later row takes the place of the one before.
        last = {
            index >> shift: at for at, index in enumerate(indexes) if traces.every or references[rows[at]] is not None
        }
        for power, at in last.items():
            self._exemplars[sign, power] = exemplar(sign * sizes[at], references[rows[at]])

    def _coarser(self) -> None:
        """Make one bucket of each two."""
        self._scale -= 1
        for name in ("_positive", "_negative"):
            merged: Counter[int] = Counter()
            for index, count in getattr(self, name).items():
                merged[index >> 1] += count
            setattr(self, name, merged)

    def point(self, now: int) -> ExponentialHistogramDataPoint | None:
        """Return the data point up to ``now``, or None if nothing was recorded; exemplars are given out once."""
        if not self._count:
            return None
        newest = sorted(self._exemplars.values(), key=lambda one: one.time_unix_nano)[-_MOST_EXEMPLARS:]
        self._exemplars.clear()
        return ExponentialHistogramDataPoint(
            attributes=self._labels,
            start_time_unix_nano=self._start,
            time_unix_nano=now,
            count=self._count,
            sum=self._sum,
            scale=self._scale,
            zero_count=self._zeros,
            positive=_buckets(self._positive),
            negative=_buckets(self._negative),
            flags=0,
            min=self._minimum,
            max=self._maximum,
            exemplars=newest,
        )


def _width(counts: Mapping[int, int]) -> int:
    return max(counts) - min(counts) + 1 if counts else 0


def _buckets(counts: Mapping[int, int]) -> Buckets:
    if not counts:
        return Buckets(0, [])
    first = min(counts)
    return Buckets(first, [counts.get(index, 0) for index in range(first, max(counts) + 1)])


class BulkExponential:
    """An exponential histogram of the contract with all its series; one thread at a time uses it."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self._collected = time.time_ns()
        self._series: dict[tuple[tuple[str, str | int], ...], ExponentialSeries] = {}

    def series(self, labels: Labels) -> ExponentialSeries:
        """Return the series with these labels."""
        key = tuple(sorted(labels.items()))
        found = self._series.get(key)
        if found is None:
            found = self._series[key] = ExponentialSeries(labels, self._collected)
        return found

    def data(self, now: int, temporality: AggregationTemporality) -> MetricData | None:
        """Return the metric as the SDK exports it, or None if it has no point."""
        points = []
        for series in self._series.values():
            if point := series.point(now):
                points.append(point)
                if temporality is AggregationTemporality.DELTA:
                    series.reset(now)
        self._collected = now
        if not points:
            return None
        metric = self.metric
        return MetricData(metric.name, metric.description, metric.unit, HistogramData(points, temporality))
