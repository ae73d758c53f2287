"""What the signals of all models have in common: attributes, metrics and log events, as typed data.

What one model emits follows from its declaration: see :class:`ml_telemetry.contract.Contract`. The Collector's
configuration, the dashboards, the alerts and the tests are checked against both. Names follow OpenTelemetry's semantic
conventions where one exists. ``ml.*`` has no convention yet, so those names live here and nowhere else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Instrument(StrEnum):
    """Kinds of OpenTelemetry instruments that the contract uses."""

    COUNTER = "counter"
    UP_DOWN_COUNTER = "updowncounter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    EXPONENTIAL = "exponential histogram"


class Kind(StrEnum):
    """Span kinds that the contract uses."""

    SERVER = "server"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute of a resource, span, point or log line.

    ``values`` lists every value when the set is closed. ``maximum`` is the most distinct values that a metric label
    may take; an attribute without one is an identifier or free, and must never be a metric label. Values that a
    declaration lists are filled in by the contract of its model.
    """

    name: str
    description: str
    values: tuple[str, ...] = ()
    maximum: int | None = None

    @property
    def bound(self) -> int | None:
        """The most distinct values this attribute takes as a metric label, or None if it may not be a label."""
        return len(self.values) if self.values else self.maximum

    @property
    def label(self) -> str:
        """The attribute's name as a Prometheus label."""
        return re.sub(r"[^a-zA-Z0-9_]", "_", self.name)


@dataclass(frozen=True, slots=True)
class Metric:
    """An instrument: its OTLP name, kind, unit (UCUM), labels and, for a histogram, its bucket bounds."""

    name: str
    instrument: Instrument
    unit: str
    description: str
    labels: tuple[Attribute, ...] = ()
    bounds: tuple[float, ...] = ()

    @property
    def prometheus_name(self) -> str:
        """The name a query sees after Prometheus' ``UnderscoreEscapingWithSuffixes`` translation of OTLP."""
        return prometheus_name(self.name, self.instrument, self.unit)


@dataclass(frozen=True, slots=True)
class Span:
    """A span: its name, kind, the name of its parent in the same trace, and the attributes it carries."""

    name: str
    kind: Kind
    parent: str | None
    attributes: tuple[Attribute, ...] = ()


@dataclass(frozen=True, slots=True)
class LogEvent:
    """A JSON line on standard output, known by its ``event.name``; ``attributes`` come after the common keys."""

    name: str
    severity: str
    description: str
    attributes: tuple[Attribute, ...] = ()


_UNIT_SUFFIXES: Final = {"s": "seconds", "By": "bytes"}


def prometheus_name(name: str, instrument: Instrument, unit: str) -> str:
    """Translate an OTLP metric name as Prometheus does with ``UnderscoreEscapingWithSuffixes``.

    The unit's suffix is added unless the name already holds it, unit ``1`` adds ``ratio`` to gauges only, and
    monotonic counters end in ``total``. Source: Prometheus' ``otlptranslator`` package.
    """
    words = [word for word in re.split(r"[^a-zA-Z0-9]+", name) if word]
    suffix = _UNIT_SUFFIXES.get(unit)
    if suffix and suffix not in words:
        words.append(suffix)
    if unit == "1" and instrument is Instrument.GAUGE:
        words = [word for word in words if word != "ratio"] + ["ratio"]
    if instrument is Instrument.COUNTER:
        words = [word for word in words if word != "total"] + ["total"]
    return "_".join(words)


# --- Attributes -------------------------------------------------------------------------------------------------------

# The resource, on every signal.
SERVICE_NAME = Attribute("service.name", "Name of the service.")
SERVICE_NAMESPACE = Attribute("service.namespace", "Group the service belongs to.")
SERVICE_VERSION = Attribute("service.version", "Version of the service's code; the model has its own version.")
SERVICE_INSTANCE_ID = Attribute("service.instance.id", "One worker process.")
DEPLOYMENT_ENVIRONMENT = Attribute("deployment.environment.name", "Where the service runs.")
K8S_NAMESPACE = Attribute("k8s.namespace.name", "Kubernetes namespace.")
K8S_POD = Attribute("k8s.pod.name", "Kubernetes pod.")
K8S_NODE = Attribute("k8s.node.name", "Kubernetes node.")
K8S_DEPLOYMENT = Attribute("k8s.deployment.name", "Kubernetes deployment.")
TRACKS: Final = ("stable", "canary", "baseline", "shadow")
# Of the resource too, but Prometheus has it as the label `track` of each point.
DEPLOYMENT_TRACK = Attribute("ml.deployment.track", "Deployment track.", values=TRACKS)
RESOURCE: Final = (SERVICE_NAME, SERVICE_NAMESPACE, SERVICE_VERSION, SERVICE_INSTANCE_ID, DEPLOYMENT_ENVIRONMENT)
RESOURCE_KUBERNETES: Final = (K8S_NAMESPACE, K8S_POD, K8S_NODE, K8S_DEPLOYMENT)

# HTTP semantic conventions.
HTTP_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
OTHER_METHOD: Final = "_OTHER"
UNMATCHED_ROUTE: Final = "unmatched"
MAXIMUM_ROUTES: Final = 64
HTTP_METHOD = Attribute("http.request.method", "Request method.", values=(*HTTP_METHODS, OTHER_METHOD))
HTTP_ROUTE = Attribute("http.route", "Matched route; every other path is 'unmatched'.", maximum=MAXIMUM_ROUTES)
HTTP_STATUS = Attribute("http.response.status_code", "Response status.", maximum=16)
HTTP_REQUEST_SIZE = Attribute("http.request.body.size", "Bytes of the request's body.")
HTTP_RESPONSE_SIZE = Attribute("http.response.body.size", "Bytes of the response's body.")
URL_PATH = Attribute("url.path", "Path of the request; only set for a matched route, for a path can hold anything.")
URL_SCHEME = Attribute("url.scheme", "http or https.")
SERVER_ADDRESS = Attribute("server.address", "Host the caller asked for.")
SERVER_PORT = Attribute("server.port", "Port the caller asked for.")
CLIENT_ADDRESS = Attribute("client.address", "Address of the caller.")
USER_AGENT = Attribute("user_agent.original", "The caller's User-Agent header.")
PROTOCOL_VERSION = Attribute("network.protocol.version", "HTTP version.")
ERROR_TYPE = Attribute("error.type", "Reason of a rejection or class of an exception.")
EXCEPTION_TYPE = Attribute("exception.type", "Class of an exception.")
EXCEPTION_MESSAGE = Attribute("exception.message", "Message of an exception; never set while a request is served.")
EXCEPTION_STACKTRACE = Attribute("exception.stacktrace", "Frames of an exception, without any message or value.")

# Machine learning.
PREDICTION_ID = Attribute("ml.prediction.id", "UUID (version 7) of one prediction.")
REQUEST_ID = Attribute("ml.request.id", "The caller's X-Request-ID, else the prediction's id.")
INPUT_HASH = Attribute("ml.input.hash", "HMAC-SHA-256 of the text in UTF-8, where there is a key for it.")
INPUT_HASH_KEY_ID = Attribute("ml.input.hash_key_id", "Id of the key of ml.input.hash.")
MODEL_NAME = Attribute("ml.model.name", "Name of the model.")
MODEL_VERSION = Attribute("ml.model.version", "Version of the model in the model store.")
BATCH_SIZE = Attribute("ml.batch.size", "Requests in the adaptive batch.")
BATCH_FAILED_REQUESTS = Attribute("ml.batch.failed_requests", "Requests of a failed batch that also failed alone.")
PREDICTION_LABEL = Attribute("ml.prediction.label", "Predicted class.")
PREDICTION_CONFIDENCE = Attribute("ml.prediction.confidence", "Calibrated probability of the predicted class.")
PREDICTION_MARGIN = Attribute("ml.prediction.margin", "Probability of the best class minus that of the second.")
PREDICTION_VALUE = Attribute("ml.prediction.value", "Predicted value, in the unit that the model declares.")
PREDICTION_PROBABILITIES = Attribute("ml.prediction.probabilities", "Probability of each class.")
SYNTHETIC = Attribute("ml.request.synthetic", "Whether the stack sent the request itself.")
TRAINING_ACCURACY = Attribute("ml.model.accuracy", "Accuracy on the held-out test split.")
TRAINING_CORPUS = Attribute("ml.model.corpus", "Corpus the model was trained on.")

# Labels of metrics that have short names in Prometheus.
REJECTION_REASONS: Final = (
    "unknown_route",
    "method_not_allowed",
    "unsupported_media_type",
    "invalid_json",
    "invalid_type",
    "body_too_large",
    "uri_too_long",
    "headers_too_large",
    "unsupported_encoding",
    "request_timeout",
    "client_disconnected",
    "invalid_request",
    "overloaded",
    "timeout",
    "internal_error",
)
STAGE = Attribute("stage", "Declared stage of the inference.")
LABEL = Attribute("label", "Predicted class.")
TRACK = Attribute("track", "Deployment track.", values=TRACKS)
SYNTHETIC_LABEL = Attribute("synthetic", "Whether the stack sent the request itself.", values=("false", "true"))
TRAFFIC: Final = (TRACK, SYNTHETIC_LABEL)
"""Labels of what is counted for each request; a batch may hold requests of both kinds."""
REASON = Attribute("reason", "Why a request was rejected: one of these, or of the declaration's refusals.")
NAME = Attribute("name", "Name of the model.", maximum=1)
VERSION = Attribute("version", "Version of the model.", maximum=3)
GIT_SHA = Attribute("git_sha", "Commit of the training code.", maximum=3)
MODEL_DIGEST = Attribute("digest", "First digits of the digest of the model's code, data and parameters.", maximum=3)
DATA_SHA256 = Attribute("data_sha256", "SHA-256 of the training data.", maximum=3)
CORPUS = Attribute("corpus", "Corpus the model was trained on.", maximum=3)
BENTO = Attribute("bento", "Bento the service runs from.", maximum=3)
SIGNAL = Attribute("signal", "Signal that was dropped.", values=("traces", "logs", "records"))
DROP_REASONS: Final = ("queue_full", "export_failed", "write_failed", "hook_failed")
DROP_REASON = Attribute("reason", "Why telemetry was dropped.", values=DROP_REASONS)
RETRY_OUTCOMES: Final = ("all_answered", "some_failed", "all_failed")
RETRY_OUTCOME = Attribute("outcome", "What became of a failed batch's requests one by one.", values=RETRY_OUTCOMES)
BATCH_LIMIT: Final = "batch_size"
PROGRESS_LIMIT: Final = "in_progress"
ANSWER_LIMIT: Final = "smallest_answer_bytes"
CONFIDENCE_LIMIT: Final = "confidence"
LIMITS: Final = (BATCH_LIMIT, PROGRESS_LIMIT, ANSWER_LIMIT, CONFIDENCE_LIMIT)
LIMIT = Attribute("limit", "Declared limit.", values=LIMITS)
FEATURE = Attribute("feature", "Declared input feature.")
CATEGORY_VALUE = Attribute("value", "Declared value of a category, 'other' or 'missing'.")
UNIT = Attribute("unit", "Declared unit.")

# --- Bucket bounds ----------------------------------------------------------------------------------------------------

_REQUEST_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_STAGE_SECONDS: Final = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 1.0)
_BODY_BYTES: Final = (128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 65536.0, 262144.0, 1048576.0)
_CONFIDENCE: Final = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.975, 0.99, 0.999)

# --- Metrics ----------------------------------------------------------------------------------------------------------

_HTTP_LABELS: Final = (HTTP_METHOD, HTTP_ROUTE, HTTP_STATUS, *TRAFFIC)

HTTP_DURATION = Metric(
    "http.server.request.duration",
    Instrument.HISTOGRAM,
    "s",
    "Duration of HTTP requests.",
    _HTTP_LABELS,
    _REQUEST_SECONDS,
)
HTTP_REQUEST_BODY = Metric(
    "http.server.request.body.size",
    Instrument.HISTOGRAM,
    "By",
    "Size of request bodies.",
    _HTTP_LABELS,
    _BODY_BYTES,
)
HTTP_RESPONSE_BODY = Metric(
    "http.server.response.body.size",
    Instrument.HISTOGRAM,
    "By",
    "Size of response bodies.",
    _HTTP_LABELS,
    _BODY_BYTES,
)
HTTP_ACTIVE = Metric(
    "http.server.active_requests",
    Instrument.UP_DOWN_COUNTER,
    "{request}",
    "Requests in progress.",
    (HTTP_METHOD, TRACK),
)
INFERENCE_DURATION = Metric(
    "ml.inference.duration",
    Instrument.HISTOGRAM,
    "s",
    "Time a request spent in a stage; a batched stage counts for each request of the batch.",
    (STAGE, *TRAFFIC),
    _STAGE_SECONDS,
)
INFERENCE_BATCH_SIZE = Metric(
    "ml.inference.batch.size",
    Instrument.HISTOGRAM,
    "{request}",
    "Requests per adaptive batch, one point per batch.",
    (TRACK,),
    tuple(float(bound) for step in range(12) for bound in sorted({2**step, 3 * 2**step // 2})),
)
BATCH_RETRIES = Metric(
    "ml.inference.batch.retries",
    Instrument.COUNTER,
    "{batch}",
    "Batches that failed and whose requests were tried one by one.",
    (RETRY_OUTCOME, TRACK),
)
PREDICTIONS = Metric("ml.predictions", Instrument.COUNTER, "{prediction}", "Predictions made.", (LABEL, *TRAFFIC))
CONFIDENCE = Metric(
    "ml.prediction.confidence.ratio",
    Instrument.HISTOGRAM,
    "1",
    "Calibrated probability of the predicted class.",
    TRAFFIC,
    _CONFIDENCE,
)
REJECTED = Metric(
    "ml.requests.rejected", Instrument.COUNTER, "{request}", "Requests without an answer.", (REASON, *TRAFFIC)
)
VALUE = Metric("ml.prediction.value", Instrument.EXPONENTIAL, "1", PREDICTION_VALUE.description, (UNIT, *TRAFFIC))
FEATURE_VALUE = Metric(
    "ml.input.feature", Instrument.EXPONENTIAL, "1", "Value of a numeric input feature.", (FEATURE, UNIT, *TRAFFIC)
)
FEATURE_MISSING = Metric(
    "ml.input.missing",
    Instrument.COUNTER,
    "{value}",
    "Predictions without a value of this feature.",
    (FEATURE, UNIT, *TRAFFIC),
)
FEATURE_CATEGORY = Metric(
    "ml.input.category",
    Instrument.COUNTER,
    "{value}",
    "Predictions by the value of a category.",
    (FEATURE, CATEGORY_VALUE, *TRAFFIC),
)
MODEL_LIMIT = Metric("ml.model.limit", Instrument.GAUGE, "", "What the model declares as a limit.", (LIMIT, TRACK))
LIMIT_CROSSED = Metric(
    "ml.limit.crossed",
    Instrument.COUNTER,
    "{request}",
    "Predictions that are no surer, and answers with 200 that are smaller, than the model declares.",
    (LIMIT, *TRAFFIC),
)
MODEL_INFO = Metric(
    "ml.model.info",
    Instrument.GAUGE,
    "",
    "Always 1; says which model is served.",
    (HTTP_ROUTE, TRACK, NAME, VERSION, MODEL_DIGEST, GIT_SHA, CORPUS, DATA_SHA256, BENTO),
)
TELEMETRY_DROPPED = Metric(
    "ml.telemetry.dropped",
    Instrument.COUNTER,
    "{record}",
    "Requests and spans whose traces were lost, and lost log lines and records of predictions.",
    (SIGNAL, DROP_REASON, TRACK),
)

METRICS: Final = (
    HTTP_DURATION,
    HTTP_REQUEST_BODY,
    HTTP_RESPONSE_BODY,
    HTTP_ACTIVE,
    INFERENCE_DURATION,
    INFERENCE_BATCH_SIZE,
    BATCH_RETRIES,
    PREDICTIONS,
    CONFIDENCE,
    VALUE,
    REJECTED,
    FEATURE_VALUE,
    FEATURE_MISSING,
    FEATURE_CATEGORY,
    LIMIT_CROSSED,
    MODEL_LIMIT,
    MODEL_INFO,
    TELEMETRY_DROPPED,
)
"""Every metric that some model has."""

# --- Spans ------------------------------------------------------------------------------------------------------------

HTTP_SPAN: Final = (
    HTTP_METHOD,
    HTTP_ROUTE,
    HTTP_STATUS,
    HTTP_REQUEST_SIZE,
    HTTP_RESPONSE_SIZE,
    URL_PATH,
    URL_SCHEME,
    SERVER_ADDRESS,
    SERVER_PORT,
    CLIENT_ADDRESS,
    USER_AGENT,
    PROTOCOL_VERSION,
    SYNTHETIC,
)
MODEL: Final = (MODEL_NAME, MODEL_VERSION)

BATCH_SPAN: Final = "predict.batch"
"""Name of the span of a batch: it belongs to all its requests, so it is the root of a trace of its own."""

# --- Log events -------------------------------------------------------------------------------------------------------

# Keys of every line, in their order; ``trace_id`` and ``span_id`` are empty outside a request.
LOG_KEYS: Final = ("timestamp", "severity", "event.name", "message", "trace_id", "span_id", "trace_flags", "logger")
# The event of a line that the contract does not name: anything another library logs.
GENERIC_EVENT: Final = "log"
DURATION_SECONDS = Attribute("http.server.request.seconds", "Seconds from the request's first byte to its answer.")
DROPPED_COUNT = Attribute("ml.telemetry.dropped.count", "What was lost of this signal since the last such line.")

LOG_HTTP: Final = (
    *(SYNTHETIC, HTTP_METHOD, HTTP_ROUTE, HTTP_STATUS),
    *(HTTP_REQUEST_SIZE, HTTP_RESPONSE_SIZE, DURATION_SECONDS),
)
PREDICTION_EVENT = LogEvent("ml.prediction", "INFO", "One prediction; its keys follow from the declaration.")
ERROR_EVENT = LogEvent(
    "ml.prediction.error",
    "ERROR",
    "A request failed inside the service.",
    (DEPLOYMENT_TRACK, *LOG_HTTP, PREDICTION_ID, REQUEST_ID, ERROR_TYPE, EXCEPTION_TYPE, EXCEPTION_STACKTRACE),
)
BATCH_FAILED_EVENT = LogEvent(
    "ml.batch.failed",
    "WARN",
    "A batch failed, and its requests were tried one by one.",
    (BATCH_SIZE, BATCH_FAILED_REQUESTS, ERROR_TYPE, EXCEPTION_TYPE, EXCEPTION_STACKTRACE),
)
REJECTED_EVENT = LogEvent(
    "ml.request.rejected", "WARN", "A request was refused.", (DEPLOYMENT_TRACK, *LOG_HTTP, REQUEST_ID, ERROR_TYPE)
)
MODEL_LOADED_EVENT = LogEvent(
    "ml.model.loaded", "INFO", "A worker loaded its model.", (*MODEL, TRAINING_CORPUS, TRAINING_ACCURACY)
)
TELEMETRY_DROPPED_EVENT = LogEvent(
    "ml.telemetry.dropped", "WARN", "Telemetry was lost; at most one line a minute.", (DROPPED_COUNT,)
)
LOG_EVENTS: Final = (
    PREDICTION_EVENT,
    ERROR_EVENT,
    BATCH_FAILED_EVENT,
    REJECTED_EVENT,
    MODEL_LOADED_EVENT,
    TELEMETRY_DROPPED_EVENT,
)
