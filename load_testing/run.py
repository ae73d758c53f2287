"""Runs locust as a library: without a page, or with locust's own."""

import logging
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import flask
import gevent
import gevent.event
from locust import LoadTestShape, stats
from locust.env import Environment
from locust.runners import LocalRunner

from load_testing.outcome import Outcome, Row
from load_testing.plan import Load
from load_testing.shapes import SHAPES
from load_testing.users import ANSWER_SECONDS, Caller, prepare
from ml_telemetry.declaration import Declaration
from sightglass.facts.errors import UserError
from sightglass.facts.settings import HOST
from sightglass.local.requests import Requests

TICK_SECONDS = 1.0
_NAME = "load_testing"

Report = Callable[[float, "LoadTest"], None]
"""Told about once a second how many seconds have passed."""


class _Shape(LoadTestShape):
    def __init__(self, load: Load) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._load = load

    def tick(self) -> tuple[int, float] | None:
        """Number of users now and how many to add a second; nothing when the run is over."""
        second: float = self.get_run_time()  # type: ignore[no-untyped-call]
        if second >= self._load.duration:
            return None
        return SHAPES[self._load.shape](self._load.users, second), float(self._load.users)


@dataclass(frozen=True)
class State:
    """A run under way.

    ``throughput`` is requests per second; ``percentiles`` are milliseconds of good requests by percent, nothing where
    none was answered.
    """

    users: int
    throughput: float
    failures: int
    percentiles: Mapping[int, float | None]


class LoadTest:
    """One load test; locust's page can run it more than once."""

    def __init__(self, load: Load, url: str, declared: Declaration, requests: Requests, key: str = "") -> None:
        _configure()
        self.load = load
        self._good = (declared.route, "POST")
        prepare(load, declared, requests, key)
        self.environment = Environment(
            user_classes=[Caller],
            shape_class=_Shape(load),
            host=url,
            locustfile=_NAME,
            # A user that has to go first waits for its answer: a request cut off would be our failure.
            stop_timeout=ANSWER_SECONDS + 1,
        )
        self.runner: LocalRunner = self.environment.create_local_runner()
        self.runner.greenlet.spawn(stats.stats_history, self.runner)
        self._seen = time.monotonic()
        self._seen_requests = 0
        self._seen_times: dict[int, int] = {}
        self._on(self.environment.events.test_start, lambda: prepare(load, declared, requests, key))

    @staticmethod
    def _on(event: Any, action: Callable[[], object]) -> None:
        event.add_listener(lambda **_: action())

    def headless(self, report: Report) -> bool:
        """Run until the time is over or an interrupt; say whether it ran its whole time. All users have stopped."""
        interrupt = _interrupt()
        self.runner.start_shape()
        shape: Any = self.runner.shape_greenlet
        began = self._seen = time.monotonic()
        while not shape.dead and not interrupt.is_set():
            gevent.wait([shape, interrupt], timeout=TICK_SECONDS, count=1)
            report(time.monotonic() - began, self)
        self.runner.quit()
        if shape.exception:
            raise shape.exception
        return not interrupt.is_set()

    def page(self, port: int, ready: Callable[[str], None], finished: Callable[[], object]) -> None:
        """Serve locust's page until an interrupt; ``finished`` is called after each run."""
        _require_free(port)
        # The page looks for locust's own options on the command line, where there are only ours.
        sys.argv[1:] = []
        address = f"http://{HOST}:{port}"
        interrupt = _interrupt()
        web: Any = self.environment.create_web_ui(host=HOST, port=port, delayed_start=True)
        web.app.before_request(lambda: _refuse_foreign(address))
        self._on(self.environment.events.test_stop, finished)
        web.start()
        ready(address)
        gevent.wait([web.greenlet, interrupt], count=1)
        self.runner.quit()
        web.stop()

    def state(self) -> State:
        """Say how the run is; rate and percentiles are those since the last call, so that no spike is averaged away."""
        statistics = self.environment.stats
        good = statistics.entries.get(self._good)
        times = dict(good.response_times) if good else {}
        recent = stats.diff_response_time_dicts(times, self._seen_times)
        count = sum(recent.values())
        now, requests = time.monotonic(), statistics.total.num_requests
        state = State(
            users=self.runner.user_count,
            throughput=(requests - self._seen_requests) / (now - self._seen),
            failures=statistics.total.num_failures,
            percentiles={
                percent: stats.calculate_response_time_percentile(recent, count, percent / 100) if count else None
                for percent in (50, 95, 99)
            },
        )
        self._seen, self._seen_requests, self._seen_times = now, requests, times
        return state

    def outcome(self) -> Outcome:
        """What happened in the run that has ended."""
        statistics, recorder = self.environment.stats, Caller.recorder
        good_key = self._good
        entries = sorted(statistics.entries.items(), key=lambda item: (item[0] != good_key, item[0]))
        rows = {key: _row(entry) for key, entry in entries}
        good = rows.get(good_key)
        reasons: Counter[str] = Counter()
        for error in statistics.errors.values():
            reasons[f"{error.method} {error.name} {error.error}"] += error.occurrences
        (reason, count), *_ = reasons.most_common(1) or [("", 0)]
        total = _row(statistics.total)
        return Outcome(
            requests=total.requests,
            failures=total.failures,
            good=good.requests if good else 0,
            p99=good.p99 if good else 0.0,
            throughput=total.throughput,
            corrupted=recorder.corrupted,
            accepted=recorder.accepted,
            main_reason=f"{reason} ({count} times)" if count else "",
            saturated=self.runner.cpu_warning_emitted,
            crashes=tuple(crash["msg"] for crash in self.runner.exceptions.values()),
            rows=tuple(rows.values()),
            slowest=tuple(recorder.slowest),
            failed=tuple(recorder.failed),
        )


def _interrupt() -> Any:
    """Return an event that Ctrl-C and SIGTERM set, in place of an exception in whichever user has its turn."""
    event = gevent.event.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        gevent.signal_handler(number, event.set)
    return event


def _configure() -> None:
    """Set what locust has as variables of its modules."""
    logging.getLogger("locust").setLevel(logging.ERROR)
    # Charts need short intervals, or a spike would fall between two points and then be averaged away.
    stats.HISTORY_STATS_INTERVAL_SEC = 1
    stats.CURRENT_RESPONSE_TIME_PERCENTILE_WINDOW = 3
    stats.PERCENTILES_TO_CHART = [0.5, 0.95, 0.99]
    stats.PERCENTILES_TO_STATISTICS = [0.95, 0.99]
    # Locust rounds to two digits, for the sake of many workers: 504 ms would hold a limit of 500.
    stats.bucket_response_time = lambda response_time: round(response_time)


def _row(entry: stats.StatsEntry) -> Row:
    p50, p95, p99 = (float(entry.get_response_time_percentile(share)) for share in (0.5, 0.95, 0.99))
    return Row(
        name=f"{entry.method} {entry.name}".strip(),
        requests=entry.num_requests,
        failures=entry.num_failures,
        throughput=entry.total_rps,
        p50=p50,
        p95=p95,
        p99=p99,
        maximum=float(entry.max_response_time),
    )


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UserError(
                f"Locust's page cannot have port {port} ({error.strerror}): set SIGHTGLASS_LOCUST_PORT to another."
            ) from None


def _refuse_foreign(address: str) -> Any:
    """Keep other sites that the person's browser has open from starting a load test at an address of their choice."""
    host = urlsplit(address).netloc
    allowed = {host, host.replace(HOST, "localhost")}
    origin = flask.request.headers.get("Origin")
    if flask.request.host in allowed and (origin is None or urlsplit(origin).netloc in allowed):
        return None
    return "This page answers to itself only.", 403
