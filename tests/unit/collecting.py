"""The real Collector alone, and what comes out of it: OTLP over HTTP for logs and metrics, over gRPC for spans."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import httpx
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as traces
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from sightglass.clients import polling
from sightglass.facts import environments, settings
from sightglass.local.components import COLLECTOR_CONFIG, COLLECTOR_OPTIONS, LocalTopology
from tests.unit.otlp import Logged, Receiver, until
from tests.unit.ports import free_offset


@dataclass
class Spans(traces.TraceServiceServicer):
    """Keeps the spans that come, with their resources."""

    spans: list[tuple[Span, Resource]] = field(default_factory=list)
    raw: bytearray = field(default_factory=bytearray)

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the name of the call
        """Take one request."""
        self.raw += request.SerializeToString()
        for resource_spans in request.resource_spans:
            for scope in resource_spans.scope_spans:
                self.spans += [(span, resource_spans.resource) for span in scope.spans]
        return service.ExportTraceServiceResponse()


@contextmanager
def serving(servicer: Spans) -> Iterator[str]:
    """Serve on a port of the system's choice; gives the address."""
    server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", -1)])
    traces.add_TraceServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)


@dataclass
class Collecting:
    """A Collector that runs."""

    config: settings.Settings
    receiver: Receiver
    tempo: Spans
    output: Path
    """Its own log."""

    def push(self, lines: list[tuple[int, str]], labels: Mapping[str, str], metadata: Any = None) -> int:
        """Push lines by the Loki port, as Promtail does."""
        values = [[str(at), line, *([metadata] if metadata else [])] for at, line in lines]
        return self._push([{"stream": dict(labels), "values": values}])

    def push_each(self, lines: Mapping[str, str]) -> int:
        """Push a line of each of many services at once."""
        now = str(time.time_ns())
        return self._push([{"stream": {"service_name": name}, "values": [[now, line]]} for name, line in lines.items()])

    def _push(self, streams: list[dict[str, Any]]) -> int:
        body = {"streams": streams}
        return httpx.post(f"{self.config.url('collector_loki')}/loki/api/v1/push", json=body, timeout=30).status_code

    def send(self, signal: str, body: Mapping[str, Any]) -> int:
        """Send OTLP as JSON."""
        url = f"{self.config.url('collector_otlp_http')}/v1/{signal}"
        return httpx.post(url, json=body, timeout=30).status_code

    def log(self, find: Callable[[Logged], bool], what: str) -> Logged:
        """Wait for a log record."""
        return until(lambda: next((each for each in list(self.receiver.logs) if find(each)), None), what)

    def span(self, trace_id: str) -> tuple[Span, Resource]:
        """Wait for a span of a trace."""
        spans = self.tempo.spans
        return until(lambda: next((each for each in list(spans) if each[0].trace_id.hex() == trace_id), None), trace_id)


@contextmanager
def running(command: Sequence[str], environment: Mapping[str, str], ready_url: str, log: Path) -> Iterator[None]:
    """Run a server, once it is ready; what it says is in its log."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)

    def ready() -> bool:
        if process.poll() is not None:
            raise polling.GiveUp(f"{log.stem} died: {log.read_text()[-2000:]}")
        try:
            return httpx.get(ready_url, timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    try:
        until(ready, f"{log.stem} to be ready", 30)
        yield
    finally:
        process.terminate()
        process.wait(30)


def environment(config: settings.Settings, receiver: Receiver) -> dict[str, str]:
    """What the Collector's configuration asks for where everything goes to that receiver."""
    return environments.collector(LocalTopology(config)) | {
        "POD_UID": "",
        "KUBE_NODE_NAME": "",
        "LOKI_URL": receiver.url,
        "PROMETHEUS_URL": receiver.url,
    }


@contextmanager
def collecting(program: Path, folder: Path, text: str | None = None) -> Iterator[Collecting]:
    """Run the Collector with its configuration, or another text of it."""
    offset = free_offset()
    config = settings.Settings(state_dir=folder / "state", port_offset=offset)
    tempo = Spans()
    with Receiver().serving() as receiver, serving(tempo) as address:
        file = folder / "collector.yaml"
        file.write_text(text or COLLECTOR_CONFIG.read_text())
        own = environment(config, receiver) | {"TEMPO_OTLP_GRPC_ADDRESS": address}
        output = folder / "collector.out"
        command = [str(program), *COLLECTOR_OPTIONS, f"--config={file}"]
        with running(command, own, config.url("collector_health"), output):
            yield Collecting(config, receiver, tempo, output)


def value(given: object) -> dict[str, Any]:
    """A value as OTLP has it in JSON."""
    match given:
        case bool():
            return {"boolValue": given}
        case int():
            return {"intValue": str(given)}
        case float():
            return {"doubleValue": given}
        case str():
            return {"stringValue": given}
        case list():
            return {"arrayValue": {"values": [value(each) for each in given]}}
        case dict():
            return {"kvlistValue": {"values": attributes(given)}}
    raise TypeError(given)


def attributes(given: Mapping[str, object]) -> list[dict[str, Any]]:
    """Attributes as OTLP has them in JSON."""
    return [{"key": key, "value": value(each)} for key, each in given.items()]


def plain(given: Mapping[str, Any]) -> Any:
    """The other way round."""
    kind, inner = next(iter(given.items()))
    match kind:
        case "arrayValue":
            return [plain(each) for each in inner.get("values", [])]
        case "kvlistValue":
            return {each["key"]: plain(each["value"]) for each in inner.get("values", [])}
        case "intValue":
            return int(inner)
    return inner


def attributes_of(message: Any) -> dict[str, Any]:
    """Attributes of a message, as plain values."""
    return {each["key"]: plain(each["value"]) for each in MessageToDict(message).get("attributes", [])}
