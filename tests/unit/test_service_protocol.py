"""The server's protocol and the telemetry around it with an application of three lines: connections, not answers."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn

from ml_telemetry import protocol
from ml_telemetry.headers import InvalidHost, parse_address, parse_host
from ml_telemetry.middleware import SCOPE_KEY, TelemetryMiddleware
from ml_telemetry.protocol import BoundedProtocol, Limits
from ml_telemetry.record import RequestRecord
from ml_telemetry.runtime import Telemetry
from tests.unit.otlp import until
from tests.unit.raw_requests import BODY, Caller, request

SHORT = Limits(head_seconds=0.3, body_seconds=0.3)
H2C = (b"connection: upgrade", b"upgrade: h2c")


class Echo:
    """Answers with the size of the body, and keeps what telemetry would see."""

    def __init__(self, reads: bool = True, sleep: float = 0) -> None:
        self.records: list[RequestRecord] = []
        self._reads = reads
        self._sleep = sleep

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.records.append(scope[SCOPE_KEY])
        size = 0
        more = self._reads
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        await asyncio.sleep(self._sleep)
        body = b"%d" % size
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})


@contextmanager
def serving(application: Echo, limits: Limits = SHORT, timeout: float = 5, **options: Any) -> Iterator[int]:
    """Run uvicorn in a thread and give its port; ``options`` are the middleware's, except for uvicorn's own."""
    kind = type("Protocol", (BoundedProtocol,), {"limits": limits})
    proxies = options.pop("trusted_proxies", "")
    wrapped = TelemetryMiddleware(application, Telemetry(), frozenset({"/predict"}), {}, timeout, **options)
    server = uvicorn.Server(
        uvicorn.Config(wrapped, http=kind, log_config=None, lifespan="off", forwarded_allow_ips=proxies)
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            until(lambda: server.started, "the server")
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Of a server whose limits no test reaches by being slow itself."""
    with serving(Echo(), Limits(), timeout=30) as number:
        yield number


@pytest.fixture(scope="module")
def impatient() -> Iterator[int]:
    with serving(Echo()) as number:
        yield number


def closed_after(caller: Caller) -> float:
    """Seconds until the server closed, with nothing more to read."""
    start = time.monotonic()
    assert caller.closed()
    return time.monotonic() - start


def test_a_connection_without_a_byte_is_closed_without_an_answer(impatient: int) -> None:
    with Caller(impatient) as caller:
        assert 0.2 < closed_after(caller) < 9


def test_a_connection_that_idles_after_an_answer_is_closed(impatient: int) -> None:
    with Caller(impatient) as caller:
        caller.connection.sendall(request())
        assert caller.answer().body == b"%d" % len(BODY)
        # A line break is no beginning of a request.
        caller.connection.sendall(b"\r\n")
        assert closed_after(caller) < 9


def test_a_body_that_goes_on_after_its_answer_is_not_waited_for() -> None:
    with serving(Echo(reads=False)) as port, Caller(port) as caller:
        caller.connection.sendall(request(length=b"999"))
        assert caller.answer().status == 200
        assert closed_after(caller) < 9


def test_a_caller_that_is_refused_early_can_still_read_why(port: int) -> None:
    with Caller(port) as caller:
        caller.connection.sendall(request(b"x: " + b"y" * 5_000_000))
        assert caller.answer().status == 431
        assert caller.closed()


def test_requests_before_a_bad_one_are_answered_first(port: int) -> None:
    with Caller(port) as caller:
        caller.connection.sendall(request() + request(body=b"12") + b"\x16\x03\x01" + request())
        assert [caller.answer().status for _ in range(3)] == [200, 200, 400]
        assert closed_after(caller) < 9


def test_many_upgrades_in_one_read_are_all_declined(port: int) -> None:
    many = 1_500
    with Caller(port) as caller:
        caller.connection.sendall(request(*H2C, body=b"123") * many)
        assert {caller.answer().body for _ in range(many)} == {b"3"}


def test_an_upgrade_whose_body_comes_later_is_read_whole(port: int) -> None:
    with Caller(port) as caller:
        sent = request(*H2C)
        for part in (sent[:40], sent[40:-50], sent[-50:-1], sent[-1:]):
            caller.connection.sendall(part)
            time.sleep(0.02)
        assert caller.answer().body == b"%d" % len(BODY)


def test_large_reads_of_small_requests_are_no_large_head(port: int) -> None:
    many = 400
    sent = request(b"x: " + b"y" * 900) * many
    with Caller(port) as caller:
        # The last head comes in two reads, of which the first also holds all the others.
        caller.connection.sendall(sent[:-1_000])
        time.sleep(0.1)
        caller.connection.sendall(sent[-1_000:])
        assert {caller.answer().status for _ in range(many)} == {200}


@pytest.mark.parametrize(("size", "status"), [(900, 200), (1_100, 431)])
def test_size_of_a_head_is_what_is_set(size: int, status: int) -> None:
    with serving(Echo(), Limits(head_bytes=1_024)) as port, Caller(port) as caller:
        caller.connection.sendall(request(b"x: " + b"y" * size))
        assert caller.answer().status == status


@pytest.mark.parametrize(
    ("application", "sent", "status"),
    [
        (Echo(), request(length=b"999"), 408),
        (Echo(sleep=9), request(), 504),
        (Echo(reads=False, sleep=9), request(), 504),
    ],
    ids=["the caller's turn", "the service's turn", "a body that nobody reads"],
)
def test_a_time_out_is_the_fault_of_the_one_whose_turn_it_is(application: Echo, sent: bytes, status: int) -> None:
    with serving(application, Limits(), timeout=0.3) as port, Caller(port) as caller:
        caller.connection.sendall(sent)
        assert caller.answer().status == status


def test_the_time_of_a_slow_caller_is_not_the_services() -> None:
    with serving(Echo(sleep=0.7), Limits(), timeout=1) as port, Caller(port) as caller:
        caller.connection.sendall(request()[:-1])
        time.sleep(0.7)
        caller.connection.sendall(request()[-1:])
        assert caller.answer().status == 200


@pytest.mark.parametrize(
    ("proxies", "noted", "sent", "address"),
    [
        ("", True, b"203.0.113.9", "127.0.0.1"),
        ("", True, b"<script>", "127.0.0.1"),
        ("127.0.0.1", True, b"203.0.113.9", "203.0.113.9"),
        ("127.0.0.0/8", True, b"2001:db8::1", "2001:db8::1"),
        ("127.0.0.1", True, b"<script>", ""),
        ("127.0.0.1", True, b"fe80::1%<script>", "fe80::1"),
        ("127.0.0.1", True, b"1" * 9_000, ""),
        ("127.0.0.1", False, b"203.0.113.9", ""),
        ("", False, b"203.0.113.9", ""),
    ],
)
def test_address_of_a_client(proxies: str, noted: bool, sent: bytes, address: str) -> None:
    application = Echo()
    with serving(application, trusted_proxies=proxies, client_address=noted) as port, Caller(port) as caller:
        caller.connection.sendall(request(b"x-forwarded-for: " + sent))
        assert caller.answer().status == 200
    assert application.records[0].connection.client_address == address


def test_servers_of_a_process_take_the_protocol_and_trust_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", uvicorn.config.HTTP_PROTOCOLS["auto"])
    monkeypatch.setattr(BoundedProtocol, "limits", BoundedProtocol.limits)
    protocol.install(SHORT, "")
    config = uvicorn.Config(Echo())
    config.load()
    assert config.http_protocol_class is BoundedProtocol
    assert config.forwarded_allow_ips == ""
    assert BoundedProtocol.limits is SHORT


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"x", ("x", None)),
        (b"", ("", None)),
        (b"X.example:80", ("X.example", 80)),
        (b"10.0.0.1:65535", ("10.0.0.1", 65_535)),
        (b"x:65536", ("x", None)),
        (b"x:0", ("x", None)),
        (b"x:", ("x", None)),
        (b"[::1]:8000", ("::1", 8_000)),
    ],
)
def test_host(value: bytes, expected: tuple[str, int | None]) -> None:
    assert parse_host(value) == expected


@pytest.mark.parametrize(
    "value", [b"a b", b"::1", b"x:y", b"u@x", b"x/y", b"\xb2", b"x:\xb2", b"a" * 273, b"x\n", b"[x]", b"[f9]", b"[:::]"]
)
def test_what_is_no_host(value: bytes) -> None:
    with pytest.raises(InvalidHost):
        parse_host(value)


def test_address_is_one_or_nothing() -> None:
    texts: Mapping[str, str] = {"127.0.0.1": "127.0.0.1", "::1%eth0": "::1", "localhost": "", "": "", "1.2.3.4:80": ""}
    check: Callable[[str], str] = parse_address
    assert {text: check(text) for text in texts} == texts
