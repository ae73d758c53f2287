"""Bulk histograms against the SDK's own histogram, fed with the same values."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from ml_telemetry import signals
from ml_telemetry.histograms import BulkHistogram, MergingExporter, Rows, Series, Traces
from ml_telemetry.record import SpanReference
from waiting import until

METRIC = signals.CONFIDENCE
SCOPE = InstrumentationScope("test", "1")


def trace(number: int) -> SpanReference:
    return SpanReference(number, f"{number:032x}", f"{number:016x}")


def sdk_point(values: Sequence[float]) -> HistogramDataPoint:
    reader = InMemoryMetricReader()
    histogram = (
        MeterProvider([reader]).get_meter("m").create_histogram("h", explicit_bucket_boundaries_advisory=METRIC.bounds)
    )
    for value in values:
        histogram.record(value, {"track": "stable"})
    data = reader.get_metrics_data()
    assert data is not None
    point = data.resource_metrics[0].scope_metrics[0].metrics[0].data.data_points[0]
    assert isinstance(point, HistogramDataPoint)
    return point


def bulk_point(batches: Sequence[Sequence[float]]) -> HistogramDataPoint:
    series = Series(METRIC.bounds, {"track": "stable"}, 0)
    for values in batches:
        series.add(values, Traces([None] * len(values)))
    point = series.point(1)
    assert point is not None
    return point


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_same_point_as_the_sdk(seed: int) -> None:
    # Values on a bound are the ones that an off-by-one would put into the wrong bucket.
    drawn = random.Random(seed)
    values = [*(drawn.random() for _ in range(2000)), *METRIC.bounds, 0.0, 1.0, 5.0]
    expected = sdk_point(values)
    found = bulk_point([values[:700], values[700:], values[:0]])
    for name in ("count", "bucket_counts", "explicit_bounds", "min", "max", "attributes"):
        assert list_or_value(getattr(found, name)) == list_or_value(getattr(expected, name)), name
    assert found.sum == pytest.approx(expected.sum)
    shifted = bulk_point([[value + 0.05 for value in values]])
    assert list(shifted.bucket_counts) != list(expected.bucket_counts)


def list_or_value(value: object) -> object:
    return list(value) if isinstance(value, tuple | list) else value


def test_exemplar_is_the_last_sampled_value_of_each_bucket() -> None:
    series = Series((1.0, 2.0), {}, 0)
    series.add([0.5, 0.6, 1.5, 0.7, 9.0], Traces([trace(1), trace(2), trace(3), None, None]))
    point = series.point(1)
    assert point is not None
    found = [(exemplar.value, exemplar.trace_id, exemplar.span_id) for exemplar in point.exemplars]
    assert found == [(0.6, 2, 2), (1.5, 3, 3)]
    again = series.point(2)
    assert again is not None
    assert again.exemplars == []
    assert again.count == 5


def test_every_exemplar_of_a_proof_is_kept_beside_the_last_of_each_bucket() -> None:
    def number(value: int, *, proof: bool = False) -> SpanReference:
        return trace(value)._replace(start_wall=value * 1_000_000, proof=proof)

    series = Series((1.0, 2.0), {}, 0)
    traces = [number(1, proof=True), number(2), number(3, proof=True), None, number(5), number(6, proof=True)]
    series.add([0.9, 0.6, 0.5, 0.4, 0.7, 1.5], Traces(traces))
    series.add([0.8], Traces([number(7)]))
    point = series.point(1)
    assert point is not None
    # By bucket, then by time: the last request of anybody, and all of the proof.
    assert [exemplar.span_id for exemplar in point.exemplars] == [1, 3, 7, 6]
    again = series.point(2)
    assert again is not None
    assert again.exemplars == []


def test_proofs_do_not_fill_memory() -> None:
    series = Series((1.0,), {}, 0)
    traces = [trace(value)._replace(start_wall=value * 1_000_000, proof=True) for value in range(1, 1001)]
    series.add([0.1 + 0.8 * value / 999 for value in range(1000)], Traces(traces))
    point = series.point(1)
    assert point is not None
    assert [exemplar.span_id for exemplar in point.exemplars] == list(range(937, 1001))


def test_rows_lose_nothing_between_threads() -> None:
    rows = Rows(2)
    taken: list[float] = []
    done = threading.Event()

    def take() -> None:
        while not done.is_set():
            values, _ = rows.take()
            taken.extend(values[0])

    taker = threading.Thread(target=take)
    taker.start()
    for number in range(20_000):
        rows.append((number, 2 * number), None)
    done.set()
    taker.join()
    values, traces = rows.take()
    assert taken + list(values[0]) == list(range(20_000))
    assert len(values[0]) == len(traces.references)


def test_delta_temporality_starts_anew_and_cumulative_goes_on() -> None:
    histogram = BulkHistogram(METRIC)
    series = histogram.series({"track": "stable"})
    counts: dict[AggregationTemporality, list[int]] = {}
    for temporality in (AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA):
        counts[temporality] = []
        for _ in range(2):
            series.add([0.5], Traces([None]))
            data = histogram.data(10, temporality)
            assert data is not None
            (point,) = data.data.data_points
            assert isinstance(point, HistogramDataPoint)
            counts[temporality].append(point.count)
    assert counts[AggregationTemporality.CUMULATIVE] == [1, 2]
    # The first delta still holds what was there before it.
    assert counts[AggregationTemporality.DELTA] == [3, 1]
    assert histogram.data(11, AggregationTemporality.DELTA) is None


class Collecting(MetricExporter):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.exported: list[MetricsData] = []

    def export(self, metrics_data: MetricsData, timeout_millis: float = 1, **_: object) -> MetricExportResult:
        self.exported.append(metrics_data)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 1) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 1, **_: object) -> None:
        pass


@pytest.mark.parametrize("temporality", [AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA])
def test_points_join_what_the_sdk_collected_in_the_same_scope(
    temporality: AggregationTemporality, monkeypatch: pytest.MonkeyPatch
) -> None:
    histogram = BulkHistogram(METRIC)
    histogram.series({"track": "stable"}).add([0.5], Traces([trace(7)]))
    monkeypatch.setenv(
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        "delta" if temporality is AggregationTemporality.DELTA else "cumulative",
    )
    exporter = Collecting()
    reader = PeriodicExportingMetricReader(
        MergingExporter(exporter, SCOPE, lambda now, kind: [data for data in [histogram.data(now, kind)] if data])
    )
    provider = MeterProvider([reader], shutdown_on_exit=False)
    provider.get_meter(SCOPE.name, SCOPE.version, SCOPE.schema_url).create_counter("c").add(1)
    provider.get_meter("other").create_counter("d").add(1)
    provider.shutdown()
    (data,) = exporter.exported
    scopes = {entry.scope.name: [m.name for m in entry.metrics] for entry in data.resource_metrics[0].scope_metrics}
    assert scopes == {"other": ["d"], "test": ["c", METRIC.name]}
    merged = next(e for e in data.resource_metrics[0].scope_metrics if e.scope.name == "test").metrics[1]
    assert merged.data.aggregation_temporality is temporality  # type: ignore[union-attr]


def test_a_collection_that_fails_is_logged_and_the_next_one_is_exported(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "10")
    calls: list[int] = []

    def collect(now: int, _: AggregationTemporality) -> list[Metric]:
        calls.append(now)
        if len(calls) == 2:
            raise RuntimeError("dictionary changed size during iteration")
        return []

    exporter = Collecting()
    reader = PeriodicExportingMetricReader(MergingExporter(exporter, SCOPE, collect))
    provider = MeterProvider([reader], shutdown_on_exit=False)
    provider.get_meter(SCOPE.name).create_counter("c").add(1)
    until(lambda: len(calls) >= 5, "collections after the one that failed")
    provider.shutdown()
    assert len(exporter.exported) == len(calls) - 1
    (complaint,) = [entry for entry in caplog.records if entry.name == "ml_telemetry.histograms"]
    assert complaint.exc_info is not None


def test_a_new_series_began_when_the_points_before_were_collected() -> None:
    histogram = BulkHistogram(METRIC)
    starts = []
    for number, track in enumerate(("stable", "canary", "shadow")):
        histogram.series({"track": track}).add([0.5], Traces([None]))
        data = histogram.data(1000 * (number + 1), AggregationTemporality.CUMULATIVE)
        assert data is not None
        starts.append([point.start_time_unix_nano for point in data.data.data_points])
    created = starts[0][0]
    assert starts == [[created], [created, 1000], [created, 1000, 2000]]
