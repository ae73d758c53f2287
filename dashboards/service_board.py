"""Service: is it well, and if not, which requests, traces and lines show why."""

from dashboards import host
from dashboards.colours import FAILED, LEVELS, ORANGE, QUANTILES, RED, REFUSED, STATUS, YELLOW
from dashboards.layout import Board, Row
from dashboards.names import Uid
from dashboards.objectives import DURATION
from dashboards.panels import bars, heat, lines, log_lines, number, traces
from dashboards.queries import (
    buckets,
    limit,
    logql,
    mean,
    or_zero,
    prom,
    prom_heat,
    prom_now,
    quantile,
    rate,
    ratio,
    selector,
    total,
    traceql,
)
from dashboards.variables import (
    REQUEST,
    ROUTE,
    SERVICE,
    SYNTHETIC,
    TRACK,
    VERSION,
    interval,
    route,
    service,
    slow,
    synthetic,
    track,
    version,
)
from ml_telemetry import signals

_OURS = (SERVICE, VERSION, TRACK)
_ASKED = (*_OURS, SYNTHETIC)
_STATUS = signals.HTTP_STATUS.label
_5XX, _4XX = f'{_STATUS}=~"5.."', f'{_STATUS}=~"4.."'
_ALL = total(rate(signals.HTTP_DURATION, *_ASKED))
_SPAN = f'resource.service.name = "$service" && name = "{REQUEST}"'
_CODE = f"span.{signals.HTTP_STATUS.name}"


def _share(matcher: str) -> str:
    """Share of all requests that have the status."""
    return ratio(or_zero(total(rate(signals.HTTP_DURATION, *_ASKED, matcher)), _ALL), _ALL)


def board() -> Board:
    """Rate, errors, duration and saturation first; traces and logs of the same minutes below."""
    return Board(
        uid=Uid.SERVICE,
        title="Service",
        description="Is the service well for its callers, and if not, which requests show why?",
        variables=[service(), version(), track(), synthetic(), route(), interval("30s"), slow()],
        rows=[_glance(), _requests(), _duration(), _saturation(), _traces(), _logs()],
    )


def _glance() -> Row:
    budget = 'min(slo:period_error_budget_remaining:ratio{service_name="$service"})'
    # The Watchdog always fires: where it does not, nothing can be said of the others.
    firing = or_zero('count(ALERTS{alertstate="firing", alertname!="Watchdog"})', 'count(ALERTS{alertname="Watchdog"})')
    in_progress = total(f"{signals.HTTP_ACTIVE.prometheus_name}{selector(*_OURS)}")
    return Row(
        "At a glance",
        [
            number(
                "Requests",
                "Requests per second, all routes; a sudden fall to zero is an outage in front of the service.",
                prom(_ALL),
                unit="reqps",
            ),
            number(
                "Errors",
                "Share of requests that the service failed (5xx); anything above zero deserves a look.",
                prom(_share(_5XX)),
                unit="percentunit",
                decimals=2,
                thresholds=[(0.001, YELLOW), (0.01, RED)],
                none="no traffic",
            ),
            number(
                "p99",
                "99 of 100 predictions were answered within this time; the objective stands on the SLO dashboard.",
                prom(quantile(0.99, signals.HTTP_DURATION, *_ASKED, ROUTE)),
                unit="s",
                thresholds=DURATION,
                none="no traffic",
            ),
            number(
                "Error budget left",
                "The smaller of the two budgets, availability and latency; below zero an objective is broken.",
                prom(budget),
                unit="percentunit",
                decimals=1,
                thresholds=[(0.0, ORANGE), (0.25, YELLOW), (0.5, "green")],
                base=RED,
            ),
            number(
                "In progress",
                "Requests that wait for their answer now; it grows when the service is slower than its callers ask.",
                prom(in_progress),
                unit="short",
            ),
            number(
                "Alerts firing",
                "Alerts of all parts that fire at the moment; the red marks in the graphs say when each began.",
                prom_now(firing),
                unit="short",
                thresholds=[(1, RED)],
                spark=False,
                none="alerting is dead",
            ),
        ],
    )


def _requests() -> Row:
    by_status = total(rate(signals.HTTP_DURATION, *_ASKED), _STATUS)
    rejected = total(rate(signals.REJECTED, *_ASKED), signals.REASON.label)
    retried = total(rate(signals.BATCH_RETRIES, *_OURS), signals.RETRY_OUTCOME.label)
    calls = total(rate("traces_service_graph_request_total"), "client", "server")
    failed = total(rate("traces_service_graph_request_failed_total"), "client", "server")
    return Row(
        "Rate and errors",
        [
            lines(
                "Requests by status",
                "Requests per second by HTTP status: green was answered, orange the caller's mistake, red our own.",
                prom(by_status, f"{{{{{_STATUS}}}}}"),
                unit="reqps",
                width=6,
                stacked=True,
                colours=STATUS,
            ),
            lines(
                "Failed and rejected share",
                "Share of requests with 5xx and with 4xx; a rise of 4xx after a deployment is often our mistake too.",
                prom(_share(_5XX), "5xx failed"),
                prom(_share(_4XX), "4xx rejected"),
                unit="percentunit",
                width=6,
                colours={"5xx": FAILED, "4xx": REFUSED},
            ),
            lines(
                "Rejections by reason",
                "Requests without an answer per second, by the reason that the caller was told; and batches that "
                "failed as a whole and were tried request by request.",
                prom(rejected, f"{{{{{signals.REASON.label}}}}}"),
                prom(f"{retried} > 0", f"batch retried: {{{{{signals.RETRY_OUTCOME.label}}}}}"),
                unit="reqps",
                width=6,
                stacked=True,
                colours={"internal_error|timeout|overloaded|batch retried": FAILED},
            ),
            lines(
                "Calls between services",
                "Calls per second from client to server, made from the traces; failed ones are red.",
                prom(calls, "{{client}} to {{server}}"),
                prom(failed, "failed: {{client}} to {{server}}"),
                unit="reqps",
                width=6,
                colours={"failed": FAILED},
            ),
        ],
    )


def _duration() -> Row:
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    quantiles = [
        prom(quantile(share, signals.HTTP_DURATION, *_ASKED, ROUTE), name, exemplars=name == "p99")
        for name, share in shares.items()
    ]
    return Row(
        "Duration",
        [
            lines(
                "Duration of predictions",
                "From the request's first byte to its answer; each dot is one request, a click on it opens its trace.",
                *quantiles,
                unit="s",
                width=12,
                colours=QUANTILES,
                thresholds=DURATION[1:],
            ),
            heat(
                "Durations",
                "How many predictions took how long; two bands one above the other are two kinds of requests.",
                prom_heat(buckets(signals.HTTP_DURATION, *_ASKED, ROUTE)),
                unit="s",
            ),
        ],
    )


def _saturation() -> Row:
    active = total(f"{signals.HTTP_ACTIVE.prometheus_name}{selector(*_OURS)}", signals.HTTP_METHOD.label)
    return Row(
        "Saturation",
        [
            lines(
                "Requests in progress",
                "Requests that wait for their answer; a steady climb means that more come in than go out.",
                prom(active, f"{{{{{signals.HTTP_METHOD.label}}}}}"),
                prom(limit(signals.PROGRESS_LIMIT, *_OURS), "declared limit of one worker"),
                unit="short",
                width=6,
                colours={"declared limit": RED},
            ),
            lines(
                "Requests per batch",
                "Requests that one pass of the model answers; at the declared limit the model is the bottleneck.",
                prom(mean(signals.INFERENCE_BATCH_SIZE, *_OURS), "mean"),
                prom(quantile(0.95, signals.INFERENCE_BATCH_SIZE, *_OURS), "p95", exemplars=True),
                prom(limit(signals.BATCH_LIMIT, *_OURS), "declared limit"),
                unit="short",
                width=6,
                colours={**QUANTILES, "declared limit": RED},
                none="the model answers one by one",
            ),
            host.processor(width=6),
            host.memory(width=6),
        ],
    )


def _traces() -> Row:
    return Row(
        "Traces",
        [
            traces(
                "Slow traces",
                "Predictions that took longer than the variable says; the id opens the trace.",
                traceql(f"{{ {_SPAN} && duration > $slow }}"),
            ),
            traces(
                "Failed traces",
                "Requests whose span has the status error: exceptions, timeouts, overload; the id opens the trace.",
                traceql('{ resource.service.name = "$service" && status = error }'),
            ),
            traces(
                "Rejected traces",
                "Requests that were refused (4xx): what callers do wrong; the id opens the trace.",
                traceql(f'{{ resource.service.name = "$service" && {_CODE} >= 400 && {_CODE} < 500 }}'),
            ),
        ],
    )


def _logs() -> Row:
    stream = "{" + SERVICE + "}"
    # The level is in the index: counting the many lines of level info would cost ten times as much.
    above_info = "{" + SERVICE + ', level=~"warn|error|fatal"}'
    return Row(
        "Logs",
        [
            bars(
                "Warnings and errors",
                "Lines above the level info: orange are refused requests, red are failures inside the service.",
                logql(f"sum by (level) (count_over_time({above_info}[$__interval]))", "{{level}}"),
                unit="short",
                width=24,
                height=5,
                colours=LEVELS,
            ),
            log_lines(
                "Log lines",
                "The service's lines, newest first; opened, each shows its trace id with a button to the trace.",
                logql(stream, lines=200),
            ),
        ],
    )
