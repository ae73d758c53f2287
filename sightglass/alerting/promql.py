"""Pieces of PromQL that several rules are made of."""

from typing import Final

COLLECTOR: Final = 'otelcol_process_uptime_total{service_name="otel-collector"}'
"""The Collector's own sign of life; every pushed series passes the Collector, so without it all others end too."""
COLLECTOR_SILENT: Final = "20s"
"""The Collector sends it every five seconds."""
_UPTIME: Final = 'time() - max(process_start_time_seconds{service_name="prometheus"})'
START_SECONDS: Final = 180
"""How long after Prometheus' own start a part that was not seen since is still starting."""
START_WINDOW: Final = "3m"
"""The same as a range, which a faster pace leaves as it is."""
_KNOWN: Final = "1h"


def grown(selector: str, window: str, *labels: str) -> str:
    """By how much counters grew in a window, summed by labels; a counter that is new counts from zero.

    ``increase`` alone loses the first value of a series, which is all of it when ten requests fail in the first second
    that any fails. A series is new when it was not there in the hour before the window.
    """
    by = f" by ({', '.join(labels)})" if labels else ""
    new = f"{selector} unless last_over_time({selector}[{_KNOWN}] offset {window})"
    return f"sum{by} (({new}) or increase({selector}[{window}]))"


def difference(recorded: str, window: str, *labels: str) -> str:
    """Like :func:`grown` for a recorded number that may also fall a little, which ``increase`` takes for a restart."""
    new = f"{recorded} unless last_over_time({recorded}[{_KNOWN}] offset {window})"
    return f"sum by ({', '.join(labels)}) (({new}) or {recorded} - {recorded} offset {window})"


def share(part: str, whole: str, window: str, *labels: str) -> str:
    """Growth of one selector divided by that of another, without a value where there is nothing to divide by."""
    return f"{grown(part, window, *labels)}\n/\n({grown(whole, window, *labels)} > 0)"


def silent(selector: str, window: str) -> str:
    """Holds when no sample of a pushed series came for a window.

    Not while the Collector itself is silent (that is an alert of its own), nor while the stack starts: within three
    minutes of Prometheus' start a series must have been seen first.
    """
    expression = f"absent_over_time({selector}[{window}])\n{_starting(selector)}"
    if selector != COLLECTOR:
        expression += f"\nunless on () absent_over_time({COLLECTOR}[{COLLECTOR_SILENT}])"
    return expression


def _starting(selector: str) -> str:
    seen = f"group(last_over_time({selector}[{START_WINDOW}]))"
    return f"unless on () ({_UPTIME} < {START_SECONDS} unless on () {seen})"


def server_down() -> str:
    """Holds for a server that does not answer a scrape; while the stack starts, only when it had answered before."""
    young = f"{_UPTIME} < {START_SECONDS}"
    return f"up == 0\nunless (max_over_time(up[{START_WINDOW}]) == 0 and on () ({young}))"


def arriving(counter: str, window: str) -> str:
    """Services of which a counter moved in a window: its value is not the one that it had before."""
    before = f"last_over_time({counter}[{_KNOWN}] offset {window})"
    now = f"last_over_time({counter}[{window}])"
    return f"group by (service_name) ({now} unless {now} == {before})"
