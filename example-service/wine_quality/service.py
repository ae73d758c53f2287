"""The FastAPI application: ``uvicorn wine_quality.service:app``."""

from __future__ import annotations

import logging
import sys
from importlib.metadata import version
from typing import Annotated, Any, Final

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, create_model

import model_store
from ml_telemetry import instrument, prediction, signals
from ml_telemetry.current import current_request
from ml_telemetry.record import Failure
from ml_telemetry.runtime import TelemetryConfigurationError
from model_store import Stored
from wine_quality.declaration import DECLARATION, FEATURES, SERVICE_NAME

MOST: Final = 100_000.0
"""No measurement of a wine is larger; the largest that a model meets says more than a number without bound."""
_READY: Final = [7.5, 0.65, 0.05, 2.0, 0.08, 12.0, 40.0, 0.9975, 3.4, 0.55, 9.5]
logger = logging.getLogger(__name__)

_Measured = Annotated[float, Field(ge=0, le=MOST, allow_inf_nan=False, strict=True)]
_fields: dict[str, Any] = {
    feature.name: (_Measured, Field(description=feature.description)) for feature in DECLARATION.features
}
Wine = create_model("Wine", __config__=ConfigDict(extra="forbid"), **_fields)
"""The eleven measurements of a wine, all of them."""


class Model(BaseModel):
    """Which model answered."""

    name: str
    version: str
    digest: str


class Estimate(BaseModel):
    """The answer to a wine."""

    prediction_id: str
    value: float
    unit: str
    model: Model
    trace_id: str


def _prepare() -> Stored:
    """The model to serve; the process ends with one line where there is none."""
    try:
        stored = model_store.current(SERVICE_NAME)
        if stored is not None:
            return stored
        logger.critical("There is no model in %s: run 'python -m wine_quality.training' first.", model_store.root())
    except model_store.StoreError as error:
        logger.critical("The service cannot start: %s", error)
    sys.exit(1)


STORED = _prepare()
MODEL: Any = STORED.load()
app = FastAPI(
    title=SERVICE_NAME,
    description=DECLARATION.description,
    version=STORED.version,
    # FastAPI's own would count every request a second time, and its records hold what callers sent.
    telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
)


@app.exception_handler(RequestValidationError)
async def refused(_request: Request, error: RequestValidationError) -> Response:
    """Say what is wrong with the first field, without the value: it is the caller's."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:])
    request = current_request()
    if first["type"] == "json_invalid" or not place:
        found = Failure(400, "invalid_json", "The body is no JSON object with the measurements of a wine: send one.")
        if first["type"] != "json_invalid":
            found = Failure(422, "invalid_type", "The body must be a JSON object with the measurements of a wine.")
    elif place not in FEATURES:
        # Its name is the caller's text too.
        found = Failure(422, "invalid_type", f"A field is no measurement of a wine: send {', '.join(FEATURES)}.")
    else:
        said = first["msg"][0].lower() + first["msg"][1:]
        found = Failure(422, "invalid_type", f"The field '{place}' does not fit: {said}.")
    if request is not None:
        request.failure = found
    return Response(status_code=found.status)


@app.get("/livez")
async def livez() -> dict[str, str]:
    """Whether the process answers."""
    return {"status": "ok"}


@app.get("/readyz")
async def readyz() -> dict[str, str]:
    """Whether the model predicts; not counted as a prediction."""
    try:
        MODEL.predict([_READY])
    except Exception:
        logger.exception("The model does not predict: the service is not ready.")
        raise HTTPException(503) from None
    return {"status": "ready"}


# The model holds Python's global lock for most of its work: a thread of its own would only add switches.
@app.post(DECLARATION.route)
async def predict(wine: Wine) -> Estimate:  # type: ignore[valid-type]
    """Estimate the score of one wine."""
    noted, request = prediction(), current_request()
    with noted.stage("prepare"):
        measured = wine.model_dump()  # type: ignore[attr-defined]
        row = [measured[name] for name in FEATURES]
        noted.describe(measured)
    with noted.stage("predict"):
        value = float(MODEL.predict([row])[0])
        noted.value(value)
    return Estimate(
        prediction_id=noted.id,
        value=value,
        unit=DECLARATION.unit,
        model=Model(name=DECLARATION.name, version=STORED.version, digest=STORED.digest),
        trace_id=request.trace_id if request else "",
    )


try:
    instrument(
        app,
        model=DECLARATION,
        version=STORED.version,
        service=SERVICE_NAME,
        service_version=version("sightglass"),
        namespace="sightglass",
        info={
            signals.MODEL_DIGEST.name: STORED.digest,
            signals.GIT_SHA.name: STORED.metadata["git_commit"],
            signals.CORPUS.name: STORED.metadata["corpus"],
            signals.DATA_SHA256.name: STORED.metadata["training_data_sha256"],
        },
        one_error_form=True,
    )
except TelemetryConfigurationError as error:
    logger.critical("The service cannot start: %s", error)
    sys.exit(1)
