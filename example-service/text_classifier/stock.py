"""The benchmark's counterpart: the same model served as BentoML's documentation teaches it, with BentoML's defaults."""

from __future__ import annotations

import os
import sys

import bentoml

import model_store
from text_classifier.settings import SERVICE_NAME

# BentoML's requirements do not bring uvloop and httptools, so a stock installation runs without them. This project's
# environment has them and uvicorn takes what it can import: hide them, unless the benchmark asks for them.
FASTER_LOOP = "STOCK_SERVICE_FASTER_LOOP"
if FASTER_LOOP not in os.environ:
    sys.modules.update({"uvloop": None, "httptools": None})  # type: ignore[dict-item]


@bentoml.service
class StockClassifier:
    """A batchable API, BentoML's own metrics, tracing and access log, and nothing else."""

    def __init__(self) -> None:
        stored = model_store.current(SERVICE_NAME)
        if stored is None:
            sys.exit("There is no model: train it first.")
        self._pipeline = stored.load()
        self._classes: list[str] = stored.metadata["classes"]

    @bentoml.api(batchable=True)  # type: ignore[untyped-decorator]
    def predict(self, text: list[str]) -> list[dict[str, float]]:
        """Classify texts."""
        return [dict(zip(self._classes, row, strict=True)) for row in self._pipeline.predict_proba(text).tolist()]
