"""The service's API as an OpenAPI document: ``python -m text_classifier.openapi`` writes the file that is served.

BentoML's own document leaves out most errors and gives the others a body that the middleware replaces.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from text_classifier.http import PredictRequest, PredictResponse

FILE: Final = Path(__file__).with_name("openapi.json")
REASONS: Final[Mapping[int, tuple[str, ...]]] = {
    400: ("invalid_json", "invalid_request"),
    404: ("unknown_route",),
    405: ("method_not_allowed",),
    408: ("request_timeout",),
    413: ("text_too_long", "body_too_large"),
    414: ("uri_too_long",),
    415: ("unsupported_media_type", "unsupported_encoding"),
    422: ("invalid_type", "empty_text"),
    431: ("headers_too_large",),
    500: ("internal_error",),
    503: ("overloaded",),
    504: ("timeout",),
}
"""What ``error.type`` may be, by status."""
_ROUTES: Final = {
    "/livez": "Say whether the process lives.",
    "/readyz": "Say whether the model predicts.",
    "/healthz": "Say whether the process lives.",
}


def document() -> dict[str, Any]:
    """Return the document; it is the same whatever model is served."""
    predict = {
        "operationId": "predict",
        "summary": "Classify one text.",
        "requestBody": {"required": True, "content": _json({"$ref": "#/components/schemas/PredictRequest"})},
        "responses": {
            "200": {
                "description": "The class, with its calibrated probability.",
                "content": _json({"$ref": "#/components/schemas/PredictResponse"}),
            },
            **{str(status): _error(status, reasons) for status, reasons in REASONS.items()},
        },
    }
    return {
        "openapi": "3.0.2",
        "info": {
            "title": "text-classifier",
            "version": "1",
            "description": "Classifies a post into one of four groups. Every answer has a header `traceresponse`, and "
            "every error has one form.",
        },
        "paths": {
            "/predict": {"post": predict},
            **{path: {"get": _health(path, summary)} for path, summary in _ROUTES.items()},
        },
        "components": {
            "schemas": {
                "PredictRequest": PredictRequest.model_json_schema(),
                "PredictResponse": PredictResponse.model_json_schema(),
                "Error": _object(
                    error=_object(type={"type": "string"}, message={"type": "string"}, trace_id=_TRACE_ID)
                ),
            }
        },
    }


_TRACE_ID: Final = {"type": "string", "pattern": "^[0-9a-f]{32}$"}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties, "additionalProperties": False}


def _json(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _error(status: int, reasons: tuple[str, ...]) -> dict[str, Any]:
    types = ", ".join(f"`{reason}`" for reason in reasons)
    description = f"{HTTPStatus(status).phrase}: {types}."
    return {"description": description, "content": _json({"$ref": "#/components/schemas/Error"})}


def _health(path: str, summary: str) -> dict[str, Any]:
    responses = {"200": {"description": "It does."}, **{str(s): _error(s, REASONS[s]) for s in (400, 431, 503)}}
    return {"operationId": path.strip("/"), "summary": summary, "responses": responses}


class Served:
    """What BentoML asks for as its own document."""

    def asdict(self) -> Any:
        """Return the committed document."""
        return json.loads(FILE.read_text())


def text() -> str:
    """Return the document as the file has it."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text())
