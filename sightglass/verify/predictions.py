"""Real predictions with trace ids of our own, to be found again."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ml_telemetry import synthetic
from ml_telemetry.synthetic import Source
from sightglass.clients import http
from sightglass.clients.polling import NotYet, time_left
from sightglass.facts.target import Endpoint

CLIENT = "verify"
"""Name of the caller's span, and of the service it belongs to."""


@dataclass(frozen=True)
class Prediction:
    """A request that was answered with 200; ``sent`` and ``answered`` are nanoseconds since the epoch."""

    trace_id: str
    parent_id: str
    sent: int
    answered: int
    prediction_id: str
    """The id that the service gave this prediction."""
    answer: dict[str, Any]
    headers: dict[str, str]


def traceparent(trace_id: str, parent_id: str, *, sampled: bool = True) -> str:
    """W3C trace context header."""
    return f"00-{trace_id}-{parent_id}-{'01' if sampled else '00'}"


def marked(key: str, source: Source | None, trace_id: str) -> dict[str, str]:
    """The header of a request that the stack itself sends; none without its key, and none for a user's."""
    return {synthetic.HEADER: synthetic.mark(key, source, trace_id)} if key and source else {}


def predict(
    endpoint: Endpoint,
    body: str | None = None,
    *,
    timeout: float = 10.0,
    sampled: bool = True,
    source: Source | None = Source.LOAD,
) -> Prediction:
    """Ask for one prediction; :class:`NotYet` with the reason when there is none.

    Without a ``body`` the first sample of the declaration is sent. The request is synthetic, as one of load, or of a
    proof, whose exemplars are kept whatever others send; with ``None`` it counts as a user's.
    """
    trace_id, parent_id = secrets.token_hex(16), secrets.token_hex(8)
    headers = {
        "traceparent": traceparent(trace_id, parent_id, sampled=sampled),
        "content-type": "application/json",
        **marked(endpoint.synthetic_key, source, trace_id),
    }
    declared = endpoint.declaration
    content = (declared.samples[0].body if body is None else body).encode()
    url = f"{endpoint.url}{declared.route}"
    sent = time.time_ns()
    try:
        answer = http.session.post(url, data=content, headers=headers, timeout=timeout)
    except http.Error as error:
        raise NotYet(f"{endpoint.name} does not answer at {endpoint.url} ({type(error).__name__})") from None
    if answer.status_code != 200:
        raise NotYet(f"{endpoint.name} answered {answer.status_code}: {answer.text[:200]}")
    answered = time.time_ns()
    try:
        found = answer.json()
        return Prediction(trace_id, parent_id, sent, answered, str(found["prediction_id"]), found, dict(answer.headers))
    except (ValueError, KeyError, TypeError):
        raise NotYet(
            f"{endpoint.name} answered without a prediction_id: put that of `ml_telemetry.prediction()` into the answer"
        ) from None


def bodies(endpoint: Endpoint) -> list[str]:
    """The requests that the declaration of a service gives as samples."""
    return [sample.body for sample in endpoint.declaration.samples]


def send_client_spans(otlp_url: str, predictions: Sequence[Prediction]) -> None:
    """Send one client span a prediction by OTLP; :class:`NotYet` when nobody takes them."""
    spans = [
        {
            "traceId": prediction.trace_id,
            "spanId": prediction.parent_id,
            "name": CLIENT,
            "kind": 3,  # client
            "startTimeUnixNano": str(prediction.sent),
            "endTimeUnixNano": str(prediction.answered),
            "status": {},
        }
        for prediction in predictions
    ]
    resource = {"attributes": [{"key": "service.name", "value": {"stringValue": CLIENT}}]}
    body = {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]}
    try:
        answer = http.session.post(f"{otlp_url}/v1/traces", json=body, timeout=time_left(5))
    except http.Error as error:
        raise NotYet(f"the collector does not answer at {otlp_url} ({type(error).__name__})") from None
    if not answer.ok:
        raise NotYet(f"{otlp_url} took no spans: {answer.status_code} {answer.text[:200]}")
