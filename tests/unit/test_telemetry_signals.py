"""The contract checks itself, and against the names that the design promises to queries."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ml_telemetry import signals
from ml_telemetry.contract import Contract
from ml_telemetry.signals import Instrument, LogEvent, Metric, Span, prometheus_name
from tests.prices import DECLARATION as PRICES
from text_classifier.declaration import DECLARATION as TEXT_CLASSIFIER

# The names that queries see: whoever changes one breaks what people wrote down.
PROMETHEUS_NAMES = [
    "http_server_request_duration_seconds",
    "http_server_request_body_size_bytes",
    "http_server_response_body_size_bytes",
    "http_server_active_requests",
    "ml_inference_duration_seconds",
    "ml_inference_batch_size",
    "ml_inference_batch_retries_total",
    "ml_predictions_total",
    "ml_prediction_confidence_ratio",
    "ml_prediction_value",
    "ml_requests_rejected_total",
    "ml_input_feature",
    "ml_input_missing_total",
    "ml_input_category_total",
    "ml_limit_crossed_total",
    "ml_model_info",
    "ml_model_limit",
    "ml_telemetry_dropped_total",
]
MODELS = [Contract(declared) for declared in (TEXT_CLASSIFIER, PRICES)]


def test_metrics_have_the_promised_prometheus_names() -> None:
    assert sorted(metric.prometheus_name for metric in signals.METRICS) == sorted(PROMETHEUS_NAMES)
    assert {metric.name for model in MODELS for metric in model.metrics} == {one.name for one in signals.METRICS}


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


@pytest.mark.parametrize("model", MODELS)
def test_every_label_of_a_declared_model_is_bounded(model: Contract) -> None:
    assert unbounded(model.metrics) == []
    broken = replace(signals.PREDICTIONS, labels=(signals.TRACK, signals.PREDICTION_ID))
    assert unbounded((broken,)) == ["ml.predictions.ml.prediction.id"]


def test_values_of_labels_are_those_of_the_declaration() -> None:
    labels = {(metric.name, label.name): label.values for metric in MODELS[1].metrics for label in metric.labels}
    assert labels["ml.inference.duration", "stage"] == ("prepare", "estimate")
    assert labels["ml.input.category", "value"] == ("gas", "oil", "other", "missing")
    assert len(labels["ml.input.feature", "feature"]) == 29
    assert labels["ml.prediction.value", "unit"] == ("EUR",)
    assert ("ml.predictions", "label") not in labels


def test_histograms_have_rising_bounds_and_nothing_else_has_any() -> None:
    for metric in signals.METRICS:
        assert bool(metric.bounds) == (metric.instrument is Instrument.HISTOGRAM), metric.name
        assert list(metric.bounds) == sorted(set(metric.bounds)), metric.name


@pytest.mark.parametrize("model", MODELS)
def test_names_are_unique(model: Contract) -> None:
    for names in (
        [metric.name for metric in signals.METRICS],
        [span.name for span in model.spans],
        [event.name for event in signals.LOG_EVENTS],
    ):
        assert len(names) == len(set(names))


@pytest.mark.parametrize("model", MODELS)
def test_an_attribute_name_has_one_meaning_within_a_signal(model: Contract) -> None:
    carriers: list[Span | LogEvent] = [*model.spans, model.prediction_event, *signals.LOG_EVENTS]
    for carrier in carriers:
        names = [attribute.name for attribute in carrier.attributes]
        assert len(names) == len(set(names)), carrier.name


@pytest.mark.parametrize("model", MODELS)
def test_parents_of_spans_are_declared(model: Contract) -> None:
    names = {span.name for span in model.spans}
    assert {span.parent for span in model.spans if span.parent} <= names
