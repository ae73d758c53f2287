"""Alerts on the service and its model.

Thresholds are constants, used by the expression and by the sentence that says when an alert fires.
"""

from typing import Final

from ml_telemetry import signals
from sightglass.alerting.observed import OBSERVED
from sightglass.alerting.promql import (
    arriving,
    crossed,
    difference,
    grown,
    limit,
    predicting,
    share,
    silent_by_service,
    telling,
)
from sightglass.alerting.rule import Alert, Group, Recording, percent

LABEL: Final = "{{ $labels.service_name }}"

_HTTP: Final = signals.HTTP_DURATION.prometheus_name
_ANSWERED: Final = f'{signals.HTTP_STATUS.label}="200"'
_STATUS: Final = f"span.{signals.HTTP_STATUS.name}"
_METHOD: Final = f"span.{signals.HTTP_METHOD.name}"
_DECLARED: Final = "{{ $labels.declared }}"
_SIZE: Final = f"span.{signals.HTTP_RESPONSE_SIZE.name}"
_INSTANCE: Final = "service_name, service_instance_id"

SILENT_REQUESTS: Final = 10
SILENT_WINDOW: Final = "1m"
WRONG_SHARE: Final = 0.01
WRONG_LEAST: Final = 5
WRONG_WINDOW: Final = "1m"
UNSURE_SHARE: Final = 0.5
UNSURE_LEAST: Final = 30
UNSURE_WINDOW: Final = "2m"
REFUSED_SHARE: Final = 0.01
REFUSED_LEAST: Final = 5
REFUSED_WINDOW: Final = "1m"
DROPPED_WINDOW: Final = "1m"


def requests_of(service: str = LABEL) -> str:
    """TraceQL conditions of the request spans of a service, by default the one that an alert names."""
    return f'resource.service.name = "{service}" && kind = server'


def _silence(name: str, what: str, counter: str) -> Alert:
    served = grown(f"{_HTTP}_count", SILENT_WINDOW, "service_name", predictions=True)
    return Alert(
        name=name,
        expr=f"{served} > {SILENT_REQUESTS}\nunless on (service_name)\n{arriving(counter, SILENT_WINDOW)}",
        severity="page",
        hold="30s",
        when=f"more than {SILENT_REQUESTS} requests in {SILENT_WINDOW}, and the Collector received no {what} of them",
        summary=f"{LABEL} serves requests but sends no {what}.",
        description=(
            f"{{{{ $value | humanize }}}} requests in {SILENT_WINDOW}, and none of their {what} reached the Collector."
        ),
        dashboard="sightglass-pipeline",
        variables={"service": LABEL},
        traces=f"{{ {requests_of()} }}",
    )


def _wrong_content() -> list[Alert | Recording]:
    answers = f"sum by ({_INSTANCE}) {predicting(f'{_HTTP}_count{{{_ANSWERED}}}')}"
    predictions = f"sum by ({_INSTANCE}) ({signals.PREDICTIONS.prometheus_name})"
    all_, unbacked = "instance:predict_answers:total", "instance:predict_answers_without_prediction:total"
    moved = difference(unbacked, WRONG_WINDOW, "service_name")
    small = grown(crossed(signals.ANSWER_LIMIT), WRONG_WINDOW, "service_name")
    answered = grown(f"{_HTTP}_count{{{_ANSWERED}}}", WRONG_WINDOW, "service_name", predictions=True)
    wrong = f"{share(small, answered)} > {WRONG_SHARE}\nand\n{small} >= {WRONG_LEAST}"
    return [
        # Both counters belong to one process and begin at zero with it, so their difference is exact.
        Recording(all_, answers),
        Recording(unbacked, f"{answers} - {predictions}\nor\n{answers}"),
        Alert(
            name="AnswerWithoutPrediction",
            expr=(
                f"{share(moved, grown(all_, WRONG_WINDOW, 'service_name'))} > {WRONG_SHARE}\n"
                f"and\n{moved} >= {WRONG_LEAST}"
            ),
            severity="page",
            hold="30s",
            when=(
                f"more than {percent(WRONG_SHARE)} of the 200 answers of {WRONG_WINDOW}, and {WRONG_LEAST} or more, "
                f"that no prediction stands behind"
            ),
            summary=f"{LABEL} answers 200 without having predicted.",
            description="{{ $value | humanizePercentage }} of the 200 answers have no prediction behind them.",
            dashboard="sightglass-model",
            variables={"service": LABEL},
            # A good trace has also a span of the model.
            traces=(
                f'{{ resource.service.name = "{LABEL}" && ((kind = server && {_METHOD} = "POST" && {_STATUS} = 200) '
                f'|| span.{signals.MODEL_VERSION.name} != "") }} | count() = 1'
            ),
        ),
        Alert(
            name="AnswerTooSmall",
            expr=telling(wrong, signals.ANSWER_LIMIT),
            severity="page",
            hold="30s",
            when=(
                f"more than {percent(WRONG_SHARE)} of the 200 answers of {WRONG_WINDOW}, and {WRONG_LEAST} or more, "
                f"are smaller than the model declares"
            ),
            summary=f"{LABEL} answers 200 with bodies too small to be a prediction.",
            description=f"{{{{ $value | humanizePercentage }}}} of the 200 answers have less than {_DECLARED} bytes.",
            dashboard="sightglass-service",
            variables={"service": LABEL},
            traces=f"{{ {requests_of()} && {_STATUS} = 200 && {_SIZE} < {_DECLARED} }}",
        ),
    ]


def _confidence() -> Alert:
    by = ("service_name", signals.TRACK.label)
    # What a load test sends says nothing of the users' input.
    asked = f'{signals.SYNTHETIC_LABEL.label}!="true"'
    unsure = grown(crossed(signals.CONFIDENCE_LIMIT, asked), UNSURE_WINDOW, *by)
    predictions = grown(f"{signals.PREDICTIONS.prometheus_name}{{{asked}}}", UNSURE_WINDOW, *by)
    most = f"{share(unsure, predictions)} > {UNSURE_SHARE}\nand\n{predictions} >= {UNSURE_LEAST}"
    track = f"{{{{ $labels.{signals.TRACK.label} }}}}"
    return Alert(
        name="ConfidenceCollapse",
        expr=telling(most, signals.CONFIDENCE_LIMIT),
        severity="ticket",
        hold="1m",
        when=(
            f"more than {percent(UNSURE_SHARE)} of the predictions of {UNSURE_WINDOW} are no surer than the model "
            f"declares, with {UNSURE_LEAST} predictions or more"
        ),
        summary=f"{LABEL} is unsure of most of its predictions (track {track}).",
        description=f"{{{{ $value | humanizePercentage }}}} of the predictions are {_DECLARED} sure or less.",
        dashboard="sightglass-model",
        variables={"service": LABEL, "track": track},
        traces=(f'{{ resource.service.name = "{LABEL}" && span.{signals.PREDICTION_CONFIDENCE.name} <= {_DECLARED} }}'),
    )


def _saturation() -> list[Alert]:
    refused = f'{signals.REJECTED.prometheus_name}{{reason=~"overloaded|timeout"}}'
    rejected = grown(refused, REFUSED_WINDOW, "service_name")
    requests = grown(f"{_HTTP}_count", REFUSED_WINDOW, "service_name", predictions=True)
    active = signals.HTTP_ACTIVE.prometheus_name
    summary = f"{LABEL} has more to do than it can."
    traces = f"{{ {requests_of()} && ({_STATUS} = 503 || {_STATUS} = 504 || duration > 1s) }}"
    return [
        Alert(
            name="Saturation",
            expr=(f"{share(rejected, requests)} > {REFUSED_SHARE}\nand\n{rejected} >= {REFUSED_LEAST}"),
            severity="ticket",
            hold="15s",
            when=(
                f"more than {percent(REFUSED_SHARE)} of the requests of {REFUSED_WINDOW}, and {REFUSED_LEAST} or more, "
                f"were turned away as overloaded or timed out"
            ),
            summary=summary,
            description="{{ $value | humanizePercentage }} of the requests were turned away or took too long.",
            dashboard="sightglass-service",
            variables={"service": LABEL},
            traces=traces,
            labels={"sign": "rejections"},
        ),
        Alert(
            name="Saturation",
            expr=(
                f"max by (service_name) (last_over_time({active}[15s]))\n"
                f"/ on (service_name)\n{limit(signals.PROGRESS_LIMIT)} > 1"
            ),
            severity="ticket",
            hold="30s",
            when="more requests in progress in one worker than the model declares as what it can do",
            summary=summary,
            description="{{ $value | humanize }} times as many requests are in progress in one worker as it can do.",
            dashboard="sightglass-service",
            variables={"service": LABEL},
            traces=traces,
            labels={"sign": "active_requests"},
        ),
    ]


def group() -> Group:
    """The alert rules, and the recordings that they stand on."""
    dropped = grown(signals.TELEMETRY_DROPPED.prometheus_name, DROPPED_WINDOW, "service_name", "signal", "reason")
    return Group(
        "service",
        [
            Alert(
                name="ServiceDown",
                expr=silent_by_service(OBSERVED, signals.MODEL_INFO.prometheus_name, "15s"),
                severity="page",
                hold="45s",
                when="no worker of the service sent metrics for 15 s, while the Collector is alive",
                summary=f"{LABEL} is down.",
                description="No worker sends metrics any more, and the Collector is not the reason.",
                dashboard="sightglass-service",
                variables={"service": LABEL},
                traces=f"{{ {requests_of()} }}",
            ),
            _silence("SpansSilent", "spans", "telemetry_spans_total"),
            _silence("LogsSilent", "log lines", "telemetry_log_records_total"),
            Alert(
                name="TelemetryDropped",
                expr=f"{dropped} > 0",
                severity="ticket",
                when=f"the service itself dropped spans or log lines within {DROPPED_WINDOW}",
                summary=f"{LABEL} drops {{{{ $labels.signal }}}}: {{{{ $labels.reason }}}}.",
                description="{{ $value | humanize }} requests of the last minute lost their {{ $labels.signal }}.",
                dashboard="sightglass-pipeline",
                variables={"service": LABEL},
                traces=f"{{ {requests_of()} }}",
            ),
            *_wrong_content(),
            _confidence(),
            *_saturation(),
        ],
    )
