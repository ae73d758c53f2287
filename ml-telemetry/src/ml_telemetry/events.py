"""The contract's log events of the request part."""

from __future__ import annotations

from typing import Any, Final

from ml_telemetry import signals
from ml_telemetry.contract import Contract
from ml_telemetry.logs import log_event
from ml_telemetry.record import BatchRecord, PredictionRecord, RequestRecord
from ml_telemetry.spans import exception_name, stack_frames

_SECOND: Final = 1e9


def _http(record: RequestRecord) -> dict[str, Any]:
    connection = record.connection
    return {
        signals.SYNTHETIC.name: record.synthetic,
        signals.HTTP_METHOD.name: connection.method,
        signals.HTTP_ROUTE.name: connection.route or signals.UNMATCHED_ROUTE,
        signals.HTTP_STATUS.name: record.status,
        signals.HTTP_REQUEST_SIZE.name: record.request_size,
        signals.HTTP_RESPONSE_SIZE.name: record.response_size,
        signals.DURATION_SECONDS.name: (record.end - record.start) / _SECOND,
    }


def _hash(prediction: PredictionRecord) -> dict[str, str]:
    if not prediction.text_hash:
        return {}
    return {
        signals.INPUT_HASH.name: prediction.text_hash,
        signals.INPUT_HASH_KEY_ID.name: prediction.hash_key_id,
    }


def log_prediction(record: RequestRecord, contract: Contract, model: dict[str, str], track: str) -> bool:
    """Write the ``ml.prediction`` line of a request that was answered."""
    prediction = record.prediction
    if prediction is None:
        raise ValueError("only a finished prediction can be logged")
    batch = prediction.batch
    attributes: dict[str, Any] = {
        signals.PREDICTION_ID.name: prediction.prediction_id,
        signals.REQUEST_ID.name: record.request_id or prediction.prediction_id,
    }
    if contract.classifies:
        attributes[signals.PREDICTION_LABEL.name] = prediction.label
        attributes[signals.PREDICTION_CONFIDENCE.name] = prediction.confidence
        attributes[signals.PREDICTION_MARGIN.name] = prediction.margin
        attributes[signals.PREDICTION_PROBABILITIES.name] = prediction.probabilities
    else:
        attributes[signals.PREDICTION_VALUE.name] = prediction.value
    attributes |= model
    attributes[signals.DEPLOYMENT_TRACK.name] = track
    if batch is not None:
        attributes[signals.BATCH_SIZE.name] = batch.size
    for place in contract.places:
        times = batch.times if place.batched and batch is not None else prediction.times
        if 2 * place.at + 1 < len(times):
            seconds = (times[2 * place.at + 1] - times[2 * place.at]) / _SECOND
            attributes[contract.stage_seconds[place.stage.name].name] = seconds
    attributes |= _hash(prediction)
    if prediction.features:
        attributes.update(zip(contract.feature_names, prediction.features, strict=True))
    attributes |= _http(record)
    told = prediction.label if contract.classifies else f"{prediction.value:.6g}"
    return log_event(signals.PREDICTION_EVENT, f"predicted {told}", attributes, record)


def log_batch_failure(batch: BatchRecord, failed: int) -> bool:
    """Write the line of a batch that failed and of whose requests ``failed`` failed alone too."""
    if batch.exception is None:
        raise ValueError("only a failed batch can be logged as one")
    name = exception_name(batch.exception)
    attributes = {
        signals.BATCH_SIZE.name: batch.size,
        signals.BATCH_FAILED_REQUESTS.name: failed,
        signals.ERROR_TYPE.name: name,
        signals.EXCEPTION_TYPE.name: name,
        signals.EXCEPTION_STACKTRACE.name: stack_frames(batch.exception),
    }
    message = f"a batch of {batch.size} requests failed; {failed} of them failed alone too"
    return log_event(signals.BATCH_FAILED_EVENT, message, attributes, batch)


def log_failure(record: RequestRecord, track: str) -> bool:
    """Write the line of a request that was not answered: a rejection, or an error when it is the service's fault."""
    failure = record.failure
    if failure is None:
        raise ValueError("only a failed request can be logged as one")
    attributes = {signals.DEPLOYMENT_TRACK.name: track, **_http(record)}
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
