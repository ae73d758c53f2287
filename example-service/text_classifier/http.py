"""The HTTP side of ``POST /predict``: what a request must hold, what an answer holds, and every error in between."""

from __future__ import annotations

from typing import Any, Final, Never

import bentoml
import orjson
from pydantic import Field
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ml_telemetry.middleware import SCOPE_KEY
from ml_telemetry.record import Failure, RequestRecord
from text_classifier.estimator import has_word
from text_classifier.settings import settings

# Names of content codings that a message may repeat: a caller's own text never gets into one.
_ENCODINGS: Final = frozenset({"gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd"})
_SEND: Final = 'send a JSON object {"text": "..."}'

# Errors that the server around the service finds; the service's own are raised below.
FAILURES: Final = {
    failure.status: failure
    for failure in (
        Failure(400, "invalid_request", f"This is not a valid HTTP/1.1 request for this service: {_SEND}."),
        Failure(404, "unknown_route", f"There is no such route: {_SEND} with POST to /predict."),
        Failure(405, "method_not_allowed", f"This route does not take this method: {_SEND} with POST to /predict."),
        Failure(408, "request_timeout", "The request did not arrive in time: send all of it at once."),
        Failure(414, "uri_too_long", f"The address is too long: {_SEND} to /predict."),
        Failure(415, "unsupported_media_type", f"This content type is not accepted: {_SEND} as application/json."),
        Failure(431, "headers_too_large", "The request's headers are too large or too many: send fewer."),
        Failure(503, "overloaded", "The service is not ready or has too much to do: try again in a few seconds."),
        Failure(504, "timeout", "The request took too long: try again in a few seconds."),
    )
}


# What POST /predict may answer but a prediction: of the statuses above those that its route can have, and its own.
STATUSES: Final = (400, 408, 413, 414, 415, 422, 431, 500, 503, 504)


class RequestRejected(Exception):  # noqa: N818 - the caller's mistake, not an error of the service
    """The request cannot be served; its message is for the caller and never quotes the request."""


class Job:
    """One text on its way through a batch, and later its answer."""

    __slots__ = ("answer", "record", "text")

    def __init__(self, text: str, record: RequestRecord) -> None:
        self.text = text
        self.record = record
        self.answer = b""


class PredictRequest(bentoml.IODescriptor):  # type: ignore[misc]
    """The body of ``POST /predict``."""

    text: str = Field(min_length=1, description="The text to classify.")

    @classmethod
    async def from_http_request(cls, request: Request, serde: Any) -> Any:  # noqa: ARG003 - BentoML's signature
        """Read and check the body.

        Pydantic is left out: its errors quote the input, and BentoML would log them.
        Raises ``RequestRejected`` after it put the reason on the request's record.
        """
        record: RequestRecord = request.scope[SCOPE_KEY]
        if "content-encoding" in request.headers:
            _check_encoding(request, record)
        body = await _read_body(request, record)
        return _Parsed(Job(_checked_text(body, record), record))


class PredictResponse(bentoml.IODescriptor):  # type: ignore[misc]
    """The answer of ``POST /predict``."""

    prediction_id: str = Field(description="UUID (version 7) of this prediction; feedback refers to it.")
    label: str = Field(description="The most probable class.")
    confidence: float = Field(ge=0, le=1, description="Calibrated probability of the label.")
    probabilities: dict[str, float] = Field(description="Calibrated probability of every class.")
    out_of_vocabulary: float = Field(
        ge=0,
        le=1,
        description="Share of the words that the model never saw; at 1 the probabilities are the classes' shares in "
        "training, for the text says nothing to the model.",
    )
    model: dict[str, str] = Field(description="Name and version of the model.")
    trace_id: str = Field(description="Trace of this request, 32 hexadecimal digits.")

    @classmethod
    async def to_http_response(cls, obj: list[Job], serde: Any) -> Response:  # noqa: ARG003 - BentoML's signature
        """Send the answer that the batch prepared; without one the middleware sends the error."""
        (job,) = obj
        if not job.answer:
            return Response(status_code=500)
        return Response(job.answer, media_type="application/json")


class _Parsed:
    """What BentoML's server reads from a parsed request: one argument of the service's method, named ``jobs``."""

    model_fields: Final = {"jobs": None}
    __slots__ = ("jobs",)

    def __init__(self, job: Job) -> None:
        self.jobs = [job]


def _check_encoding(request: Request, record: RequestRecord) -> None:
    codings = ",".join(request.headers.getlist("content-encoding")).lower().split(",")
    unknown = [name for coding in codings if (name := coding.strip()) not in ("", "identity")]
    if unknown:
        name = unknown[0] if unknown[0] in _ENCODINGS else "this content encoding"
        _reject(record, 415, "unsupported_encoding", f"The body is encoded with {name}: send it without an encoding.")


async def _read_body(request: Request, record: RequestRecord) -> bytes:
    limit = settings().max_body_bytes
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        _reject_large(record, limit)
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                _reject_large(record, limit)
            chunks.append(chunk)
    except ClientDisconnect:
        _reject(record, 499, "client_disconnected", "The connection closed before the request was complete.")
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _checked_text(body: bytes, record: RequestRecord) -> str:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        _reject(record, 400, "invalid_json", f"The body is not valid JSON in UTF-8: {_SEND}.")
    text = document.get("text") if isinstance(document, dict) else None
    if not isinstance(text, str):
        _reject(record, 422, "invalid_type", f"The body needs a field 'text' that holds a string: {_SEND}.")
    if len(text) > settings().max_characters:
        limit = settings().max_characters
        _reject(record, 413, "text_too_long", f"The text is too long: send at most {limit:,} characters.")
    if not has_word(text):
        _reject(record, 422, "empty_text", "The text has no word: send a 'text' with a word of two letters or more.")
    return text


def _reject_large(record: RequestRecord, limit: int) -> Never:
    _reject(record, 413, "body_too_large", f"The body is too large: send at most {limit:,} bytes.")


def _reject(record: RequestRecord, status: int, reason: str, message: str) -> Never:
    record.failure = Failure(status, reason, message)
    raise RequestRejected(reason)
