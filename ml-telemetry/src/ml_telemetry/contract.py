"""What a service emits, derived from the declaration of its model: spans, metrics and the line of a prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from ml_telemetry import signals
from ml_telemetry.declaration import PROFILE, Declaration, Kind, Per, Stage, Task
from ml_telemetry.signals import Attribute, LogEvent, Metric, Span
from ml_telemetry.signals import Kind as SpanKind

OTHER: Final = "other"
MISSING: Final = "missing"
"""What stands for a value that is not declared, and for none."""
# Lengths say at a glance what kind of text a trace is about; the shares are for statistics.
_UNTRACED: Final = frozenset(feature.name for feature in PROFILE if feature.kind is not Kind.COUNT)


@dataclass(frozen=True, slots=True)
class StagePlace:
    """Where the times of a stage stand: which of those per request, or per batch, it is."""

    stage: Stage
    batched: bool
    at: int


class Contract:
    """The signals of one declared model."""

    def __init__(self, declaration: Declaration) -> None:
        self.declaration = declaration
        counts = {Per.REQUEST: 0, Per.BATCH: 0}
        places = []
        for stage in declaration.stages:
            places.append(StagePlace(stage, stage.per is Per.BATCH, counts[stage.per]))
            counts[stage.per] += 1
        self.places: Final = tuple(places)
        self.request_stages: Final = counts[Per.REQUEST]
        self.batch_stages: Final = counts[Per.BATCH]
        self.classifies: Final = declaration.task is Task.CLASSIFICATION
        # The stage whose span tells the outcome.
        names = [stage.name for stage in declaration.stages]
        last = max((at for at, place in enumerate(places) if place.batched), default=len(places) - 1)
        self.outcome_stage: Final = names[names.index("predict") if "predict" in names else last]
        self.groups: Final = tuple(dict.fromkeys(stage.group for stage in declaration.stages if stage.group))
        self.input_span: Final = self.groups[0] if self.groups else names[0]
        self.features: Final = declaration.observed
        self.measures: Final = declaration.measures
        self.categories: Final = declaration.categories
        self.reasons: Final = (*signals.REJECTION_REASONS, *declaration.refusals)
        self.stage_seconds: Final = {
            name: Attribute(f"ml.inference.{name}.seconds", f"Seconds in the stage {name}.") for name in names
        }
        self.outcome: Final = (
            (signals.PREDICTION_LABEL, signals.PREDICTION_CONFIDENCE, signals.PREDICTION_MARGIN)
            if self.classifies
            else (signals.PREDICTION_VALUE,)
        )
        self.feature_attributes: Final = tuple(
            Attribute(feature.attribute, feature.description) for feature in self.features
        )
        self.feature_names: Final = tuple(attribute.name for attribute in self.feature_attributes)
        self.traced: Final = tuple(
            (at, feature) for at, feature in enumerate(self.features) if feature.name not in _UNTRACED
        )
        limits = declaration.limits
        # Those that a prediction or its answer may cross, and all.
        self.crossed: Final[dict[str, float]] = {
            signals.ANSWER_LIMIT: limits.smallest_answer_bytes,
            **({signals.CONFIDENCE_LIMIT: limits.confidence} if self.classifies else {}),
        }
        self.limits: Final[dict[str, float]] = {
            **({signals.BATCH_LIMIT: limits.batch_size} if self.batch_stages else {}),
            signals.PROGRESS_LIMIT: limits.in_progress,
            **self.crossed,
        }
        self.spans: Final = self._spans()
        self.prediction_event: Final = self._prediction_event()
        self.metrics: Final = self._metrics()

    @property
    def request_span(self) -> str:
        """Name of the span of a request for a prediction."""
        return f"POST {self.declaration.route}"

    def _spans(self) -> tuple[Span, ...]:
        request = self.request_span
        inputs = tuple(Attribute(feature.attribute, feature.description) for _, feature in self.traced)
        deployed = (*signals.MODEL, *((signals.BATCH_SIZE,) if self.batch_stages else ()))
        outcome = (*deployed, *self.outcome, signals.DEPLOYMENT_TRACK)
        found = [Span(request, SpanKind.SERVER, None, (*signals.HTTP_SPAN, signals.PREDICTION_ID, signals.ERROR_TYPE))]
        seen: set[str] = set()
        for stage in self.declaration.stages:
            if stage.group and stage.group not in seen:
                seen.add(stage.group)
                own = inputs if stage.group == self.input_span else ()
                found.append(Span(stage.group, SpanKind.INTERNAL, request, own))
            own = inputs if stage.name == self.input_span else ()
            if stage.name == self.outcome_stage:
                own = (*own, *outcome)
            found.append(Span(stage.name, SpanKind.INTERNAL, stage.group or request, own))
        if self.batch_stages:
            # Links lead from it to its requests, and back.
            own = (*signals.MODEL, signals.BATCH_SIZE, signals.DEPLOYMENT_TRACK, signals.ERROR_TYPE)
            found.append(Span(signals.BATCH_SPAN, SpanKind.INTERNAL, None, own))
        return tuple(found)

    def _prediction_event(self) -> LogEvent:
        known = signals.PREDICTION_EVENT
        return LogEvent(
            known.name,
            known.severity,
            known.description,
            (
                signals.PREDICTION_ID,
                signals.REQUEST_ID,
                *self.outcome,
                *((signals.PREDICTION_PROBABILITIES,) if self.classifies else ()),
                *signals.MODEL,
                signals.DEPLOYMENT_TRACK,
                *((signals.BATCH_SIZE,) if self.batch_stages else ()),
                *self.stage_seconds.values(),
                signals.INPUT_HASH,
                signals.INPUT_HASH_KEY_ID,
                *self.feature_attributes,
                *signals.LOG_HTTP,
            ),
        )

    def _metrics(self) -> tuple[Metric, ...]:
        declared = self.declaration
        largest = declared.limits.batch_size
        size = signals.INFERENCE_BATCH_SIZE
        batch = (
            replace(size, bounds=(*(bound for bound in size.bounds if bound < largest), float(largest))),
            signals.BATCH_RETRIES,
        )
        features = {
            signals.FEATURE: tuple(feature.name for feature in self.measures),
            signals.UNIT: tuple(dict.fromkeys(feature.unit for feature in self.measures)),
        }
        values = dict.fromkeys(value for feature in self.categories for value in feature.values)
        return (
            *(signals.HTTP_DURATION, signals.HTTP_REQUEST_BODY, signals.HTTP_RESPONSE_BODY, signals.HTTP_ACTIVE),
            _with(signals.INFERENCE_DURATION, {signals.STAGE: tuple(stage.name for stage in declared.stages)}),
            *(batch if self.batch_stages else ()),
            _with(signals.PREDICTIONS, {signals.LABEL: declared.classes}),
            signals.CONFIDENCE if self.classifies else _with(signals.VALUE, {signals.UNIT: (declared.unit,)}),
            _with(signals.REJECTED, {signals.REASON: self.reasons}),
            *(
                (_with(signals.FEATURE_VALUE, features), _with(signals.FEATURE_MISSING, features))
                if self.measures
                else ()
            ),
            *(
                (
                    _with(
                        signals.FEATURE_CATEGORY,
                        {
                            signals.FEATURE: tuple(feature.name for feature in self.categories),
                            signals.CATEGORY_VALUE: (*values, OTHER, MISSING),
                        },
                    ),
                )
                if self.categories
                else ()
            ),
            _with(signals.LIMIT_CROSSED, {signals.LIMIT: tuple(self.crossed)}),
            _with(signals.MODEL_LIMIT, {signals.LIMIT: tuple(self.limits)}),
            signals.MODEL_INFO,
            signals.TELEMETRY_DROPPED,
        )


def _with(metric: Metric, declared: Mapping[Attribute, tuple[str, ...]]) -> Metric:
    """Return the metric with the values that a declaration gives its labels; one of which it has none is left out."""
    found = (replace(label, values=declared[label]) if label in declared else label for label in metric.labels)
    return replace(metric, labels=tuple(label for label in found if label.bound))
