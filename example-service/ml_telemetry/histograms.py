"""Histograms filled from columns of values once per export, instead of one lock and one search per value.

The request's path appends a row of floats. When the SDK collects, numpy sorts a column into buckets and the points
join the SDK's own in its export: resource, temporality, encoding and delivery stay the SDK's.
"""

from __future__ import annotations

import math
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from opentelemetry.sdk.metrics import Exemplar, Histogram
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    MetricExporter,
    MetricsData,
    PeriodicExportingMetricReader,
    ScopeMetrics,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.sdk.metrics.export import Metric as MetricData
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from ml_telemetry.record import SpanReference
from ml_telemetry.signals import Metric

Labels = Mapping[str, str | int]


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

    def take(self) -> tuple[NDArray[np.float64], list[SpanReference | None]]:
        """Return all rows, columns first, and start anew."""
        with self._lock:
            values, self._values = self._values, array("d")
            traces, self._traces = self._traces, []
        return np.frombuffer(values, dtype=np.float64).reshape(len(traces), self._columns).T, traces


class Series:
    """One histogram with one set of labels; its buckets hold ``(lower, upper]`` as the SDK's do."""

    def __init__(self, bounds: Sequence[float], labels: Labels, start: int) -> None:
        self._bounds = np.asarray(bounds, dtype=np.float64)
        self._labels = dict(labels)
        self._exemplars: dict[int, Exemplar] = {}
        self.reset(start)

    def reset(self, start: int) -> None:
        """Forget everything; ``start`` in nanoseconds since the epoch begins the next point."""
        self._start = start
        self._counts = np.zeros(len(self._bounds) + 1, dtype=np.int64)
        self._sum = 0.0
        self._minimum = math.inf
        self._maximum = -math.inf

    def add(self, values: NDArray[np.float64], traces: Sequence[SpanReference | None]) -> None:
        """Sort values into buckets; the last sampled value of each bucket becomes its exemplar."""
        if not len(values):
            return
        buckets = np.searchsorted(self._bounds, values, side="left")
        self._counts += np.bincount(buckets, minlength=len(self._counts))
        self._sum += float(values.sum())
        self._minimum = min(self._minimum, float(values.min()))
        self._maximum = max(self._maximum, float(values.max()))
        sampled = np.fromiter((trace is not None for trace in traces), dtype=bool, count=len(traces)).nonzero()[0]
        last = np.full(len(self._counts), -1)
        last[buckets[sampled]] = sampled
        for bucket in (last >= 0).nonzero()[0]:
            row = int(last[bucket])
            trace = traces[row]
            if trace is not None:
                self._exemplars[int(bucket)] = Exemplar(
                    {}, float(values[row]), trace.start_wall, int(trace.span_id, 16), int(trace.trace_id, 16)
                )

    def point(self, now: int) -> HistogramDataPoint | None:
        """Return the data point up to ``now``, or None if nothing was recorded; exemplars are given out once."""
        count = int(self._counts.sum())
        if not count:
            return None
        exemplars = [self._exemplars[bucket] for bucket in sorted(self._exemplars)]
        self._exemplars.clear()
        return HistogramDataPoint(
            attributes=self._labels,
            start_time_unix_nano=self._start,
            time_unix_nano=now,
            count=count,
            sum=self._sum,
            bucket_counts=self._counts.tolist(),
            explicit_bounds=self._bounds.tolist(),
            min=self._minimum,
            max=self._maximum,
            exemplars=exemplars,
        )


class BulkHistogram:
    """A histogram of the contract with all its series."""

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


class MergingMetricReader(PeriodicExportingMetricReader):
    """The SDK's periodic reader; to what the SDK collected it adds the points of bulk histograms."""

    def __init__(
        self,
        exporter: MetricExporter,
        scope: InstrumentationScope,
        collect: Callable[[], Iterable[BulkHistogram]],
    ) -> None:
        self._scope = scope
        self._collect_bulk = collect
        preferred = exporter._preferred_temporality or {}
        self._temporality = preferred.get(Histogram, AggregationTemporality.CUMULATIVE)
        # A reader starts its thread in its constructor, so everything it needs is set before.
        super().__init__(exporter)

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: object) -> None:
        super()._receive_metrics(self._merged(metrics_data), timeout_millis=timeout_millis, **kwargs)

    def _merged(self, collected: MetricsData) -> MetricsData:
        if not collected.resource_metrics:
            return collected
        now = time.time_ns()
        temporality = self._temporality
        metrics = [data for histogram in self._collect_bulk() if (data := histogram.data(now, temporality))]
        first, *others = collected.resource_metrics
        # One entry per scope: the encoder keeps only the last of two entries with the same scope.
        rest = [entry for entry in first.scope_metrics if entry.scope != self._scope]
        same = [metric for entry in first.scope_metrics if entry.scope == self._scope for metric in entry.metrics]
        scope = ScopeMetrics(self._scope, [*same, *metrics], self._scope.schema_url or "")
        return MetricsData([replace(first, scope_metrics=[*rest, scope]), *others])
