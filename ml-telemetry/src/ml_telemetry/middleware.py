"""The outermost ASGI application: trace context in and out, one error body, and one record per request."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import replace
from typing import Any, Final

from ml_telemetry import encoding, signals, synthetic
from ml_telemetry.context import new_trace_id, parse_parent
from ml_telemetry.current import attach, detach
from ml_telemetry.headers import InvalidHost, parse_address, parse_host
from ml_telemetry.record import Connection, Failure, RequestRecord
from ml_telemetry.runtime import Telemetry

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# Where the application finds the record of the request it serves.
SCOPE_KEY: Final = "ml_telemetry.request"
# Where a server notes the status with which it refuses a request that it did not read to its end.
REFUSED_KEY: Final = "ml_telemetry.refused"
HEALTH_PATHS: Final = frozenset({"/livez", "/readyz", "/healthz"})
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_SYNTHETIC: Final = synthetic.HEADER.encode()
_LONGEST_USER_AGENT: Final = 256
_MAXIMUM_CONNECTIONS: Final = 1024
# Nanoseconds from which the time that a caller took to send its request is not counted as the service's.
_SLOW: Final = 100_000_000
_WITHOUT_HOST: Final = "1.0"
_HTTP_ERROR: Final = 400
_BAD_REQUEST: Final = 400
_REQUEST_TIMEOUT: Final = 408
_CLIENT_CLOSED: Final = 499
_TIMEOUT: Final = 504
_NOT_FOUND: Final = 404
_MOST_TEMPLATES: Final = 64
_INTERNAL: Final = Failure(500, "internal_error", "The service failed; report the trace_id to its operator.")


class RequestRefused(Exception):  # noqa: N818 - the caller's mistake, not an error of the service
    """The server refused the rest of a request while the application read it."""


class TelemetryMiddleware:
    """Wraps an application.

    ``routes`` gives the paths that may become a label, ``failures`` the errors it may send by their status, ``timeout``
    the seconds a request may take once it was received, and ``client_address`` whether callers' addresses are noted.
    With ``one_error_form`` every error has the same body, and a request without a valid host is refused; without it the
    application's own errors stay as they are. With ``templates`` a route with parameters is known by its template.
    """

    def __init__(
        self,
        application: Application,
        telemetry: Telemetry,
        routes: frozenset[str],
        failures: Mapping[int, Failure],
        timeout: float | None = None,
        client_address: bool = True,
        one_error_form: bool = True,
        templates: bool = False,
    ) -> None:
        self._application = application
        self._telemetry = telemetry
        self._routes = routes
        self._paths = routes | HEALTH_PATHS
        self._failures = failures
        self._timeout = timeout
        self._client_address = client_address
        self._one_error_form = one_error_form
        self._with_templates = templates
        self._connections: dict[tuple[Any, ...], Connection] = {}
        self._templates: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; everything that is not HTTP passes untouched."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        record = self._begin(scope)
        scope[SCOPE_KEY] = record
        attached = attach(record)
        started = failed = False
        received = awaiting = False
        deadline = asyncio.timeout(self._timeout)

        def late() -> int:
            # A deadline that passes while a part of the request is awaited is the caller's fault.
            return _REQUEST_TIMEOUT if awaiting else _TIMEOUT

        async def read() -> Message:
            nonlocal received, awaiting
            awaiting = not received
            message = await receive()
            if message["type"] == "http.request":
                if REFUSED_KEY in scope:
                    record.failure = self._failure(scope[REFUSED_KEY])
                    raise RequestRefused
                # What was read is what is counted: a declared length may be any number.
                record.request_size += len(message["body"])
                received = not message["more_body"]
                if received and time.perf_counter_ns() - record.start > _SLOW and not deadline.expired():
                    # The caller's time is not the service's.
                    deadline.reschedule(self._timeout and asyncio.get_running_loop().time() + self._timeout)
            awaiting = False
            return message

        async def respond(message: Message) -> None:
            nonlocal started, failed
            if message["type"] == "http.response.start":
                started = True
                # A dispatcher that is interrupted by the deadline answers that it is overloaded.
                record.status = late() if deadline.expired() else message["status"]
                if record.status >= _HTTP_ERROR:
                    if self._one_error_form:
                        failed = True
                        await self._fail(record, send, message.get("headers", ()))
                        return
                    record.failure = record.failure or self._failure(record.status)
                self._telemetry.answered(record)
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
            if REFUSED_KEY in scope:
                record.status = scope[REFUSED_KEY]
                await self._fail(record, send, ())
                return
            async with deadline:
                await self._application(scope, read, respond)
        except Exception as error:
            expired = deadline.expired()
            if not expired:
                record.exception = record.exception or error
            if not started:
                record.status = late() if expired else 500
                if self._one_error_form:
                    await self._fail(record, send, ())
            if not self._one_error_form:
                # What is around the application answers it, as it would without telemetry.
                record.failure = record.failure or self._failure(500)
                self._telemetry.answered(record)
                raise
        finally:
            detach(attached)
            if self._with_templates:
                self._name_route(scope, record)
            if record.observed:
                # Nothing was answered when the server stops in the middle of a request.
                record.status = record.status or _CLIENT_CLOSED
                self._telemetry.answered(record)
                record.end = record.end or time.perf_counter_ns()
                self._telemetry.request_finished(record)

    def _begin(self, scope: Scope) -> RequestRecord:
        fields = scope["headers"]
        headers = dict(fields)
        host, traceparent, tracestate = headers.get(b"host"), headers.get(b"traceparent"), headers.get(b"tracestate")
        if len(headers) != len(fields):
            # Some header came more than once. A host or a parent that is told twice is not told at all.
            names = Counter(name for name, _ in fields)
            host = host if names[b"host"] < 2 else None
            traceparent = traceparent if names[b"traceparent"] < 2 else None
            tracestate = b",".join(value for name, value in fields if name == b"tracestate")
        path = scope["path"]
        if self._one_error_form and path[-1:] == "/" and path[:-1] in self._paths:
            # Answered as without the slash: a redirect would lose the body of most callers.
            path = scope["path"] = path[:-1]
            scope["raw_path"] = path.encode()
        parent = parse_parent(traceparent, tracestate)
        connection = self._connection(scope, path, host, headers)
        observed = path not in HEALTH_PATHS or REFUSED_KEY in scope
        if parent is None:
            trace_id = new_trace_id()
            record = RequestRecord(trace_id, "", observed and self._telemetry.sampled(trace_id, None), "")
        else:
            sampled = observed and self._telemetry.sampled(parent.trace_id, parent)
            record = RequestRecord(parent.trace_id, parent.span_id, sampled, parent.trace_state)
            if (marked := headers.get(_SYNTHETIC)) is not None:
                source = self._telemetry.source_of(parent.trace_id, marked)
                record.synthetic, record.proof = source is not None, source is synthetic.Source.PROOF
        record.observed = observed
        record.path = path
        record.connection = connection
        request_id = headers.get(b"x-request-id")
        if request_id is not None and _REQUEST_ID.fullmatch(request_id):
            record.request_id = request_id.decode("ascii")
        if observed:
            self._telemetry.request_started(connection.method)
        return record

    def _connection(self, scope: Scope, path: str, host: bytes | None, headers: Mapping[bytes, bytes]) -> Connection:
        """Return what the caller's requests have in common, and refuse a request whose host is none."""
        client = scope.get("client") if self._client_address else None
        key = (
            scope["method"],
            path if path in self._routes else None,
            scope["scheme"],
            scope["http_version"],
            host,
            client[0] if client else "",
            headers.get(b"user-agent", b"")[:_LONGEST_USER_AGENT],
        )
        known = self._connections.get(key)
        if known is not None:
            return known
        method, route, scheme, version, _, client_text, user_agent = key
        name, port = "", None
        try:
            if host is not None:
                name, port = parse_host(host)
            elif version != _WITHOUT_HOST:
                raise InvalidHost
        except InvalidHost:
            if self._one_error_form:
                scope.setdefault(REFUSED_KEY, _BAD_REQUEST)
        connection = Connection(
            method=method if method in signals.HTTP_METHODS else signals.OTHER_METHOD,
            route=route,
            scheme=scheme,
            protocol_version=version,
            server_address=name,
            server_port=port,
            client_address=parse_address(client_text),
            user_agent=user_agent.decode("latin-1"),
        )
        # Only what was found valid, and so bounded, is kept.
        if REFUSED_KEY not in scope and connection.client_address == client_text:
            if len(self._connections) >= _MAXIMUM_CONNECTIONS:
                self._connections.clear()
            self._connections[key] = connection
        return connection

    def _name_route(self, scope: Scope, record: RequestRecord) -> None:
        """Take the template of a route with parameters, which the application notes where it finds one."""
        if record.connection.route is None and record.status != _NOT_FOUND:
            template = getattr(scope.get("route"), "path", None)
            if isinstance(template, str) and (template in self._templates or len(self._templates) < _MOST_TEMPLATES):
                self._templates.add(template)
                record.connection = replace(record.connection, route=template, attributes=b"")

    def _failure(self, status: int) -> Failure:
        return self._failures.get(status) or _default_failure(status)

    async def _fail(self, record: RequestRecord, send: Send, headers: Any) -> None:
        """Send the one error body; of the application's own headers only ``Allow`` and ``Retry-After`` are kept."""
        failure = record.failure or self._failure(record.status)
        record.failure = failure
        record.status = failure.status
        self._telemetry.answered(record)
        error = {"type": failure.reason, "message": failure.message, "trace_id": record.trace_id}
        body = encoding.dumps({"error": error})
        record.response_size = len(body)
        kept = [(name, value) for name, value in headers if name.lower() in (b"allow", b"retry-after")]
        own = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"traceresponse", _traceresponse(record)),
        ]
        if failure.status == _REQUEST_TIMEOUT:
            own.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": failure.status, "headers": [*own, *kept]})
        await send({"type": "http.response.body", "body": body})
        record.end = time.perf_counter_ns()


_REASONS: Final = {
    404: "unknown_route",
    405: "method_not_allowed",
    408: "request_timeout",
    413: "body_too_large",
    414: "uri_too_long",
    415: "unsupported_media_type",
    422: "invalid_type",
    429: "overloaded",
    431: "headers_too_large",
    499: "client_disconnected",
}


def _default_failure(status: int) -> Failure:
    if status >= _INTERNAL.status:
        return Failure(status, _INTERNAL.reason, _INTERNAL.message)
    reason = _REASONS.get(status, "invalid_request")
    return Failure(status, reason, "The request cannot be served as it was sent.")


def _traceresponse(record: RequestRecord) -> bytes:
    return b"00-%b-%b-%b" % (record.trace_id.encode(), record.span_id.encode(), b"01" if record.sampled else b"00")
