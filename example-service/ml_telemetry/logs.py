"""JSON lines on standard output: one shape for the contract's events and for whatever any library logs."""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, ClassVar, Final

import orjson

from ml_telemetry import signals
from ml_telemetry.record import RequestRecord, current_request
from ml_telemetry.spans import exception_name, stack_frames

_STANDARD_OUTPUT: Final = 1
_SEVERITIES: Final = {
    logging.DEBUG: "DEBUG",
    logging.INFO: "INFO",
    logging.WARNING: "WARN",
    logging.ERROR: "ERROR",
    logging.CRITICAL: "FATAL",
}
_OPTIONS: Final = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
_WAIT_SECONDS: Final = 1.0


def write_line(values: Mapping[str, Any], file_descriptor: int = _STANDARD_OUTPUT) -> bool:
    """Write one JSON line and say whether all of it was written; a reader that is gone must not fail a request."""
    line = orjson.dumps(values, default=str, option=_OPTIONS)
    try:
        written = os.write(file_descriptor, line)
    except BlockingIOError:
        written = 0
    except OSError:
        return False
    return written == len(line) or _write_rest(memoryview(line)[written:], file_descriptor)


def _write_rest(rest: memoryview, file_descriptor: int) -> bool:
    """Finish a line that a full pipe took in parts; gives up when no byte could be written for a second."""
    while rest:
        if not select.select([], [file_descriptor], [], _WAIT_SECONDS)[1]:
            return False
        try:
            rest = rest[os.write(file_descriptor, rest) :]
        except BlockingIOError:
            continue
        except OSError:
            return False
    return True


def common(event: str, severity: str, message: str, logger: str, request: RequestRecord | None) -> dict[str, Any]:
    """Return the keys that every line has; the timestamp is RFC 3339 in UTC with microseconds."""
    return {
        "timestamp": datetime.fromtimestamp(time.time(), UTC),
        "severity": severity,
        "event.name": event,
        "message": message,
        "trace_id": request.trace_id if request else "",
        "span_id": request.span_id if request else "",
        "trace_flags": "01" if request and request.sampled else "00",
        "logger": logger,
    }


def log_event(
    event: signals.LogEvent, message: str, attributes: Mapping[str, Any], request: RequestRecord | None = None
) -> bool:
    """Write one of the contract's events and say whether it was written."""
    line = common(event.name, event.severity, message, "ml_telemetry", request)
    line.update(attributes)
    return write_line(line)


class JsonLinesHandler(logging.Handler):
    """Writes every record of Python's logging as one JSON line, a traceback included.

    While a request is served, an exception is written without its message and values: they may quote what a user sent.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; a record that cannot be written is reported by ``handleError``."""
        try:
            request = current_request.get()
            severity = _SEVERITIES.get(record.levelno, record.levelname)
            line = common(signals.GENERIC_EVENT, severity, record.getMessage(), record.name, request)
            if record.exc_info and (exception := record.exc_info[1]) is not None:
                line[signals.EXCEPTION_TYPE.name] = exception_name(exception)
                line[signals.EXCEPTION_STACKTRACE.name] = stack_frames(exception)
                if request is None:
                    line[signals.EXCEPTION_MESSAGE.name] = str(exception)
            write_line(line)
        except Exception:
            self.handleError(record)


class OncePerMinute(logging.Filter):
    """Lets one record of each logger and level pass per minute: an exporter without a Collector complains often."""

    SECONDS: ClassVar[float] = 60.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._last: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether the record passes."""
        now = self._clock()
        key = (record.name, record.levelno)
        if now - self._last.get(key, float("-inf")) < self.SECONDS:
            return False
        self._last[key] = now
        return True


class _OpenTelemetryHandler(JsonLinesHandler):
    """The handler of OpenTelemetry's loggers, at most one line a minute each."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(OncePerMinute())


def configure_logging(level: int = logging.WARNING) -> None:
    """Send all of this process's logging, warnings and uncaught exceptions through ``JsonLinesHandler``.

    Loggers that other libraries gave handlers of their own lose them, so that no line has another shape.
    """
    root = logging.getLogger()
    root.handlers = [JsonLinesHandler()]
    root.setLevel(level)
    for name in list(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = True
    exporters = logging.getLogger("opentelemetry")
    exporters.handlers = [_OpenTelemetryHandler()]
    exporters.propagate = False
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def _log_uncaught(kind: type[BaseException], exception: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("uncaught").critical("Uncaught exception", exc_info=(kind, exception, traceback))


def _log_uncaught_in_thread(arguments: threading.ExceptHookArgs) -> None:
    if arguments.exc_value is not None and arguments.exc_type is not SystemExit:
        _log_uncaught(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)


def configure_bentoml_logging() -> None:
    """Make BentoML's own logging configurations, which it applies at several moments, use ``JsonLinesHandler``."""
    from bentoml._internal import log

    handler = f"{JsonLinesHandler.__module__}.{JsonLinesHandler.__qualname__}"
    for configuration in (log.CLI_LOGGING_CONFIG, log.SERVER_LOGGING_CONFIG):
        # Changed in place: BentoML hands these very objects to logging.config.dictConfig.
        configuration["disable_existing_loggers"] = False
        configuration["handlers"] = {"json": {"class": handler}}
        configuration["root"]["handlers"] = ["json"]
        for logger in configuration["loggers"].values():
            # A logger that has a handler and also propagates would write each line twice.
            logger.update(handlers=["json"], propagate=False)
