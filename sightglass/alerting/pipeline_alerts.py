"""Alerts on the path of the signals: servers, the Collector, the canary, and where data are kept.

Thresholds are constants, used by the expression and by the sentence that says when an alert fires.
"""

from typing import Final

from sightglass.alerting.promql import COLLECTOR, COLLECTOR_SILENT, grown, server_down, silent
from sightglass.alerting.rule import Alert, Group, Severity, percent
from sightglass.alerting.service_alerts import LABEL
from sightglass.facts import settings

QUEUE_SHARE: Final = 0.5
DELAY_SECONDS: Final = 10
LOST_PROBES: Final = 2
LOST_WINDOW: Final = "2m"
ITEMS_WINDOW: Final = "1m"
FULL_SHARE: Final = 0.9
UNREAD_MEBIBYTES: Final = 5
"""Half of what a kubelet lets a log file grow to: what Promtail has not read when it is stopped may be lost."""

# These alerts have no service of their own: the next look is at the requests of ours.
ALL_REQUESTS: Final = "{ kind = server }"
_SLOW_REQUESTS: Final = "{ kind = server && duration > 250ms }"
_CANARY: Final = f'{{ resource.service.name = "{settings.CANARY}" }}'

_ITEMS: Final = {"traces": "spans", "logs": "log_records", "metrics": "metric_points"}


def _collector(counter: str, by: str) -> str:
    """Growth of the Collector's counters of one kind, of all three signals."""
    parts = [
        f'label_replace({grown(f"otelcol_{counter}_{items}_total", ITEMS_WINDOW, by)}, "signal", "{signal}", "", "")'
        for signal, items in _ITEMS.items()
    ]
    return "\nor\n".join(parts)


def _alert(
    name: str,
    expr: str,
    severity: Severity,
    *,
    when: str,
    summary: str,
    description: str,
    hold: str = "0s",
    traces: str = ALL_REQUESTS,
) -> Alert:
    return Alert(
        name=name,
        expr=expr,
        severity=severity,
        when=when,
        summary=summary,
        description=description,
        dashboard="sightglass-pipeline",
        traces=traces,
        hold=hold,
    )


def group() -> Group:
    """The alert rules."""
    size, capacity = "otelcol_exporter_queue_size", "otelcol_exporter_queue_capacity"
    used, free = 'system_filesystem_usage_bytes{state="used"}', 'system_filesystem_usage_bytes{state="free"}'
    queue, disk = "exporter, data_type", "service_name, k8s_node_name, device"
    usable = "minio_cluster_capacity_usable"
    return Group(
        "pipeline",
        [
            _alert(
                "ServerDown",
                server_down(),
                "page",
                hold="30s",
                when="Prometheus cannot scrape a server (Loki, Tempo, Promtail, MinIO, Alertmanager)",
                summary=f"{LABEL} does not answer.",
                description="Prometheus could not scrape {{ $labels.instance }} for half a minute.",
            ),
            _alert(
                "CollectorDown",
                silent(COLLECTOR, COLLECTOR_SILENT),
                "page",
                hold="40s",
                when=f"the Collector sent no metrics of its own for {COLLECTOR_SILENT}",
                summary="The Collector is down: no signal arrives.",
                description="Logs and metrics wait with their senders; spans that are made now may be lost.",
            ),
            _alert(
                "CollectorRefuses",
                f"(\n{_collector('receiver_refused', 'receiver')}\n) > 0",
                "ticket",
                when=f"a receiver of the Collector refused data within {ITEMS_WINDOW}",
                summary="The Collector refuses {{ $labels.signal }} ({{ $labels.receiver }}).",
                description="{{ $value | humanize }} items refused in a minute: senders try again, then drop.",
            ),
            _alert(
                "CollectorDrops",
                (
                    f"(\n{_collector('exporter_send_failed', 'exporter')}\n) > 0\n"
                    f"or\n(\n{_collector('exporter_enqueue_failed', 'exporter')}\n) > 0"
                ),
                "page",
                when=f"the Collector gave data up within {ITEMS_WINDOW}: a server refused them, or a queue was full",
                summary="The Collector loses {{ $labels.signal }} ({{ $labels.exporter }}).",
                description="{{ $value | humanize }} items of the last minute are lost.",
            ),
            _alert(
                "TelemetryRefused",
                f"{grown('telemetry_refused_total', ITEMS_WINDOW, 'service_name', 'signal', 'reason')} > 0",
                "ticket",
                when=f"somebody sent within {ITEMS_WINDOW} what a server would refuse, and it was left out",
                summary=f"{LABEL} sends {{{{ $labels.signal }}}} that are left out: {{{{ $labels.reason }}}}.",
                description="{{ $value | humanize }} items of the last minute are lost; nobody else's are.",
            ),
            _alert(
                "CollectorQueueFills",
                f"max by ({queue}) ({size}) / max by ({queue}) ({capacity}) > {QUEUE_SHARE}",
                "ticket",
                hold="30s",
                when=f"a queue of the Collector is more than {percent(QUEUE_SHARE)} full",
                summary="The Collector's queue for {{ $labels.exporter }} fills up.",
                description="{{ $value | humanizePercentage }} full; what no longer fits is lost.",
            ),
            _alert(
                "PromtailBehind",
                (
                    "max by (service_name, instance, path) (promtail_file_bytes_total - promtail_read_bytes_total)"
                    f" > {UNREAD_MEBIBYTES * 2**20}"
                ),
                "ticket",
                hold="30s",
                when=f"Promtail has more than {UNREAD_MEBIBYTES} MiB of a log file still to read",
                summary="Promtail is behind in {{ $labels.path }}.",
                description=(
                    "{{ $value | humanize1024 }}B are not read yet: lines are found late, "
                    "and in a cluster lost if Promtail stops while the file is rotated."
                ),
            ),
            _alert(
                "CanaryDown",
                silent(f'canary_probes_total{{service_name="{settings.CANARY}"}}', "30s"),
                "ticket",
                hold="1m",
                when="the canary sent no metrics for 30 s, while the Collector is alive",
                summary="The canary is down: nobody measures whether signals arrive.",
                description="IngestDelay and SignalLost cannot fire without it.",
                traces=_CANARY,
            ),
            _alert(
                "IngestDelay",
                f"max by (signal) (canary_delay_seconds) > {DELAY_SECONDS}",
                "ticket",
                hold="30s",
                when=f"a signal of the canary takes more than {DELAY_SECONDS} s from emission to being found",
                summary="{{ $labels.signal }} are found late.",
                description="{{ $value | humanizeDuration }} from emission to being found, or not found until now.",
                traces=_CANARY,
            ),
            _alert(
                "SignalLost",
                f"{grown('canary_lost_total', LOST_WINDOW, 'signal')} >= {LOST_PROBES}",
                "page",
                when=f"{LOST_PROBES} or more probes of the canary within {LOST_WINDOW} were not found in their 30 s",
                summary="{{ $labels.signal }} do not arrive.",
                description="{{ $value | humanize }} probes of two minutes were not found.",
                traces=_CANARY,
            ),
            _alert(
                "DiskFills",
                f"max by ({disk}) ({used}) / (max by ({disk}) ({used}) + max by ({disk}) ({free})) > {FULL_SHARE}",
                "page",
                hold="1m",
                when=f"a disk of the host is more than {percent(FULL_SHARE)} full",
                summary="{{ $labels.device }} fills up.",
                description="{{ $value | humanizePercentage }} used; when it is full, queues and databases stop.",
                traces=_SLOW_REQUESTS,
            ),
            _alert(
                "ObjectStoreFills",
                f"1 - min({usable}_free_bytes) / min({usable}_total_bytes) > {FULL_SHARE}",
                "page",
                hold="30s",
                when=f"MinIO's usable capacity is more than {percent(FULL_SHARE)} full",
                summary="MinIO fills up.",
                description="{{ $value | humanizePercentage }} used; when it is full, Loki and Tempo cannot write.",
                traces=_SLOW_REQUESTS,
            ),
        ],
    )
