"""Pipeline: does telemetry arrive, how late, and where is it stuck or lost."""

from dashboards import host, stores
from dashboards.colours import FAILED, GREEN, ORANGE, RED, YELLOW
from dashboards.layout import Board, Row
from dashboards.names import Uid
from dashboards.panels import lines, number, states
from dashboards.queries import or_zero, prom, prom_now, rate, total
from dashboards.variables import interval
from ml_telemetry import signals
from sightglass.facts.environments import SCRAPED

_SIGNALS = {"spans": "spans", "metric_points": "points", "log_records": "lines"}
"""The Collector's names of what it carries, and ours."""
_SERVERS = "|".join(sorted({*SCRAPED, "minio"}))
_COLLECTOR = 'service_name="otel-collector"'


def board() -> Board:
    """Delay and loss first, then the way of the data: Promtail, Collector, the stores, MinIO under them."""
    return Board(
        uid=Uid.PIPELINE,
        title="Pipeline",
        description="Does telemetry arrive, how late, and where is it stuck or lost?",
        variables=[interval("1m")],
        rows=[
            _glance(),
            _delay(),
            _collector(),
            _promtail(),
            stores.loki(),
            stores.tempo(),
            stores.prometheus(),
            stores.minio(),
            _host(),
        ],
        one_service=False,
    )


_SENDER = ("service_name", "signal", "reason")
_SENT = "{{service_name}} {{signal}}: {{reason}}"


def _over_signals(template: str) -> str:
    """Sum of one of the Collector's counters over spans, points and lines."""
    return " + ".join(total(rate(template.format(name), _COLLECTOR)) for name in _SIGNALS)


def _glance() -> Row:
    queue = f"max(otelcol_exporter_queue_size{{{_COLLECTOR}}} / otelcol_exporter_queue_capacity{{{_COLLECTOR}}})"
    dropped = f"sum(increase({signals.TELEMETRY_DROPPED.prometheus_name}[$__range]))"
    workers = f"count({signals.MODEL_INFO.prometheus_name})"
    return Row(
        "At a glance",
        [
            number(
                "Delay",
                "Seconds until a query found the last probe of each signal; at 30 it was not found at all.",
                prom("max by (signal) (canary_delay_seconds)", "{{signal}}"),
                unit="s",
                width=6,
                decimals=1,
                thresholds=[(5, YELLOW), (15, RED)],
            ),
            number(
                "Probes lost",
                "Probes in the time range that no query found within 30 seconds; none should be.",
                prom_now("sum(increase(canary_lost_total[$__range]))"),
                unit="short",
                decimals=0,
                thresholds=[(1, RED)],
                spark=False,
            ),
            number(
                "Fullest queue",
                "Share of the fullest exporter queue of the Collector; it grows while a store takes nothing.",
                prom(queue),
                unit="percentunit",
                decimals=1,
                thresholds=[(0.25, YELLOW), (0.75, RED)],
            ),
            number(
                "Refused by the Collector",
                "Spans, points and lines per second that a receiver refused: the Collector is out of memory.",
                prom(_over_signals("otelcol_receiver_refused_{}_total")),
                unit="cps",
                thresholds=[(0.001, RED)],
            ),
            number(
                "Dropped by services",
                "Requests in the time range whose spans or line a service gave up: its Collector was away too long.",
                prom_now(or_zero(dropped, workers)),
                unit="short",
                width=3,
                decimals=0,
                thresholds=[(1, RED)],
                spark=False,
            ),
            number(
                "Servers down",
                "Servers that Prometheus cannot scrape; the bands below say which and since when.",
                prom_now(or_zero("count(up == 0)", "count(up)")),
                unit="short",
                width=3,
                thresholds=[(1, RED)],
                spark=False,
            ),
        ],
    )


def _delay() -> Row:
    return Row(
        "From emitted to found",
        [
            lines(
                "Ingest-to-query delay",
                "Seconds from a probe's emission until a query found it, by signal; one that climbs is not arriving.",
                prom("max by (signal) (canary_delay_seconds)", "{{signal}}"),
                unit="s",
                thresholds=[(5, YELLOW)],
            ),
            lines(
                "Probes lost by signal",
                "Probes per second that were sent and never found, by signal: this path is broken.",
                prom(total(rate("canary_lost_total"), "signal"), "{{signal}}"),
                unit="cps",
                colours={".*": FAILED},
            ),
            states(
                "Servers",
                "Whether each server can be scraped, in a cluster each of its pods; services push.",
                prom(f'min by (service_name) (up{{service_name=~"{_SERVERS}"}})', "{{service_name}}"),
                names={1: ("up", GREEN), 0: ("down", RED)},
                width=8,
                height=8,
            ),
        ],
    )


def _collector() -> Row:
    received = [
        prom(total(rate(f"otelcol_receiver_accepted_{name}_total", _COLLECTOR), "receiver"), f"{ours} {{{{receiver}}}}")
        for name, ours in _SIGNALS.items()
    ]
    sent = [
        prom(total(rate(f"otelcol_exporter_sent_{name}_total", _COLLECTOR), "exporter"), f"{ours} {{{{exporter}}}}")
        for name, ours in _SIGNALS.items()
    ]
    refused = [
        prom(
            total(rate(f"otelcol_receiver_refused_{name}_total", _COLLECTOR), "receiver"),
            f"{ours} {{{{receiver}}}}",
        )
        for name, ours in _SIGNALS.items()
    ]
    failed = [
        prom(
            or_zero(
                total(rate(f"otelcol_exporter_send_failed_{name}_total", _COLLECTOR), "exporter"),
                total(rate(f"otelcol_exporter_sent_{name}_total", _COLLECTOR), "exporter"),
            ),
            f"{ours} {{{{exporter}}}}",
        )
        for name, ours in _SIGNALS.items()
    ]
    return Row(
        "Collector",
        [
            lines(
                "Taken by receiver",
                "Spans, points and lines per second that each receiver took; one at zero has lost its sender.",
                *received,
                unit="cps",
                width=6,
                height=9,
            ),
            lines(
                "Refused by receiver",
                "Spans, points and lines per second that a receiver refused; their sender has to try again.",
                *refused,
                unit="cps",
                width=6,
                height=9,
                colours={".*": ORANGE},
            ),
            lines(
                "Sent by exporter",
                "Spans, points and lines per second that each exporter delivered; it should follow what was taken.",
                *sent,
                unit="cps",
                width=6,
                height=9,
            ),
            lines(
                "Failed by exporter",
                "Spans, points and lines per second that a store did not take for good; they are lost.",
                *failed,
                unit="cps",
                width=6,
                height=9,
                colours={".*": FAILED},
            ),
            lines(
                "Left out, by sender",
                "Items per second that were left out, because a server would have refused their whole batch: who sent "
                "them, and why.",
                prom(total(rate("telemetry_refused_total"), *_SENDER), _SENT),
                unit="cps",
                width=12,
                colours={".*": FAILED},
            ),
            lines(
                "Changed, by sender",
                "Spans and lines per second that were kept, but not as they were sent: who sent them, and what was "
                "wrong with them.",
                prom(total(rate("telemetry_changed_total"), *_SENDER), _SENT),
                unit="cps",
                width=12,
                colours={".*": ORANGE},
            ),
            lines(
                "Queued by exporter",
                "Bytes that wait on disk for each store; after an outage the line falls as fast as the store takes.",
                prom(f"sum by (exporter) (otelcol_exporter_queue_size{{{_COLLECTOR}}})", "{{exporter}}"),
                unit="bytes",
                width=6,
            ),
            lines(
                "Received from each service",
                "Spans and log lines per second by the service that sent them; a silent service is worth a look.",
                prom(total(rate("telemetry_spans_total"), "service_name"), "spans {{service_name}}"),
                prom(total(rate("telemetry_log_records_total"), "service_name"), "lines {{service_name}}"),
                unit="cps",
                width=6,
            ),
            lines(
                "Memory of the Collector",
                "Memory that the process holds; near its limit of 400 MiB it begins to refuse.",
                prom(f"sum(otelcol_process_memory_rss{{{_COLLECTOR}}})", "resident"),
                unit="bytes",
                width=6,
                thresholds=[(400 * 2**20, RED)],
            ),
            lines(
                "Processor of the Collector",
                "Processor seconds a second: 1 is one whole core.",
                prom(total(rate("otelcol_process_cpu_seconds_total", _COLLECTOR)), "cores"),
                unit="short",
                width=6,
            ),
        ],
    )


def _promtail() -> Row:
    return Row(
        "Promtail",
        [
            lines(
                "Lines read and sent",
                "Lines per second read from files and sent to the Collector; the two belong together.",
                prom(total(rate("promtail_read_lines_total")), "read"),
                prom(total(rate("promtail_sent_entries_total")), "sent"),
                unit="cps",
            ),
            lines(
                "Lines dropped",
                "Lines per second that Promtail gave up, by reason; it never should, for it tries without end.",
                prom(total(rate("promtail_dropped_entries_total"), "reason"), "{{reason}}"),
                unit="cps",
                colours={".*": FAILED},
            ),
            lines(
                "Bytes not read yet",
                "How far Promtail is behind the end of the files that it tails.",
                prom("sum(promtail_file_bytes_total) - sum(promtail_read_bytes_total)", "behind"),
                unit="bytes",
            ),
        ],
    )


def _host() -> Row:
    disk = 'device=~"/dev/.*"'
    io = [
        prom(total(rate("system_disk_io_bytes_total"), "direction"), "disk {{direction}}"),
        prom(total(rate("system_network_io_bytes_total", 'device!="lo"'), "direction"), "network {{direction}}"),
    ]
    return Row(
        "Host",
        [
            host.processor(width=6),
            host.memory(width=6),
            lines(
                "Disk of the host",
                "Share of each file system that is used; a full disk stops every store at once.",
                prom(
                    'sum by (mountpoint) (system_filesystem_usage_bytes{state="used", '
                    f"{disk}}}) / sum by (mountpoint) (system_filesystem_usage_bytes{{{disk}}})",
                    "{{mountpoint}}",
                ),
                unit="percentunit",
                width=6,
                maximum=1,
                thresholds=[(0.9, RED)],
            ),
            lines(
                "Traffic of the host",
                "Bytes per second to and from disks and networks.",
                *io,
                unit="Bps",
                width=6,
            ),
        ],
    )
