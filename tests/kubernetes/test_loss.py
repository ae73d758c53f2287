"""A pod deleted under load: every answered request has its line and its trace, once, except what is counted here.

What a program held in its own memory when it was killed may be gone; here pods are deleted, not killed, so each has
its time to hand over what it holds, and nothing may be missing.
"""

import os
import shlex
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from sightglass.clients import polling
from sightglass.clients.backends import Loki, Prometheus, Tempo
from sightglass.clients.polling import NotYet
from sightglass.facts.cluster import APPLICATION, NODE, OBSERVABILITY, namespace
from sightglass.facts.settings import SERVICE
from sightglass.facts.target import Target
from sightglass.kubernetes import deploy, rollout
from sightglass.kubernetes.options import load as load_options
from sightglass.verify.predictions import Prediction, bodies, predict
from sightglass.verify.signal_checks import HTTP_COUNT, SECOND, request_spans
from tests.kubernetes.conftest import Cluster
from text_classifier.declaration import CONTRACT

pytestmark = pytest.mark.timeout(1200)
PODS = ("promtail", "collector", "loki", "tempo", "minio", "prometheus", "alertmanager", SERVICE)
USERS, PAUSE = 4, 0.2
BEFORE, AFTER = 20, 40
"""Answered requests before the pod is deleted, and after it is back."""
WAIT = 120.0


@dataclass
class Load:
    """Requests of a few users, all the time."""

    target: Target
    answered: list[Prediction] = field(default_factory=list)
    refused: int = 0

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self.bodies = bodies(self.target.endpoint())
        self._threads = [threading.Thread(target=self._user, args=(number,), daemon=True) for number in range(USERS)]

    def _user(self, number: int) -> None:
        while not self._over.wait(PAUSE):
            try:
                self.answered.append(predict(self.target.endpoint(), self.bodies[number % len(self.bodies)], timeout=5))
            except NotYet:
                self.refused += 1

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join()

    def reach(self, count: int) -> None:
        """Wait until so many more are answered."""
        wanted = len(self.answered) + count

        def enough() -> None:
            if len(self.answered) < wanted:
                raise NotYet(f"{len(self.answered)} of {wanted} answered, {self.refused} refused")

        polling.until(enough, timeout=WAIT, what="requests to be answered")


def wrong_lines(loki: Loki, made: list[Prediction]) -> dict[str, int]:
    """How many lines each request has whose number is not one."""
    wanted = {prediction.trace_id for prediction in made}
    start, end = made[0].sent - 5 * SECOND, time.time_ns() + 60 * SECOND
    query = f'{{service_name="{SERVICE}"}} | event_name="ml.prediction"'
    found = loki.lines(query, start=start, end=end, limit=5000)
    counts = Counter(line.labels["trace_id"] for line in found)
    return {trace_id: counts[trace_id] for trace_id in wanted if counts[trace_id] != 1}


def wrong_traces(tempo: Tempo, made: list[Prediction], known: set[str]) -> dict[str, int]:
    """How many spans of the service each trace has that has not one of each; ``known`` grows by the good ones."""
    wrong = {}
    for prediction in made:
        if prediction.trace_id in known:
            continue
        try:
            spans = [s for s in tempo.trace(prediction.trace_id) if s.resource.get("service.name") == SERVICE]
        except NotYet:
            spans = []
        if len(spans) == len({span.span_id for span in spans}) == len(request_spans(CONTRACT)):
            known.add(prediction.trace_id)
        else:
            wrong[prediction.trace_id] = len(spans)
    return wrong


def expect_all(where: Target, made: list[Prediction]) -> None:
    """Every request has its line and its trace once, and stays so."""
    good: set[str] = set()

    def complete() -> None:
        lines = wrong_lines(Loki(where.loki_url), made)
        traces = wrong_traces(Tempo(where.tempo_url), made, good)
        if lines or traces:
            raise NotYet(
                f"of {len(made)}: lines {dict(list(lines.items())[:3])}, traces {dict(list(traces.items())[:3])}"
            )

    polling.until(complete, timeout=WAIT, interval=1, what="every line and every trace once")
    polling.stays(complete, duration=3, interval=1, what="every line and every trace once")


@pytest.mark.parametrize("component", PODS)
def test_deleted_pod_costs_no_line_and_no_span(cluster: Cluster, component: str) -> None:
    space = namespace(component)
    with deploy.reached(load_options()) as where:
        load = Load(where)
        with load.running():
            load.reach(BEFORE)
            label = f"app.kubernetes.io/name={component}"
            began = time.monotonic()
            cluster.kubectl("delete", "pods", f"-n{space}", f"-l{label}", timeout=180)
            rollout.wait(cluster.kubectl)
            seconds = time.monotonic() - began
            load.reach(AFTER)
        expect_all(where, load.answered)
    print(
        f"{component}: back after {seconds:.1f} s; {len(load.answered)} answered, {load.refused} refused meanwhile; "
        f"0 lines and 0 traces lost, 0 doubled"
    )


def test_replacing_everything_at_once_loses_no_data(cluster: Cluster) -> None:
    """What an upgrade of every release does at the most."""
    query = f'sum(max_over_time({HTTP_COUNT}{{service_name="{SERVICE}"}}[1h]))'
    with deploy.reached(load_options()) as where:
        made = [predict(where.endpoint(), body) for body in bodies(where.endpoint())]
        expect_all(where, made)
        counted = Prometheus(where.prometheus_url).total(query)
    for space in (APPLICATION, OBSERVABILITY, NODE):
        cluster.kubectl("rollout", "restart", "deployments,statefulsets,daemonsets", f"-n{space}")
    rollout.wait(cluster.kubectl)
    with deploy.reached(load_options()) as where:
        expect_all(where, made)
        assert Prometheus(where.prometheus_url).total(query) >= counted > 0


def test_a_lost_and_a_doubled_line_are_seen(cluster: Cluster) -> None:
    with deploy.reached(load_options()) as where:
        made = [predict(where.endpoint()) for _ in range(3)]
        expect_all(where, made)
        lost = Prediction("f" * 32, "f" * 16, made[0].sent, made[0].answered, "none", {}, {})
        assert wrong_lines(Loki(where.loki_url), [*made, lost]) == {lost.trace_id: 0}
        assert wrong_traces(Tempo(where.tempo_url), [*made, lost], set()) == {lost.trace_id: 0}


def test_restart_of_the_whole_node_brings_everything_back(cluster: Cluster) -> None:
    restart = os.environ.get("NODE_RESTART")
    if not restart:
        pytest.skip("NODE_RESTART names no command that restarts the cluster's node")
    with deploy.reached(load_options()) as where:
        made = [predict(where.endpoint(), body) for body in bodies(where.endpoint())]
        expect_all(where, made)
    volumes = {found["metadata"]["uid"] for found in cluster.kubectl.get("persistentvolumeclaims", "-A")}
    began = time.monotonic()
    done = subprocess.run(shlex.split(restart), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    rollout.wait(cluster.kubectl)
    print(f"everything is ready again {time.monotonic() - began:.0f} s after the restart began")
    assert {found["metadata"]["uid"] for found in cluster.kubectl.get("persistentvolumeclaims", "-A")} == volumes
    with deploy.reached(load_options()) as where:
        expect_all(where, made)
    assert cluster.command("verify", "--target", "kind").returncode == 0
