"""Pieces of PromQL that several rules are made of."""

from typing import Final

from ml_telemetry import signals

USERS: Final = f'{signals.TRACK.label}!="shadow", {signals.SYNTHETIC_LABEL.label}!="true"'
"""Requests whose answers a user got: no copies for a shadow, and none that the stack sent itself."""
COLLECTOR: Final = 'otelcol_process_uptime_total{service_name="otel-collector"}'
"""The Collector's own sign of life; every pushed series passes the Collector, so without it all others end too."""
COLLECTOR_SILENT: Final = "20s"
"""The Collector sends it every five seconds."""
_UPTIME: Final = 'time() - max(process_start_time_seconds{service_name="prometheus"})'
START_SECONDS: Final = 180
"""How long after Prometheus' own start a part that was not seen since is still starting."""
START_WINDOW: Final = "3m"
"""The same as a range, which a faster pace leaves as it is."""
_ROUTE: Final = signals.HTTP_ROUTE.label
_KNOWN: Final = "1h"
_KNOWN_SECONDS: Final = 3600


def _new(selector: str, window: str) -> str:
    """Series that were not there in the hour before the window, unless nothing was.

    After a gap, of a machine that slept or a server that was away, every series looks new, and its value is not of this
    window. A start is no gap: there Prometheus and the Collector are both young.
    """
    # The number stands first: what is compared with a number behind it is a threshold.
    older = f"{_KNOWN_SECONDS} < {COLLECTOR} or on () {_KNOWN_SECONDS} < {_UPTIME}"
    gap = f"({older}) unless on () last_over_time({COLLECTOR}[{_KNOWN}] offset {window})"
    return f"{selector} unless last_over_time({selector}[{_KNOWN}] offset {window}) unless on () ({gap})"


def predicting(series: str) -> str:
    """Series of the HTTP server's metrics, only of the route on which their service says that its model predicts."""
    return f"({series} and on (service_name, {_ROUTE}) {signals.MODEL_INFO.prometheus_name})"


def grown(selector: str, window: str, *labels: str, predictions: bool = False) -> str:
    """By how much counters grew in a window, summed by labels; a counter that is new counts from zero.

    With ``predictions`` only those of the route of predictions are counted.

    ``increase`` alone loses the first value of a series, which is all of it when ten requests fail in the first second
    that any fails. A series is new when it was not there in the hour before the window, but others were.
    """
    by = f" by ({', '.join(labels)})" if labels else ""
    series = f"(({_new(selector, window)}) or increase({selector}[{window}]))"
    return f"sum{by} {predicting(series) if predictions else series}"


def difference(recorded: str, window: str, *labels: str) -> str:
    """Like :func:`grown` for a recorded number that may also fall a little, which ``increase`` takes for a restart."""
    return f"sum by ({', '.join(labels)}) (({_new(recorded, window)}) or {recorded} - {recorded} offset {window})"


def share(part: str, whole: str) -> str:
    """One expression divided by another, without a value where there is nothing to divide by."""
    return f"{part}\n/\n({whole} > 0)"


def silent(selector: str, window: str) -> str:
    """Holds when no sample of a pushed series came for a window.

    Not while the Collector itself is silent (that is an alert of its own), nor while the stack starts: within three
    minutes of Prometheus' start a series must have been seen first.
    """
    expression = f"absent_over_time({selector}[{window}])\n{_starting(selector)}"
    if selector != COLLECTOR:
        expression += f"\nunless on () absent_over_time({COLLECTOR}[{COLLECTOR_SILENT}])"
    return expression


def silent_by_service(services: str, metric: str, window: str) -> str:
    """Like :func:`silent`, for each of some services that should send a metric."""
    young = f"{services} and on () ({_UPTIME} < {START_SECONDS})"
    return (
        f"{services}\nunless on (service_name) last_over_time({metric}[{window}])\n"
        f"unless on (service_name) ({young} unless on (service_name) last_over_time({metric}[{START_WINDOW}]))\n"
        f"unless on () absent_over_time({COLLECTOR}[{COLLECTOR_SILENT}])"
    )


def _starting(selector: str) -> str:
    seen = f"group(last_over_time({selector}[{START_WINDOW}]))"
    return f"unless on () ({_UPTIME} < {START_SECONDS} unless on () {seen})"


def server_down() -> str:
    """Holds for a server that does not answer a scrape; while the stack starts, only when it had answered before."""
    young = f"{_UPTIME} < {START_SECONDS}"
    return f"up == 0\nunless (max_over_time(up[{START_WINDOW}]) == 0 and on () ({young}))"


def limit(name: str) -> str:
    """What the model of each service declares as that limit."""
    return f'max by (service_name) ({signals.MODEL_LIMIT.prometheus_name}{{{signals.LIMIT.label}="{name}"}})'


def crossed(name: str, *matchers: str) -> str:
    """The counter of requests that crossed a declared limit."""
    chosen = ", ".join((f'{signals.LIMIT.label}="{name}"', *matchers))
    return f"{signals.LIMIT_CROSSED.prometheus_name}{{{chosen}}}"


def telling(expression: str, name: str) -> str:
    """The same series, each with the declared limit of its service as the label ``declared``."""
    declared = f'count_values by (service_name) ("declared", {limit(name)})'
    return f"({expression})\n* on (service_name) group_left (declared)\n{declared}"


def arriving(counter: str, window: str) -> str:
    """Services of which a counter moved in a window: its value is not the one that it had before."""
    before = f"last_over_time({counter}[{_KNOWN}] offset {window})"
    now = f"last_over_time({counter}[{window}])"
    return f"group by (service_name) ({now} unless {now} == {before})"
