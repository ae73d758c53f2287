"""uvicorn's HTTP protocol with bounds: heads are limited in bytes and seconds, bodies in seconds.

What cannot be read as HTTP is handed to the application too, marked with the status it deserves: so
``TelemetryMiddleware`` answers it in the one form, and it leaves a trace, a line and a count like any other refusal.
"""

from __future__ import annotations

import asyncio
import math
import os
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Never, cast

import httptools
import uvicorn.config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ml_telemetry.middleware import REFUSED_KEY

_BAD_REQUEST: Final = 400
_METHOD_NOT_ALLOWED: Final = 405
_REQUEST_TIMEOUT: Final = 408
_URI_TOO_LONG: Final = 414
_HEAD_TOO_LARGE: Final = 431
# Seconds in which what a refused caller still sends is thrown away: a socket that is closed over unread bytes resets
# the connection, and the answer with it.
_LINGER_SECONDS: Final = 1.0
# The smallest chunk has five bytes around its one byte of body; the rest is for a caller's leading zeros.
_CHUNK_OVERHEAD: Final = 8
# Headers that belong to an upgrade.
_UPGRADE: Final = (b"upgrade", b"http2-settings")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one caller may cost: size and number of its headers, and the seconds it may take for head and body."""

    head_bytes: int = 16_384
    head_fields: int = 100
    head_seconds: float = 10.0
    body_seconds: float = 20.0


class _Refused(Exception):  # noqa: N818 - not an error of the service
    """Leaves the parser in the middle of a request that is refused; with which status is noted before."""


class _LingeringTransport(asyncio.Transport):
    """What a refused request's answer is written to; it closes the caller's side a moment after its own."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self._transport.write(data)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        if self._transport.is_closing():
            return
        if not self._transport.can_write_eof():
            self._transport.close()
            return
        self._transport.write_eof()
        self._loop.call_later(_LINGER_SECONDS, self._transport.close)


class BoundedProtocol(HttpToolsProtocol):
    """Reads requests as uvicorn does, within ``limits``, and declines every upgrade: what follows is plain HTTP/1.1."""

    limits: ClassVar[Limits] = Limits()

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ws_protocol_class = None
        self._new_parser()
        self._now = self.loop.time()
        # When the caller must have sent what is awaited from it.
        # Of this connection, since attributes of an attribute cost twice, and these are asked for by every request.
        self._head_bytes, self._head_fields = self.limits.head_bytes, self.limits.head_fields
        self._head_seconds, self._body_seconds = self.limits.head_seconds, self.limits.body_seconds
        self._due = self._now + self._head_seconds
        self._watch: asyncio.TimerHandle | None = None
        self._in_head = False
        self._upgrading = False
        self._refusing = False
        # The status of a refusal, unless something else is found: what the parser does not take is a bad request.
        self._verdict = _BAD_REQUEST
        # Bytes of the read at hand; of all reads since the one in which this message began; of that first one; of body.
        self._read = self._seen = self._first = self._body = 0

    def _new_parser(self) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    # --- what the event loop calls ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._watch = self.loop.call_at(self._due, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, and refuse what is no HTTP or too much of it."""
        if self._refusing:
            return
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        self._now = self.loop.time()
        try:
            self._feed(data)
        except (_Refused, httptools.HttpParserError):
            # An exception of a callback is told by the parser as its own.
            self._refuse(self._verdict)

    def _feed(self, data: bytes | memoryview) -> None:
        rest: bytes | memoryview = data
        self._read = len(data)
        self._seen += self._read
        while True:
            try:
                self.parser.feed_data(rest)
                break
            except httptools.HttpParserUpgrade as upgrade:
                rest = memoryview(rest)[upgrade.args[0] :]
            head = self._declined()
            self._new_parser()
            self.parser.feed_data(head)
        beyond = self._seen - self._first
        if self._in_head:
            if beyond > self._head_bytes:
                self._reject(self._too_large())
        elif beyond > self._head_bytes + _CHUNK_OVERHEAD * self._body:
            # Bytes in a body that are none of it: extensions of chunks and trailers without an end.
            self._reject(_BAD_REQUEST)

    # --- what the parser calls ----------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a head."""
        super().on_message_begin()
        self._in_head = True
        self._first = self._seen = self._read
        self._body = 0
        self._due = self._now + self._head_seconds

    def on_headers_complete(self) -> None:
        """Hand the request to the application, unless its head is too large or asks for another protocol."""
        if self._seen > self._head_bytes or len(self.headers) > self._head_fields:
            # Cheap to ask, but the reads may hold more than this head.
            size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
            if size > self._head_bytes or len(self.headers) > self._head_fields:
                self._reject(self._too_large())
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self._reject(_METHOD_NOT_ALLOWED)
            self._upgrading = True
            return
        super().on_headers_complete()
        self._in_head = False
        self._due = self._now + self._body_seconds

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Stop waiting for the caller: it is the application's turn."""
        if self._upgrading:
            return
        super().on_message_complete()
        self._due = self._now + self._head_seconds if self.cycle.response_complete else math.inf

    def on_response_complete(self) -> None:
        """Wait for the next head, or for the rest of a body that was answered early."""
        super().on_response_complete()
        if not self.cycle.more_body:
            self._due = self.loop.time() + self._head_seconds

    # --- refusals -----------------------------------------------------------------------------------------------------

    def _declined(self) -> bytes:
        """Return the head of a request for an upgrade without what asked for it: the parser left its body out."""
        self._upgrading = False
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name in _UPGRADE:
                continue
            kept = value
            if name == b"connection":
                tokens = [token.strip() for token in value.split(b",")]
                kept = b", ".join(token for token in tokens if token.lower() not in _UPGRADE)
            lines.append(b"%b: %b" % (name, kept))
        return b"\r\n".join([*lines, b"", b""])

    def _reject(self, status: int) -> Never:
        self._verdict = status
        raise _Refused

    def _too_large(self) -> int:
        return _URI_TOO_LONG if len(self.url) > self._head_bytes // 2 else _HEAD_TOO_LARGE

    def _look(self) -> None:
        """Refuse or close when the caller did not send in time what is awaited; one timer for all of a connection."""
        now = self.loop.time()
        if now < self._due:
            latest = now + min(self._head_seconds, self._body_seconds)
            self._watch = self.loop.call_at(min(self._due, latest), self._look)
        elif self._refusing or (not self._in_head and (self.cycle is None or self.cycle.response_complete)):
            self._watch = None
            self.transport.close()
        else:
            self._watch = None
            self._refuse(_REQUEST_TIMEOUT)

    def _refuse(self, status: int) -> None:
        """Answer with this status, read nothing more, and close."""
        self._refusing = True
        self._due = math.inf
        lingering = _LingeringTransport(self.transport, self.loop)
        cycle = self.cycle
        if self._in_head or cycle is None or not cycle.more_body:
            self._answer_unread(status, lingering)
        elif cycle.response_complete:
            # Answered already; only the rest of its body was awaited.
            lingering.close()
        else:
            cast(dict[str, Any], cycle.scope)[REFUSED_KEY] = status
            cycle.keep_alive = False
            cycle.transport = lingering
            cycle.message_event.set()

    def _answer_unread(self, status: int, transport: asyncio.Transport) -> None:
        """Let the application answer a request of which only a part could be read."""
        if not self._in_head:
            self.on_message_begin()
            self._due = math.inf
        scope = cast(dict[str, Any], self.scope)
        # Before the request line is read the parser has no method, and says DELETE.
        scope["method"] = self.parser.get_method().decode("ascii") if self.url else ""
        try:
            path = httptools.parse_url(self.url).path or b""
        except httptools.HttpParserError:
            path = b""
        scope |= {"path": path.decode("latin-1"), "raw_path": path, "query_string": b"", REFUSED_KEY: status}
        waiting = self.cycle is not None and not self.cycle.response_complete
        self.cycle = RequestResponseCycle(
            scope=self.scope,
            transport=transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=False,
            on_response=self.on_response_complete,
        )
        self.cycle.more_body = False
        if waiting:
            self.pipeline.appendleft((self.cycle, self.app))
            return
        task = self.loop.create_task(self.cycle.run_asgi(self.app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)


def install(limits: Limits, trusted_proxies: str) -> None:
    """Make uvicorn servers of this process use ``BoundedProtocol``, and trust ``X-Forwarded-*`` of these proxies only.

    BentoML makes its server with uvicorn's defaults: they are changed where uvicorn looks them up.
    """
    BoundedProtocol.limits = limits
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{BoundedProtocol.__name__}"
    os.environ["FORWARDED_ALLOW_IPS"] = trusted_proxies
