"""JSON lines on standard output: one shape for the contract's events and for whatever any library logs."""

from __future__ import annotations

import atexit
import logging
import logging.config
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final

from ml_telemetry import encoding, redaction, signals
from ml_telemetry.current import Work, current_work
from ml_telemetry.output import DEFAULT_BYTES, LineWriter
from ml_telemetry.spans import exception_name, stack_frames
from ml_telemetry.throttle import OncePerMinute

_STANDARD_OUTPUT: Final = 1
_SEVERITIES: Final = {
    logging.DEBUG: "DEBUG",
    logging.INFO: "INFO",
    logging.WARNING: "WARN",
    logging.ERROR: "ERROR",
    logging.CRITICAL: "FATAL",
}
BUFFER_VARIABLE: Final = "SIGHTGLASS_LOG_BUFFER_BYTES"
_EXIT_SECONDS: Final = 1.0


class _Output:
    """Where the lines of this process go: until logging is configured, straight to standard output."""

    def __init__(self) -> None:
        self.writer: LineWriter | None = None

    def configure(self) -> None:
        if self.writer is None:
            self.writer = LineWriter(_STANDARD_OUTPUT, buffer_bytes())
            atexit.register(self.writer.flush, _EXIT_SECONDS)

    def write(self, line: bytes, *, always: bool) -> bool:
        if self.writer is not None:
            return self.writer.write(line, always=always)
        try:
            return os.write(_STANDARD_OUTPUT, line) == len(line)
        except OSError:
            return False


_output: Final = _Output()


def buffer_bytes() -> int:
    """Return how many bytes of lines may wait, as the environment says; a value that cannot work is the default."""
    given = os.environ.get(BUFFER_VARIABLE, "").strip()
    return int(given) if given.isdigit() else DEFAULT_BYTES


def configure_output() -> None:
    """Write lines without ever waiting for their reader, from now on."""
    _output.configure()


def output() -> LineWriter | None:
    """Return what writes the lines of this process, or None where its logging is not configured."""
    return _output.writer


def write_line(values: Mapping[str, Any], *, always: bool = False) -> bool:
    """Write one JSON line, or keep it until its reader takes it; returns False when it is lost.

    ``always`` keeps it also where no more lines may wait.
    """
    return _output.write(encoding.dumps(values) + b"\n", always=always)


def _now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def common(event: str, severity: str, message: str, logger: str, work: Work | None) -> dict[str, Any]:
    """Return the keys that every line has; the timestamp is RFC 3339 in UTC with microseconds."""
    return {
        "timestamp": _now(),
        "severity": severity,
        "event.name": event,
        "message": message,
        "trace_id": work.trace_id if work else "",
        "span_id": work.span_id if work else "",
        "trace_flags": "01" if work and work.sampled else "00",
        "logger": logger,
    }


def log_event(
    event: signals.LogEvent,
    message: str,
    attributes: Mapping[str, Any],
    work: Work | None = None,
    *,
    always: bool = False,
) -> bool:
    """Write one of the contract's events, as ``write_line`` does."""
    line = common(event.name, event.severity, message, "ml_telemetry", work)
    line.update(attributes)
    return write_line(line, always=always)


class JsonLinesHandler(logging.Handler):
    """Writes every record of Python's logging as one JSON line, a traceback included.

    While a request is served, an exception is written without its message and values: they may quote what a user sent.
    What others wrote is masked by :mod:`ml_telemetry.redaction`.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; a record that cannot be written is reported by ``handleError``."""
        try:
            work = current_work()
            severity = _SEVERITIES.get(record.levelno, record.levelname)
            line = common(signals.GENERIC_EVENT, severity, redaction.text(record.getMessage()), record.name, work)
            if record.exc_info and (exception := record.exc_info[1]) is not None:
                line[signals.EXCEPTION_TYPE.name] = exception_name(exception)
                line[signals.EXCEPTION_STACKTRACE.name] = stack_frames(exception)
                if work is None:
                    line[signals.EXCEPTION_MESSAGE.name] = redaction.text(str(exception))
            write_line(line)
        except Exception:
            self.handleError(record)


class _OpenTelemetryHandler(JsonLinesHandler):
    """The handler of OpenTelemetry's loggers, at most one line a minute each."""

    def __init__(self) -> None:
        super().__init__()
        self.addFilter(OncePerMinute())


def configure_logging(level: int = logging.WARNING, keep: Callable[[logging.LogRecord], bool] | None = None) -> None:
    """Send all of this process's logging, warnings and uncaught exceptions through ``JsonLinesHandler``.

    Loggers that other libraries gave handlers of their own lose them, so that no line has another shape. ``keep`` says
    which records are written.
    """
    _output.configure()
    root = logging.getLogger()
    handler = JsonLinesHandler()
    if keep is not None:
        handler.addFilter(keep)
    root.handlers = [handler]
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


def stay_configured(again: Callable[[], None]) -> None:
    """Call ``again`` after every ``logging.config.dictConfig`` of this process: programs apply theirs late."""

    class Configurator(logging.config.DictConfigurator):
        def __init__(self, config: Mapping[str, Any]) -> None:
            # A logger that is disabled would write nothing, whatever handler it is given.
            super().__init__({**config, "disable_existing_loggers": False})

        def configure(self) -> None:
            super().configure()
            again()

    # What the standard library documents for this purpose.
    logging.config.dictConfigClass = Configurator
