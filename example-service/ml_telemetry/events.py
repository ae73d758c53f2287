"""The contract's log events of the request part."""

from __future__ import annotations

from typing import Any, Final

from ml_telemetry import signals
from ml_telemetry.logs import log_event
from ml_telemetry.record import RequestRecord
from ml_telemetry.spans import exception_name, stack_frames

_SECOND: Final = 1e9
_PROFILE: Final = (
    signals.INPUT_CHARACTERS.name,
    signals.INPUT_WORDS.name,
    signals.INPUT_WORD_LENGTH.name,
    signals.INPUT_ALPHABETIC.name,
    signals.INPUT_DIGIT.name,
    signals.INPUT_SPECIAL.name,
    signals.INPUT_OUT_OF_VOCABULARY.name,
)
_NORMALISE, _VECTORIZE, _PREDICT, _POSTPROCESS = (signals.STAGE_SECONDS[stage].name for stage in signals.STAGES)


def _http(record: RequestRecord) -> dict[str, Any]:
    connection = record.connection
    return {
        signals.HTTP_METHOD.name: connection.method,
        signals.HTTP_ROUTE.name: connection.route or signals.UNMATCHED_ROUTE,
        signals.HTTP_STATUS.name: record.status,
        signals.HTTP_REQUEST_SIZE.name: record.request_size,
        signals.HTTP_RESPONSE_SIZE.name: record.response_size,
        signals.DURATION_SECONDS.name: (record.end - record.start) / _SECOND,
    }


def log_prediction(record: RequestRecord, model: dict[str, str], track: str) -> bool:
    """Write the ``ml.prediction`` line of a request that was answered."""
    prediction = record.prediction
    batch = prediction.batch if prediction else None
    if prediction is None or batch is None:
        raise ValueError("only a finished prediction can be logged")
    attributes = {
        signals.PREDICTION_ID.name: prediction.prediction_id,
        signals.REQUEST_ID.name: record.request_id or prediction.prediction_id,
        signals.PREDICTION_LABEL.name: prediction.label,
        signals.PREDICTION_CONFIDENCE.name: prediction.confidence,
        signals.PREDICTION_MARGIN.name: prediction.margin,
        signals.PREDICTION_PROBABILITIES.name: prediction.probabilities,
        **model,
        signals.DEPLOYMENT_TRACK.name: track,
        signals.BATCH_SIZE.name: batch.size,
        _NORMALISE: (prediction.normalise_end - prediction.normalise_start) / _SECOND,
        _VECTORIZE: (batch.vectorize_end - batch.vectorize_start) / _SECOND,
        _PREDICT: (batch.predict_end - batch.predict_start) / _SECOND,
        _POSTPROCESS: (prediction.postprocess_end - prediction.postprocess_start) / _SECOND,
        signals.INPUT_SHA256.name: prediction.text_sha256,
        **dict(zip(_PROFILE, prediction.features, strict=True)),
        **_http(record),
    }
    return log_event(signals.PREDICTION_EVENT, f"predicted {prediction.label}", attributes, record)


def log_failure(record: RequestRecord) -> bool:
    """Write the line of a request that was not answered: a rejection, or an error when it is the service's fault."""
    failure = record.failure
    if failure is None:
        raise ValueError("only a failed request can be logged as one")
    attributes = _http(record)
    if record.request_id:
        attributes[signals.REQUEST_ID.name] = record.request_id
    attributes[signals.ERROR_TYPE.name] = failure.reason
    if failure.status < 500:
        return log_event(signals.REJECTED_EVENT, failure.message, attributes, record)
    if record.prediction is not None:
        attributes[signals.PREDICTION_ID.name] = record.prediction.prediction_id
    if record.exception is not None:
        attributes[signals.EXCEPTION_TYPE.name] = exception_name(record.exception)
        attributes[signals.EXCEPTION_STACKTRACE.name] = stack_frames(record.exception)
        attributes[signals.ERROR_TYPE.name] = attributes[signals.EXCEPTION_TYPE.name]
    return log_event(signals.ERROR_EVENT, failure.message, attributes, record)
