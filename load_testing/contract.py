"""What an answer of the service must hold, good or bad; see ``POST /predict`` in its OpenAPI document."""

from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from load_testing.kinds import Kind

_Text = Annotated[str, Field(min_length=1)]
_Share = Annotated[float, Field(ge=0, le=1)]

_SUM_TOLERANCE = 1e-3


class _Model(BaseModel):
    name: _Text
    version: _Text


class _Prediction(BaseModel):
    prediction_id: _Text
    label: _Text
    confidence: _Share
    probabilities: dict[str, _Share]
    model: _Model
    trace_id: _Text


class _Error(BaseModel):
    type: _Text
    message: _Text
    trace_id: _Text


class _Refusal(BaseModel):
    error: _Error


def problem(kind: Kind, *, status: int, body: bytes, traceresponse: str, trace_id: str) -> str:
    """Say what is wrong with the answer to a request of that kind and trace, or nothing.

    The sentences never hold an id or a part of the body, so that equal problems count as one.
    """
    if status != kind.status:
        return f"answered {status} instead of {kind.status}"
    try:
        seen = _refused(body) if kind.corrupted else _predicted(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        return f"answered {status} with a wrong body ({place}: {first['msg']})"
    except ValueError as error:
        return f"answered {status} with a wrong body ({error})"
    if seen != trace_id:
        return f"answered {status} with another trace_id than the one that was sent"
    if traceresponse.split("-")[1:2] != [trace_id]:
        return f"answered {status} without the trace that was sent in its traceresponse header"
    return ""


def _predicted(body: bytes) -> str:
    prediction = _Prediction.model_validate_json(body)
    if prediction.label not in prediction.probabilities:
        raise ValueError("label: is not among the probabilities")
    if prediction.confidence != prediction.probabilities[prediction.label]:
        raise ValueError("confidence: is not the label's probability")
    if abs(sum(prediction.probabilities.values()) - 1) > _SUM_TOLERANCE:
        raise ValueError("probabilities: their sum is not 1")
    return prediction.trace_id


def _refused(body: bytes) -> str:
    return _Refusal.model_validate_json(body).error.trace_id
