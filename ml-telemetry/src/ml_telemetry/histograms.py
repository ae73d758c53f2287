"""Histograms filled from rows of values once per export, instead of one lock and one search per value.

The request's path appends a row of floats. When the SDK collects, a column is sorted into buckets and the points join
the SDK's own in its export: resource, temporality, encoding and delivery stay the SDK's.
"""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from array import array
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from typing import Any, Final

from opentelemetry.sdk.metrics import Counter as SdkCounter
from opentelemetry.sdk.metrics import Exemplar, Histogram, ObservableCounter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    ScopeMetrics,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.sdk.metrics.export import Metric as MetricData
from opentelemetry.sdk.metrics.view import Aggregation, ExponentialBucketHistogramAggregation
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from ml_telemetry.record import SpanReference
from ml_telemetry.signals import Metric
from ml_telemetry.throttle import OncePerMinute

logger = logging.getLogger(__name__)
logger.addFilter(OncePerMinute())

Labels = Mapping[str, str | int]
_MILLISECOND: Final = 1_000_000
_PROOFS: Final = 64
"""Exemplars of a proof that a series keeps for one export, the newest: so many proofs do not run at once."""
_PREFERENCE: Final = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
_AGGREGATION: Final = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"


class Traces:
    """Where each of some rows was seen, or None; what series ask of it is found once for all their columns."""

    def __init__(self, references: Sequence[SpanReference | None]) -> None:
        self.references = references
        self.every = None not in references
        self.proofs = [row for row, trace in enumerate(references) if trace is not None and trace.proof]

    def chosen(self, rows: Sequence[int]) -> Traces:
        """Return the same of some of the rows."""
        return Traces([self.references[row] for row in rows])


class Rows:
    """A growing table of floats with one optional trace per row; written by one thread, taken by another."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._lock = threading.Lock()
        self._values = array("d")
        self._traces: list[SpanReference | None] = []

    def append(self, values: Sequence[float], trace: SpanReference | None) -> int:
        """Add a row and return how many rows wait."""
        with self._lock:
            self._values.extend(values)
            self._traces.append(trace)
            return len(self._traces)

    def take(self) -> tuple[list[array[float]], Traces]:
        """Return all rows, columns first, and start anew."""
        with self._lock:
            values, self._values = self._values, array("d")
            traces, self._traces = self._traces, []
        return [values[column :: self._columns] for column in range(self._columns)], Traces(traces)


class Series:
    """One histogram with one set of labels; its buckets hold ``(lower, upper]`` as the SDK's do."""

    def __init__(self, bounds: Sequence[float], labels: Labels, start: int) -> None:
        self._bounds = tuple(bounds)
        self._labels = dict(labels)
        self._exemplars: dict[int, Exemplar] = {}
        self._proofs: deque[tuple[int, Exemplar]] = deque(maxlen=_PROOFS)
        self.reset(start)

    def reset(self, start: int) -> None:
        """Forget everything; ``start`` in nanoseconds since the epoch begins the next point."""
        self._start = start
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        self._minimum = math.inf
        self._maximum = -math.inf

    def add(self, values: Sequence[float], traces: Traces) -> None:
        """Sort values into buckets; the last sampled value of each bucket becomes its exemplar, and each of a proof."""
        if not len(values):
            return
        buckets = list(map(bisect_left, repeat(self._bounds), values))
        for bucket, count in Counter(buckets).items():
            self._counts[bucket] += count
        self._sum += sum(values)
        self._minimum = min(self._minimum, min(values))
        self._maximum = max(self._maximum, max(values))
        references = traces.references
        # A later row of the same bucket takes the place of the one before.
        last = (
            dict(zip(buckets, range(len(buckets)), strict=True))
            if traces.every
            else {bucket: row for row, bucket in enumerate(buckets) if references[row] is not None}
        )
        for bucket, row in last.items():
            self._exemplars[bucket] = exemplar(values[row], references[row])
        for row in traces.proofs:
            self._proofs.append((buckets[row], exemplar(values[row], references[row])))

    def point(self, now: int) -> HistogramDataPoint | None:
        """Return the data point up to ``now``, or None if nothing was recorded; exemplars are given out once."""
        count = sum(self._counts)
        if not count:
            return None
        exemplars = self._take_exemplars()
        return HistogramDataPoint(
            attributes=self._labels,
            start_time_unix_nano=self._start,
            time_unix_nano=now,
            count=count,
            sum=self._sum,
            bucket_counts=list(self._counts),
            explicit_bounds=list(self._bounds),
            min=self._minimum,
            max=self._maximum,
            exemplars=exemplars,
        )

    def _take_exemplars(self) -> list[Exemplar]:
        # The last one of a bucket may be of a proof.
        found = {(bucket, one.span_id): one for bucket, one in (*self._exemplars.items(), *self._proofs)}
        self._exemplars.clear()
        self._proofs.clear()
        # Prometheus takes them by bucket, in a bucket by its own time, which is milliseconds, then by value.
        order = {(bucket, one.time_unix_nano // _MILLISECOND, one.value): one for (bucket, _), one in found.items()}
        return [order[key] for key in sorted(order)]


def exemplar(value: float, trace: SpanReference | None) -> Exemplar:
    """Make the exemplar of a value that was seen in a trace."""
    if trace is None:
        raise ValueError("a value without a trace is no exemplar")
    return Exemplar({}, float(value), trace.start_wall, int(trace.span_id, 16), int(trace.trace_id, 16))


class BulkHistogram:
    """A histogram of the contract with all its series; its owner sees to it that one thread at a time uses it."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self._collected = time.time_ns()
        self._series: dict[tuple[tuple[str, str | int], ...], Series] = {}

    def series(self, labels: Labels) -> Series:
        """Return the series with these labels."""
        key = tuple(sorted(labels.items()))
        found = self._series.get(key)
        if found is None:
            # It had counted nothing when the points before were collected: a rate over its first point is no guess.
            found = self._series[key] = Series(self.metric.bounds, labels, self._collected)
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
        return MetricData(
            self.metric.name, self.metric.description, self.metric.unit, HistogramData(points, temporality)
        )


def preferred_temporality() -> dict[type, AggregationTemporality]:
    """Return what the environment prefers, by instrument, as the OTLP exporters read it."""
    preference = os.environ.get(_PREFERENCE, "").strip().lower()
    if preference == "delta":
        return dict.fromkeys((SdkCounter, Histogram, ObservableCounter), AggregationTemporality.DELTA)
    if preference == "lowmemory":
        return dict.fromkeys((SdkCounter, Histogram), AggregationTemporality.DELTA)
    return {}


def preferred_aggregation() -> dict[type, Aggregation]:
    """Return what the environment prefers for histograms of the application's own."""
    if os.environ.get(_AGGREGATION, "").strip().lower() == "base2_exponential_bucket_histogram":
        return {Histogram: ExponentialBucketHistogramAggregation()}
    return {}


class MergingExporter(MetricExporter):
    """Hands what the SDK collected to an exporter, and adds the points of bulk histograms."""

    def __init__(
        self,
        exporter: MetricExporter,
        scope: InstrumentationScope,
        collect: Callable[[int, AggregationTemporality], Iterable[MetricData]],
    ) -> None:
        temporality = preferred_temporality()
        super().__init__(temporality, preferred_aggregation())
        self._exporter = exporter
        self._scope = scope
        self._collect_bulk = collect
        self._temporality = temporality.get(Histogram, AggregationTemporality.CUMULATIVE)

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **options: Any) -> MetricExportResult:
        """Export what was collected with all that waits; what cannot be merged is tried again by the next export."""
        try:
            merged = self._merged(metrics_data)
        except Exception:
            logger.exception("The metrics could not be collected; the next export tries again.")
            return MetricExportResult.FAILURE
        return self._exporter.export(merged, timeout_millis=timeout_millis, **options)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Let the exporter send what it holds."""
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **options: Any) -> None:
        """Stop the exporter."""
        self._exporter.shutdown(timeout_millis=timeout_millis, **options)

    def _merged(self, collected: MetricsData) -> MetricsData:
        if not collected.resource_metrics:
            return collected
        metrics = self._collect_bulk(time.time_ns(), self._temporality)
        first, *others = collected.resource_metrics
        # One entry per scope: the encoder keeps only the last of two entries with the same scope.
        rest = [entry for entry in first.scope_metrics if entry.scope != self._scope]
        same = [metric for entry in first.scope_metrics if entry.scope == self._scope for metric in entry.metrics]
        scope = ScopeMetrics(self._scope, [*same, *metrics], self._scope.schema_url or "")
        return MetricsData([replace(first, scope_metrics=[*rest, scope]), *others])
