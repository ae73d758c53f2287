"""What is particular to BentoML: where the middleware goes, and what of BentoML's own observation is left out."""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping
from typing import Any, ClassVar

from _bentoml_sdk import Service
from bentoml._internal.context import server_context
from bentoml._internal.server.http.traffic import TimeoutMiddleware
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

from ml_telemetry import logs
from ml_telemetry.middleware import TelemetryMiddleware
from ml_telemetry.record import Failure, current_request
from ml_telemetry.runtime import telemetry

# Young objects are many and die soon: look at them seldom, and at what survived more seldom still.
_GC_THRESHOLDS = (10_000, 50, 100)


class ObservedService(Service[Any]):  # type: ignore[misc]
    """A BentoML service whose whole ASGI application is wrapped by ``TelemetryMiddleware``.

    Wrapped from outside, because BentoML puts its time-out and error handling around the middlewares a service adds,
    and their answers must carry the trace and the one error body too.
    """

    # Set by the service's module: a BentoML service class takes no options of its own.
    failures: ClassVar[Mapping[int, Failure]] = {}

    def to_asgi(self, is_main: bool = True) -> Any:
        """Build the application as BentoML does, without two of its middlewares.

        Nobody exports the spans of its tracing middleware. Its time-out middleware gives every request a task and a
        timer that lives on after the answer; the time-out it was given is kept by the wrapper instead.
        """
        application = super().to_asgi(is_main)
        timeouts = [entry for entry in application.user_middleware if entry.cls is TimeoutMiddleware]
        seconds = timeouts[0].kwargs["timeout"] if timeouts else None
        left_out = (OpenTelemetryMiddleware, TimeoutMiddleware)
        application.user_middleware = [entry for entry in application.user_middleware if entry.cls not in left_out]
        routes = frozenset({"/", "/docs.json", "/schema.json", *(api.route for api in self.apis.values())})
        return TelemetryMiddleware(application, telemetry, routes, self.failures, seconds)


def in_worker() -> bool:
    """Whether this process serves requests; BentoML imports a service in its arbiter too."""
    return server_context.worker_index is not None


def configure_process_logging() -> None:
    """Make every line of this process a JSON line; called at import, so in BentoML's arbiter and in its workers."""
    logs.configure_bentoml_logging()
    logs.configure_logging()
    logging.getLogger("bentoml").setLevel(logging.INFO)
    logging.getLogger("bentoml._internal.server.http_app").addFilter(_keep_exception)


def _keep_exception(record: logging.LogRecord) -> bool:
    """Take the exception of BentoML's own "Exception on ..." line for the request's record, which tells it better."""
    request = current_request.get()
    if request is None or not record.exc_info:
        return True
    if request.failure is None:
        request.exception = record.exc_info[1]
    return False


def settle_garbage_collector() -> None:
    """Take all that was loaded out of the garbage collector's sight: its full runs made most of the p99 latency."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
