"""The BentoML service: ``bentoml serve text_classifier.service:TextClassifier``.

Adaptive batching is BentoML's own: the API is ``batchable``, so its dispatcher corks concurrent requests. BentoML's
batchable APIs take lists, which would make callers send ``{"texts": [...]}``; the input descriptor keeps one
``{"text": ...}`` per request and hands the dispatcher a list of one job, together with the request's own record. That
keeps a bad request out of every batch and gives each request its own spans.
"""

from __future__ import annotations

import hashlib
import logging
import sys
import time
from typing import Any

import bentoml
import orjson
import sklearn
from bentoml.exceptions import NotFound

from ml_telemetry import bento, signals
from ml_telemetry.logs import log_event
from ml_telemetry.record import BatchRecord, Failure, PredictionRecord
from ml_telemetry.runtime import TelemetryConfigurationError, check_environment, telemetry
from text_classifier.http import FAILURES, Job, PredictRequest, PredictResponse
from text_classifier.pipeline import StagedPipeline, normalise, profile
from text_classifier.settings import MODEL_NAME, TRAIN_COMMAND, SettingsError, settings

bento.configure_process_logging()
logger = logging.getLogger(__name__)

SERVICE_NAME = "text-classifier"
_READY_TEXT = "The goalie made thirty saves and the pitcher watched from his car."
_FAILED = Failure(500, "internal_error", "The model could not classify this text; report the trace_id to its operator.")


def _prepare() -> bentoml.Model:
    """Check all that a start needs before any worker is started, and return the model to serve."""
    try:
        settings()
        check_environment()
        return bentoml.models.get(f"{MODEL_NAME}:latest")
    except NotFound:
        logger.critical("There is no model '%s' in BENTOML_HOME: run '%s' first.", MODEL_NAME, TRAIN_COMMAND)
    except (SettingsError, TelemetryConfigurationError) as error:
        logger.critical("The service cannot start: %s", error)
    sys.exit(1)


_MODEL = _prepare()


class _Observed(bento.ObservedService):
    failures = FAILURES


@bentoml.service(
    name="text_classifier",
    service_class=_Observed,
    workers=1,
    traffic={"timeout": settings().timeout_seconds},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    monitoring={"enabled": False},
)
class TextClassifier:
    """Classifies a news post into one of four groups, with calibrated probabilities."""

    model = bentoml.models.BentoModel(_MODEL.tag)

    def __init__(self) -> None:
        # Words come from this code and the model from this project's training: no need to check both for every batch.
        sklearn.set_config(assume_finite=True, skip_parameter_validation=True)
        stored: bentoml.Model = self.model
        self._metadata: dict[str, Any] = dict(stored.info.metadata)
        self._version = stored.tag.version or ""
        self._answer_model = {"name": MODEL_NAME, "version": self._version}
        self._pipeline = StagedPipeline(bentoml.sklearn.load_model(stored), self._metadata["classes"])
        self._classify([normalise(_READY_TEXT)])
        if bento.in_worker():
            self._observe()

    def _observe(self) -> None:
        from bentoml._internal.context import server_context

        bento_version = server_context.bento_version
        telemetry.start(
            SERVICE_NAME,
            {
                signals.NAME.name: MODEL_NAME,
                signals.VERSION.name: self._version,
                signals.GIT_SHA.name: self._metadata["git_commit"],
                signals.DATA_SHA256.name: self._metadata["training_data_sha256"],
                signals.BENTO.name: "none" if bento_version == "not available" else bento_version,
            },
            settings().track,
        )
        log_event(
            signals.MODEL_LOADED_EVENT,
            f"loaded {MODEL_NAME}:{self._version}, trained on {self._metadata['corpus']}",
            {
                signals.MODEL_NAME.name: MODEL_NAME,
                signals.MODEL_VERSION.name: self._version,
                signals.TRAINING_CORPUS.name: self._metadata["corpus"],
                signals.TRAINING_ACCURACY.name: self._metadata["scores"]["accuracy"],
            },
        )
        bento.settle_garbage_collector()

    def __is_ready__(self) -> bool:
        """Say whether the model predicts; used by ``/readyz`` and not counted as a prediction."""
        try:
            _, probabilities, _ = self._classify([normalise(_READY_TEXT)])
        except Exception:
            logger.exception("The model does not predict: the service is not ready.")
            return False
        return bool(abs(probabilities.sum() - 1.0) < 1e-6)

    # The model holds Python's global lock while it works, so a thread of its own would only add switches: the batch
    # runs on the event loop. A model that releases the lock wants a plain ``def`` here, which BentoML runs in a thread.
    @bentoml.api(  # type: ignore[untyped-decorator]
        route="/predict",
        batchable=True,
        max_batch_size=settings().max_batch_size,
        max_latency_ms=settings().max_latency_ms,
        input_spec=PredictRequest,
        output_spec=PredictResponse,
    )
    async def predict(self, jobs: list[Job]) -> list[Job]:
        """Classify one text."""
        try:
            self._predict_batch(jobs)
        except Exception:
            # One text may have failed all: each gets a batch of its own, and only the culprit fails.
            for job in jobs:
                try:
                    self._predict_batch([job])
                except Exception as error:
                    job.record.failure = _FAILED
                    job.record.exception = error
        return jobs

    def _classify(self, documents: list[list[str]]) -> tuple[Any, Any, BatchRecord]:
        """Run the batched stages and note their times; returns known words and probabilities per document."""
        batch = BatchRecord(len(documents))
        batch.vectorize_start = time.perf_counter_ns()
        features, known = self._pipeline.vectorize(documents)
        batch.vectorize_end = batch.predict_start = time.perf_counter_ns()
        probabilities = self._pipeline.predict(features)
        batch.predict_end = time.perf_counter_ns()
        return known, probabilities, batch

    def _predict_batch(self, jobs: list[Job]) -> None:
        documents = []
        for job in jobs:
            job.record.prediction = prediction = PredictionRecord()
            prediction.normalise_start = time.perf_counter_ns()
            documents.append(normalise(job.text))
            prediction.normalise_end = time.perf_counter_ns()
        known, probabilities, batch = self._classify(documents)
        for job, words, in_vocabulary, row in zip(jobs, documents, known.tolist(), probabilities.tolist(), strict=True):
            self._answer(job, batch, row)
            if telemetry.enabled:
                self._describe(job, words, in_vocabulary)
        batch.sampled = [reference for job in jobs if (reference := job.record.reference())]
        telemetry.batch_finished(batch)

    def _answer(self, job: Job, batch: BatchRecord, row: list[float]) -> None:
        """Prepare the answer of one job from its row of probabilities."""
        prediction = job.record.prediction
        assert prediction is not None  # noqa: S101 - set by the caller
        prediction.postprocess_start = time.perf_counter_ns()
        first = max(row)
        best = row.index(first)
        second = max(row[:best] + row[best + 1 :])
        prediction.batch = batch
        prediction.label = self._pipeline.classes[best]
        prediction.confidence = first
        prediction.margin = first - second
        prediction.probabilities = dict(zip(self._pipeline.classes, row, strict=True))
        job.answer = orjson.dumps(
            {
                "prediction_id": prediction.prediction_id,
                "label": prediction.label,
                "confidence": first,
                "probabilities": prediction.probabilities,
                "model": self._answer_model,
                "trace_id": job.record.trace_id,
            }
        )
        prediction.postprocess_end = time.perf_counter_ns()

    @staticmethod
    def _describe(job: Job, words: list[str], in_vocabulary: float) -> None:
        """Note what the text looks like, for telemetry only; the text itself goes no further."""
        prediction = job.record.prediction
        assert prediction is not None  # noqa: S101 - set by the caller
        described = profile(job.text, words)
        unknown = 1.0 - in_vocabulary / described.words if described.words else 0.0
        prediction.features = (
            described.characters,
            described.words,
            described.word_length,
            described.alphabetic,
            described.digit,
            described.special,
            unknown,
        )
        prediction.text_sha256 = hashlib.sha256(job.text.encode()).hexdigest()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def flush(self) -> None:
        """Send the last telemetry when the worker is told to stop."""
        telemetry.shutdown()
