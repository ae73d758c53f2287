"""Load test: what locust, as the caller, saw, beside what the service says of the same seconds."""

from dashboards import host
from dashboards.colours import FAILED, RED, YELLOW
from dashboards.layout import Board, Row
from dashboards.names import Uid
from dashboards.objectives import DURATION as DURATION_STEPS
from dashboards.panels import heat, lines, number
from dashboards.queries import buckets, limit, mean, or_zero, prom, prom_heat, quantile, rate, ratio, total
from dashboards.variables import REQUEST as PREDICT
from dashboards.variables import ROUTE, SERVICE, VERSION, interval, route, service, version
from load_testing import telemetry
from load_testing.telemetry import DURATION, FAILURES, REQUEST, REQUESTS, USERS
from ml_telemetry import signals

_OURS = (SERVICE, VERSION)
_LOCUST = f'{signals.SERVICE_NAME.label}="{telemetry.SERVICE}"'
_GOOD = f'{REQUEST.label}="{PREDICT}"'
_SERVED = f'{ROUTE}, {signals.HTTP_STATUS.label}="200"'
_SENT, _FAILED = total(rate(REQUESTS, _LOCUST)), total(rate(FAILURES, _LOCUST))
_RECEIVED = total(rate(signals.HTTP_DURATION, *_OURS))


def board() -> Board:
    """Caller and server in the same panels, so that a difference is a sight and not a sum."""
    return Board(
        uid=Uid.LOAD_TEST,
        title="Load test",
        description="What did the caller see, what does the server say of it, and where is the difference?",
        variables=[service(), version(), route(), interval("10s")],
        rows=[_glance(), _side_by_side(), _kinds(), _saturation()],
        span="now-15m",
        refresh="10s",
    )


def _glance() -> Row:
    return Row(
        "At a glance",
        [
            number(
                "Users",
                "Users of locust, each of which sends its next request when it has the last answer.",
                prom(f"sum({USERS.prometheus_name}{{{_LOCUST}}})"),
                unit="short",
                none="no run",
            ),
            number(
                "Requests sent",
                "Requests per second that locust counted.",
                prom(_SENT),
                unit="reqps",
                none="no run",
            ),
            number(
                "Failures",
                "Share of answers that were wrong or missing; a refused corrupted request is a right answer.",
                prom(ratio(_FAILED, _SENT)),
                unit="percentunit",
                decimals=2,
                thresholds=[(0.0001, RED)],
                none="no run",
            ),
            number(
                "Caller's p99",
                "99 of 100 good requests had their answer within this time, as locust saw it.",
                prom(quantile(0.99, DURATION, _LOCUST, _GOOD)),
                unit="s",
                thresholds=DURATION_STEPS,
                none="no run",
            ),
            number(
                "Server's p99",
                "The same as the service measured it; it does not see the network and its own accept queue.",
                prom(quantile(0.99, signals.HTTP_DURATION, *_OURS, _SERVED)),
                unit="s",
                thresholds=DURATION_STEPS,
                none="no traffic",
            ),
            number(
                "Mean not seen by the server",
                "Caller's mean minus server's mean: network, connections, and a load test short of time.",
                prom(f"{mean(DURATION, _LOCUST, _GOOD)} - {mean(signals.HTTP_DURATION, *_OURS, _SERVED)}"),
                unit="s",
                thresholds=[(0.05, YELLOW), (0.2, RED)],
                none="no run",
            ),
        ],
    )


def _side_by_side() -> Row:
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    caller = [prom(quantile(share, DURATION, _LOCUST, _GOOD), f"caller {name}") for name, share in shares.items()]
    server = [
        prom(quantile(share, signals.HTTP_DURATION, *_OURS, _SERVED), f"server {name}", exemplars=name == "p99")
        for name, share in shares.items()
    ]
    failed = f'{signals.HTTP_STATUS.label}=~"5.."'
    return Row(
        "Caller and server",
        [
            lines(
                "Requests, caller and server",
                "Requests per second on both sides; the server also counts those of others than locust.",
                prom(_SENT, "caller"),
                prom(_RECEIVED, "server"),
                unit="reqps",
                colours={"caller": "purple", "server": "blue"},
            ),
            lines(
                "Duration of good requests, caller and server",
                "The caller's quantiles above the server's is waiting that the server does not see.",
                *caller,
                *server,
                unit="s",
                colours={"caller p50": "light-purple", "caller p95": "purple", "caller p99": "dark-purple"}
                | {"server p50": "light-blue", "server p95": "blue", "server p99": "dark-blue"},
                thresholds=DURATION_STEPS[1:],
            ),
            lines(
                "Failures, caller and server",
                "Wrong or missing answers as locust judged them, and 5xx of the service; both should be zero.",
                prom(_FAILED, "caller"),
                prom(or_zero(total(rate(signals.HTTP_DURATION, *_OURS, failed)), _RECEIVED), "server 5xx"),
                unit="reqps",
                colours={"caller": "purple", "server": FAILED},
            ),
            heat(
                "Durations, caller",
                "How many good requests took how long, as locust saw them.",
                prom_heat(buckets(DURATION, _LOCUST, _GOOD), exemplars=False),
                unit="s",
            ),
            heat(
                "Durations, server",
                "The same as the service measured them; each dot is a request, a click on it opens its trace.",
                prom_heat(buckets(signals.HTTP_DURATION, *_OURS, _SERVED)),
                unit="s",
            ),
        ],
    )


def _kinds() -> Row:
    legend = f"{{{{{REQUEST.label}}}}}"
    return Row(
        "Kinds of requests",
        [
            lines(
                "Requests by kind",
                "Requests per second by kind; in brackets stands what is wrong with a request on purpose.",
                prom(total(rate(REQUESTS, _LOCUST), REQUEST.label), legend),
                unit="reqps",
                height=11,
                stacked=True,
            ),
            lines(
                "p95 by kind",
                "95 of 100 requests of each kind were answered within this time: refusing must be cheap.",
                prom(quantile(0.95, DURATION, _LOCUST, by=(REQUEST.label,)), legend),
                unit="s",
                height=11,
            ),
            lines(
                "Failures by kind",
                "Wrong or missing answers per second by kind: an accepted corrupted request is one, too.",
                prom(total(rate(FAILURES, _LOCUST), REQUEST.label), legend),
                unit="reqps",
                height=11,
                stacked=True,
            ),
        ],
    )


def _saturation() -> Row:
    active = f"sum({signals.HTTP_ACTIVE.prometheus_name}{{{SERVICE}, {VERSION}}})"
    return Row(
        "Saturation",
        [
            lines(
                "Users and requests in progress",
                "Users of locust beside the requests that the service works on: the gap is time spent elsewhere.",
                prom(f"sum({USERS.prometheus_name}{{{_LOCUST}}})", "users"),
                prom(active, "in progress"),
                unit="short",
                width=6,
            ),
            lines(
                "Requests per batch under load",
                "Requests that one pass of the model answers; it grows with the load until the declared limit.",
                prom(mean(signals.INFERENCE_BATCH_SIZE, *_OURS), "mean"),
                prom(limit(signals.BATCH_LIMIT, *_OURS), "declared limit"),
                unit="short",
                width=6,
                colours={"declared limit": RED},
                none="the model answers one by one",
            ),
            host.processor(width=6),
            host.memory(width=6),
        ],
    )
