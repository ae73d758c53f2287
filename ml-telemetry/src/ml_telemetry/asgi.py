"""Instruments any ASGI application: FastAPI, Starlette, BentoML, or one of your own."""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ml_telemetry import logs, signals
from ml_telemetry.contract import Contract
from ml_telemetry.declaration import Declaration
from ml_telemetry.inference import InferenceRecord
from ml_telemetry.middleware import Application, Message, Receive, Scope, Send, TelemetryMiddleware
from ml_telemetry.record import Failure
from ml_telemetry.runtime import Service, check_environment, disabled, telemetry

App = TypeVar("App")


@dataclass(frozen=True)
class _Plan:
    """What is started with the first request, in the process that serves it."""

    contract: Contract
    service: Service
    model_info: Mapping[str, str]
    one_error_form: bool
    client_address: bool
    failures: Mapping[int, Failure] = field(default_factory=dict)
    routes: Callable[[], frozenset[str]] = frozenset


def instrument(
    app: App,
    *,
    model: Declaration,
    version: str = "unknown",
    service: str = "",
    service_version: str = "",
    namespace: str = "",
    info: Mapping[str, str] | None = None,
    one_error_form: bool = False,
    client_address: bool = True,
    on_prediction: Callable[[InferenceRecord], None] | None = None,
) -> App:
    """Observe an application, and return it.

    An application with ``add_middleware`` (FastAPI, Starlette) is changed and returned; any other is wrapped. Nothing
    is started before the process serves: workers that are forked export for themselves.

    ``version`` is the model's and ``service_version`` that of the code; ``info`` has more labels of ``ml_model_info``.
    With ``one_error_form`` every error has the body ``{"error": {"type", "message", "trace_id"}}``; else the
    application's own stay as they are. ``on_prediction`` is called with the :class:`InferenceRecord` of each request
    for a prediction before its answer leaves. It runs on the event loop: it hands the record on and returns. Raises
    ``TelemetryConfigurationError`` for an environment that cannot work.
    """
    check_environment()
    plan = _Plan(
        Contract(model),
        Service(service or model.name.replace("_", "-"), service_version, namespace),
        {signals.NAME.name: model.name, signals.VERSION.name: version, **(info or {})},
        one_error_form,
        client_address,
        routes=lambda: _routes(app, model.route),
    )
    telemetry.on_prediction = on_prediction
    add: Any = getattr(app, "add_middleware", None)
    if add is not None:
        add(_Instrumented, plan=plan)
        return app
    wrapped: Any = _Instrumented(app, plan=plan)  # type: ignore[arg-type]
    return wrapped  # type: ignore[no-any-return]


def _routes(app: Any, predicting: str) -> frozenset[str]:
    """Return the paths of an application that have no parameter: those may be a label as they are."""
    paths = [path for route in getattr(app, "routes", ()) if isinstance(path := getattr(route, "path", None), str)]
    return frozenset([predicting, *(path for path in paths if path and "{" not in path)][: signals.MAXIMUM_ROUTES])


class _Instrumented:
    """The middleware that starts with the application and ends with it."""

    def __init__(self, app: Application, *, plan: _Plan) -> None:
        self._app = app
        self._plan = plan
        self._middleware: TelemetryMiddleware | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or the beginning and the end of the application."""
        middleware = self._middleware or self._start()
        if scope["type"] != "lifespan":
            await middleware(scope, receive, send)
            return

        async def heard() -> Message:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                # The application may still predict while it ends, but nobody waits for that.
                await asyncio.to_thread(telemetry.shutdown)
            return message

        await self._app(scope, heard, send)

    def _start(self) -> TelemetryMiddleware:
        plan = self._plan
        if not disabled():
            logs.configure_output()
            telemetry.start(plan.service, plan.contract, plan.model_info)
            # Where the server tells no application that it ends.
            atexit.register(telemetry.shutdown)
        else:
            telemetry.declare(plan.contract, plan.model_info)
        self._middleware = TelemetryMiddleware(
            self._app,
            telemetry,
            plan.routes(),
            plan.failures,
            client_address=plan.client_address,
            one_error_form=plan.one_error_form,
            templates=True,
        )
        return self._middleware
