"""The signal contract: every span, metric, log event and attribute, as typed data.

The service, the Collector's configuration, the dashboards, the alerts and the tests are checked against this module.
Names follow OpenTelemetry's semantic conventions where one exists. ``ml.*`` has no convention yet, so those names live
here and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Part(StrEnum):
    """The part of the project that emits a signal; a part that is not in ``EMITTED_PARTS`` is declared only."""

    REQUEST = "request"
    FEEDBACK = "feedback"
    MONITOR = "monitor"
    DRIFT = "drift"
    ARCHIVE = "archive"


EMITTED_PARTS: Final = frozenset({Part.REQUEST})


class Instrument(StrEnum):
    """Kinds of OpenTelemetry instruments that the contract uses."""

    COUNTER = "counter"
    UP_DOWN_COUNTER = "updowncounter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Kind(StrEnum):
    """Span kinds that the contract uses."""

    SERVER = "server"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute of a resource, span, point or log line.

    ``values`` lists every value when the set is closed. ``maximum`` is the most distinct values that a metric label
    may take; an attribute without one is an identifier or free, and must never be a metric label.
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
    part: Part = Part.REQUEST

    @property
    def emitted(self) -> bool:
        """Whether the part that this metric belongs to exists yet."""
        return self.part in EMITTED_PARTS

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
    part: Part = Part.REQUEST

    @property
    def emitted(self) -> bool:
        """Whether the part that this span belongs to exists yet."""
        return self.part in EMITTED_PARTS


@dataclass(frozen=True, slots=True)
class LogEvent:
    """A JSON line on standard output, known by its ``event.name``; ``attributes`` come after the common keys."""

    name: str
    severity: str
    description: str
    attributes: tuple[Attribute, ...] = ()
    part: Part = Part.REQUEST

    @property
    def emitted(self) -> bool:
        """Whether the part that this event belongs to exists yet."""
        return self.part in EMITTED_PARTS


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
RESOURCE: Final = (SERVICE_NAME, SERVICE_NAMESPACE, SERVICE_VERSION, SERVICE_INSTANCE_ID, DEPLOYMENT_ENVIRONMENT)
RESOURCE_KUBERNETES: Final = (K8S_NAMESPACE, K8S_POD, K8S_NODE, K8S_DEPLOYMENT)

# HTTP semantic conventions.
HTTP_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
OTHER_METHOD: Final = "_OTHER"
UNMATCHED_ROUTE: Final = "unmatched"
MAXIMUM_ROUTES: Final = 8
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
INPUT_CHARACTERS = Attribute("ml.input.characters", "Characters of the text.")
INPUT_WORDS = Attribute("ml.input.words", "Words of the text after normalisation.")
INPUT_WORD_LENGTH = Attribute("ml.input.word_length", "Mean characters per word.")
INPUT_ALPHABETIC = Attribute("ml.input.alphabetic.ratio", "Share of characters that are letters.")
INPUT_DIGIT = Attribute("ml.input.digit.ratio", "Share of characters that are digits.")
INPUT_SPECIAL = Attribute("ml.input.special.ratio", "Share of characters that are no letter, digit or white space.")
INPUT_OUT_OF_VOCABULARY = Attribute("ml.input.out_of_vocabulary.ratio", "Share of words the model never saw.")
INPUT_SHA256 = Attribute("ml.input.text_sha256", "SHA-256 of the text in UTF-8.")
MODEL_NAME = Attribute("ml.model.name", "Name of the model.")
MODEL_VERSION = Attribute("ml.model.version", "Version of the model in the model store.")
BATCH_SIZE = Attribute("ml.batch.size", "Requests in the adaptive batch.")
PREDICTION_LABEL = Attribute("ml.prediction.label", "Predicted class.")
PREDICTION_CONFIDENCE = Attribute("ml.prediction.confidence", "Calibrated probability of the predicted class.")
PREDICTION_MARGIN = Attribute("ml.prediction.margin", "Probability of the best class minus that of the second.")
PREDICTION_PROBABILITIES = Attribute("ml.prediction.probabilities", "Probability of each class.")
DEPLOYMENT_TRACK = Attribute("ml.deployment.track", "Deployment track: stable, canary or shadow.")
TRAINING_ACCURACY = Attribute("ml.model.accuracy", "Accuracy on the held-out test split.")
TRAINING_CORPUS = Attribute("ml.model.corpus", "Corpus the model was trained on.")

# Labels of metrics that have short names in Prometheus.
TRACKS: Final = ("stable", "canary", "shadow")
STAGES: Final = ("normalise", "vectorize", "predict", "postprocess")
REJECTION_REASONS: Final = (
    "unknown_route",
    "method_not_allowed",
    "unsupported_media_type",
    "invalid_json",
    "invalid_type",
    "empty_text",
    "text_too_long",
    "body_too_large",
    "client_disconnected",
    "invalid_request",
    "overloaded",
    "timeout",
    "internal_error",
)
MAXIMUM_CLASSES: Final = 8
STAGE = Attribute("stage", "Stage of the inference.", values=STAGES)
LABEL = Attribute("label", "Predicted class.", maximum=MAXIMUM_CLASSES + 1)
TRACK = Attribute("track", "Deployment track.", values=TRACKS)
REASON = Attribute("reason", "Why a request was rejected.", values=REJECTION_REASONS)
NAME = Attribute("name", "Name of the model.", maximum=1)
VERSION = Attribute("version", "Version of the model.", maximum=3)
GIT_SHA = Attribute("git_sha", "Commit of the training code.", maximum=3)
DATA_SHA256 = Attribute("data_sha256", "SHA-256 of the training data.", maximum=3)
BENTO = Attribute("bento", "Bento the service runs from.", maximum=3)
SIGNAL = Attribute("signal", "Signal that was dropped.", values=("traces", "logs"))
DROP_REASON = Attribute("reason", "Why telemetry was dropped.", values=("queue_full", "export_failed", "write_failed"))
OUTCOME = Attribute("outcome", "What became of the feedback.", values=("joined", "pending", "duplicate", "rejected"))
ARCHIVE_OUTCOME = Attribute("outcome", "What became of the record.", values=("written", "duplicate", "rejected"))
SCORE = Attribute("metric", "Score.", values=("accuracy", "macro_f1", "precision", "recall", "roc_auc"))
SLICE = Attribute("slice", "Slice of the data.", maximum=10)
TRUE_LABEL = Attribute("true_label", "Label from feedback.", maximum=MAXIMUM_CLASSES + 1)
PREDICTED_LABEL = Attribute("predicted_label", "Label from the model.", maximum=MAXIMUM_CLASSES + 1)
DETECTOR = Attribute("detector", "Drift detector.", maximum=4)
FEATURE = Attribute("feature", "Feature a detector looks at.", maximum=8)

# --- Bucket bounds ----------------------------------------------------------------------------------------------------

_REQUEST_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_STAGE_SECONDS: Final = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.1, 1.0)
_BODY_BYTES: Final = (128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 65536.0, 262144.0, 1048576.0)
_RATIO: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_CONFIDENCE: Final = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.975, 0.99, 0.999)
_CHARACTERS: Final = (50.0, 100.0, 200.0, 400.0, 800.0, 1200.0, 1600.0, 2000.0, 4000.0, 8000.0, 20000.0, 50000.0)
_WORDS: Final = (10.0, 20.0, 40.0, 80.0, 160.0, 240.0, 320.0, 480.0, 800.0, 1600.0, 4000.0, 10000.0)
_WORD_LENGTH: Final = (2.0, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 7.0, 8.0, 12.0)
_BATCH: Final = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
_LAG_SECONDS: Final = (1.0, 10.0, 60.0, 600.0, 3600.0, 21600.0, 86400.0, 604800.0)

# --- Metrics ----------------------------------------------------------------------------------------------------------

_HTTP_LABELS: Final = (HTTP_METHOD, HTTP_ROUTE, HTTP_STATUS)

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
    (HTTP_METHOD,),
)
INFERENCE_DURATION = Metric(
    "ml.inference.duration",
    Instrument.HISTOGRAM,
    "s",
    "Time a request spent in a stage; a batched stage counts for each request of the batch.",
    (STAGE,),
    _STAGE_SECONDS,
)
INFERENCE_BATCH_SIZE = Metric(
    "ml.inference.batch.size",
    Instrument.HISTOGRAM,
    "{request}",
    "Requests per adaptive batch, one point per batch.",
    (),
    _BATCH,
)
PREDICTIONS = Metric("ml.predictions", Instrument.COUNTER, "{prediction}", "Predictions made.", (LABEL, TRACK))
CONFIDENCE = Metric(
    "ml.prediction.confidence.ratio",
    Instrument.HISTOGRAM,
    "1",
    "Calibrated probability of the predicted class.",
    (TRACK,),
    _CONFIDENCE,
)
REJECTED = Metric("ml.requests.rejected", Instrument.COUNTER, "{request}", "Requests without an answer.", (REASON,))
CHARACTERS = Metric(
    "ml.input.characters", Instrument.HISTOGRAM, "{character}", INPUT_CHARACTERS.description, (), _CHARACTERS
)
WORDS = Metric("ml.input.words", Instrument.HISTOGRAM, "{word}", INPUT_WORDS.description, (), _WORDS)
WORD_LENGTH = Metric(
    "ml.input.word_length", Instrument.HISTOGRAM, "{character}", INPUT_WORD_LENGTH.description, (), _WORD_LENGTH
)
ALPHABETIC = Metric("ml.input.alphabetic.ratio", Instrument.HISTOGRAM, "1", INPUT_ALPHABETIC.description, (), _RATIO)
DIGIT = Metric("ml.input.digit.ratio", Instrument.HISTOGRAM, "1", INPUT_DIGIT.description, (), _RATIO)
SPECIAL = Metric("ml.input.special.ratio", Instrument.HISTOGRAM, "1", INPUT_SPECIAL.description, (), _RATIO)
OUT_OF_VOCABULARY = Metric(
    "ml.input.out_of_vocabulary.ratio",
    Instrument.HISTOGRAM,
    "1",
    INPUT_OUT_OF_VOCABULARY.description,
    (),
    _RATIO,
)
MODEL_INFO = Metric(
    "ml.model.info",
    Instrument.GAUGE,
    "",
    "Always 1; says which model is served.",
    (NAME, VERSION, GIT_SHA, DATA_SHA256, BENTO),
)
TELEMETRY_DROPPED = Metric(
    "ml.telemetry.dropped",
    Instrument.COUNTER,
    "{record}",
    "Requests whose spans or log line were lost.",
    (SIGNAL, DROP_REASON),
)

METRICS: Final = (
    HTTP_DURATION,
    HTTP_REQUEST_BODY,
    HTTP_RESPONSE_BODY,
    HTTP_ACTIVE,
    INFERENCE_DURATION,
    INFERENCE_BATCH_SIZE,
    PREDICTIONS,
    CONFIDENCE,
    REJECTED,
    CHARACTERS,
    WORDS,
    WORD_LENGTH,
    ALPHABETIC,
    DIGIT,
    SPECIAL,
    OUT_OF_VOCABULARY,
    MODEL_INFO,
    TELEMETRY_DROPPED,
    Metric("ml.feedback", Instrument.COUNTER, "{feedback}", "Feedback received.", (OUTCOME,), part=Part.FEEDBACK),
    Metric(
        "ml.feedback.lag",
        Instrument.HISTOGRAM,
        "s",
        "Time from a prediction to its feedback.",
        (),
        _LAG_SECONDS,
        Part.FEEDBACK,
    ),
    Metric("ml.feedback.coverage", Instrument.GAUGE, "1", "Share of predictions with feedback.", part=Part.FEEDBACK),
    Metric("ml.evaluation.score", Instrument.GAUGE, "{score}", "Score on feedback.", (SCORE, SLICE), part=Part.MONITOR),
    Metric(
        "ml.evaluation.support",
        Instrument.GAUGE,
        "{sample}",
        "Samples behind a score.",
        (SCORE, SLICE),
        part=Part.MONITOR,
    ),
    Metric(
        "ml.confusion",
        Instrument.COUNTER,
        "{prediction}",
        "Predictions by true and predicted label.",
        (TRUE_LABEL, PREDICTED_LABEL),
        part=Part.MONITOR,
    ),
    Metric(
        "ml.performance.estimate",
        Instrument.GAUGE,
        "{score}",
        "Score estimated without labels.",
        (SCORE,),
        part=Part.MONITOR,
    ),
    Metric("ml.reference.score", Instrument.GAUGE, "{score}", "Score on the test split.", (SCORE,), part=Part.MONITOR),
    Metric("ml.drift.score", Instrument.GAUGE, "{score}", "Drift score.", (DETECTOR, FEATURE), part=Part.DRIFT),
    Metric(
        "ml.drift.threshold",
        Instrument.GAUGE,
        "{score}",
        "Score from which drift is reported.",
        (DETECTOR, FEATURE),
        part=Part.DRIFT,
    ),
    Metric(
        "ml.drift.window.samples",
        Instrument.GAUGE,
        "{sample}",
        "Samples in the window.",
        (DETECTOR, FEATURE),
        part=Part.DRIFT,
    ),
    Metric("ml.drift.last_run.timestamp", Instrument.GAUGE, "s", "Unix time of the last run.", part=Part.DRIFT),
    Metric(
        "ml.inference.archive.records",
        Instrument.COUNTER,
        "{record}",
        "Records of the inference archive.",
        (ARCHIVE_OUTCOME,),
        part=Part.ARCHIVE,
    ),
)

# --- Spans ------------------------------------------------------------------------------------------------------------

PREDICT_ROUTE: Final = "/predict"
_HTTP_SPAN: Final = (
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
)
_MODEL: Final = (MODEL_NAME, MODEL_VERSION)

REQUEST_SPAN = Span(f"POST {PREDICT_ROUTE}", Kind.SERVER, None, (*_HTTP_SPAN, PREDICTION_ID, ERROR_TYPE))
PREPROCESS_SPAN = Span("preprocess", Kind.INTERNAL, REQUEST_SPAN.name, (INPUT_CHARACTERS, INPUT_WORDS))
NORMALISE_SPAN = Span("normalise", Kind.INTERNAL, PREPROCESS_SPAN.name)
VECTORIZE_SPAN = Span("vectorize", Kind.INTERNAL, PREPROCESS_SPAN.name)
PREDICT_SPAN = Span(
    "predict",
    Kind.INTERNAL,
    REQUEST_SPAN.name,
    (*_MODEL, BATCH_SIZE, PREDICTION_LABEL, PREDICTION_CONFIDENCE, PREDICTION_MARGIN, DEPLOYMENT_TRACK),
)
POSTPROCESS_SPAN = Span("postprocess", Kind.INTERNAL, REQUEST_SPAN.name)
# A batch belongs to all its requests, so it is the root of a trace of its own; links lead both ways.
BATCH_SPAN = Span("predict.batch", Kind.INTERNAL, None, (*_MODEL, BATCH_SIZE, DEPLOYMENT_TRACK))

SPANS: Final = (
    REQUEST_SPAN,
    PREPROCESS_SPAN,
    NORMALISE_SPAN,
    VECTORIZE_SPAN,
    PREDICT_SPAN,
    POSTPROCESS_SPAN,
    BATCH_SPAN,
    Span("POST /feedback", Kind.SERVER, None, (*_HTTP_SPAN, PREDICTION_ID, ERROR_TYPE), Part.FEEDBACK),
    Span("monitor.run", Kind.INTERNAL, None, (), Part.MONITOR),
    Span("compact", Kind.INTERNAL, "monitor.run", (), Part.MONITOR),
    Span("evaluate", Kind.INTERNAL, "monitor.run", (), Part.MONITOR),
    Span("detect_drift", Kind.INTERNAL, "monitor.run", (), Part.DRIFT),
)

# --- Log events -------------------------------------------------------------------------------------------------------

# Keys of every line, in their order; ``trace_id`` and ``span_id`` are empty outside a request.
LOG_KEYS: Final = ("timestamp", "severity", "event.name", "message", "trace_id", "span_id", "trace_flags", "logger")
# The event of a line that the contract does not name: anything another library logs.
GENERIC_EVENT: Final = "log"
STAGE_SECONDS: Final = {
    stage: Attribute(f"ml.inference.{stage}.seconds", f"Seconds in the stage {stage}.") for stage in STAGES
}
DURATION_SECONDS = Attribute("http.server.request.seconds", "Seconds from the request's first byte to its answer.")
DROPPED_COUNT = Attribute("ml.telemetry.dropped.count", "Requests whose telemetry was lost since the last such line.")

_LOG_HTTP: Final = (HTTP_METHOD, HTTP_ROUTE, HTTP_STATUS, HTTP_REQUEST_SIZE, HTTP_RESPONSE_SIZE, DURATION_SECONDS)
_PROFILE: Final = (
    INPUT_CHARACTERS,
    INPUT_WORDS,
    INPUT_WORD_LENGTH,
    INPUT_ALPHABETIC,
    INPUT_DIGIT,
    INPUT_SPECIAL,
    INPUT_OUT_OF_VOCABULARY,
)

PREDICTION_EVENT = LogEvent(
    "ml.prediction",
    "INFO",
    "One prediction.",
    (
        PREDICTION_ID,
        REQUEST_ID,
        PREDICTION_LABEL,
        PREDICTION_CONFIDENCE,
        PREDICTION_MARGIN,
        PREDICTION_PROBABILITIES,
        MODEL_NAME,
        MODEL_VERSION,
        DEPLOYMENT_TRACK,
        BATCH_SIZE,
        *STAGE_SECONDS.values(),
        INPUT_SHA256,
        *_PROFILE,
        *_LOG_HTTP,
    ),
)
ERROR_EVENT = LogEvent(
    "ml.prediction.error",
    "ERROR",
    "A request failed inside the service.",
    (*_LOG_HTTP, PREDICTION_ID, REQUEST_ID, ERROR_TYPE, EXCEPTION_TYPE, EXCEPTION_STACKTRACE),
)
REJECTED_EVENT = LogEvent("ml.request.rejected", "WARN", "A request was refused.", (*_LOG_HTTP, REQUEST_ID, ERROR_TYPE))
MODEL_LOADED_EVENT = LogEvent(
    "ml.model.loaded", "INFO", "A worker loaded its model.", (*_MODEL, TRAINING_CORPUS, TRAINING_ACCURACY)
)
TELEMETRY_DROPPED_EVENT = LogEvent(
    "ml.telemetry.dropped", "WARN", "Telemetry was lost; at most one line a minute.", (DROPPED_COUNT,)
)
LOG_EVENTS: Final = (
    PREDICTION_EVENT,
    ERROR_EVENT,
    REJECTED_EVENT,
    MODEL_LOADED_EVENT,
    TELEMETRY_DROPPED_EVENT,
    LogEvent("ml.feedback", "INFO", "Feedback on a prediction.", (PREDICTION_ID, PREDICTION_LABEL), Part.FEEDBACK),
    LogEvent("ml.evaluation", "INFO", "An evaluation ended.", (), Part.MONITOR),
    LogEvent("ml.drift.detected", "WARN", "A detector crossed its threshold.", (), Part.DRIFT),
)


def attributes() -> Iterator[Attribute]:
    """Yield every attribute that the contract declares, each one once."""
    seen: set[str] = set()
    groups = [RESOURCE, RESOURCE_KUBERNETES, *(m.labels for m in METRICS), *(s.attributes for s in SPANS)]
    groups += [event.attributes for event in LOG_EVENTS]
    for group in groups:
        for attribute in group:
            if attribute.name not in seen:
                seen.add(attribute.name)
                yield attribute
