"""The locust user: sends requests of a service, checks every answer, and tells the recorder."""

import itertools
import random
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from locust import FastHttpUser, constant, constant_throughput, task
from locust.contrib.fasthttp import LocustBadStatusCode

from load_testing import contract
from load_testing.outcome import Recorder, Request
from load_testing.plan import Load
from ml_telemetry.declaration import Declaration
from ml_telemetry.synthetic import Source
from sightglass.local.requests import Requests, Sent
from sightglass.verify.predictions import marked, traceparent

HEALTH = "/readyz"
ANSWER_SECONDS = 10.0
"""After which a request counts as not answered."""
PAUSE_SECONDS = 0.2
"""Before the next request of a user that got no answer: nobody is helped by a thousand refused connections a second."""


class Caller(FastHttpUser):
    """Sends one request after the other; set the class attributes before a run, see :func:`prepare`.

    ``FastHttpUser`` is locust's client in C: it drives the same load as ``HttpUser`` with half of the processor time.
    """

    network_timeout = ANSWER_SECONDS
    connection_timeout = ANSWER_SECONDS
    insecure = False

    load: ClassVar[Load]
    declared: ClassVar[Declaration]
    sent: ClassVar[Mapping[str, Sequence[Sent]]]
    key: ClassVar[str]
    recorder: ClassVar[Recorder]
    numbers: ClassVar["itertools.count[int]"]

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        # Each user has its own choices, so that they do not depend on the order in which users get their turns.
        self._choices = random.Random(f"{self.load.seed}/{next(self.numbers)}")  # noqa: S311 - no secret

    @task
    def call(self) -> None:
        """Send one request and judge its answer."""
        drawn = self._choices.random()
        if drawn < self.load.health:
            self._ask_health()
            return
        chosen = self.sent[self.load.kind(drawn)]
        sent = self._choices.choice(chosen)
        body: Any = sent.content
        trace_id = secrets.token_hex(16)
        headers = {
            "traceparent": traceparent(trace_id, secrets.token_hex(8)),
            "Content-Type": "application/json",
            **marked(self.key, Source.LOAD, trace_id),
        }
        with self.client.request(
            sent.method, sent.path, name=sent.label, data=body, headers=headers, catch_response=True
        ) as answer:
            error = answer.request_meta["exception"]
            if error is not None and not isinstance(error, LocustBadStatusCode):
                status, problem = 0, f"got no whole answer ({type(error).__name__})"
            else:
                status = answer.status_code
                problem = contract.problem(
                    self.declared,
                    sent,
                    status=status,
                    body=answer.content or b"",
                    traceresponse=(answer.headers or {}).get("traceresponse") or "",
                    trace_id=trace_id,
                )
            if problem:
                answer.failure(problem)
            else:
                answer.success()
            meta = answer.request_meta
        request = Request(
            trace_id=trace_id,
            name=f"{sent.method} {sent.label}",
            status=status,
            milliseconds=meta["response_time"],
            started=meta["start_time"],
            problem=problem,
        )
        self.recorder.add(request, corrupted=sent.kind == "corrupted")
        if not status:
            time.sleep(PAUSE_SECONDS)  # gevent's, so the other users go on

    def _ask_health(self) -> None:
        """Ask whether the service is ready, as a load balancer does."""
        with self.client.request("GET", HEALTH, name=HEALTH, catch_response=True) as answer:
            if answer.status_code == 200:
                answer.success()
            else:
                answer.failure(f"answered {answer.status_code} instead of 200")


def prepare(load: Load, declared: Declaration, requests: Requests, key: str) -> None:
    """Begin anew: what the users send, marked as synthetic where there is a key, and an empty recorder."""
    Caller.key = key
    Caller.load = load
    Caller.wait_time = constant_throughput(load.rate / load.users) if load.rate else constant(0)
    Caller.declared = declared
    Caller.sent = {kind: requests.of_kind(kind) for kind in ("valid", "corrupted", "drifted")}
    Caller.recorder = Recorder()
    Caller.numbers = itertools.count()
