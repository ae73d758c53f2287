"""Masks the spans that an application makes itself, by the policy of :mod:`ml_telemetry.redaction`."""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

from ml_telemetry import redaction


def mask(request: ExportTraceServiceRequest) -> None:
    """Mask names, status messages and attributes of spans, of their events and of their links, in place."""
    for resource in request.resource_spans:
        for span in (span for scope in resource.scope_spans for span in scope.spans):
            span.name = redaction.text(span.name)
            span.status.message = redaction.text(span.status.message)
            _attributes(span.attributes)
            for event in span.events:
                event.name = redaction.text(event.name)
                _attributes(event.attributes)
            for link in span.links:
                _attributes(link.attributes)


def _attributes(pairs: Iterable[KeyValue]) -> None:
    for pair in pairs:
        pair.key = redaction.text(pair.key)
        _value(pair.value)


def _value(value: AnyValue) -> None:
    kind = value.WhichOneof("value")
    if kind == "string_value":
        value.string_value = redaction.text(value.string_value)
    elif kind == "array_value":
        for one in value.array_value.values:
            _value(one)
    elif kind == "kvlist_value":
        _attributes(value.kvlist_value.values)
