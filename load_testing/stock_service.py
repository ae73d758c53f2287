"""The benchmark's counterpart: the same model served as BentoML's documentation teaches it, with BentoML's defaults."""

from __future__ import annotations

import os
import sys

import bentoml

from text_classifier.settings import MODEL_NAME

# BentoML's requirements do not bring uvloop and httptools, so a stock installation runs without them. This project's
# environment has them and uvicorn takes what it can import: hide them, unless the benchmark asks for them.
FASTER_LOOP = "STOCK_SERVICE_FASTER_LOOP"
if FASTER_LOOP not in os.environ:
    sys.modules.update({"uvloop": None, "httptools": None})  # type: ignore[dict-item]


@bentoml.service
class StockClassifier:
    """A batchable API, BentoML's own metrics, tracing and access log, and nothing else."""

    model = bentoml.models.BentoModel(f"{MODEL_NAME}:latest")

    def __init__(self) -> None:
        self._pipeline = bentoml.sklearn.load_model(self.model)
        self._classes: list[str] = dict(self.model.info.metadata)["classes"]

    @bentoml.api(batchable=True)  # type: ignore[untyped-decorator]
    def predict(self, texts: list[str]) -> list[dict[str, float]]:
        """Classify texts."""
        return [dict(zip(self._classes, row, strict=True)) for row in self._pipeline.predict_proba(texts).tolist()]
