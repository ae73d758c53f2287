"""What callers send that is not as it should be, byte by byte, and what each must be answered."""

from __future__ import annotations

import gzip
import io
import json
import socket
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPResponse
from typing import Any, Final, cast

TEXT: Final = "The goalie made thirty saves and the pitcher sat in his car. "
BODY: Final = json.dumps({"text": TEXT}).encode()
TRACE: Final = "6bf92f3577b34da6a3ce929d0e0e4736"
PARENT: Final = "00f067aa0ba902b7"
TRACEPARENT: Final = f"traceparent: 00-{TRACE}-{PARENT}-01".encode()


def request(
    *headers: bytes,
    body: bytes = BODY,
    line: bytes = b"POST /predict HTTP/1.1",
    host: bytes | None = b"x",
    length: bytes | None = None,
) -> bytes:
    """A request for a prediction, as bytes; each part may be replaced by what no client would send."""
    fields = list(headers)
    if host is not None:
        fields.insert(0, b"host: " + host)
    if length is None and not any(b"transfer-encoding" in header.lower() for header in headers):
        length = b"%d" % len(body)
    if length is not None:
        fields.append(b"content-length: " + length)
    return b"\r\n".join([line, *fields, b"", body])


@dataclass(frozen=True)
class Raw:
    """Bytes that are sent, and the answer that they must get; ``reason`` is empty where they get a prediction.

    ``sent`` goes out at once and ``then`` is repeated until an answer comes: a caller that stalls or never ends.
    ``late`` marks those whose answer comes with a time-out of the service.
    """

    name: str
    sent: bytes
    status: int
    reason: str = ""
    then: bytes = b""
    late: bool = False

    def __str__(self) -> str:
        return self.name


def _predicted(name: str, sent: bytes) -> Raw:
    return Raw(name, sent, 200)


def _text(name: str, text: str) -> Raw:
    return Raw(name, request(body=json.dumps({"text": text}).encode()), 422, "empty_text")


_CHUNKED: Final = b"transfer-encoding: chunked"
_H2C: Final = (b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQAoAAAAAIAAAAA")
_WEBSOCKET: Final = (
    b"connection: Upgrade",
    b"upgrade: websocket",
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
    b"sec-websocket-version: 13",
)
_TLS_HELLO: Final = bytes.fromhex("16030100a5010000a10303") + bytes(range(32)) + b"\x00\x00\x02\xc0\x2f\x01\x00"

CORPUS: Final = (
    # Upgrades are declined: HTTP/1.1 goes on.
    _predicted("h2c upgrade", request(*_H2C)),
    _predicted("h2c upgrade, chunked", request(*_H2C, _CHUNKED, body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY))),
    _predicted("upgrade with Connection: close", request(b"connection: close, upgrade", b"upgrade: foo/2")),
    Raw("websocket", request(*_WEBSOCKET, line=b"GET /predict HTTP/1.1", body=b""), 405, "method_not_allowed"),
    Raw("websocket elsewhere", request(*_WEBSOCKET, line=b"GET /ws HTTP/1.1", body=b""), 404, "unknown_route"),
    Raw("CONNECT", request(line=b"CONNECT x:443 HTTP/1.1", body=b""), 405, "method_not_allowed"),
    # Host.
    Raw("port with a superscript", request(host=b"foo:\xb2"), 400, "invalid_request"),
    Raw("port of 5,000 digits", request(host=b"foo:" + b"9" * 5_000), 400, "invalid_request"),
    Raw("host in UTF-8", request(host="bücher.example".encode()), 400, "invalid_request"),
    Raw("host with markup", request(host=b"<script>"), 400, "invalid_request"),
    Raw("host of 300 characters", request(host=b"a" * 300), 400, "invalid_request"),
    Raw("two hosts", request(b"host: y"), 400, "invalid_request"),
    Raw("no host", request(host=None), 400, "invalid_request"),
    Raw("no host at a probe", request(line=b"GET /livez HTTP/1.1", host=None, body=b""), 400, "invalid_request"),
    _predicted("port above all ports", request(host=b"foo:99999999999999999999")),
    _predicted("port 0", request(host=b"foo:0")),
    _predicted("empty host", request(host=b"")),
    _predicted("IPv6 host", request(host=b"[::1]:8000")),
    _predicted("HTTP/1.0 without a host", request(line=b"POST /predict HTTP/1.0", host=None)),
    # Heads that are too large.
    Raw("host of 200 kB", request(host=b"a" * 200_000), 431, "headers_too_large"),
    Raw("host of 60 kB", request(host=b"a" * 60_000), 431, "headers_too_large"),
    Raw("1,000 headers", request(*(b"x-%d: y" % n for n in range(1_000))), 431, "headers_too_large"),
    Raw("a name of 100 kB", request(b"x" * 100_000 + b": y"), 431, "headers_too_large"),
    Raw("a path of 100 kB", request(line=b"POST /" + b"a" * 100_000 + b" HTTP/1.1"), 414, "uri_too_long"),
    Raw("a header without an end", b"GET / HTTP/1.1\r\nhost: x\r\nx: ", 431, "headers_too_large", then=b"y" * 8_192),
    # Trace context: what is not valid counts as absent.
    _predicted("tracestate of 3 kB", request(TRACEPARENT, b"tracestate: " + b"x" * 3_000)),
    Raw("tracestate of 3 MB", request(TRACEPARENT, b"tracestate: " + b"x" * 3_000_000), 431, "headers_too_large"),
    _predicted("invalid tracestate", request(TRACEPARENT, b"tracestate: <script>alert(1)</script>")),
    _predicted("tracestate in latin-1", request(TRACEPARENT, b"tracestate: a=\xe9")),
    _predicted("two traceparents", request(TRACEPARENT, TRACEPARENT)),
    # What cannot be read as HTTP.
    Raw("TLS hello", _TLS_HELLO, 400, "invalid_request"),
    Raw("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "invalid_request"),
    Raw("HTTP/0.9", b"GET /\r\n\r\n", 400, "invalid_request"),
    Raw("path in UTF-8", request(line="POST /prédict HTTP/1.1".encode()), 400, "invalid_request"),
    Raw("lower-case method", request(line=b"post /predict HTTP/1.1"), 400, "invalid_request"),
    Raw("unknown method", request(line=b"BREW /predict HTTP/1.1"), 400, "invalid_request"),
    Raw("SSH banner", b"SSH-2.0-OpenSSH_9.6\r\n", 400, "invalid_request"),
    Raw("NUL bytes", bytes(64), 400, "invalid_request"),
    Raw("NUL in a header", request(b"x: a\x00b"), 400, "invalid_request"),
    Raw("folded header", request(b"x: a\r\n b"), 400, "invalid_request"),
    Raw("space before a colon", request(b"x : a"), 400, "invalid_request"),
    Raw("target that is no address", request(line=b"POST http:// HTTP/1.1"), 400, "invalid_request"),
    # Lengths.
    Raw("a length of 2^64 - 1", request(body=b"{", length=b"18446744073709551615"), 413, "body_too_large"),
    Raw("a length of 2^64", request(body=b"{", length=b"18446744073709551616"), 400, "invalid_request"),
    Raw("a negative length", request(length=b"-1"), 400, "invalid_request"),
    Raw("two lengths", request(b"content-length: 1"), 400, "invalid_request"),
    Raw("length and chunks", request(_CHUNKED, body=b"0\r\n\r\n", length=b"5"), 400, "invalid_request"),
    Raw("unknown transfer coding", request(b"transfer-encoding: gzip"), 400, "invalid_request"),
    Raw("a chunk without a size", request(_CHUNKED, body=b"zz\r\n"), 400, "invalid_request"),
    Raw("a chunk larger than 2^64", request(_CHUNKED, body=b"f" * 17 + b"\r\n"), 400, "invalid_request"),
    Raw(
        "a trailer without an end",
        request(_CHUNKED, body=b"1\r\n{\r\n0\r\nx: "),
        400,
        "invalid_request",
        then=b"y" * 8_192,
    ),
    Raw(
        "an extension of a chunk without an end",
        request(_CHUNKED, body=b"1;"),
        400,
        "invalid_request",
        then=b"y" * 8_192,
    ),
    # Bodies.
    *(
        Raw(f"body in {name}", request(b"content-encoding: " + name.encode(), body=body), 415, "unsupported_encoding")
        for name, body in (
            ("gzip", gzip.compress(BODY)),
            ("deflate", zlib.compress(BODY)),
            ("identity, br", BODY),
            ("<script>", BODY),
        )
    ),
    _predicted("body in identity", request(b"content-encoding: Identity")),
    Raw("lone surrogate", request(body=b'{"text": "\\ud800 goalie"}'), 400, "invalid_json"),
    Raw("deep nesting", request(body=b'{"text": ' + b"[" * 50_000), 400, "invalid_json"),
    Raw("NaN", request(body=b'{"text": NaN}'), 400, "invalid_json"),
    Raw("latin-1", request(body=b'{"text": "caf\xe9"}'), 400, "invalid_json"),
    Raw("byte order mark", request(body=b"\xef\xbb\xbf" + BODY), 400, "invalid_json"),
    Raw("empty body", request(body=b""), 400, "invalid_json"),
    # Texts in which the model can know no word.
    _text("emoji", "🏒"),
    _text("zero-width", "\u200b\u200c\u200d\ufeff"),
    _text("punctuation", "?!... -- %$"),
    _text("one letter", "a b c"),
    _text("NUL", "\x00"),
    # Routes.
    _predicted("trailing slash", request(line=b"POST /predict/ HTTP/1.1")),
    Raw("two trailing slashes", request(line=b"POST /predict// HTTP/1.1"), 404, "unknown_route"),
    Raw("unknown route with a slash", request(line=b"GET /nothing/ HTTP/1.1", body=b""), 404, "unknown_route"),
    Raw("path out of the folder", request(line=b"GET /../../etc/passwd HTTP/1.1", body=b""), 404, "unknown_route"),
    Raw("all resources", request(line=b"OPTIONS * HTTP/1.1", body=b""), 404, "unknown_route"),
    Raw(
        "CORS preflight",
        request(
            b"origin: https://example.com",
            b"access-control-request-method: POST",
            line=b"OPTIONS /predict HTTP/1.1",
            body=b"",
        ),
        405,
        "method_not_allowed",
    ),
    # Addresses.
    _predicted("forwarded for a script", request(b"x-forwarded-for: <script>")),
    _predicted("forwarded for an address", request(b"x-forwarded-for: 203.0.113.9")),
    # Callers that do not send what they announced; these answers come with the time-outs.
    Raw("a body that stalls", request(length=b"999"), 408, "request_timeout", late=True),
    Raw("a body that drips", request(length=b"999"), 408, "request_timeout", then=b" ", late=True),
    Raw("chunks that drip", request(_CHUNKED, body=b""), 408, "request_timeout", then=b"1\r\n \r\n", late=True),
    Raw("half a request line", b"POST /pre", 408, "request_timeout", late=True),
    Raw("half a header", b"POST /predict HTTP/1.1\r\nhost: x\r\nx-a", 408, "request_timeout", late=True),
    Raw("headers that drip", b"POST /predict HTTP/1.1\r\n", 408, "request_timeout", then=b"x: y\r\n", late=True),
)


@dataclass(frozen=True)
class Answer:
    """An answer as it was read from the socket."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)

    @property
    def trace_id(self) -> str:
        """The trace that the header ``traceresponse`` names."""
        return self.headers["traceresponse"].split("-")[1]

    @property
    def span_id(self) -> str:
        """The request's own span."""
        return self.headers["traceresponse"].split("-")[2]


class _Kept(io.BufferedReader):
    """A reader that several answers are read from, one after the other; each of them would close it."""

    def makefile(self, mode: str) -> _Kept:
        return self

    def close(self) -> None:
        pass


@dataclass
class Caller:
    """A connection to the service on which bytes are sent as they are."""

    port: int
    timeout: float = 20.0
    connection: socket.socket = field(init=False)
    _reader: _Kept = field(init=False)

    def __enter__(self) -> Caller:
        self.connection = socket.create_connection(("127.0.0.1", self.port), timeout=self.timeout)
        self._reader = _Kept(self.connection.makefile("rb", buffering=0))
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def answer(self) -> Answer:
        """Read one answer; raises ``ConnectionError`` when the service closed without one."""
        response = HTTPResponse(cast(socket.socket, self._reader))
        try:
            response.begin()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, response.read())
        except HTTPException as error:
            raise ConnectionError("no answer") from error

    def closed(self) -> bool:
        """Wait for the service to close; say whether it did so without another byte."""
        return self._reader.read(1) == b""


def exchange(port: int, raw: Raw, seconds: float = 20.0) -> Answer:
    """Send an entry of the corpus and return its answer."""
    with Caller(port, seconds) as caller:
        caller.connection.sendall(raw.sent)
        if raw.then:
            caller.connection.settimeout(0.1)
            for _ in range(int(seconds * 10)):
                try:
                    if caller.connection.recv(1, socket.MSG_PEEK):
                        break
                    raise ConnectionError("no answer")
                except TimeoutError:
                    caller.connection.sendall(raw.then)
            caller.connection.settimeout(seconds)
        return caller.answer()
