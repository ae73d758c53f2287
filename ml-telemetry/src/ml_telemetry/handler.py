"""What a handler notes while it predicts: stages, the features of the input, and the answer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from ml_telemetry.contract import Contract, StagePlace
from ml_telemetry.current import current_request
from ml_telemetry.record import BatchRecord, PredictionRecord, RequestRecord
from ml_telemetry.runtime import telemetry


class Prediction:
    """The prediction of the current request; see :func:`prediction`."""

    def __init__(self, contract: Contract, request: RequestRecord) -> None:
        self._contract: Final = contract
        self._request: Final = request
        self._places = {place.stage.name: place for place in contract.places}
        self._record = PredictionRecord()
        self._record.times = [0] * (2 * contract.request_stages)
        request.prediction = self._record

    @property
    def id(self) -> str:
        """Id of this prediction, for the answer: feedback refers to it."""
        return self._record.prediction_id

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a declared stage; one per batch is a batch of this request alone."""
        place = self._places.get(name)
        if place is None:
            raise ValueError(f"{name!r} is no declared stage: declare it, or use one of {', '.join(self._places)}")
        times = self._times(place)
        times[2 * place.at] = time.perf_counter_ns()
        try:
            yield
        finally:
            times[2 * place.at + 1] = time.perf_counter_ns()
            batch = self._record.batch
            if place.batched and batch is not None and place.at == self._contract.batch_stages - 1:
                telemetry.batch_finished(batch)

    def _times(self, place: StagePlace) -> list[int]:
        if not place.batched:
            times = self._record.times
        else:
            if self._record.batch is None:
                reference = self._request.reference()
                self._record.batch = BatchRecord(1, [reference] if reference is not None else [])
                self._record.batch.times = [0] * (2 * self._contract.batch_stages)
            times = self._record.batch.times
        assert isinstance(times, list)  # noqa: S101 - made above
        return times

    def describe(self, features: Mapping[str, float | str | None]) -> None:
        """Note the features of the input by their declared names; one that is left out is missing."""
        known = [feature.name for feature in self._contract.features]
        if unknown := sorted(set(features) - set(known)):
            raise ValueError(f"{unknown[0]!r} is no declared feature: declare it, or use one of {', '.join(known)}")
        self._record.features = tuple(features.get(name) for name in known)

    def value(self, value: float) -> None:
        """Note what a regression answers."""
        self._record.value = float(value)

    def probabilities(self, probabilities: Mapping[str, float]) -> None:
        """Note what a classification answers: the probability of each class."""
        ranked = sorted(probabilities.items(), key=lambda item: item[1], reverse=True)
        record = self._record
        record.label, record.confidence = ranked[0][0], float(ranked[0][1])
        record.margin = record.confidence - float(ranked[1][1]) if len(ranked) > 1 else record.confidence
        record.probabilities = {name: float(share) for name, share in probabilities.items()}
        if record.label not in self._contract.declaration.classes:
            raise ValueError(f"{record.label!r} is no declared class")


def prediction() -> Prediction:
    """Begin the prediction of the request that is served; raises ``LookupError`` where none is.

    It may be called in a thread that serves the request too.
    """
    request, contract = current_request(), telemetry.contract
    if request is None or contract is None:
        raise LookupError("there is no request: wrap the application with ml_telemetry.instrument first")
    return Prediction(contract, request)
