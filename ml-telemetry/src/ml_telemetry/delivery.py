"""Delivers serialised OTLP requests of spans, over HTTP or gRPC, as OpenTelemetry's ``OTEL_EXPORTER_OTLP_*`` say.

The SDK's exporters encode what they send themselves, and offer no public way to send what is encoded already.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import logging
import os
import socket
import ssl
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import SplitResult, urlsplit

from opentelemetry.util.re import parse_env_headers

from ml_telemetry.throttle import OncePerMinute

logger = logging.getLogger(__name__)
logger.addFilter(OncePerMinute())

HTTP: Final = "http/protobuf"
GRPC: Final = "grpc"
PROTOCOLS: Final = (GRPC, HTTP)
_DEFAULT_ENDPOINTS: Final = {HTTP: "http://localhost:4318", GRPC: "http://localhost:4317"}
_DEFAULT_SECONDS: Final = 10.0
_TRACES_PATH: Final = "v1/traces"
_METHOD: Final = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_TRY_AGAIN: Final = (429, 502, 503, 504)
"""Statuses that OTLP calls retryable."""
_COMPRESSIONS: Final[Mapping[str, Callable[[bytes], bytes]]] = {"gzip": gzip.compress, "deflate": zlib.compress}
_KINDS: Final = ("none", *_COMPRESSIONS)


class DeliveryError(ValueError):
    """An ``OTEL_EXPORTER_OTLP_*`` variable has a value that cannot work; the message says which and what to set."""


class Delivery(Enum):
    """What became of a request; AGAIN is one that nobody took, so that it can be sent once more."""

    DONE = auto()
    REFUSED = auto()
    AGAIN = auto()


class Sender(Protocol):
    """Sends requests, one at a time."""

    def send(self, payload: bytes) -> Delivery:
        """Send one serialised ``ExportTraceServiceRequest``."""

    def close(self) -> None:
        """End the connection, also under a request that waits for its answer."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where spans go, and how."""

    protocol: str
    url: SplitResult
    headers: Mapping[str, str]
    seconds: float
    compression: str
    certificate: str
    client_key: str
    client_certificate: str
    secure: bool


def protocol_of(signal: str) -> str:
    """Return the protocol that the environment asks for: ``traces`` or ``metrics`` may have one of their own."""
    variable = f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL"
    value = os.environ.get(variable, "").strip() or os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "").strip() or HTTP
    if value not in PROTOCOLS:
        raise DeliveryError(
            f"The OTLP protocol {value} is not supported: set OTEL_EXPORTER_OTLP_PROTOCOL to one of "
            f"{', '.join(PROTOCOLS)}."
        )
    return value


def target() -> Target:
    """Read where spans go from the environment; raises ``DeliveryError``."""
    protocol = protocol_of("traces")
    own = _variable("ENDPOINT", general=False)
    endpoint = own or _variable("ENDPOINT") or _DEFAULT_ENDPOINTS[protocol]
    if protocol == HTTP and not own:
        endpoint = f"{endpoint.rstrip('/')}/{_TRACES_PATH}"
    if protocol == GRPC and "://" not in endpoint:
        endpoint = f"{'http' if _variable('INSECURE').lower() == 'true' else 'https'}://{endpoint}"
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise DeliveryError(
            f"{endpoint} is no endpoint: set OTEL_EXPORTER_OTLP_ENDPOINT to http://HOST:PORT or https://HOST:PORT."
        )
    compression = _variable("COMPRESSION").lower() or "none"
    if compression not in _KINDS:
        raise DeliveryError(
            f"The compression {compression} is not supported: set OTEL_EXPORTER_OTLP_COMPRESSION to one of "
            f"{', '.join(_KINDS)}."
        )
    return Target(
        protocol,
        url,
        {name: value for name, value in parse_env_headers(_variable("HEADERS"), liberal=True).items() if name},
        _seconds(_variable("TIMEOUT")),
        compression,
        _variable("CERTIFICATE"),
        _variable("CLIENT_KEY"),
        _variable("CLIENT_CERTIFICATE"),
        url.scheme == "https",
    )


def _variable(name: str, *, general: bool = True) -> str:
    """Return the value for traces, else the general one."""
    value = os.environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}", "").strip()
    return value or (os.environ.get(f"OTEL_EXPORTER_OTLP_{name}", "").strip() if general else "")


def _seconds(given: str) -> float:
    try:
        seconds = float(given or _DEFAULT_SECONDS)
    except ValueError:
        seconds = 0.0
    if not seconds > 0:
        raise DeliveryError(f"OTEL_EXPORTER_OTLP_TIMEOUT={given} cannot work: set it to seconds above zero.")
    return seconds


def sender(to: Target) -> Sender:
    """Return what sends to a target; nothing is connected before the first request."""
    return _HttpSender(to) if to.protocol == HTTP else _GrpcSender(to)


class _HttpSender:
    """One connection that is kept, and opened anew when it broke."""

    def __init__(self, to: Target) -> None:
        self._to = to
        self._compress = _COMPRESSIONS.get(to.compression)
        self._path = (to.url.path or "/") + (f"?{to.url.query}" if to.url.query else "")
        self._headers = {**to.headers, "content-type": "application/x-protobuf", "user-agent": "ml-telemetry"}
        if self._compress is not None:
            self._headers["content-encoding"] = to.compression
        self._connection = self._connect()

    def _connect(self) -> http.client.HTTPConnection:
        to = self._to
        host, port = to.url.hostname or "", to.url.port or (443 if to.secure else 80)
        proxy = None if urllib.request.proxy_bypass(host) else urllib.request.getproxies().get(to.url.scheme)
        via = urlsplit(proxy if proxy and "://" in proxy else f"http://{proxy}") if proxy else None
        first = (via.hostname or "", via.port or 80) if via else (host, port)
        connection: http.client.HTTPConnection
        if to.secure:
            context = ssl.create_default_context(cafile=to.certificate or None)
            if to.client_certificate:
                context.load_cert_chain(to.client_certificate, to.client_key or None)
            connection = http.client.HTTPSConnection(*first, timeout=to.seconds, context=context)
        else:
            connection = http.client.HTTPConnection(*first, timeout=to.seconds)
        if via:
            connection.set_tunnel(host, port)
        return connection

    def send(self, payload: bytes) -> Delivery:
        body = self._compress(payload) if self._compress else payload
        # A connection that was kept may have been closed meanwhile by the other side: it is tried once more.
        for fresh in (self._connection.sock is None, True):
            try:
                self._connection.request("POST", self._path, body, self._headers)
                answer = self._connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                if fresh or isinstance(error, TimeoutError):
                    logger.warning("Spans could not be sent to %s: %s", self._to.url.netloc, error)
                    return Delivery.AGAIN
            else:
                return self._judge(answer.status)
        return Delivery.AGAIN

    def _judge(self, status: int) -> Delivery:
        if 200 <= status < 300:
            return Delivery.DONE
        logger.warning("%s answered %s to spans", self._to.url.netloc, status)
        return Delivery.AGAIN if status in _TRY_AGAIN else Delivery.REFUSED

    def close(self) -> None:
        if (sock := self._connection.sock) is not None:
            # Closed alone, it would not wake the thread that waits for an answer.
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._connection.close()


class _GrpcSender:
    """A channel, which connects anew by itself."""

    def __init__(self, to: Target) -> None:
        import grpc  # type: ignore[import-untyped]

        self._to = to
        address = f"{to.url.hostname}:{to.url.port or 4317}"
        kind = grpc.Compression.Gzip if to.compression == "gzip" else grpc.Compression.NoCompression
        if to.secure:
            files = [Path(name).read_bytes() if name else None for name in _files(to)]
            self._channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(*files), compression=kind)
        else:
            self._channel = grpc.insecure_channel(address, compression=kind)
        # The payload is a message already, and of the answer only its status counts.
        self._call: Any = self._channel.unary_unary(_METHOD)
        self._headers = [(name.lower(), value) for name, value in to.headers.items()]
        again = grpc.StatusCode
        self._again = (
            again.CANCELLED,
            again.DEADLINE_EXCEEDED,
            again.RESOURCE_EXHAUSTED,
            again.ABORTED,
            again.OUT_OF_RANGE,
            again.UNAVAILABLE,
            again.DATA_LOSS,
        )
        self._error: Any = grpc.RpcError

    def send(self, payload: bytes) -> Delivery:
        try:
            self._call(payload, timeout=self._to.seconds, metadata=self._headers)
        except self._error as error:
            logger.warning("Spans could not be sent to %s: %s", self._to.url.netloc, error.code())
            return Delivery.AGAIN if error.code() in self._again else Delivery.REFUSED
        except ValueError:
            # The channel was closed.
            return Delivery.REFUSED
        return Delivery.DONE

    def close(self) -> None:
        self._channel.close()


def _files(to: Target) -> tuple[str, str, str]:
    """Files in the order of ``grpc.ssl_channel_credentials``: roots, key, chain."""
    return to.certificate, to.client_key, to.client_certificate
