"""What is known of one request for a prediction when its answer leaves, for an application that wants to keep it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from ml_telemetry import signals
from ml_telemetry.contract import Contract
from ml_telemetry.record import PredictionRecord, RequestRecord
from ml_telemetry.spans import exception_name, stack_frames
from ml_telemetry.throttle import OncePerMinute

logger = logging.getLogger(__name__)
logger.addFilter(OncePerMinute())

SLOW_SECONDS: Final = 0.01
"""A function that takes longer holds every request of the process up by that."""
_NANOSECONDS: Final = 1e9


def _nothing() -> Mapping[str, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class InferenceRecord:
    """One request for a prediction, whether it got one or not; it shares nothing with the request, so it may be kept.

    ``time_unix_nano`` is when the request came. ``error`` is the reason of a failure, and then ``prediction_id`` may be
    empty. ``features`` has the declared names, and ``None`` for what is missing. ``stages`` has the seconds of those
    that have ended. ``digest`` is the model's, where ``instrument(info=...)`` said it. Trace and span ids are
    hexadecimal. ``label``, ``confidence``, ``margin`` and ``probabilities`` are a classification's, ``value`` is a
    regression's.
    """

    trace_id: str
    span_id: str
    time_unix_nano: int
    route: str
    status: int
    model: str
    version: str
    digest: str
    declaration_sha256: str
    track: str
    synthetic: bool
    request_id: str = ""
    prediction_id: str = ""
    error: str = ""
    label: str | None = None
    confidence: float | None = None
    margin: float | None = None
    probabilities: Mapping[str, float] = field(default_factory=_nothing)
    value: float | None = None
    features: Mapping[str, float | str | None] = field(default_factory=_nothing)
    stages: Mapping[str, float] = field(default_factory=_nothing)
    batch_size: int | None = None
    input_hash: str = ""
    hash_key_id: str = ""


@dataclass(frozen=True, slots=True)
class Served:
    """What all records of a process have in common."""

    contract: Contract
    model: str
    version: str
    digest: str
    track: str

    @classmethod
    def of(cls, contract: Contract, model_info: Mapping[str, str], track: str) -> Served:
        """Take it from the labels of ``ml_model_info``."""
        name, version = model_info[signals.NAME.name], model_info[signals.VERSION.name]
        return cls(contract, name, version, model_info.get(signals.MODEL_DIGEST.name, ""), track)

    def record(self, request: RequestRecord) -> InferenceRecord:
        """Copy what is known of a request."""
        known: dict[str, Any] = {}
        if request.failure is not None:
            known["error"] = request.failure.reason
        if request.prediction is not None:
            known |= self._prediction(request.prediction, answered=request.failure is None)
        return InferenceRecord(
            trace_id=request.trace_id,
            span_id=request.span_id,
            time_unix_nano=request.start_wall,
            route=self.contract.declaration.route,
            status=request.status,
            model=self.model,
            version=self.version,
            digest=self.digest,
            declaration_sha256=self.contract.declaration.sha256,
            track=self.track,
            synthetic=request.synthetic,
            request_id=request.request_id,
            **known,
        )

    def _prediction(self, prediction: PredictionRecord, *, answered: bool) -> dict[str, Any]:
        batch = prediction.batch
        known: dict[str, Any] = {
            "prediction_id": prediction.prediction_id,
            "stages": MappingProxyType(dict(self._stages(prediction))),
            "batch_size": batch.size if batch is not None else None,
            "input_hash": prediction.text_hash,
            "hash_key_id": prediction.hash_key_id,
        }
        if prediction.features:
            names = (feature.name for feature in self.contract.features)
            known["features"] = MappingProxyType(dict(zip(names, prediction.features, strict=True)))
        if answered and self.contract.classifies:
            known |= {
                "label": prediction.label,
                "confidence": prediction.confidence,
                "margin": prediction.margin,
                "probabilities": MappingProxyType(dict(prediction.probabilities)),
            }
        elif answered:
            known["value"] = prediction.value
        return known

    def _stages(self, prediction: PredictionRecord) -> Iterator[tuple[str, float]]:
        batch = prediction.batch
        for place in self.contract.places:
            times = batch.times if place.batched and batch is not None else prediction.times
            began, ended = times[2 * place.at : 2 * place.at + 2] or (0, 0)
            if ended:
                yield place.stage.name, (ended - began) / _NANOSECONDS


class Hook:
    """Calls an application's function with the record of each request; what it fails to take is counted.

    ``lost`` is told each time that the function raised.
    """

    def __init__(self, function: Callable[[InferenceRecord], None], served: Served, lost: Callable[[], None]) -> None:
        self._function = function
        self._served = served
        self._lost = lost

    def __call__(self, request: RequestRecord) -> None:
        """Give the record away; never raises."""
        began = time.perf_counter()
        try:
            self._function(self._served.record(request))
        except Exception as error:
            # Its message may hold what a caller sent.
            where = stack_frames(error)
            logger.error("on_prediction raised %s, so a record was not taken:\n%s", exception_name(error), where)
            self._lost()
            return
        took = time.perf_counter() - began
        if took > SLOW_SECONDS:
            logger.warning("on_prediction took %.3f s, and every request waited: hand the record to a thread.", took)
