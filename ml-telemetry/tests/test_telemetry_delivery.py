"""Where spans go: what each variable of OpenTelemetry does, on a connection of our own."""

from __future__ import annotations

import gzip
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ml_telemetry import delivery
from ml_telemetry.delivery import Delivery, DeliveryError


@dataclass
class Server:
    """An OTLP/HTTP server that keeps what comes."""

    port: int = 0
    status: int = 200
    keep: bool = True
    bodies: list[bytes] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    connections: set[tuple[str, int]] = field(default_factory=set)
    gate: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def server() -> Iterator[Server]:
    kept = Server()
    kept.gate.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            kept.bodies.append(self.rfile.read(int(self.headers["content-length"])))
            kept.paths.append(self.path)
            kept.headers.append({name.lower(): value for name, value in self.headers.items()})
            kept.connections.add(self.client_address)
            kept.gate.wait(10)
            # Closed without a word, as a server does that was quiet for too long.
            self.close_connection = not kept.keep
            self.send_response(kept.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    kept.port = http.server_port
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield kept
    kept.gate.set()
    http.shutdown()
    http.server_close()


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENDPOINT", "HEADERS", "TIMEOUT", "COMPRESSION", "PROTOCOL", "INSECURE", "CERTIFICATE"):
        for signal in ("", "TRACES_"):
            monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{signal}{name}", raising=False)


def send(payload: bytes = b"spans") -> Delivery:
    sender = delivery.sender(delivery.target())
    try:
        return sender.send(payload)
    finally:
        sender.close()


def test_the_own_endpoint_is_taken_as_it_is_and_the_general_one_gets_the_path(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.port}/base/")
    assert send() is Delivery.DONE
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"http://127.0.0.1:{server.port}/own?key=1")
    assert send() is Delivery.DONE
    assert server.paths == ["/base/v1/traces", "/own?key=1"]
    assert server.bodies == [b"spans", b"spans"]


@pytest.mark.parametrize(("name", "unpack"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
def test_headers_and_compression(server: Server, monkeypatch: pytest.MonkeyPatch, name: str, unpack: object) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=a%20b,authorization=Bearer one")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", name)
    assert send(b"spans" * 100) is Delivery.DONE
    (headers,) = server.headers
    assert (headers["x-tenant"], headers["authorization"]) == ("a b", "Bearer one")
    assert (headers["content-encoding"], headers["content-type"]) == (name, "application/x-protobuf")
    assert callable(unpack)
    assert unpack(server.bodies[0]) == b"spans" * 100


@pytest.mark.parametrize(
    ("status", "outcome"), [(200, Delivery.DONE), (400, Delivery.REFUSED), (429, Delivery.AGAIN), (503, Delivery.AGAIN)]
)
def test_what_became_of_it(server: Server, monkeypatch: pytest.MonkeyPatch, status: int, outcome: Delivery) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.port}")
    server.status = status
    assert send() is outcome


def test_a_connection_is_kept_and_one_that_was_closed_is_opened_anew(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.port}")
    sender = delivery.sender(delivery.target())
    assert [sender.send(b"a"), sender.send(b"b")] == [Delivery.DONE, Delivery.DONE]
    assert len(server.connections) == 1
    server.keep = False
    assert [sender.send(b"c"), sender.send(b"d")] == [Delivery.DONE, Delivery.DONE]
    assert server.bodies == [b"a", b"b", b"c", b"d"]
    assert len(server.connections) == 2
    sender.close()


def test_who_does_not_answer_in_time_is_tried_again_later(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    server.gate.clear()
    assert send() is Delivery.AGAIN
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    assert send() is Delivery.AGAIN


def test_closing_ends_a_request_that_waits(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.port}")
    server.gate.clear()
    sender = delivery.sender(delivery.target())
    outcomes: list[Delivery] = []
    thread = threading.Thread(target=lambda: outcomes.append(sender.send(b"a")))
    thread.start()
    while not server.bodies:
        thread.join(0.01)
    sender.close()
    thread.join(5)
    assert outcomes == [Delivery.AGAIN]


@pytest.mark.parametrize(
    ("variables", "secure"),
    [
        ({"ENDPOINT": "collector:4317"}, True),
        ({"ENDPOINT": "collector:4317", "INSECURE": "true"}, False),
        ({"ENDPOINT": "http://collector:4317"}, False),
        ({"ENDPOINT": "https://collector:4317", "INSECURE": "true"}, True),
        ({}, False),
    ],
)
def test_grpc_is_secure_as_its_endpoint_says(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], secure: bool
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    for name, value in variables.items():
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", value)
    to = delivery.target()
    assert to.secure is secure
    assert to.url.port == 4317


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PROTOCOL", "http/json", "set OTEL_EXPORTER_OTLP_PROTOCOL to one of grpc, http/protobuf"),
        ("ENDPOINT", "collector", "set OTEL_EXPORTER_OTLP_ENDPOINT to http"),
        ("COMPRESSION", "zstd", "set OTEL_EXPORTER_OTLP_COMPRESSION to one of none, gzip, deflate"),
        ("TIMEOUT", "soon", "set it to seconds above zero"),
        ("TIMEOUT", "0", "set it to seconds above zero"),
    ],
)
def test_what_cannot_work_is_said(monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str) -> None:
    monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", value)
    with pytest.raises(DeliveryError, match=sentence):
        delivery.target()
