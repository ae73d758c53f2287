"""OpenTelemetry's environment variables: which do what OpenTelemetry says, and which do nothing here."""

from __future__ import annotations

from typing import Final

_PER_SIGNAL: Final = (
    "ENDPOINT",
    "HEADERS",
    "TIMEOUT",
    "COMPRESSION",
    "PROTOCOL",
    "INSECURE",
    "CERTIFICATE",
    "CLIENT_KEY",
    "CLIENT_CERTIFICATE",
)
HONOURED: Final = frozenset(
    (
        "OTEL_SDK_DISABLED",
        "OTEL_SERVICE_NAME",
        "OTEL_RESOURCE_ATTRIBUTES",
        "OTEL_TRACES_EXPORTER",
        "OTEL_METRICS_EXPORTER",
        "OTEL_TRACES_SAMPLER",
        "OTEL_TRACES_SAMPLER_ARG",
        "OTEL_BSP_SCHEDULE_DELAY",
        "OTEL_BSP_MAX_QUEUE_SIZE",
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
        "OTEL_METRIC_EXPORT_INTERVAL",
        "OTEL_METRIC_EXPORT_TIMEOUT",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        *(f"OTEL_EXPORTER_OTLP_{signal}{name}" for signal in ("", "TRACES_", "METRICS_") for name in _PER_SIGNAL),
    )
)
"""They do what OpenTelemetry says. The exporters take ``otlp`` and ``none``; timeouts of OTLP are in seconds, as in
OpenTelemetry's own Python exporters."""
OWN: Final = frozenset(
    (
        "OTEL_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        "OTEL_SPAN_EVENT_COUNT_LIMIT",
        "OTEL_SPAN_LINK_COUNT_LIMIT",
        "OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_LINK_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_METRICS_EXEMPLAR_FILTER",
        "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION",
        "OTEL_EXPERIMENTAL_RESOURCE_DETECTORS",
        "OTEL_PYTHON_CONTEXT",
    )
)
"""They hold for spans and metrics that an application makes itself with OpenTelemetry, and not for those made here."""
NOT_HONOURED: Final = frozenset(
    (
        "OTEL_PROPAGATORS",
        "OTEL_LOG_LEVEL",
        "OTEL_LOGS_EXPORTER",
        # The SDK's batch processor does not use it, and a batch that nobody took is sent until somebody does.
        "OTEL_BSP_EXPORT_TIMEOUT",
        "OTEL_BLRP_SCHEDULE_DELAY",
        "OTEL_BLRP_EXPORT_TIMEOUT",
        "OTEL_BLRP_MAX_QUEUE_SIZE",
        "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
        "OTEL_CONFIG_FILE",
        "OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        "OTEL_PYTHON_ID_GENERATOR",
        "OTEL_PYTHON_LOGGER_CONFIGURATOR",
        "OTEL_PYTHON_METER_CONFIGURATOR",
        "OTEL_PYTHON_METER_PROVIDER",
        "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED",
        "OTEL_PYTHON_TRACER_CONFIGURATOR",
        "OTEL_PYTHON_TRACER_PROVIDER",
        *(f"OTEL_EXPORTER_OTLP_LOGS_{name}" for name in _PER_SIGNAL),
    )
)
"""They do nothing: a request's context is W3C's, and lines go to standard output. Of the exporters that are not
``otlp``, no variable does anything."""
FOREIGN: Final = ("OTEL_EXPORTER_JAEGER_", "OTEL_EXPORTER_ZIPKIN_", "OTEL_EXPORTER_PROMETHEUS_")
"""Beginnings of variables of exporters that are not ``otlp``."""
