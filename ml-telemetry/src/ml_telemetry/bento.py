"""What is particular to BentoML: where the middleware goes, and what of BentoML's own observation is left out."""

from __future__ import annotations

import gc
import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar

from bentoml import Service, server_context

from ml_telemetry import logs, protocol, signals
from ml_telemetry.current import current_request
from ml_telemetry.middleware import TelemetryMiddleware
from ml_telemetry.record import Failure
from ml_telemetry.runtime import telemetry

_BENTOML_ERRORS = ("InvalidArgument", "NotFound", "InternalServerError")
# Middlewares that BentoML adds; their classes are its own affair, so they are known by their names.
_TIMEOUT, _TRACING = "TimeoutMiddleware", "OpenTelemetryMiddleware"
# Young objects are many and die soon: look at them seldom, and at what survived more seldom still.
_GC_THRESHOLDS = (10_000, 50, 100)


class ObservedService(Service[Any]):  # type: ignore[misc]
    """A BentoML service whose whole ASGI application is wrapped by ``TelemetryMiddleware``.

    Wrapped from outside, because BentoML puts its time-out and error handling around the middlewares a service adds,
    and their answers must carry the trace and the one error body too.
    """

    # Set by the service's module: a BentoML service class takes no options of its own.
    failures: ClassVar[Mapping[int, Failure]] = {}
    # Statuses of the one error body that an API may answer with, for its OpenAPI document.
    statuses: ClassVar[tuple[int, ...]] = ()
    # Reasons that the error body may give.
    reasons: ClassVar[tuple[str, ...]] = signals.REJECTION_REASONS
    limits: ClassVar[protocol.Limits] = protocol.Limits()
    trusted_proxies: ClassVar[str] = ""
    client_address: ClassVar[bool] = True

    @property
    def openapi_spec(self) -> Any:
        """Describe the service as BentoML does, with the errors that it sends in place of BentoML's."""
        specification = super().openapi_spec
        schemas = specification.components["schemas"]
        for name in _BENTOML_ERRORS:
            schemas.pop(name, None)
        schemas["Error"] = _error_schema(self.reasons)
        content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
        errors = {status: {"description": HTTPStatus(status).phrase, "content": content} for status in self.statuses}
        for api in self.apis.values():
            responses = specification.paths[api.route].post["responses"]
            specification.paths[api.route].post["responses"] = {HTTPStatus.OK.value: responses[200], **errors}
        # Its metrics go to the Collector: the page that BentoML lists is turned off.
        specification.paths.pop("/metrics", None)
        return specification

    def to_asgi(self, is_main: bool = True) -> Any:
        """Build the application as BentoML does, without two of its middlewares.

        Nobody exports the spans of its tracing middleware. Its time-out middleware gives every request a task and a
        timer that lives on after the answer; the time-out it was given is kept by the wrapper instead.
        """
        protocol.install(self.limits, self.trusted_proxies)
        application = super().to_asgi(is_main)
        entries = {entry.cls.__name__: entry for entry in application.user_middleware}
        seconds = entries[_TIMEOUT].kwargs["timeout"] if _TIMEOUT in entries else None
        application.user_middleware = [
            entry for entry in application.user_middleware if entry.cls.__name__ not in (_TIMEOUT, _TRACING)
        ]
        application.router.redirect_slashes = False
        routes = frozenset({"/", "/docs.json", "/schema.json", *(api.route for api in self.apis.values())})
        return TelemetryMiddleware(application, telemetry, routes, self.failures, seconds, self.client_address)


def _error_schema(reasons: tuple[str, ...]) -> dict[str, Any]:
    return {
        "type": "object",
        "title": "Error",
        "description": "The body of every answer that is none of the service's own.",
        "required": ["error"],
        "additionalProperties": False,
        "properties": {
            "error": {
                "type": "object",
                "required": ["type", "message", "trace_id"],
                "additionalProperties": False,
                "properties": {
                    "type": {"type": "string", "enum": list(reasons)},
                    "message": {"type": "string"},
                    "trace_id": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
                },
            }
        },
    }


def in_worker() -> bool:
    """Whether this process serves requests; BentoML imports a service in its arbiter too."""
    return server_context.worker_index is not None


def configure_process_logging() -> None:
    """Make every line of this process a JSON line; called at import, so in BentoML's arbiter and in its workers."""
    _configure_lines()
    # BentoML applies configurations of its own at several moments.
    logs.stay_configured(_configure_lines)


def _configure_lines() -> None:
    logs.configure_logging(keep=_keep_exception)
    logging.getLogger("bentoml").setLevel(logging.INFO)


def _keep_exception(record: logging.LogRecord) -> bool:
    """Take the exception of BentoML's own "Exception on ..." line for the request's record, which tells it better."""
    request = current_request()
    if request is None or not record.exc_info or not record.name.startswith("bentoml."):
        return True
    if request.failure is None:
        request.exception = record.exc_info[1]
    return False


def settle_garbage_collector() -> None:
    """Take all that was loaded out of the garbage collector's sight: its full runs made most of the p99 latency."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
