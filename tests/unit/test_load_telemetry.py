"""Locust's own view, published by real load tests to servers that behave like a Collector, rightly and wrongly."""

import re
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric as MetricMessage

from load_testing import telemetry
from sightglass.facts.settings import REPOSITORY
from tests.unit.test_load import StandIn, command, environment, fails_sometimes
from tests.unit.test_load import sent as requests_sent

NOT_PUBLISHED = "The Collector does not take metrics at "


class Collector:
    """Takes OTLP metrics; from the request ``silent_from`` on it takes none and answers nothing."""

    def __init__(self, silent_from: int = 1_000_000) -> None:
        self.requests: list[ExportMetricsServiceRequest] = []
        self.wrong: list[str] = []
        collector = self
        ended = self._ended = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if len(collector.requests) >= silent_from:
                    ended.wait(60)
                    return
                try:
                    collector.requests.append(ExportMetricsServiceRequest.FromString(body))
                except Exception as error:
                    collector.wrong.append(str(error))
                if self.path != "/v1/metrics":
                    collector.wrong.append(self.path)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._ended.set()
        self.server.shutdown()
        self.server.server_close()

    def last(self) -> dict[str, MetricMessage]:
        """Each metric as it was exported last."""
        (resource,) = self.requests[-1].resource_metrics
        (scope,) = resource.scope_metrics
        return {metric.name: metric for metric in scope.metrics}

    def origins(self) -> set[tuple[str, str]]:
        """``service.name`` and instance of everything that came."""
        found = [
            {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
            for request in self.requests
            for resource in request.resource_metrics
        ]
        return {(origin["service.name"], origin["service.instance.id"]) for origin in found}


def load(
    folder: Path, service: StandIn, otlp: str, *options: str, duration: float = 3
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(service.url, "--duration", str(duration), "--max-p99", "9000", *options),
        cwd=REPOSITORY,
        env=environment(folder, OTLP_HTTP_URL=otlp),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture
def service() -> Iterator[StandIn]:
    made = StandIn()
    yield made
    made.close()


def by_kind(metric: MetricMessage) -> dict[str, int]:
    return {point.attributes[0].value.string_value: point.as_int for point in metric.sum.data_points}


def test_published_numbers_are_those_of_the_requests(tmp_path: Path) -> None:
    service, collector = StandIn(fails_sometimes), Collector()
    try:
        done = load(tmp_path, service, collector.url, "--max-failure-ratio", "1")
    finally:
        service.close()
        collector.close()
    assert (done.returncode, collector.wrong) == (0, [])
    assert NOT_PUBLISHED not in done.stdout
    ((name, instance),) = collector.origins()
    assert (name, len(instance)) == (telemetry.SERVICE, 36)
    metrics = collector.last()
    assert set(metrics) == {metric.name for metric in telemetry.METRICS}
    sent = by_kind(metrics[telemetry.REQUESTS.name])
    assert sum(sent.values()) == len(service.seen)
    assert sum(sent.values()) > sent["POST /predict"] > 0
    assert set(sent) <= {f"{one.method} {one.label}" for one in requests_sent().all}
    failed = by_kind(metrics[telemetry.FAILURES.name])
    assert failed.keys() == sent.keys()
    counted = re.search(r"(\d+)\s+requests\s+(\d+)\s+failed", done.stdout.replace(",", ""))
    assert counted is not None
    assert (sum(sent.values()), sum(failed.values())) == (int(counted[1]), int(counted[2]))
    points = metrics[telemetry.DURATION.name].histogram.data_points
    assert {point.attributes[0].value.string_value: point.count for point in points} == sent
    # The stand-in takes 20 ms, so a mix-up of units would show.
    assert all(0.02 <= point.sum / point.count < 1 for point in points)
    assert [point.as_int for point in metrics[telemetry.USERS.name].gauge.data_points] == [0]


def test_users_are_published_while_they_are_there(tmp_path: Path, service: StandIn) -> None:
    collector = Collector()
    try:
        load(tmp_path, service, collector.url, "--users", "3")
    finally:
        collector.close()
    seen = [
        point.as_int
        for request in collector.requests
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == telemetry.USERS.name
        for point in metric.gauge.data_points
    ]
    assert max(seen) == 3
    assert seen[-1] == 0


def test_absent_collector_is_one_line_and_the_load_passes(tmp_path: Path, service: StandIn) -> None:
    done = load(tmp_path, service, "http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(NOT_PUBLISHED) == 1
    assert "opentelemetry" not in done.stdout + done.stderr
    assert len(service.seen) > 50


def test_collector_that_falls_silent_neither_fails_nor_slows_the_load(tmp_path: Path) -> None:
    """Two equal loads, one of them with a Collector that answers the probe and one export and then hangs."""
    counts = []
    for silent_from in (1_000_000, 2):
        service, collector = StandIn(), Collector(silent_from)
        began = time.monotonic()
        try:
            done = load(tmp_path, service, collector.url, "--users", "1", duration=6)
        finally:
            service.close()
            collector.close()
        assert done.returncode == 0, done.stderr
        assert "opentelemetry" not in done.stdout + done.stderr
        assert time.monotonic() - began < 40
        counts.append(len(service.seen))
    assert len(collector.requests) == 2
    assert counts[1] > 0.8 * counts[0], counts


def test_nothing_is_published_where_nobody_wants_it(tmp_path: Path, service: StandIn) -> None:
    collector = Collector()
    try:
        done = load(tmp_path, service, collector.url, "--no-publish", duration=1)
    finally:
        collector.close()
    assert done.returncode == 0, done.stderr
    assert collector.requests == []


def test_kinds_are_within_their_bound() -> None:
    assert telemetry.REQUEST.maximum is not None
    assert len({one.label for one in requests_sent().all}) <= telemetry.REQUEST.maximum
