"""The text classifier's declaration: what follows from it is what the contract lists and everything else reads."""

from dataclasses import replace

from ml_telemetry import signals
from ml_telemetry.contract import Contract
from ml_telemetry.declaration import Declaration, Stage
from text_classifier.declaration import CONTRACT, DECLARATION
from text_classifier.settings import Settings


def test_spans_metrics_and_keys_follow_from_the_declaration() -> None:
    assert [(span.name, span.parent) for span in CONTRACT.spans] == [
        ("POST /predict", None),
        ("preprocess", "POST /predict"),
        ("normalise", "preprocess"),
        ("vectorize", "preprocess"),
        ("predict", "POST /predict"),
        ("postprocess", "POST /predict"),
        (signals.BATCH_SPAN, None),
    ]
    assert {metric.name for metric in CONTRACT.metrics} == {metric.name for metric in signals.METRICS} - {
        # Of a regression, and of a model with categories.
        *(signals.VALUE.name, signals.FEATURE_CATEGORY.name),
    }
    other = Contract(replace(DECLARATION, stages=(*DECLARATION.stages, Stage(name="explain"))))
    assert list(other.spans) != list(CONTRACT.spans)
    assert list(other.metrics) != list(CONTRACT.metrics)
    assert other.prediction_event != CONTRACT.prediction_event


def test_limits_are_those_of_the_settings() -> None:
    settings = Settings()
    assert DECLARATION.limits.batch_size == settings.max_batch_size
    assert DECLARATION.limits.input_bytes == settings.max_body_bytes


def test_it_is_read_back_from_its_json() -> None:
    assert Declaration.from_json(DECLARATION.as_json()) == DECLARATION
