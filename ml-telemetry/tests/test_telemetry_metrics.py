"""Counts and histograms of requests while an export thread collects them."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from itertools import count

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    InMemoryMetricReader,
    NumberDataPoint,
)

from declared import TEXTS
from ml_telemetry import metrics as request_metrics
from ml_telemetry import signals
from ml_telemetry.contract import Contract
from ml_telemetry.metrics import RequestMetrics
from ml_telemetry.record import Connection, Failure, RequestRecord

CONNECTION = Connection("POST", "/predict", "http", "1.1", "localhost", 3000, "127.0.0.1", "test")
SECONDS = 2.0


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def request(number: int) -> RequestRecord:
    record = RequestRecord("0af7651916cd43dd8448eb211c80319c", "", True, "")
    record.connection = CONNECTION
    record.end = record.start + 1_000
    # Every request is a new series and a new count.
    record.status = number
    record.failure = Failure(number, f"reason {number}", "")
    return record


@pytest.mark.usefixtures("hasty")
def test_new_series_while_they_are_collected_break_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    # The rows are folded where the requests end, as they are at full load while the Collector is away.
    monkeypatch.setattr(request_metrics, "_MAXIMUM_ROWS", 1)
    metrics = RequestMetrics(Contract(TEXTS), "stable")
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    metrics.instrument(provider.get_meter("test"), {})
    faults: list[BaseException] = []
    over = threading.Event()

    def export() -> None:
        try:
            while not over.is_set():
                metrics.collect(time.time_ns(), AggregationTemporality.CUMULATIVE)
                reader.collect()
        except BaseException as error:
            faults.append(error)

    exporter = threading.Thread(target=export)
    exporter.start()
    end = time.monotonic() + SECONDS
    numbers = count()
    for number in numbers:
        metrics.started("POST")
        metrics.finished(request(number % 1_000))
        if time.monotonic() > end or faults:
            break
    over.set()
    exporter.join()
    assert faults == []
    made = next(numbers)
    found = {data.name: data for data in metrics.collect(time.time_ns(), AggregationTemporality.CUMULATIVE)}
    points = found[signals.HTTP_DURATION.name].data.data_points
    assert sum(point.count for point in points if isinstance(point, HistogramDataPoint)) == made


@pytest.mark.parametrize(("failed", "outcome"), [(0, "all_answered"), (1, "some_failed"), (4, "all_failed")])
def test_retried_batch_is_counted_by_what_became_of_its_requests(failed: int, outcome: str) -> None:
    metrics = RequestMetrics(Contract(TEXTS), "stable")
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    metrics.instrument(provider.get_meter("test"), {})
    metrics.batch_retried(4, failed)
    data = reader.get_metrics_data()
    assert data is not None
    found = {m.name: m.data.data_points for m in data.resource_metrics[0].scope_metrics[0].metrics}
    counts = {
        (point.attributes or {})["outcome"]: point.value
        for point in found[signals.BATCH_RETRIES.name]
        if isinstance(point, NumberDataPoint)
    }
    assert counts == {name: int(name == outcome) for name in signals.RETRY_OUTCOMES}


def test_a_full_table_waits_for_no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_metrics, "_MAXIMUM_ROWS", 1)
    metrics = RequestMetrics(Contract(TEXTS), "stable")
    holding = metrics._fold_lock
    with holding:
        requests = threading.Thread(target=lambda: metrics.finished(request(200)), daemon=True)
        requests.start()
        requests.join(10)
        assert not requests.is_alive()
    assert metrics.collect(time.time_ns(), AggregationTemporality.CUMULATIVE)
