"""The BentoML service: ``bentoml serve text_classifier.service:TextClassifier``.

Adaptive batching is BentoML's own: the API is ``batchable``, so its dispatcher corks concurrent requests. BentoML's
batchable APIs take lists, which would make callers send ``{"texts": [...]}``; the input descriptor keeps one
``{"text": ...}`` per request and hands the dispatcher a list of one job, together with the request's own record. That
keeps a bad request out of every batch and gives each request its own spans.
"""

from __future__ import annotations

import logging
import sys
import time
from importlib.metadata import version
from typing import Any

import bentoml
import orjson
import sklearn

import model_store
from ml_telemetry import bento, signals
from ml_telemetry.current import working_on
from ml_telemetry.logs import log_event
from ml_telemetry.protocol import Limits
from ml_telemetry.record import BatchRecord, Failure, PredictionRecord
from ml_telemetry.runtime import Service, TelemetryConfigurationError, check_environment, telemetry
from model_store import Stored
from text_classifier import openapi
from text_classifier.declaration import CONTRACT
from text_classifier.estimator import StagedPipeline, normalise, profile
from text_classifier.http import FAILURES, STATUSES, Job, PredictRequest, PredictResponse
from text_classifier.settings import MODEL_NAME, SERVICE_NAME, TRAIN_COMMAND, SettingsError, settings

bento.configure_process_logging()
logger = logging.getLogger(__name__)

SERVICE = Service(SERVICE_NAME, version("sightglass"), "sightglass")
_READY_TEXT = "The goalie made thirty saves and the pitcher watched from his car."
_FAILED = Failure(500, "internal_error", "The model could not classify this text; report the trace_id to its operator.")


def _prepare() -> Stored:
    """Check all that a start needs before any worker is started, and return the model to serve."""
    try:
        settings()
        check_environment()
        stored = model_store.current(SERVICE_NAME)
        if stored is not None:
            return stored
        logger.critical("There is no model '%s' in %s: run '%s' first.", MODEL_NAME, model_store.root(), TRAIN_COMMAND)
    except (SettingsError, TelemetryConfigurationError, model_store.StoreError) as error:
        logger.critical("The service cannot start: %s", error)
    sys.exit(1)


_MODEL = _prepare()


class _Observed(bento.ObservedService):
    failures = FAILURES
    statuses = STATUSES
    reasons = CONTRACT.reasons
    limits = Limits(
        settings().max_head_bytes, head_seconds=settings().head_seconds, body_seconds=settings().body_seconds
    )
    trusted_proxies = settings().trusted_proxies
    client_address = settings().client_address
    openapi_spec = openapi.Served()


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

    def __init__(self) -> None:
        # Words come from this code and the model from this project's training: no need to check both for every batch.
        sklearn.set_config(assume_finite=True, skip_parameter_validation=True)
        self._metadata = _MODEL.metadata
        self._version = _MODEL.version
        self._answer_model = {"name": MODEL_NAME, "version": self._version, "digest": _MODEL.digest}
        self._pipeline = StagedPipeline(_MODEL.load(), self._metadata["classes"])
        self._shares: list[float] = self._metadata["class_shares"]
        self._classify([normalise(_READY_TEXT)], BatchRecord(1))
        if bento.in_worker():
            self._observe()

    def _observe(self) -> None:
        bento_version = bentoml.server_context.bento_version
        telemetry.start(
            SERVICE,
            CONTRACT,
            {
                signals.NAME.name: MODEL_NAME,
                signals.VERSION.name: self._version,
                signals.MODEL_DIGEST.name: _MODEL.digest,
                signals.GIT_SHA.name: self._metadata["git_commit"],
                signals.CORPUS.name: self._metadata["corpus"],
                signals.DATA_SHA256.name: self._metadata["training_data_sha256"],
                signals.BENTO.name: "none" if bento_version == "not available" else bento_version,
            },
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
            _, probabilities = self._classify([normalise(_READY_TEXT)], BatchRecord(1))
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
        failed = self._attempt(jobs)
        if failed is not None and len(jobs) > 1:
            # One text may have failed all: each gets a batch of its own, and only the culprit fails.
            culprits = [job for job in jobs if self._attempt([job])]
            telemetry.batch_retried(failed, len(culprits))
        return jobs

    def _attempt(self, jobs: list[Job]) -> BatchRecord | None:
        """Classify a batch; returns it when it failed, which is the fault of its text where it has one only."""
        batch = BatchRecord(len(jobs), [reference for job in jobs if (reference := job.record.reference())])
        try:
            # The dispatcher's task began with some request; what is traced and logged here belongs to the batch.
            with working_on(batch):
                self._predict_batch(jobs, batch)
        except Exception as error:
            batch.exception = error
            batch.end = time.perf_counter_ns()
            telemetry.batch_failed(batch)
            if len(jobs) == 1:
                jobs[0].record.failure = _FAILED
                jobs[0].record.exception = error
            return batch
        telemetry.batch_finished(batch)
        return None

    def _classify(self, documents: list[list[str]], batch: BatchRecord) -> tuple[Any, Any]:
        """Run the batched stages and note their times; returns known words and probabilities per document."""
        start = time.perf_counter_ns()
        features, known = self._pipeline.vectorize(documents)
        between = time.perf_counter_ns()
        probabilities = self._pipeline.predict(features)
        batch.times = (start, between, between, time.perf_counter_ns())
        return known, probabilities

    def _predict_batch(self, jobs: list[Job], batch: BatchRecord) -> None:
        documents = []
        for job in jobs:
            job.record.prediction = prediction = PredictionRecord()
            start = time.perf_counter_ns()
            documents.append(normalise(job.text))
            prediction.times = (start, time.perf_counter_ns())
        known, probabilities = self._classify(documents, batch)
        for job, words, in_vocabulary, row in zip(jobs, documents, known.tolist(), probabilities.tolist(), strict=True):
            # Of a text without a known word the model says nothing: its answer is what classes there are.
            self._answer(job, batch, row if in_vocabulary else self._shares, 1.0 - in_vocabulary / len(words))
            if telemetry.enabled:
                self._describe(job, words, in_vocabulary)

    def _answer(self, job: Job, batch: BatchRecord, row: list[float], unknown: float) -> None:
        """Prepare the answer of one job from its row of probabilities."""
        prediction = job.record.prediction
        assert prediction is not None  # noqa: S101 - set by the caller
        start = time.perf_counter_ns()
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
                "out_of_vocabulary": unknown,
                "model": self._answer_model,
                "trace_id": job.record.trace_id,
            }
        )
        prediction.times = (*prediction.times, start, time.perf_counter_ns())

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
        if telemetry.text_hash is not None:
            prediction.text_hash = telemetry.text_hash(job.text)
            prediction.hash_key_id = telemetry.text_hash.key_id

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def flush(self) -> None:
        """Send the last telemetry when the worker is told to stop."""
        telemetry.shutdown()
