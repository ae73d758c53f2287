"""Spans and metrics over TLS, to real servers that want a certificate of the client as well."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
import trustme
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from collector import Collector, collector, running
from declared import HOUSES
from waiting import until

CODE = f"""
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from ml_telemetry import instrument, prediction
from ml_telemetry.declaration import Declaration


async def predict(request):
    noted = prediction()
    with noted.stage("predict"):
        noted.value(1.0)
    return JSONResponse({{"id": noted.id}})


app = Starlette(routes=[Route("/predict", predict, methods=["POST"])])
instrument(app, model=Declaration.from_json({HOUSES.as_json()!r}), version="7")
"""


@dataclass
class Certificates:
    """An authority, what it gave a server and a client, and an authority that nobody knows."""

    folder: Path
    server: trustme.LeafCert
    authority: trustme.CA

    def environment(self, authority: str = "authority.pem", client: bool = True) -> dict[str, str]:
        """What a service is told."""
        files = {"CERTIFICATE": authority}
        if client:
            files |= {"CLIENT_CERTIFICATE": "client.pem", "CLIENT_KEY": "client.key"}
        told = {f"OTEL_EXPORTER_OTLP_{name}": str(self.folder / file) for name, file in files.items()}
        # For requests, which sends the metrics, these stand above what OpenTelemetry says.
        return {**told, "REQUESTS_CA_BUNDLE": "", "CURL_CA_BUNDLE": ""}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    authority, stranger = trustme.CA(), trustme.CA()
    client = authority.issue_cert("client.example.org")
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    stranger.cert_pem.write_to_path(str(folder / "stranger.pem"))
    client.cert_chain_pems[0].write_to_path(str(folder / "client.pem"))
    client.private_key_pem.write_to_path(str(folder / "client.key"))
    return Certificates(folder, authority.issue_cert("127.0.0.1"), authority)


@contextmanager
def over_http(certificates: Certificates) -> Iterator[Collector]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificates.server.configure_cert(context)
    certificates.authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    with collector(context) as kept:
        yield kept


@contextmanager
def over_grpc(certificates: Certificates) -> Iterator[Collector]:
    kept = Collector()

    class Service(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - named by the protocol
            for resource in request.resource_spans:
                kept.spans += [span for scope in resource.scope_spans for span in scope.spans]
            return trace_service_pb2.ExportTraceServiceResponse()

    server = grpc.server(futures.ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Service(), server)  # type: ignore[no-untyped-call]
    chain = b"".join(pem.bytes() for pem in certificates.server.cert_chain_pems)
    credentials = grpc.ssl_server_credentials(
        [(certificates.server.private_key_pem.bytes(), chain)], certificates.authority.cert_pem.bytes(), True
    )
    kept.endpoint = f"https://127.0.0.1:{server.add_secure_port('127.0.0.1:0', credentials)}"
    server.start()
    try:
        yield kept
    finally:
        server.stop(None)


SERVERS = {"http/protobuf": over_http, "grpc": over_grpc}


@pytest.mark.parametrize("protocol", SERVERS)
def test_spans_arrive_at_a_server_that_wants_a_certificate(
    certificates: Certificates, tmp_path: Path, protocol: str
) -> None:
    with SERVERS[protocol](certificates) as kept:
        told = {"OTEL_EXPORTER_OTLP_ENDPOINT": kept.endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        with running(sys.executable, CODE, tmp_path, **told, **certificates.environment()) as service:
            answer = service.ask("/predict", {"area": 1})
            assert set(kept.trace(answer.trace_id, 2)) == {"POST /predict", "predict"}
            if protocol != "grpc":
                assert kept.metric("ml.predictions")


@pytest.mark.parametrize("protocol", SERVERS)
@pytest.mark.parametrize("wrong", [{"authority": "stranger.pem"}, {"client": False}], ids=str)
def test_without_the_right_certificates_nothing_arrives_and_the_service_says_so(
    certificates: Certificates, tmp_path: Path, protocol: str, wrong: dict[str, Any]
) -> None:
    with SERVERS[protocol](certificates) as kept:
        told = {"OTEL_EXPORTER_OTLP_ENDPOINT": kept.endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        with running(sys.executable, CODE, tmp_path, **told, **certificates.environment(**wrong)) as service:
            assert service.ask("/predict", {"area": 1}).status == 200
            until(
                lambda: "Spans could not be sent" in service.output.read_text(), "a line about what was not delivered"
            )
        assert kept.spans == []
