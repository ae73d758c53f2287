"""The locust user: sends posts, checks every answer, and tells the recorder."""

import itertools
import random
import secrets
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from locust import FastHttpUser, task
from locust.contrib.fasthttp import LocustBadStatusCode

from load_testing import contract
from load_testing.kinds import CORRUPTED, GOOD
from load_testing.outcome import Recorder, Request
from load_testing.plan import Load
from sightglass.verify.predictions import traceparent

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
    texts: ClassVar[Sequence[str]]
    recorder: ClassVar[Recorder]
    numbers: ClassVar["itertools.count[int]"]

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        # Each user has its own choices, so that they do not depend on the order in which users get their turns.
        self._choices = random.Random(f"{self.load.seed}/{next(self.numbers)}")  # noqa: S311 - no secret

    @task
    def call(self) -> None:
        """Send one request and judge its answer."""
        kind = self._choices.choice(CORRUPTED) if self._choices.random() < self.load.corrupt else GOOD
        body: Any = kind.body(self._choices.choice(self.texts))
        trace_id = secrets.token_hex(16)
        headers = {"traceparent": traceparent(trace_id, secrets.token_hex(8)), "Content-Type": "application/json"}
        with self.client.request(
            kind.method, kind.path, name=kind.name, data=body, headers=headers, catch_response=True
        ) as answer:
            error = answer.request_meta["exception"]
            if error is not None and not isinstance(error, LocustBadStatusCode):
                status, problem = 0, f"got no whole answer ({type(error).__name__})"
            else:
                status = answer.status_code
                problem = contract.problem(
                    kind,
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
            name=f"{kind.method} {kind.name}",
            status=status,
            milliseconds=meta["response_time"],
            started=meta["start_time"],
            problem=problem,
        )
        self.recorder.add(request, corrupted=kind.corrupted)
        if not status:
            time.sleep(PAUSE_SECONDS)  # gevent's, so the other users go on


def prepare(load: Load, texts: Sequence[str]) -> None:
    """Begin anew: what the users send, and an empty recorder."""
    Caller.load = load
    Caller.texts = texts
    Caller.recorder = Recorder()
    Caller.numbers = itertools.count()
