"""The contract's metrics of the request part: rows for histograms, plain counts for counters."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from opentelemetry.metrics import CallbackOptions, Meter, Observation

from ml_telemetry import signals
from ml_telemetry.histograms import BulkHistogram, Rows
from ml_telemetry.record import BatchRecord, PredictionRecord, RequestRecord

_NANOSECONDS: Final = 1e-9
# Rows that wait for a collection before they are counted at once; only a stuck exporter lets it come to that.
_MAXIMUM_ROWS: Final = 4_096

_FEATURES: Final = (
    signals.CHARACTERS,
    signals.WORDS,
    signals.WORD_LENGTH,
    signals.ALPHABETIC,
    signals.DIGIT,
    signals.SPECIAL,
    signals.OUT_OF_VOCABULARY,
)
_HTTP: Final = (signals.HTTP_DURATION, signals.HTTP_REQUEST_BODY, signals.HTTP_RESPONSE_BODY)
_HttpKey = tuple[str, str, int]


class RequestMetrics:
    """Takes finished records; counts are read by the SDK's observable instruments when it collects."""

    def __init__(self, track: str) -> None:
        self._track = track
        self._fold_lock = threading.Lock()
        self._http_rows = Rows(1 + len(_HTTP))
        self._prediction_rows = Rows(len(signals.STAGES) + 1 + len(_FEATURES))
        self._batch_rows = Rows(1)
        self._http_keys: dict[_HttpKey, int] = {}
        self._histograms = {
            metric.name: BulkHistogram(metric)
            for metric in signals.METRICS
            if metric.instrument is signals.Instrument.HISTOGRAM and metric.emitted
        }
        self._predictions: Counter[str] = Counter()
        self._rejections: Counter[str] = Counter()
        self._active: Counter[str] = Counter()
        self._dropped: Counter[tuple[str, str]] = Counter()
        self._dropped_lock = threading.Lock()
        self._model_info: dict[str, str] = {}

    # --- the request's path -------------------------------------------------------------------------------------------

    def started(self, method: str) -> None:
        """Count a request that begins."""
        self._active[method] += 1

    def finished(self, record: RequestRecord) -> None:
        """Count a request that ended, with its prediction if there is one."""
        connection = record.connection
        self._active[connection.method] -= 1
        trace = record.reference()
        key = (connection.method, connection.route or signals.UNMATCHED_ROUTE, record.status)
        row = (
            self._http_keys.setdefault(key, len(self._http_keys)),
            (record.end - record.start) * _NANOSECONDS,
            record.request_size,
            record.response_size,
        )
        waiting = self._http_rows.append(row, trace)
        if record.failure is not None:
            self._rejections[record.failure.reason] += 1
        elif record.prediction is not None:
            self._predictions[record.prediction.label] += 1
            self._prediction_rows.append(_prediction_row(record.prediction), trace)
        if waiting >= _MAXIMUM_ROWS:
            self.collect()

    def batch_finished(self, batch: BatchRecord) -> None:
        """Count an adaptive batch; its exemplar is the first sampled request of it."""
        self._batch_rows.append((batch.size,), batch.sampled[0] if batch.sampled else None)

    def dropped(self, signal: str, reason: str, count: int) -> None:
        """Count telemetry that was lost."""
        with self._dropped_lock:
            self._dropped[signal, reason] += count

    @property
    def dropped_total(self) -> int:
        """How many requests lost a part of their telemetry so far."""
        with self._dropped_lock:
            return self._dropped.total()

    # --- the SDK's collection -----------------------------------------------------------------------------------------

    def collect(self) -> Iterable[BulkHistogram]:
        """Sort all waiting rows into their histograms and return these."""
        with self._fold_lock:
            self._fold_http()
            self._fold_predictions()
            values, traces = self._batch_rows.take()
            self._histograms[signals.INFERENCE_BATCH_SIZE.name].series({}).add(values[0], traces)
        return self._histograms.values()

    def _fold_http(self) -> None:
        values, traces = self._http_rows.take()
        for (method, route, status), number in list(self._http_keys.items()):
            rows = (values[0] == number).nonzero()[0]
            if not len(rows):
                continue
            labels: dict[str, str | int] = {
                signals.HTTP_METHOD.name: method,
                signals.HTTP_ROUTE.name: route,
                signals.HTTP_STATUS.name: status,
            }
            chosen = [traces[row] for row in rows]
            for column, metric in enumerate(_HTTP, start=1):
                self._histograms[metric.name].series(labels).add(values[column, rows], chosen)

    def _fold_predictions(self) -> None:
        values, traces = self._prediction_rows.take()
        duration = self._histograms[signals.INFERENCE_DURATION.name]
        for column, stage in enumerate(signals.STAGES):
            duration.series({signals.STAGE.name: stage}).add(values[column], traces)
        first = len(signals.STAGES)
        confidence = self._histograms[signals.CONFIDENCE.name]
        confidence.series({signals.TRACK.name: self._track}).add(values[first], traces)
        for column, metric in enumerate(_FEATURES, start=first + 1):
            self._histograms[metric.name].series({}).add(np.ascontiguousarray(values[column]), traces)

    # --- the SDK's own instruments ------------------------------------------------------------------------------------

    def instrument(self, meter: Meter, model_info: dict[str, str]) -> None:
        """Create the counters and gauges; ``model_info`` holds the labels of the ``ml_model_info`` gauge."""
        self._model_info = model_info

        def predictions(_: CallbackOptions) -> Iterable[Observation]:
            for label, count in list(self._predictions.items()):
                yield Observation(count, {signals.LABEL.name: label, signals.TRACK.name: self._track})

        def rejections(_: CallbackOptions) -> Iterable[Observation]:
            for reason, count in list(self._rejections.items()):
                yield Observation(count, {signals.REASON.name: reason})

        def active(_: CallbackOptions) -> Iterable[Observation]:
            for method, count in list(self._active.items()):
                yield Observation(count, {signals.HTTP_METHOD.name: method})

        def dropped(_: CallbackOptions) -> Iterable[Observation]:
            with self._dropped_lock:
                counts = list(self._dropped.items())
            for (signal, reason), count in counts:
                yield Observation(count, {signals.SIGNAL.name: signal, signals.DROP_REASON.name: reason})

        def model(_: CallbackOptions) -> Iterable[Observation]:
            yield Observation(1, self._model_info)

        for metric, create, callback in (
            (signals.PREDICTIONS, meter.create_observable_counter, predictions),
            (signals.REJECTED, meter.create_observable_counter, rejections),
            (signals.TELEMETRY_DROPPED, meter.create_observable_counter, dropped),
            (signals.HTTP_ACTIVE, meter.create_observable_up_down_counter, active),
            (signals.MODEL_INFO, meter.create_observable_gauge, model),
        ):
            create(metric.name, [callback], unit=metric.unit, description=metric.description)


def _prediction_row(prediction: PredictionRecord) -> Sequence[float]:
    batch = prediction.batch
    if batch is None:
        raise ValueError("a prediction belongs to a batch")
    return (
        (prediction.normalise_end - prediction.normalise_start) * _NANOSECONDS,
        (batch.vectorize_end - batch.vectorize_start) * _NANOSECONDS,
        (batch.predict_end - batch.predict_start) * _NANOSECONDS,
        (prediction.postprocess_end - prediction.postprocess_start) * _NANOSECONDS,
        prediction.confidence,
        *prediction.features,
    )
