"""The text classifier with one fault, named by ``BROKEN``; served in its place by the tests of alerts."""

import asyncio
import os
import time
from typing import Any

import numpy as np

from ml_telemetry.record import BatchRecord
from text_classifier import service
from text_classifier.http import Job

TextClassifier: Any = service.TextClassifier
_classifier: Any = TextClassifier.inner
_predict_batch = _classifier._predict_batch
_classify = _classifier._classify


def poor(self: Any, jobs: list[Job], batch: BatchRecord) -> None:
    """Fail on every text in one second, and answer correctly, but too late, in the next."""
    if int(time.monotonic()) % 2:
        raise RuntimeError("broken on purpose")
    time.sleep(0.4)
    _predict_batch(self, jobs, batch)


def empty(self: Any, jobs: list[Job], batch: BatchRecord) -> None:
    """Answer 200 without having predicted."""
    for job in jobs:
        job.answer = b"{}"


def unsure(self: Any, documents: list[list[str]], batch: BatchRecord) -> tuple[Any, Any]:
    """Give every class the same probability."""
    known, probabilities = _classify(self, documents, batch)
    return known, np.full_like(probabilities, 1 / probabilities.shape[1])


FAULTS = {"poor": poor, "empty": empty}

_fault = os.environ["BROKEN"]
_predict = TextClassifier.apis["predict"]
_answer = _predict.func


async def busy(self: Any, jobs: list[Job]) -> list[Job]:
    """Take half a second for each batch, while requests go on coming in."""
    await asyncio.sleep(0.5)
    answered: list[Job] = await _answer(self, jobs)
    return answered


if _fault == "busy":
    _predict.func = busy
elif _fault == "unsure":
    _classifier._classify = unsure
else:
    _classifier._predict_batch = FAULTS[_fault]
