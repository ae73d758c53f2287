"""What an answer must hold, good or bad, as the declaration of the model says."""

from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from ml_telemetry.declaration import Declaration, Task
from sightglass.local.requests import Sent

_Text = Annotated[str, Field(min_length=1)]
_Share = Annotated[float, Field(ge=0, le=1)]

_SUM_TOLERANCE = 1e-3


class _Model(BaseModel):
    name: _Text
    version: _Text


class _Answer(BaseModel):
    prediction_id: _Text
    model: _Model
    trace_id: _Text


class _Classified(_Answer):
    label: _Text
    confidence: _Share
    probabilities: dict[str, _Share]


class _Estimated(_Answer):
    value: float


class _Error(BaseModel):
    type: _Text
    message: _Text
    trace_id: _Text


class _Refusal(BaseModel):
    error: _Error


def problem(declared: Declaration, sent: Sent, *, status: int, body: bytes, traceresponse: str, trace_id: str) -> str:
    """Say what is wrong with the answer to a request of a trace, or nothing.

    The sentences never hold an id or a part of the body, so that equal problems count as one.
    """
    if status != sent.status:
        return f"answered {status} instead of {sent.status}"
    try:
        seen = _refused(body) if status >= 400 else _predicted(declared, body)
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


def _predicted(declared: Declaration, body: bytes) -> str:
    if declared.task is Task.REGRESSION:
        estimated = _Estimated.model_validate_json(body)
        lowest, highest = declared.minimum, declared.maximum
        if (lowest is not None and estimated.value < lowest) or (highest is not None and estimated.value > highest):
            raise ValueError("value: is outside the declared range")
        return estimated.trace_id
    found = _Classified.model_validate_json(body)
    if found.label not in found.probabilities:
        raise ValueError("label: is not among the probabilities")
    if not set(found.probabilities) <= set(declared.classes):
        raise ValueError("probabilities: have a class that is not declared")
    if found.confidence != found.probabilities[found.label]:
        raise ValueError("confidence: is not the label's probability")
    if abs(sum(found.probabilities.values()) - 1) > _SUM_TOLERANCE:
        raise ValueError("probabilities: their sum is not 1")
    return found.trace_id


def _refused(body: bytes) -> str:
    return _Refusal.model_validate_json(body).error.trace_id
