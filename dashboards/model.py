"""Model: what it says, how sure it is, how long it takes, and what it is asked."""

from grafana_foundation_sdk.models.common import BigValueTextMode

from dashboards.colours import QUANTILES, RED, YELLOW
from dashboards.layout import Board, Row
from dashboards.names import Uid
from dashboards.panels import Panel, heat, lines, number, rows
from dashboards.queries import (
    buckets,
    mean,
    prom,
    prom_heat,
    prom_now,
    quantile,
    rate,
    ratio,
    selector,
    total,
)
from dashboards.variables import INTERVAL, SERVICE, TRACK, VERSION, interval, service, track, version
from ml_telemetry import signals
from ml_telemetry.signals import Metric

_OURS = (SERVICE, VERSION)
_TRACKED = (*_OURS, TRACK)
_LABEL, _STAGE, _MODEL = signals.LABEL.label, signals.STAGE.label, signals.VERSION.label
_PREDICT = f'{_STAGE}="predict"'
_INSTANCE = signals.SERVICE_INSTANCE_ID.label
_UNSURE = 0.6
"""Below this confidence a prediction counts as unsure; it is a bound of the histogram."""
_ALL = total(rate(signals.PREDICTIONS, *_TRACKED))


def board() -> Board:
    """Predictions and confidence first; the input that explains them below, versions side by side last."""
    return Board(
        uid=Uid.MODEL,
        title="Model",
        description="What does the model answer, how sure is it, how long does it take, and what is it asked?",
        variables=[service(), version(), track(), interval("30s")],
        rows=[_glance(), _predictions(), _inference(), _text(), _versions()],
    )


def _unsure() -> str:
    name = signals.CONFIDENCE.prometheus_name
    below = total(rate(f"{name}_bucket", *_TRACKED, f'le="{_UNSURE:g}"'))
    return ratio(below, total(rate(signals.CONFIDENCE, *_TRACKED)))


def _glance() -> Row:
    served = f"count by ({_MODEL}) ({signals.MODEL_INFO.prometheus_name}{selector(*_OURS)})"
    return Row(
        "At a glance",
        [
            number(
                "Model served",
                "Version of the model and how many workers serve it; two versions mean a deployment is under way.",
                prom_now(served, f"{{{{{_MODEL}}}}}"),
                unit="short",
                width=6,
                spark=False,
                text=BigValueTextMode.VALUE_AND_NAME,
            ),
            number(
                "Predictions",
                "Predictions per second of the chosen tracks.",
                prom(_ALL),
                unit="reqps",
            ),
            number(
                "Mean confidence",
                "Mean probability of the predicted class; a fall without a deployment means that the input changed.",
                prom(mean(signals.CONFIDENCE, *_TRACKED)),
                unit="percentunit",
                decimals=1,
                thresholds=[(0.5, YELLOW), (0.7, "green")],
                base=RED,
                none="no traffic",
            ),
            number(
                "Unsure predictions",
                f"Share of predictions with a confidence of {_UNSURE:g} or less: those that a person should look at.",
                prom(_unsure()),
                unit="percentunit",
                decimals=1,
                thresholds=[(0.2, YELLOW), (0.4, RED)],
                none="no traffic",
            ),
            number(
                "Model time p95",
                "95 of 100 passes of the model itself took no longer; the request's other stages are below.",
                prom(quantile(0.95, signals.INFERENCE_DURATION, *_OURS, _PREDICT)),
                unit="s",
                width=3,
                thresholds=[(0.05, YELLOW), (0.25, RED)],
                none="no traffic",
            ),
            number(
                "Mean batch",
                "Requests that one pass of the model answers, on average.",
                prom(mean(signals.INFERENCE_BATCH_SIZE, *_OURS)),
                unit="short",
                width=3,
                decimals=1,
                none="no traffic",
            ),
        ],
    )


def _predictions() -> Row:
    by_class = total(rate(signals.PREDICTIONS, *_TRACKED), _LABEL)
    share = f"{by_class} / ignoring({_LABEL}) group_left() ({_ALL} > 0)"
    confidence = [
        prom(quantile(share_, signals.CONFIDENCE, *_TRACKED), name, exemplars=name == "p10")
        for name, share_ in {"p10": 0.1, "p50": 0.5, "p90": 0.9}.items()
    ]
    by_track = mean(signals.CONFIDENCE, *_TRACKED, by=(signals.TRACK.label,))
    return Row(
        "Predictions and confidence",
        [
            lines(
                "Predictions by class",
                "Predictions per second by class.",
                prom(by_class, f"{{{{{_LABEL}}}}}"),
                unit="reqps",
                width=12,
                stacked=True,
            ),
            lines(
                "Share of each class",
                "Share of each class among the predictions; shares that move without a deployment are drift.",
                prom(share, f"{{{{{_LABEL}}}}}"),
                unit="percentunit",
                width=12,
                stacked=True,
                maximum=1,
            ),
            heat(
                "Confidences",
                "How sure the model was; good traffic lies at the top, dots lead to single predictions.",
                prom_heat(buckets(signals.CONFIDENCE, *_TRACKED)),
                unit="percentunit",
            ),
            lines(
                "Confidence",
                "Quantiles and, by track, the mean; p10 falls first when the input leaves what the model knows.",
                *confidence,
                prom(by_track, f"mean, {{{{{signals.TRACK.label}}}}}"),
                unit="percentunit",
                width=12,
                maximum=1,
                colours=QUANTILES,
            ),
        ],
    )


def _inference() -> Row:
    by, legend = (_STAGE,), f"{{{{{_STAGE}}}}}"
    return Row(
        "Inference",
        [
            lines(
                "Time by stage, p95",
                "95 of 100 requests spent no longer in each stage; vectorize and predict are done once a batch.",
                # Exemplars of one stage are enough: every request has all stages, and each costs time to fetch.
                prom(quantile(0.95, signals.INFERENCE_DURATION, *_OURS, f'{_STAGE}!="predict"', by=by), legend),
                prom(quantile(0.95, signals.INFERENCE_DURATION, *_OURS, _PREDICT, by=by), legend, exemplars=True),
                unit="s",
                height=10,
                table_legend=True,
            ),
            lines(
                "Mean time of a request",
                "Mean time in each stage, one on the other: the whole is what inference adds to a request.",
                prom(mean(signals.INFERENCE_DURATION, *_OURS, by=by), legend),
                unit="s",
                stacked=True,
                height=10,
                table_legend=True,
            ),
            heat(
                "Batch sizes",
                "Requests in a batch; more load makes larger batches, which is what they are for.",
                prom_heat(buckets(signals.INFERENCE_BATCH_SIZE, *_OURS)),
                unit="short",
                width=8,
                height=10,
            ),
        ],
    )


_FEATURES: tuple[tuple[Metric, str, str, str], ...] = (
    (signals.CHARACTERS, "Characters", "short", "Length of the texts; very long ones cost the most time."),
    (signals.WORDS, "Words", "short", "Words of a text; near zero there is little to classify."),
    (signals.WORD_LENGTH, "Word length", "short", "Characters per word; a jump is another language, or no language."),
    (
        signals.OUT_OF_VOCABULARY,
        "Unknown words",
        "percentunit",
        "Share of words that the model never saw; a rise here usually comes before confidence falls.",
    ),
    (signals.ALPHABETIC, "Letters", "percentunit", "Share of characters that are letters."),
    (signals.DIGIT, "Digits", "percentunit", "Share of characters that are digits; tables and logs have many."),
    (signals.SPECIAL, "Special characters", "percentunit", "Share of characters that are neither letter nor digit."),
)


def _text() -> Row:
    return Row(
        "Text profile of the input",
        [
            *(_feature(metric, title, unit, description) for metric, title, unit, description in _FEATURES),
            lines(
                "Texts that were refused",
                "Requests per second that never reached the model, by reason: empty, too long, no text at all.",
                prom(total(rate(signals.REJECTED, *_OURS), signals.REASON.label), f"{{{{{signals.REASON.label}}}}}"),
                unit="reqps",
                width=6,
                height=7,
                stacked=True,
            ),
        ],
    )


def _feature(metric: Metric, title: str, unit: str, description: str) -> Panel:
    shares = {"p10": 0.1, "p50": 0.5, "p90": 0.9}
    targets = [prom(quantile(share, metric, *_OURS), name) for name, share in shares.items()]
    return lines(title, description, *targets, unit=unit, width=6, height=7, colours=QUANTILES)


def _versions() -> Row:
    """Metrics do not carry the model's version: each worker's series are joined with what it says it serves."""
    by = (_INSTANCE,)
    info = f"last_over_time({signals.MODEL_INFO.prometheus_name}{selector(*_OURS)}[{INTERVAL}])"
    join = f"* on ({_INSTANCE}) group_left({_MODEL}) max by ({_INSTANCE}, {_MODEL}) ({info})"

    def by_version(expression: str, *more: str) -> str:
        return f"sum by ({', '.join((_MODEL, *more))}) ({expression} {join})"

    def mean_by_version(metric: Metric, *matchers: str) -> str:
        name = metric.prometheus_name
        parts = [by_version(total(rate(f"{name}_{part}", *matchers), *by)) for part in ("sum", "count")]
        return ratio(*parts)

    predictions = by_version(total(rate(signals.PREDICTIONS, *_TRACKED), *by))
    classes = by_version(total(rate(signals.PREDICTIONS, *_TRACKED), *by, _LABEL), _LABEL)
    share = f"{classes} / ignoring({_LABEL}) group_left() ({predictions} > 0)"
    confidence = mean_by_version(signals.CONFIDENCE, *_TRACKED)
    predict = mean_by_version(signals.INFERENCE_DURATION, *_OURS, _PREDICT)
    unknown = mean_by_version(signals.OUT_OF_VOCABULARY, *_OURS)
    workers = f"count by ({_MODEL}) ({signals.MODEL_INFO.prometheus_name}{selector(*_OURS)})"
    legend = f"{{{{{_MODEL}}}}}"
    return Row(
        "Versions side by side",
        [
            rows(
                "Versions",
                "One line for each version of the model that answered: compare before you shift more traffic.",
                *(
                    prom_now(expression, table=True)
                    for expression in (workers, predictions, confidence, predict, unknown)
                ),
                columns={
                    _MODEL: ("Model version", "string"),
                    "Value #A": ("Workers", "short"),
                    "Value #B": ("Predictions", "reqps"),
                    "Value #C": ("Mean confidence", "percentunit"),
                    "Value #D": ("Mean model time", "s"),
                    "Value #E": ("Unknown words", "percentunit"),
                },
                height=5,
                none="no version",
            ),
            lines(
                "Predictions by version",
                "Predictions per second by version of the model: who takes the traffic.",
                prom(predictions, legend),
                unit="reqps",
                stacked=True,
            ),
            lines(
                "Confidence by version",
                "Mean confidence by version; the new one should not be below the old one on the same traffic.",
                prom(confidence, legend),
                unit="percentunit",
                maximum=1,
            ),
            lines(
                "Share of each class by version",
                "On the same traffic two versions should predict the classes about equally often.",
                prom(share, f"{legend} {{{{{_LABEL}}}}}"),
                unit="percentunit",
                maximum=1,
            ),
        ],
    )
