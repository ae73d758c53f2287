"""The panels that may be empty on a sound stack with real traffic, each with the reason why."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from dashboards.names import Uid
from dashboards.sent_queries import Question
from ml_telemetry import signals
from ml_telemetry.declaration import Declaration, Per, Task

EVERY: Final = "*"


@dataclass(frozen=True)
class MayBeEmpty:
    """A panel ("annotation: ..." and "variable: ..." too, or every one) that may be empty; errors never may.

    ``letters`` are those of its queries that may be; without any, all of them. ``models`` says for which models they
    may be.
    """

    dashboard: Uid
    panel: str
    reason: str
    letters: str = ""
    models: Callable[[Declaration], bool] = lambda _: True

    def covers(self, question: Question) -> bool:
        """Whether this entry is about that question."""
        return (
            question.dashboard == self.dashboard
            and self.panel in (EVERY, question.panel)
            and (not self.letters or question.letter in self.letters)
        )


_QUIET = "nothing fires on a sound stack"
_CLUSTER = "needs kube-state-metrics, cAdvisor and node-exporter, which are only in a cluster"

_VALUES = (
    *(("Median value", ""), ("Predicted values", ""), ("Mean value by track", ""), ("Value by version", "")),
    ("Versions", "D"),
)
_SURE = (
    *(("Mean confidence", ""), ("Unsure predictions", ""), ("Confidences", ""), ("Confidence", "")),
    *(("Predictions by class", ""), ("Share of each class", ""), ("Confidence by version", "")),
    *(("Share of each class by version", ""), ("Versions", "C")),
)
_BATCHES = (
    *((Uid.MODEL, "Mean batch"), (Uid.MODEL, "Batch sizes"), (Uid.SERVICE, "Requests per batch")),
    (Uid.LOAD_TEST, "Requests per batch under load"),
)


def _classifies(model: Declaration) -> bool:
    return model.task is Task.CLASSIFICATION


def _regresses(model: Declaration) -> bool:
    return model.task is Task.REGRESSION


def _unbatched(model: Declaration) -> bool:
    return all(stage.per is Per.REQUEST for stage in model.stages)


TABLE: Final = (
    *(MayBeEmpty(uid, "annotation: Alerts", _QUIET) for uid in Uid if uid is not Uid.KUBERNETES),
    MayBeEmpty(Uid.KUBERNETES, EVERY, _CLUSTER),
    MayBeEmpty(Uid.SLO, "Alerts that fire", _QUIET),
    MayBeEmpty(Uid.SLO, "Availability: budget lasts", "no budget is burnt while no request fails"),
    MayBeEmpty(Uid.SLO, "Latency: budget lasts", "no budget is burnt while no request is slow"),
    MayBeEmpty(Uid.SERVICE, "Calls between services", "no call between services failed", "B"),
    MayBeEmpty(Uid.PIPELINE, "Loki: lines taken and discarded", "Loki discarded no line", "B"),
    MayBeEmpty(Uid.PIPELINE, "Left out, by sender", "nobody sends what a server would refuse"),
    MayBeEmpty(Uid.PIPELINE, "Changed, by sender", "nobody sends what must be changed"),
    MayBeEmpty(Uid.SERVICE, "Rejections by reason", "no batch had to be run again, text by text", "B"),
    *(MayBeEmpty(Uid.MODEL, panel, "the model is no regression", letters, _classifies) for panel, letters in _VALUES),
    *(MayBeEmpty(Uid.MODEL, panel, "the model is no classification", letters, _regresses) for panel, letters in _SURE),
    *(MayBeEmpty(uid, panel, "the model answers one by one", "", _unbatched) for uid, panel in _BATCHES),
    MayBeEmpty(Uid.MODEL, "Categories", "the model declares no category", "", lambda model: not model.categories),
    MayBeEmpty(Uid.MODEL, "$feature", "the model declares no number", "", lambda model: not model.measures),
    MayBeEmpty(Uid.MODEL, "variable: feature", "the model declares no number", "", lambda model: not model.measures),
    MayBeEmpty(Uid.MODEL, "Missing values", "callers may give every value"),
    MayBeEmpty(Uid.MODEL, "Requests that were refused", "callers may make no mistake"),
    MayBeEmpty(Uid.SERVICE, "Failed traces", "a sound service fails no request; a test of its own fills it"),
)

BORN_LATE: Final[dict[str, str]] = {
    signals.TELEMETRY_DROPPED.prometheus_name: "a service that gave up telemetry",
    "otelcol_exporter_send_failed_spans_total": "a store that refused spans",
    "otelcol_exporter_send_failed_metric_points_total": "a store that refused points",
    "otelcol_exporter_send_failed_log_records_total": "a store that refused lines",
    "telemetry_refused_total": "an item that a server would refuse",
    "telemetry_changed_total": "an item that could not be kept as it was",
    "minio_s3_requests_5xx_errors_total": "a failure of MinIO",
    "minio_s3_requests_4xx_errors_total": "a call for an object that is not there",
}
"""Series that appear with their first event, each with that event; a query gets by without them."""


def reason(question: Question, model: Declaration, table: Iterable[MayBeEmpty] = TABLE) -> str:
    """Why the question may have an empty answer for a service with that model, or nothing if it may not."""
    return next((entry.reason for entry in table if entry.covers(question) and entry.models(model)), "")


def left_over(questions: Iterable[Question], table: Iterable[MayBeEmpty] = TABLE) -> Iterator[str]:
    """A sentence for each entry that is about no question any more, letter by letter."""
    asked = list(questions)
    for entry in table:
        covered = [question for question in asked if entry.covers(question)]
        missing = set(entry.letters) - {question.letter for question in covered}
        if not covered or missing:
            letters = f" ({', '.join(sorted(missing))})" if missing else ""
            yield f"{entry.dashboard} / {entry.panel}{letters} is listed as possibly empty, but there is no such query"
