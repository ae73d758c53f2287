"""The machine under everything: the same two panels wherever its load explains something else."""

from grafana_foundation_sdk.builders import timeseries

from dashboards.colours import RED
from dashboards.panels import lines
from dashboards.queries import prom, rate, ratio, total

_HOST = 'service_name="host"'
_FULL = [(0.9, RED)]


def processor(*, width: int = 8) -> timeseries.Panel:
    """Share of all processors that is not idle."""
    time = "system_cpu_time_seconds_total"
    idle = ratio(total(rate(time, _HOST, 'state="idle"')), total(rate(time, _HOST)))
    return lines(
        "Processor of the host",
        "Share of the host's processors that is busy, with everything that runs there.",
        prom(f"1 - {idle}", "busy"),
        unit="percentunit",
        width=width,
        maximum=1,
        thresholds=_FULL,
    )


def memory(*, width: int = 8) -> timeseries.Panel:
    """Share of the memory that is in use; what the kernel could free at once is not."""
    usage = "system_memory_usage_bytes"
    used = ratio(
        f'sum({usage}{{{_HOST}, state="used"}})', f'sum({usage}{{{_HOST}, state=~"used|free|cached|buffered"}})'
    )
    return lines(
        "Memory of the host",
        "Share of the host's memory that is used; above nine tenths the kernel may begin to end processes.",
        prom(used, "used"),
        unit="percentunit",
        width=width,
        maximum=1,
        thresholds=_FULL,
    )
