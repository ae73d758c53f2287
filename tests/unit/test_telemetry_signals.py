"""The contract checks itself, and against the names that the design promises to queries."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ml_telemetry import signals
from ml_telemetry.signals import Instrument, Metric, prometheus_name

# The names a query sees, as the design lists them, and one for what the telemetry itself lost.
PROMETHEUS_NAMES = [
    "http_server_request_duration_seconds",
    "http_server_request_body_size_bytes",
    "http_server_response_body_size_bytes",
    "http_server_active_requests",
    "ml_inference_duration_seconds",
    "ml_inference_batch_size",
    "ml_predictions_total",
    "ml_prediction_confidence_ratio",
    "ml_requests_rejected_total",
    "ml_input_characters",
    "ml_input_words",
    "ml_input_word_length",
    "ml_input_alphabetic_ratio",
    "ml_input_digit_ratio",
    "ml_input_special_ratio",
    "ml_input_out_of_vocabulary_ratio",
    "ml_feedback_total",
    "ml_feedback_lag_seconds",
    "ml_feedback_coverage_ratio",
    "ml_evaluation_score",
    "ml_evaluation_support",
    "ml_confusion_total",
    "ml_performance_estimate",
    "ml_reference_score",
    "ml_drift_score",
    "ml_drift_threshold",
    "ml_drift_window_samples",
    "ml_drift_last_run_timestamp_seconds",
    "ml_inference_archive_records_total",
    "ml_model_info",
    "ml_telemetry_dropped_total",
]


def test_metrics_have_the_promised_prometheus_names() -> None:
    assert sorted(metric.prometheus_name for metric in signals.METRICS) == sorted(PROMETHEUS_NAMES)


@pytest.mark.parametrize(
    ("name", "instrument", "unit", "expected"),
    [
        ("a.duration", Instrument.HISTOGRAM, "s", "a_duration_seconds"),
        ("a.size", Instrument.HISTOGRAM, "By", "a_size_bytes"),
        ("a.share", Instrument.GAUGE, "1", "a_share_ratio"),
        ("a.share", Instrument.HISTOGRAM, "1", "a_share"),
        ("a.active", Instrument.UP_DOWN_COUNTER, "{request}", "a_active"),
        ("a.total.requests", Instrument.COUNTER, "{request}", "a_requests_total"),
        ("a.b_c", Instrument.GAUGE, "", "a_b_c"),
    ],
)
def test_prometheus_name(name: str, instrument: Instrument, unit: str, expected: str) -> None:
    assert prometheus_name(name, instrument, unit) == expected


def unbounded(metrics: tuple[Metric, ...]) -> list[str]:
    """Labels without an upper bound on their values."""
    return [f"{metric.name}.{label.name}" for metric in metrics for label in metric.labels if not label.bound]


def test_every_label_is_bounded() -> None:
    assert unbounded(signals.METRICS) == []
    broken = replace(signals.PREDICTIONS, labels=(*signals.PREDICTIONS.labels, signals.PREDICTION_ID))
    assert unbounded((broken,)) == ["ml.predictions.ml.prediction.id"]


def test_bounds_are_those_of_the_design() -> None:
    assert signals.VERSION.bound == 3
    assert signals.LABEL.bound == signals.MAXIMUM_CLASSES + 1
    assert signals.FEATURE.bound == 8
    assert signals.SLICE.bound == 10


def test_histograms_have_rising_bounds_and_nothing_else_has_any() -> None:
    for metric in signals.METRICS:
        assert bool(metric.bounds) == (metric.instrument is Instrument.HISTOGRAM), metric.name
        assert list(metric.bounds) == sorted(set(metric.bounds)), metric.name


def test_names_are_unique() -> None:
    for names in (
        [metric.name for metric in signals.METRICS],
        [span.name for span in signals.SPANS],
        [event.name for event in signals.LOG_EVENTS],
    ):
        assert len(names) == len(set(names))


def test_an_attribute_name_has_one_meaning_within_a_signal() -> None:
    for carrier in (*signals.SPANS, *signals.LOG_EVENTS):
        names = [attribute.name for attribute in carrier.attributes]
        assert len(names) == len(set(names)), carrier.name
    assert {attribute.name for attribute in signals.attributes()} >= {"service.name", "ml.prediction.id", "stage"}


def test_parents_of_spans_are_declared() -> None:
    names = {span.name for span in signals.SPANS}
    assert {span.parent for span in signals.SPANS if span.parent} <= names


def test_only_the_request_part_is_emitted_so_far() -> None:
    later = {m.name for m in signals.METRICS if not m.emitted}
    assert {"ml.feedback", "ml.evaluation.score", "ml.drift.score", "ml.inference.archive.records"} <= later
    assert not later & {"ml.predictions", "http.server.request.duration", "ml.model.info"}
