"""Model: what it says, how sure it is, how long it takes, and what it is asked."""

from grafana_foundation_sdk.models.common import BigValueTextMode

from dashboards.colours import QUANTILES, RED, YELLOW
from dashboards.layout import Board, Row
from dashboards.names import Uid
from dashboards.panels import heat, lines, number, rows
from dashboards.queries import (
    buckets,
    limit,
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
from dashboards.variables import (
    FEATURE,
    INTERVAL,
    ROUTE,
    SERVICE,
    SYNTHETIC,
    TRACK,
    VERSION,
    feature,
    interval,
    route,
    service,
    synthetic,
    track,
    version,
)
from ml_telemetry import signals
from ml_telemetry.signals import Instrument, Metric

_OURS = (SERVICE, VERSION, TRACK)
_ASKED = (*_OURS, SYNTHETIC)
_LABEL, _STAGE, _MODEL = signals.LABEL.label, signals.STAGE.label, signals.VERSION.label
_UNIT, _CORPUS = signals.UNIT.label, signals.CORPUS.label
_INSTANCE = signals.SERVICE_INSTANCE_ID.label
_ALL = total(rate(signals.PREDICTIONS, *_ASKED))
_NO_CLASSES = "not a classification: see Values"
_NO_VALUE = "not a regression: see Confidence"
_NO_BATCHES = "the model answers one by one"


def board() -> Board:
    """Predictions and how good they look first; the input that explains them below, versions side by side last.

    One board shows every kind of model: what a model does not have says so in its panel.
    """
    return Board(
        uid=Uid.MODEL,
        title="Model",
        description="What does the model answer, how sure is it, how long does it take, and what is it asked?",
        variables=[service(), version(), track(), synthetic(), route(), feature(), interval("30s")],
        rows=[_glance(), _predictions(), _confidence(), _values(), _inference(), _input(), _versions()],
    )


def _unsure() -> str:
    unsure = f'{signals.LIMIT.label}="{signals.CONFIDENCE_LIMIT}"'
    return ratio(total(rate(signals.LIMIT_CROSSED, *_ASKED, unsure)), _ALL)


def _glance() -> Row:
    by = f"{_MODEL}, {_CORPUS}"
    served = f"count by ({by}) ({signals.MODEL_INFO.prometheus_name}{selector(*_OURS)})"
    slowest = f"max({quantile(0.95, signals.INFERENCE_DURATION, *_ASKED, by=(_STAGE,))})"
    return Row(
        "At a glance",
        [
            number(
                "Model served",
                "Version of the model, the corpus that it was trained and scored on, and how many workers serve it; "
                "two versions mean a deployment is under way. With a toy corpus the figures say nothing of real input.",
                prom_now(served, f"{{{{{_MODEL}}}}} of {{{{{_CORPUS}}}}}"),
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
                width=3,
            ),
            number(
                "Mean confidence",
                "Mean probability of the predicted class; a fall without a deployment means that the input changed.",
                prom(mean(signals.CONFIDENCE, *_ASKED)),
                unit="percentunit",
                width=3,
                decimals=1,
                none=_NO_CLASSES,
            ),
            number(
                "Unsure predictions",
                "Share of predictions that are no surer than the confidence that the model declares as its limit.",
                prom(_unsure()),
                unit="percentunit",
                width=3,
                decimals=1,
                thresholds=[(0.2, YELLOW), (0.4, RED)],
                none=_NO_CLASSES,
            ),
            number(
                "Median value",
                "Half of the predicted values are below this one, in the unit that the model declares.",
                prom(quantile(0.5, signals.VALUE, *_ASKED, by=(_UNIT,)), f"{{{{{_UNIT}}}}}"),
                unit="short",
                width=3,
                text=BigValueTextMode.VALUE_AND_NAME,
                none=_NO_VALUE,
            ),
            number(
                "Slowest stage p95",
                "95 of 100 passes of the slowest stage took no longer; all stages are below.",
                prom(slowest),
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
                none=_NO_BATCHES,
            ),
        ],
    )


def _predictions() -> Row:
    # A regression counts its predictions without a label.
    by_class = total(rate(signals.PREDICTIONS, *_ASKED, f'{_LABEL}!=""'), _LABEL)
    share = f"{by_class} / ignoring({_LABEL}) group_left() ({_ALL} > 0)"
    by_track = total(rate(signals.PREDICTIONS, *_ASKED), signals.TRACK.label, signals.SYNTHETIC_LABEL.label)
    return Row(
        "Predictions",
        [
            lines(
                "Predictions by track",
                "Predictions per second by track, those of the stack's own load tests and proofs apart.",
                prom(by_track, f"{{{{{signals.TRACK.label}}}}}, synthetic {{{{{signals.SYNTHETIC_LABEL.label}}}}}"),
                unit="reqps",
                stacked=True,
            ),
            lines(
                "Predictions by class",
                "Predictions per second by class.",
                prom(by_class, f"{{{{{_LABEL}}}}}"),
                unit="reqps",
                stacked=True,
                none=_NO_CLASSES,
            ),
            lines(
                "Share of each class",
                "Share of each class among the predictions; shares that move without a deployment are drift.",
                prom(share, f"{{{{{_LABEL}}}}}"),
                unit="percentunit",
                stacked=True,
                maximum=1,
                none=_NO_CLASSES,
            ),
        ],
    )


_SHARES = {"p10": 0.1, "p50": 0.5, "p90": 0.9}


def _confidence() -> Row:
    quantiles = [
        prom(quantile(share, signals.CONFIDENCE, *_ASKED), name, exemplars=name == "p10")
        for name, share in _SHARES.items()
    ]
    by_track = mean(signals.CONFIDENCE, *_ASKED, by=(signals.TRACK.label,))
    return Row(
        "Confidence: of a classification",
        [
            heat(
                "Confidences",
                "How sure the model was; good traffic lies at the top, dots lead to single predictions.",
                prom_heat(buckets(signals.CONFIDENCE, *_ASKED)),
                unit="percentunit",
            ),
            lines(
                "Confidence",
                "Quantiles and, by track, the mean; p10 falls first when the input leaves what the model knows.",
                *quantiles,
                prom(by_track, f"mean, {{{{{signals.TRACK.label}}}}}"),
                prom(limit(signals.CONFIDENCE_LIMIT, *_OURS), "declared limit"),
                unit="percentunit",
                width=12,
                maximum=1,
                colours={**QUANTILES, "declared limit": RED},
                none=_NO_CLASSES,
            ),
        ],
    )


def _values() -> Row:
    unit = f"{{{{{_UNIT}}}}}"
    quantiles = [
        prom(quantile(share, signals.VALUE, *_ASKED, by=(_UNIT,)), f"{name}, {unit}", exemplars=name == "p50")
        for name, share in _SHARES.items()
    ]
    by_track = mean(signals.VALUE, *_ASKED, by=(signals.TRACK.label, _UNIT))
    return Row(
        "Values: of a regression",
        [
            lines(
                "Predicted values",
                "Quantiles of what the model predicts, in its declared unit; one that moves alone is drift.",
                *quantiles,
                unit="short",
                width=12,
                minimum=None,
                colours=QUANTILES,
                none=_NO_VALUE,
            ),
            lines(
                "Mean value by track",
                "Mean of what the model predicts; on the same traffic tracks should predict about the same.",
                prom(by_track, f"{{{{{signals.TRACK.label}}}}}, {unit}"),
                unit="short",
                width=12,
                minimum=None,
                none=_NO_VALUE,
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
                "95 of 100 requests spent no longer in each stage, and as a whole; a stage per batch is done once for "
                "all its requests.",
                # Every request has all stages, and exemplars of each would cost time to fetch.
                prom(quantile(0.95, signals.HTTP_DURATION, *_ASKED, ROUTE), "whole request", exemplars=True),
                prom(quantile(0.95, signals.INFERENCE_DURATION, *_ASKED, by=by), legend),
                unit="s",
                height=10,
                table_legend=True,
            ),
            lines(
                "Mean time of a request",
                "Mean time in each stage, one on the other: the whole is what inference adds to a request.",
                prom(mean(signals.INFERENCE_DURATION, *_ASKED, by=by), legend),
                unit="s",
                stacked=True,
                height=10,
                table_legend=True,
            ),
            heat(
                "Batch sizes",
                "Requests in a batch, where there are any; more load makes larger batches, which is what they are for.",
                prom_heat(buckets(signals.INFERENCE_BATCH_SIZE, *_OURS)),
                unit="short",
                width=8,
                height=10,
            ),
        ],
    )


def _input() -> Row:
    by = (signals.FEATURE.label, signals.CATEGORY_VALUE.label)
    shares = {"p10": 0.1, "p50": 0.5, "p90": 0.9}
    of_feature = (*_ASKED, FEATURE)
    values, every = (total(rate(signals.FEATURE_CATEGORY, *_ASKED), *labels) for labels in (by, by[:1]))
    unit = (signals.UNIT.label,)
    return Row(
        "Input",
        [
            lines(
                "$feature",
                "Quantiles of a declared feature in its declared unit; one that moves without a deployment is drift.",
                *(
                    prom(
                        quantile(share, signals.FEATURE_VALUE, *of_feature, by=unit),
                        f"{name}, {{{{{signals.UNIT.label}}}}}",
                        exemplars=name == "p50",
                    )
                    for name, share in shares.items()
                ),
                unit="short",
                width=24,
                height=7,
                minimum=None,
                colours=QUANTILES,
                repeat="feature",
            ),
            lines(
                "Categories",
                "Share of each declared value of a category; 'other' is a value that the model was not trained on.",
                prom(f"{values} / on ({by[0]}) group_left() ({every} > 0)", f"{{{{{by[0]}}}}} {{{{{by[1]}}}}}"),
                unit="percentunit",
                maximum=1,
                none="the model declares no category",
            ),
            lines(
                "Missing values",
                "Predictions per second for which the caller gave no value of a feature.",
                prom(total(rate(signals.FEATURE_MISSING, *_ASKED), by[0]), f"{{{{{by[0]}}}}}"),
                unit="reqps",
                none="no value was missing",
            ),
            lines(
                "Requests that were refused",
                "Requests per second that never reached the model, by reason.",
                prom(total(rate(signals.REJECTED, *_ASKED), signals.REASON.label), f"{{{{{signals.REASON.label}}}}}"),
                unit="reqps",
                stacked=True,
            ),
        ],
    )


def _versions() -> Row:
    """Metrics do not carry the model's version: each worker's series are joined with what it says it serves."""
    by = (_INSTANCE,)
    info = f"last_over_time({signals.MODEL_INFO.prometheus_name}{selector(*_OURS)}[{INTERVAL}])"
    join = f"* on ({_INSTANCE}) group_left({_MODEL}) max by ({_INSTANCE}, {_MODEL}) ({info})"

    def by_version(expression: str, *more: str) -> str:
        return f"sum by ({', '.join((_MODEL, *more))}) ({total(expression, *by, *more)} {join})"

    def summed(metric: Metric) -> tuple[str, str]:
        """The sum and the count of a histogram, by version."""
        if metric.instrument is Instrument.EXPONENTIAL:
            whole = total(rate(metric, *_ASKED), *by)
            parts = [f"histogram_{part}({whole})" for part in ("sum", "count")]
        else:
            parts = [rate(f"{metric.prometheus_name}_{part}", *_ASKED) for part in ("sum", "count")]
        return by_version(parts[0]), by_version(parts[1])

    predictions = by_version(rate(signals.PREDICTIONS, *_ASKED))
    classes = by_version(rate(signals.PREDICTIONS, *_ASKED, f'{_LABEL}!=""'), _LABEL)
    share = f"{classes} / ignoring({_LABEL}) group_left() ({predictions} > 0)"
    confidence, value = ratio(*summed(signals.CONFIDENCE)), ratio(*summed(signals.VALUE))
    time = ratio(summed(signals.INFERENCE_DURATION)[0], predictions)
    workers = f"count by ({_MODEL}, {_CORPUS}) ({signals.MODEL_INFO.prometheus_name}{selector(*_OURS)})"
    legend = f"{{{{{_MODEL}}}}}"
    return Row(
        "Versions side by side",
        [
            rows(
                "Versions",
                "One line for each version of the model that answered: compare before you shift more traffic. A "
                "classification has a confidence, a regression a value.",
                *(prom_now(expression, table=True) for expression in (workers, predictions, confidence, value, time)),
                columns={
                    _MODEL: ("Model version", "string"),
                    _CORPUS: ("Corpus", "string"),
                    "Value #A": ("Workers", "short"),
                    "Value #B": ("Predictions", "reqps"),
                    "Value #C": ("Mean confidence", "percentunit"),
                    "Value #D": ("Mean value", "short"),
                    "Value #E": ("Mean model time", "s"),
                },
                height=5,
                none="no version",
            ),
            lines(
                "Predictions by version",
                "Predictions per second by version of the model: who takes the traffic.",
                prom(predictions, legend),
                unit="reqps",
                width=6,
                stacked=True,
            ),
            lines(
                "Confidence by version",
                "Mean confidence by version; the new one should not be below the old one on the same traffic.",
                prom(confidence, legend),
                unit="percentunit",
                width=6,
                maximum=1,
                none=_NO_CLASSES,
            ),
            lines(
                "Share of each class by version",
                "On the same traffic two versions should predict the classes about equally often.",
                prom(share, f"{legend} {{{{{_LABEL}}}}}"),
                unit="percentunit",
                width=6,
                maximum=1,
                none=_NO_CLASSES,
            ),
            lines(
                "Value by version",
                "Mean of what each version predicts; on the same traffic two versions should be close.",
                prom(value, legend),
                unit="short",
                width=6,
                minimum=None,
                none=_NO_VALUE,
            ),
        ],
    )
