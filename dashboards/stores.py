"""Rows of the Pipeline dashboard: the stores at the end of the way, each by its own metrics."""

from dashboards.colours import FAILED, ORANGE
from dashboards.layout import Row
from dashboards.panels import lines
from dashboards.queries import or_zero, prom, quantile, rate, ratio, total


def _p99(metric: str, by: str, *matchers: str) -> str:
    return quantile(0.99, metric, *matchers, by=(by,))


def loki() -> Row:
    """What it takes, how fast it answers, what it holds."""
    return Row(
        "Loki",
        [
            lines(
                "Loki: bytes taken",
                "Bytes of log lines per second that Loki took.",
                prom(total(rate("loki_distributor_bytes_received_total")), "bytes"),
                unit="Bps",
                width=6,
            ),
            lines(
                "Loki: lines taken and discarded",
                "Lines per second that Loki took, and those it refused, by reason.",
                prom(total(rate("loki_distributor_lines_received_total")), "taken"),
                prom(total(rate("loki_discarded_samples_total"), "reason"), "discarded: {{reason}}"),
                unit="cps",
                width=6,
                colours={"discarded": FAILED},
            ),
            lines(
                "Loki: requests, p99",
                "99 of 100 requests took no longer, by route; queries of this dashboard are among them.",
                prom(_p99("loki_request_duration_seconds", "route", 'route=~".*(push|query|otlp).*"'), "{{route}}"),
                unit="s",
                width=6,
            ),
            lines(
                "Loki: in memory",
                "Streams and chunks that are not in object storage yet; many streams mean a label with many values.",
                prom("sum(loki_ingester_memory_streams)", "streams"),
                prom("sum(loki_ingester_memory_chunks)", "chunks"),
                unit="short",
                width=6,
            ),
        ],
    )


def tempo() -> Row:
    """What it takes, how fast it answers, what it holds."""
    return Row(
        "Tempo",
        [
            lines(
                "Tempo: bytes taken",
                "Bytes of spans per second that Tempo took.",
                prom(total(rate("tempo_distributor_bytes_received_total")), "bytes"),
                unit="Bps",
                width=6,
            ),
            lines(
                "Tempo: spans taken and discarded",
                "Spans per second that Tempo took, and those it refused, by reason.",
                prom(total(rate("tempo_distributor_spans_received_total")), "taken"),
                prom(total(rate("tempo_discarded_spans_total"), "reason"), "discarded: {{reason}}"),
                unit="cps",
                width=6,
                colours={"discarded": FAILED},
            ),
            lines(
                "Tempo: requests, p99",
                "99 of 100 requests took no longer, by route; searches of the Service dashboard are among them.",
                prom(_p99("tempo_request_duration_seconds", "route", 'route=~".*(api|Push).*"'), "{{route}}"),
                unit="s",
                width=6,
            ),
            lines(
                "Tempo: blocks",
                "Blocks in object storage, and traces in memory that belong to none yet.",
                prom("sum(tempodb_blocklist_length)", "blocks"),
                prom("sum(tempo_ingester_live_traces)", "live traces"),
                unit="short",
                width=6,
            ),
        ],
    )


def prometheus() -> Row:
    """What it takes, how fast it answers, what it holds."""
    stored = "sum(prometheus_tsdb_storage_blocks_bytes) + sum(prometheus_tsdb_wal_storage_size_bytes)"
    return Row(
        "Prometheus",
        [
            lines(
                "Prometheus: samples taken",
                "Samples per second appended; too old ones are refused, which happens after a long outage.",
                prom(total(rate("prometheus_tsdb_head_samples_appended_total")), "taken"),
                prom(total(rate("prometheus_tsdb_too_old_samples_total")), "too old"),
                unit="cps",
                width=6,
                colours={"too old": FAILED},
            ),
            lines(
                "Prometheus: series",
                "Series in memory; a steady climb is a label with ever new values.",
                prom("sum(prometheus_tsdb_head_series)", "series"),
                unit="short",
                width=4,
            ),
            lines(
                "Prometheus: bytes on disk",
                "Bytes of blocks and of the write-ahead log on disk.",
                prom(stored, "blocks and log"),
                unit="bytes",
                width=4,
            ),
            lines(
                "Prometheus: requests, p99",
                "99 of 100 requests took no longer, by path; those of these dashboards are among them.",
                prom(
                    _p99("prometheus_http_request_duration_seconds", "handler", 'handler=~".*(query|otlp).*"'),
                    "{{handler}}",
                ),
                unit="s",
                width=6,
            ),
            lines(
                "Prometheus: failures",
                "Rules that could not be evaluated and alerts that were not handed on, per second; both must be none.",
                prom(total(rate("prometheus_rule_evaluation_failures_total")), "rules"),
                prom(total(rate("prometheus_notifications_dropped_total")), "alerts"),
                unit="cps",
                width=4,
                colours={".*": FAILED},
            ),
        ],
    )


def minio() -> Row:
    """What it takes, how fast it answers, what it holds."""
    return Row(
        "MinIO",
        [
            lines(
                "MinIO: bytes stored",
                "Bytes of all objects; MinIO counts them about once a minute, or less often.",
                prom("sum(minio_cluster_usage_total_bytes)", "stored"),
                unit="bytes",
                width=6,
            ),
            lines(
                "MinIO: requests by call",
                "S3 calls per second by name; Loki and Tempo write, compact and list.",
                prom(total(rate("minio_s3_requests_total"), "api"), "{{api}}"),
                unit="reqps",
                width=6,
            ),
            lines(
                "MinIO: failed requests",
                "S3 calls per second with 5xx (MinIO's fault) and 4xx (often an object that is not there yet).",
                prom(
                    or_zero(total(rate("minio_s3_requests_5xx_errors_total")), total(rate("minio_s3_requests_total"))),
                    "5xx",
                ),
                prom(
                    or_zero(total(rate("minio_s3_requests_4xx_errors_total")), total(rate("minio_s3_requests_total"))),
                    "4xx",
                ),
                unit="reqps",
                width=6,
                colours={"5xx": FAILED, "4xx": ORANGE},
            ),
            lines(
                "MinIO: free",
                "Share of the disk's capacity that is free; Loki and Tempo stop writing when it is gone.",
                prom(
                    ratio(
                        "sum(minio_cluster_capacity_usable_free_bytes)",
                        "sum(minio_cluster_capacity_usable_total_bytes)",
                    ),
                    "free",
                ),
                unit="percentunit",
                width=6,
                maximum=1,
            ),
        ],
    )
