"""OTLP spans as bytes, without one Python object per field.

The SDK's encoder builds some twenty protobuf objects per span, and that is most of what tracing costs a service. Here a
span is a join of prepared pieces. Field numbers come from the generated OTLP classes and attributes are encoded by
them, so nothing about the format is written down twice; a test compares the result with the SDK's own encoder.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

from google.protobuf.message import Message  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, SpanFlags, Status

Value = str | int | float

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5


@lru_cache(maxsize=4096)
def varint(number: int) -> bytes:
    """Encode a number below 2^63 in base 128, as lengths and tags are."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def _tag(message: type[Message], field: str, wire_type: int) -> bytes:
    return varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | wire_type)


def _nested(tag: bytes, body: bytes) -> bytes:
    return tag + varint(len(body)) + body


_ATTRIBUTE: Final = _tag(Span, "attributes", _LENGTH)
_TRACE_ID: Final = _tag(Span, "trace_id", _LENGTH) + varint(16)
_SPAN_ID: Final = _tag(Span, "span_id", _LENGTH) + varint(8)
_PARENT_ID: Final = _tag(Span, "parent_span_id", _LENGTH) + varint(8)
_TRACE_STATE: Final = _tag(Span, "trace_state", _LENGTH)
_TIMES: Final = struct.Struct("<sQsQ")
_START: Final = _tag(Span, "start_time_unix_nano", _FIXED64)
_END: Final = _tag(Span, "end_time_unix_nano", _FIXED64)
_DOUBLE: Final = struct.Struct("<d")
_SPANS: Final = _tag(ScopeSpans, "spans", _LENGTH)
_LINK: Final = _tag(Span, "links", _LENGTH)
_LINK_TRACE_ID: Final = _tag(Span.Link, "trace_id", _LENGTH) + varint(16)
_LINK_SPAN_ID: Final = _tag(Span.Link, "span_id", _LENGTH) + varint(8)
_KNOWN: Final = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE: Final = SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK


def _flags(message: type[Message], value: int) -> bytes:
    return _tag(message, "flags", _FIXED32) + struct.pack("<I", value)


_FLAGS_LOCAL: Final = _flags(Span, _KNOWN)
_FLAGS_REMOTE: Final = _flags(Span, _KNOWN | _REMOTE)
_LINK_FLAGS: Final = _flags(Span.Link, _KNOWN)
# A status that is unset is still present, as the SDK sends it.
_STATUS_UNSET: Final = _nested(_tag(Span, "status", _LENGTH), Status().SerializeToString())


@lru_cache(maxsize=8192)
def attribute(name: str, value: str | int) -> bytes:
    """Encode one attribute of a span; remembered, for most values come again."""
    any_value = AnyValue(string_value=value) if isinstance(value, str) else AnyValue(int_value=value)
    return _nested(_ATTRIBUTE, KeyValue(key=name, value=any_value).SerializeToString())


class DoubleAttribute:
    """An attribute whose value is a float: only its last eight bytes ever differ."""

    def __init__(self, name: str) -> None:
        encoded = _nested(_ATTRIBUTE, KeyValue(key=name, value=AnyValue(double_value=1.5)).SerializeToString())
        self._prefix = encoded[: -_DOUBLE.size]

    def __call__(self, value: float) -> bytes:
        """Encode the attribute with this value."""
        return self._prefix + _DOUBLE.pack(value)


class TextAttribute:
    """An attribute whose value is ASCII text of one fixed length, such as an id that never comes again."""

    def __init__(self, name: str, length: int) -> None:
        encoded = _nested(_ATTRIBUTE, KeyValue(key=name, value=AnyValue(string_value="x" * length)).SerializeToString())
        self._prefix = encoded[:-length]

    def __call__(self, value: str) -> bytes:
        """Encode the attribute with this value."""
        return self._prefix + value.encode("ascii")


def attributes(values: Mapping[str, Value]) -> bytes:
    """Encode several attributes."""
    return b"".join(
        DoubleAttribute(name)(value) if isinstance(value, float) else attribute(name, value)
        for name, value in values.items()
    )


def link(trace_id: bytes, span_id: bytes) -> bytes:
    """Encode a link to a span of this process."""
    body = b"".join((_LINK_TRACE_ID, trace_id, _LINK_SPAN_ID, span_id, _LINK_FLAGS))
    return _nested(_LINK, body)


class SpanTemplate:
    """The parts of a span that are the same each time: its name, kind and constant attributes."""

    def __init__(self, name: str, kind: Span.SpanKind.ValueType, constant: Mapping[str, Value] | None = None) -> None:
        # The parent's id stands before the name: protobuf fields in the order of their numbers.
        self._name_kind = Span(name=name, kind=kind).SerializeToString()
        self._constant = attributes(constant or {}) + _STATUS_UNSET

    def encode(
        self,
        trace_id: bytes,
        span_id: bytes,
        parent_id: bytes,
        start: int,
        end: int,
        extra: bytes = b"",
        *,
        trace_state: str = "",
        remote_parent: bool = False,
    ) -> bytes:
        """Encode one span as an entry of ``ScopeSpans.spans``; times in nanoseconds since the epoch.

        ``extra`` holds encoded attributes and links; an empty ``parent_id`` makes the span a root.
        """
        body = b"".join(
            (
                _TRACE_ID,
                trace_id,
                _SPAN_ID,
                span_id,
                _nested(_TRACE_STATE, trace_state.encode()) if trace_state else b"",
                _PARENT_ID + parent_id if parent_id else b"",
                self._name_kind,
                _TIMES.pack(_START, start, _END, end),
                extra,
                self._constant,
                _FLAGS_REMOTE if remote_parent else _FLAGS_LOCAL,
            )
        )
        return _SPANS + varint(len(body)) + body


class Envelope:
    """The message around spans: one resource and one instrumentation scope."""

    def __init__(self, resource: Resource, scope: InstrumentationScope, schema_url: str) -> None:
        self._resource = ResourceSpans(resource=resource).SerializeToString()
        self._scope = ScopeSpans(scope=scope, schema_url=schema_url).SerializeToString()
        self._scope_spans = _tag(ResourceSpans, "scope_spans", _LENGTH)
        self._resource_spans = _tag(ExportTraceServiceRequest, "resource_spans", _LENGTH)

    def wrap(self, spans: Iterable[bytes]) -> bytes:
        """Return a serialised ``ExportTraceServiceRequest`` that holds the encoded spans."""
        scope_spans = self._scope + b"".join(spans)
        return _nested(self._resource_spans, self._resource + _nested(self._scope_spans, scope_spans))
