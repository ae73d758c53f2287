"""The text classifier with one fault, named by ``BROKEN``; served in its place by the tests of alerts."""

import asyncio
import os
import time
from typing import Any

import numpy as np

from text_classifier import service
from text_classifier.http import Job

TextClassifier: Any = service.TextClassifier
_classifier: Any = TextClassifier.inner
_predict_batch = _classifier._predict_batch
_classify = _classifier._classify


def error(self: Any, jobs: list[Job]) -> None:
    """Fail on every text."""
    raise RuntimeError("broken on purpose")


def slow(self: Any, jobs: list[Job]) -> None:
    """Answer correctly, and too late."""
    time.sleep(0.4)
    _predict_batch(self, jobs)


def empty(self: Any, jobs: list[Job]) -> None:
    """Answer 200 without having predicted."""
    for job in jobs:
        job.answer = b"{}"


def unsure(self: Any, documents: list[list[str]]) -> tuple[Any, Any, Any]:
    """Give every class the same probability."""
    known, probabilities, batch = _classify(self, documents)
    return known, np.full_like(probabilities, 1 / probabilities.shape[1]), batch


FAULTS = {"error": error, "slow": slow, "empty": empty}

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
