"""The contract's metrics of the request part: rows for histograms, plain counts for counters."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeVar

from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.sdk.metrics.export import AggregationTemporality
from opentelemetry.sdk.metrics.export import Metric as MetricData

from ml_telemetry import signals
from ml_telemetry.contract import MISSING, OTHER, Contract
from ml_telemetry.exponential import BulkExponential
from ml_telemetry.histograms import BulkHistogram, Rows, Traces
from ml_telemetry.record import BatchRecord, PredictionRecord, RequestRecord

_NANOSECONDS: Final = 1e-9
# Rows that wait for a collection before they are counted at once; only a stuck exporter lets it come to that.
_MAXIMUM_ROWS: Final = 4_096

_HTTP: Final = (signals.HTTP_DURATION, signals.HTTP_REQUEST_BODY, signals.HTTP_RESPONSE_BODY)
_HttpKey = tuple[str, str, int, bool]
_OK: Final = 200
_TEXT: Final = {False: "false", True: "true"}
_Labels = dict[str, str | int]
Key = TypeVar("Key")


class RequestMetrics:
    """Takes finished records; counts are read by the SDK's observable instruments when it collects.

    Records come on the event loop while the export thread collects. So counts change and are read under one lock, and
    histograms are filled and read under another, and what leaves them is a copy.
    """

    def __init__(self, contract: Contract, track: str) -> None:
        self._contract = contract
        self._tracked: _Labels = {signals.TRACK.name: track}
        # What each request is counted with, by whether it is synthetic.
        self._traffic: dict[bool, _Labels] = {
            synthetic: {**self._tracked, signals.SYNTHETIC_LABEL.name: text} for synthetic, text in _TEXT.items()
        }
        self._fold_lock = threading.Lock()
        self._http_rows = Rows(1 + len(_HTTP))
        # Stages, the confidence or the value, and the numbers of the input.
        self._numbers = [at for at, feature in enumerate(contract.features) if feature in contract.measures]
        self._chosen = [
            (at, feature.name, frozenset(feature.values))
            for at, feature in enumerate(contract.features)
            if feature in contract.categories
        ]
        self._reasons = frozenset(contract.reasons)
        columns = len(contract.places) + 1 + len(self._numbers)
        self._prediction_rows = {synthetic: Rows(columns) for synthetic in _TEXT}
        self._batch_rows = Rows(1)
        self._http_keys: dict[_HttpKey, int] = {}
        self._histograms = {
            metric.name: BulkHistogram(metric)
            for metric in contract.metrics
            if metric.instrument is signals.Instrument.HISTOGRAM
        }
        self._exponential = {
            metric.name: BulkExponential(metric)
            for metric in contract.metrics
            if metric.instrument is signals.Instrument.EXPONENTIAL
        }
        # By what is counted, and whether the request was synthetic.
        self._categories: Counter[tuple[str, str, bool]] = Counter()
        self._missing: Counter[tuple[str, str, bool]] = Counter()
        self._predictions: Counter[tuple[str, bool]] = Counter()
        self._rejections: Counter[tuple[str, bool]] = Counter()
        # From zero on, so that the first one is an increase.
        self._crossed: Counter[tuple[str, bool]] = Counter(
            dict.fromkeys(((limit, synthetic) for limit in contract.crossed for synthetic in _TEXT), 0)
        )
        self._smallest = contract.crossed[signals.ANSWER_LIMIT]
        self._unsure = contract.crossed.get(signals.CONFIDENCE_LIMIT, -1.0)
        self._route = contract.declaration.route
        self._active: Counter[str] = Counter()
        # From zero on, so that the first one is an increase.
        self._retries = Counter(dict.fromkeys(signals.RETRY_OUTCOMES, 0))
        self._dropped: Counter[tuple[str, str]] = Counter()
        self._counts_lock = threading.Lock()
        self._model_info: dict[str, str] = {}

    # --- the request's path -------------------------------------------------------------------------------------------

    def started(self, method: str) -> None:
        """Count a request that begins."""
        with self._counts_lock:
            self._active[method] += 1

    def finished(self, record: RequestRecord) -> None:
        """Count a request that ended, with its prediction if there is one."""
        connection = record.connection
        trace = record.reference()
        synthetic = record.synthetic
        key = (connection.method, connection.route or signals.UNMATCHED_ROUTE, record.status, synthetic)
        with self._counts_lock:
            number = self._http_keys.setdefault(key, len(self._http_keys))
            self._active[connection.method] -= 1
            if record.failure is not None:
                reason = record.failure.reason
                self._rejections[reason if reason in self._reasons else OTHER, synthetic] += 1
            elif record.prediction is not None:
                self._predictions[record.prediction.label, synthetic] += 1
                if record.prediction.confidence <= self._unsure:
                    self._crossed[signals.CONFIDENCE_LIMIT, synthetic] += 1
                for at, name, known in self._chosen:
                    if record.prediction.features:
                        self._categories[name, _bounded(record.prediction.features[at], known), synthetic] += 1
            if record.status == _OK and record.response_size < self._smallest and connection.route == self._route:
                self._crossed[signals.ANSWER_LIMIT, synthetic] += 1
        row = (
            number,
            (record.end - record.start) * _NANOSECONDS,
            record.request_size,
            record.response_size,
        )
        waiting = self._http_rows.append(row, trace)
        if record.failure is None and record.prediction is not None:
            self._prediction_rows[synthetic].append(self._prediction_row(record.prediction), trace)
        # Where the export thread has the lock, it has taken these rows or takes them next.
        if waiting >= _MAXIMUM_ROWS and self._fold_lock.acquire(blocking=False):
            try:
                self._fold()
            finally:
                self._fold_lock.release()

    def batch_finished(self, batch: BatchRecord) -> None:
        """Count an adaptive batch; its exemplar is the first sampled request of it."""
        self._batch_rows.append((batch.size,), batch.sampled[0] if batch.sampled else None)

    def batch_retried(self, size: int, failed: int) -> None:
        """Count a batch that failed, by what became of its requests one by one."""
        answered, some, every = signals.RETRY_OUTCOMES
        with self._counts_lock:
            self._retries[every if failed == size else some if failed else answered] += 1

    def dropped(self, signal: str, reason: str, count: int) -> None:
        """Count telemetry that was lost."""
        with self._counts_lock:
            self._dropped[signal, reason] += count

    # --- the SDK's collection -----------------------------------------------------------------------------------------

    def collect(self, now: int, temporality: AggregationTemporality) -> list[MetricData]:
        """Sort all waiting rows into their histograms and return a copy of their points up to ``now``."""
        with self._fold_lock:
            self._fold()
            histograms: list[BulkHistogram | BulkExponential] = [
                *self._histograms.values(),
                *self._exponential.values(),
            ]
            return [data for histogram in histograms if (data := histogram.data(now, temporality))]

    def _fold(self) -> None:
        self._fold_http()
        for synthetic in _TEXT:
            self._fold_predictions(synthetic)
        values, traces = self._batch_rows.take()
        if values[0]:
            self._histograms[signals.INFERENCE_BATCH_SIZE.name].series(self._tracked).add(values[0], traces)

    def _fold_http(self) -> None:
        values, traces = self._http_rows.take()
        by_number: dict[float, list[int]] = {}
        for row, number in enumerate(values[0]):
            by_number.setdefault(number, []).append(row)
        for (method, route, status, synthetic), key in self._copy(self._http_keys):
            if not (rows := by_number.get(key)):
                continue
            labels: _Labels = {
                signals.HTTP_METHOD.name: method,
                signals.HTTP_ROUTE.name: route,
                signals.HTTP_STATUS.name: status,
                **self._traffic[synthetic],
            }
            chosen = traces if len(rows) == len(values[0]) else traces.chosen(rows)
            for column, metric in enumerate(_HTTP, start=1):
                self._histograms[metric.name].series(labels).add([values[column][row] for row in rows], chosen)

    def _fold_predictions(self, synthetic: bool) -> None:
        values, traces = self._prediction_rows[synthetic].take()
        traffic = self._traffic[synthetic]
        duration = self._histograms[signals.INFERENCE_DURATION.name]
        stages = self._contract.places
        for column, place in enumerate(stages):
            seconds, seen = _finite(values[column], traces)
            duration.series({signals.STAGE.name: place.stage.name, **traffic}).add(seconds, seen)
        if self._contract.classifies:
            self._histograms[signals.CONFIDENCE.name].series(traffic).add(values[len(stages)], traces)
        else:
            labels: _Labels = {signals.UNIT.name: self._contract.declaration.unit, **traffic}
            self._exponential[signals.VALUE.name].series(labels).add(values[len(stages)], traces)
        for column, feature in enumerate(self._contract.measures, start=len(stages) + 1):
            labels = {signals.FEATURE.name: feature.name, signals.UNIT.name: feature.unit, **traffic}
            missing = self._exponential[signals.FEATURE_VALUE.name].series(labels).add(values[column], traces)
            if missing:
                with self._counts_lock:
                    self._missing[feature.name, feature.unit, synthetic] += missing

    def _prediction_row(self, prediction: PredictionRecord) -> Sequence[float]:
        own = prediction.times
        batched = prediction.batch.times if prediction.batch is not None else ()
        row = []
        for place in self._contract.places:
            times = batched if place.batched else own
            at = 2 * place.at
            # A stage that did not run has no duration.
            row.append((times[at + 1] - times[at]) * _NANOSECONDS if at + 1 < len(times) and times[at] else math.nan)
        row.append(prediction.confidence if self._contract.classifies else prediction.value)
        features = prediction.features
        if not features:
            row += [math.nan] * len(self._numbers)
        else:
            row += [math.nan if (value := features[at]) is None else float(value) for at in self._numbers]
        return row

    def _copy(self, counts: Mapping[Key, int]) -> list[tuple[Key, int]]:
        """Return the counts as they are now; nobody can change them meanwhile."""
        with self._counts_lock:
            return list(counts.items())

    # --- the SDK's own instruments ------------------------------------------------------------------------------------

    def instrument(self, meter: Meter, model_info: dict[str, str]) -> None:
        """Create the counters and gauges; ``model_info`` holds the labels of the ``ml_model_info`` gauge."""
        self._model_info = model_info

        def predictions(_: CallbackOptions) -> Iterable[Observation]:
            for (label, synthetic), count in self._copy(self._predictions):
                labels = {signals.LABEL.name: label} if self._contract.classifies else {}
                yield Observation(count, {**labels, **self._traffic[synthetic]})

        def rejections(_: CallbackOptions) -> Iterable[Observation]:
            for (reason, synthetic), count in self._copy(self._rejections):
                yield Observation(count, {signals.REASON.name: reason, **self._traffic[synthetic]})

        def active(_: CallbackOptions) -> Iterable[Observation]:
            for method, count in self._copy(self._active):
                yield Observation(count, {signals.HTTP_METHOD.name: method, **self._tracked})

        def retries(_: CallbackOptions) -> Iterable[Observation]:
            for outcome, count in self._copy(self._retries):
                yield Observation(count, {signals.RETRY_OUTCOME.name: outcome, **self._tracked})

        def dropped(_: CallbackOptions) -> Iterable[Observation]:
            for (signal, reason), count in self._copy(self._dropped):
                labels = {signals.SIGNAL.name: signal, signals.DROP_REASON.name: reason}
                yield Observation(count, {**labels, **self._tracked})

        def categories(_: CallbackOptions) -> Iterable[Observation]:
            for (feature, value, synthetic), count in self._copy(self._categories):
                labels = {signals.FEATURE.name: feature, signals.CATEGORY_VALUE.name: value}
                yield Observation(count, {**labels, **self._traffic[synthetic]})

        def crossed(_: CallbackOptions) -> Iterable[Observation]:
            for (limit, synthetic), count in self._copy(self._crossed):
                yield Observation(count, {signals.LIMIT.name: limit, **self._traffic[synthetic]})

        def limits(_: CallbackOptions) -> Iterable[Observation]:
            for limit, value in self._contract.limits.items():
                yield Observation(value, {signals.LIMIT.name: limit, **self._tracked})

        def missing(_: CallbackOptions) -> Iterable[Observation]:
            for (feature, unit, synthetic), count in self._copy(self._missing):
                labels = {signals.FEATURE.name: feature, signals.UNIT.name: unit}
                yield Observation(count, {**labels, **self._traffic[synthetic]})

        def model(_: CallbackOptions) -> Iterable[Observation]:
            yield Observation(1, {**self._model_info, **self._tracked})

        emitted = {metric.name for metric in self._contract.metrics}
        for metric, create, callback in (
            (signals.PREDICTIONS, meter.create_observable_counter, predictions),
            (signals.REJECTED, meter.create_observable_counter, rejections),
            (signals.BATCH_RETRIES, meter.create_observable_counter, retries),
            (signals.TELEMETRY_DROPPED, meter.create_observable_counter, dropped),
            (signals.HTTP_ACTIVE, meter.create_observable_up_down_counter, active),
            (signals.FEATURE_CATEGORY, meter.create_observable_counter, categories),
            (signals.FEATURE_MISSING, meter.create_observable_counter, missing),
            (signals.LIMIT_CROSSED, meter.create_observable_counter, crossed),
            (signals.MODEL_LIMIT, meter.create_observable_gauge, limits),
            (signals.MODEL_INFO, meter.create_observable_gauge, model),
        ):
            if metric.name in emitted:
                create(metric.name, [callback], unit=metric.unit, description=metric.description)


def _finite(values: Sequence[float], traces: Traces) -> tuple[Sequence[float], Traces]:
    """Leave out rows without a number; mostly there are none."""
    total = sum(values)
    if total - total == 0:
        return values, traces
    rows = [row for row, value in enumerate(values) if value - value == 0]
    return [values[row] for row in rows], traces.chosen(rows)


def _bounded(value: float | str | None, known: frozenset[str]) -> str:
    """Return a declared value, or what stands for all others."""
    if value is None:
        return MISSING
    return str(value) if value in known else OTHER
