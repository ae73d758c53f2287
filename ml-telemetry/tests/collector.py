"""Stands where a Collector would: takes OTLP over HTTP and keeps it. And programs that send to it."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from waiting import until


@dataclass
class Collector:
    """What arrived."""

    endpoint: str = ""
    spans: list[Any] = field(default_factory=list)
    metrics: dict[str, Any] = field(default_factory=dict)
    resource: dict[str, str] = field(default_factory=dict)

    def trace(self, trace_id: str, count: int) -> dict[str, Any]:
        """Wait for the spans of a trace, by name."""

        def found() -> dict[str, Any] | None:
            spans = {span.name: span for span in list(self.spans) if span.trace_id.hex() == trace_id}
            return spans if len(spans) >= count else None

        return until(found, f"{count} spans of {trace_id}")

    def metric(self, name: str) -> Any:
        """Wait for a metric, and return its newest state."""
        return until(lambda: self.metrics.get(name), f"the metric {name}")


def plain(message: Any) -> dict[str, Any]:
    """Attributes of a message."""
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in message.attributes}


@contextmanager
def collector(tls: ssl.SSLContext | None = None) -> Iterator[Collector]:
    """Run one, with TLS where there is a context for it."""
    kept = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/v1/traces":
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    kept.resource = plain(resource.resource)
                    kept.spans += [span for scope in resource.scope_spans for span in scope.spans]
            else:
                for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                    kept.metrics |= {m.name: m for scope in resource.scope_metrics for m in scope.metrics}
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    kept.endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()


@dataclass
class Answer:
    """What a service answered."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        """The body, read."""
        return json.loads(self.body)

    @property
    def trace_id(self) -> str:
        """Trace that the answer names."""
        return self.headers["traceresponse"].split("-")[1]


@dataclass
class Program:
    """A service that runs."""

    url: str
    output: Path

    def ask(self, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Send a request: a POST where it has a body."""
        data = None if body is None else json.dumps(body).encode()
        known = {"content-type": "application/json", **(headers or {})}
        try:
            with urlopen(Request(self.url + path, data, known), timeout=30) as answer:
                return Answer(answer.status, answer.read(), {k.lower(): v for k, v in answer.headers.items()})
        except HTTPError as error:
            return Answer(error.code, error.read(), {k.lower(): v for k, v in error.headers.items()})

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Lines of an event, so far."""
        text = self.output.read_text()
        found = [json.loads(line) for line in text.splitlines() if line.startswith("{") and line.endswith("}")]
        return [line for line in found if line.get("event.name") == event]


@contextmanager
def running(python: Path | str, code: str, folder: Path, **environment: str) -> Iterator[Program]:
    """Serve the application ``app`` of some code by uvicorn, as its users do."""
    (folder / "service.py").write_text(code)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Program(f"http://127.0.0.1:{port}", folder / "output")
    command = [str(python), "-m", "uvicorn", "service:app", "--port", str(port), "--no-access-log"]
    given = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")} | environment
    with program.output.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=given, stdout=output, stderr=output)
    try:

        def answers() -> bool:
            assert process.poll() is None, program.output.read_text()
            try:
                program.ask("/livez")
            except (URLError, ConnectionError):
                return False
            return True

        until(answers, "the service", 60)
        yield program
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
