"""Real predictions with trace ids of our own, to be found again."""

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sightglass import http
from sightglass.polling import NotYet

TEXTS = (
    "The goalie stopped every shot in the third period and the playoffs are back in our rink.",
    "After the oil change my sedan's engine still knocks when the transmission shifts down.",
    "He pitched seven innings without a run before the bullpen gave up a double.",
    "I lean into the corner, roll on the throttle and the bike holds its line; wear a helmet.",
)


CLIENT = "verify"
"""Name of the caller's span, and of the service it belongs to."""


@dataclass(frozen=True)
class Prediction:
    """A request that was answered with 200; ``sent`` and ``answered`` are nanoseconds since the epoch."""

    trace_id: str
    parent_id: str
    sent: int
    answered: int
    answer: dict[str, Any]
    headers: dict[str, str]

    @property
    def prediction_id(self) -> str:
        """The id that the service gave this prediction."""
        return str(self.answer["prediction_id"])


def traceparent(trace_id: str, parent_id: str, *, sampled: bool = True) -> str:
    """W3C trace context header."""
    return f"00-{trace_id}-{parent_id}-{'01' if sampled else '00'}"


def predict(service_url: str, text: str = TEXTS[0], *, timeout: float = 10.0, sampled: bool = True) -> Prediction:
    """Ask for one prediction; :class:`NotYet` with the reason when there is none."""
    trace_id, parent_id = secrets.token_hex(16), secrets.token_hex(8)
    sent = time.time_ns()
    try:
        answer = http.session.post(
            f"{service_url}/predict",
            json={"text": text},
            headers={"traceparent": traceparent(trace_id, parent_id, sampled=sampled)},
            timeout=timeout,
        )
    except http.Error as error:
        raise NotYet(f"the service does not answer at {service_url} ({type(error).__name__})") from None
    if answer.status_code != 200:
        raise NotYet(f"the service answered {answer.status_code}: {answer.text[:200]}")
    return Prediction(trace_id, parent_id, sent, time.time_ns(), answer.json(), dict(answer.headers))


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
        answer = http.session.post(f"{otlp_url}/v1/traces", json=body, timeout=5)
    except http.Error as error:
        raise NotYet(f"the collector does not answer at {otlp_url} ({type(error).__name__})") from None
    if not answer.ok:
        raise NotYet(f"{otlp_url} took no spans: {answer.status_code} {answer.text[:200]}")
