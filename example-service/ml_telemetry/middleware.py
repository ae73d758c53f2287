"""The outermost ASGI application: trace context in and out, one error body, and one record per request."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final

import orjson

from ml_telemetry import signals
from ml_telemetry.context import new_trace_id, parse_parent
from ml_telemetry.record import Connection, Failure, RequestRecord, current_request
from ml_telemetry.runtime import Telemetry

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# Where the application finds the record of the request it serves.
SCOPE_KEY: Final = "ml_telemetry.request"
HEALTH_PATHS: Final = frozenset({"/livez", "/readyz", "/healthz"})
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_LONGEST_USER_AGENT: Final = 256
_MAXIMUM_CONNECTIONS: Final = 1024
_HTTP_ERROR: Final = 400
_CLIENT_CLOSED: Final = 499
_INTERNAL: Final = Failure(500, "internal_error", "The service failed; report the trace_id to its operator.")


class TelemetryMiddleware:
    """Wraps an application.

    ``routes`` are the paths that may become a label, ``failures`` the errors it may send by their status, and
    ``timeout`` the seconds a request may take.
    """

    def __init__(
        self,
        application: Application,
        telemetry: Telemetry,
        routes: frozenset[str],
        failures: Mapping[int, Failure],
        timeout: float | None = None,
    ) -> None:
        self._application = application
        self._telemetry = telemetry
        self._routes = routes
        self._failures = failures
        self._timeout = timeout
        self._connections: dict[tuple[Any, ...], Connection] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; everything that is not HTTP passes untouched."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        record = self._begin(scope)
        scope[SCOPE_KEY] = record
        current_request.set(record)
        started = failed = False
        deadline = asyncio.timeout(self._timeout)

        async def respond(message: Message) -> None:
            nonlocal started, failed
            if message["type"] == "http.response.start":
                started = True
                # A dispatcher that is interrupted by the deadline answers that it is overloaded.
                record.status = 504 if deadline.expired() else message["status"]
                if record.status >= _HTTP_ERROR:
                    failed = True
                    await self._fail(record, send, message.get("headers", ()))
                    return
                message["headers"] = [*message.get("headers", ()), (b"traceresponse", _traceresponse(record))]
            elif failed:
                # The body of an error that was replaced.
                return
            elif message["type"] == "http.response.body":
                record.response_size += len(message.get("body", b""))
                if not message.get("more_body"):
                    record.end = time.perf_counter_ns()
            await send(message)

        try:
            async with deadline:
                await self._application(scope, receive, respond)
        except Exception as error:
            late = deadline.expired()
            if not late:
                record.exception = record.exception or error
            if not started:
                record.status = 504 if late else 500
                await self._fail(record, send, ())
        finally:
            if record.observed:
                # Nothing was answered when the server stops in the middle of a request.
                record.status = record.status or _CLIENT_CLOSED
                record.end = record.end or time.perf_counter_ns()
                self._telemetry.request_finished(record)

    def _begin(self, scope: Scope) -> RequestRecord:
        headers = dict(scope["headers"])
        parent = parse_parent(headers.get(b"traceparent"), headers.get(b"tracestate"))
        path = scope["path"]
        observed = path not in HEALTH_PATHS
        if parent is None:
            trace_id = new_trace_id()
            record = RequestRecord(trace_id, "", observed and self._telemetry.sampled(trace_id, None), "")
        else:
            sampled = observed and self._telemetry.sampled(parent.trace_id, parent)
            record = RequestRecord(parent.trace_id, parent.span_id, sampled, parent.trace_state)
        record.observed = observed
        record.path = path
        client = scope.get("client")
        key = (
            scope["method"],
            path if path in self._routes else None,
            scope["scheme"],
            scope["http_version"],
            headers.get(b"host", b""),
            client[0] if client else "",
            headers.get(b"user-agent", b"")[:_LONGEST_USER_AGENT],
        )
        record.connection = self._connections.get(key) or self._connection(key)
        request_id = headers.get(b"x-request-id")
        if request_id is not None and _REQUEST_ID.fullmatch(request_id):
            record.request_id = request_id.decode("ascii")
        if observed:
            self._telemetry.request_started(record.connection.method)
        return record

    def _connection(self, key: tuple[Any, ...]) -> Connection:
        method, route, scheme, version, host, client, user_agent = key
        name, _, port = host.decode("latin-1").rpartition(":")
        if not name or not port.isdigit():
            name, port = host.decode("latin-1"), ""
        if len(self._connections) >= _MAXIMUM_CONNECTIONS:
            self._connections.clear()
        connection = self._connections[key] = Connection(
            method=method if method in signals.HTTP_METHODS else signals.OTHER_METHOD,
            route=route,
            scheme=scheme,
            protocol_version=version,
            server_address=name,
            server_port=int(port) if port else None,
            client_address=client,
            user_agent=user_agent.decode("latin-1"),
        )
        return connection

    async def _fail(self, record: RequestRecord, send: Send, headers: Any) -> None:
        """Send the one error body; of the application's own headers only ``Allow`` and ``Retry-After`` are kept."""
        failure = record.failure or self._failures.get(record.status) or _default_failure(record.status)
        record.failure = failure
        record.status = failure.status
        error = {"type": failure.reason, "message": failure.message, "trace_id": record.trace_id}
        body = orjson.dumps({"error": error})
        record.response_size = len(body)
        kept = [(name, value) for name, value in headers if name.lower() in (b"allow", b"retry-after")]
        own = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"traceresponse", _traceresponse(record)),
        ]
        await send({"type": "http.response.start", "status": failure.status, "headers": [*own, *kept]})
        await send({"type": "http.response.body", "body": body})
        record.end = time.perf_counter_ns()


def _default_failure(status: int) -> Failure:
    if status >= _INTERNAL.status:
        return Failure(status, _INTERNAL.reason, _INTERNAL.message)
    return Failure(status, "invalid_request", "The request cannot be served as it was sent.")


def _traceresponse(record: RequestRecord) -> bytes:
    return b"00-%b-%b-%b" % (record.trace_id.encode(), record.span_id.encode(), b"01" if record.sampled else b"00")
