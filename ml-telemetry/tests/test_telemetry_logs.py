"""JSON lines: their shape, what they leave out, and how they are written."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from ml_telemetry import logs, signals
from ml_telemetry.current import working_on
from ml_telemetry.logs import JsonLinesHandler
from ml_telemetry.record import RequestRecord
from ml_telemetry.throttle import OncePerMinute

REQUEST = RequestRecord("0af7651916cd43dd8448eb211c80319c", "", True, "")


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    made = logging.getLogger("test.json")
    made.addHandler(JsonLinesHandler())
    made.propagate = False
    yield made
    made.handlers.clear()


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_line_has_the_contracts_keys(logger: logging.Logger, capfd: pytest.CaptureFixture[str]) -> None:
    logger.warning("hello %s", "world")
    (line,) = lines(capfd.readouterr().out)
    assert tuple(line) == signals.LOG_KEYS
    assert line["message"] == "hello world"
    assert (line["severity"], line["event.name"], line["logger"]) == ("WARN", "log", "test.json")
    assert (line["trace_id"], line["span_id"], line["trace_flags"]) == ("", "", "00")


def test_line_within_a_request_has_its_trace_and_no_message_of_an_exception(
    logger: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        try:
            int("secret" + "text")
        except ValueError:
            logger.exception("it failed")

    fail()
    with working_on(REQUEST):
        fail()
    outside, inside = lines(capfd.readouterr().out)
    assert "secrettext" in outside["exception.message"]
    assert "secrettext" not in json.dumps(inside)
    assert inside["exception.type"] == "ValueError"
    assert "in fail" in inside["exception.stacktrace"]
    assert (inside["trace_id"], inside["span_id"], inside["trace_flags"]) == (REQUEST.trace_id, REQUEST.span_id, "01")


def test_exporters_complain_once_a_minute() -> None:
    now = [0.0]
    once = OncePerMinute(lambda: now[0])
    record = logging.LogRecord("a", logging.WARNING, "f", 1, "m", None, None)
    other = logging.LogRecord("a", logging.ERROR, "f", 1, "m", None, None)
    passed = [once.filter(record), once.filter(record), once.filter(other)]
    now[0] = OncePerMinute.SECONDS
    assert [*passed, once.filter(record)] == [True, False, True, True]


def test_process_logs_warnings_and_uncaught_exceptions_as_lines() -> None:
    program = (
        "import logging, warnings, threading\n"
        "from ml_telemetry import logs\n"
        "logging.getLogger('noisy').addHandler(logging.StreamHandler())\n"
        "logs.configure_logging()\n"
        "logging.getLogger('noisy').error('as json')\n"
        "warnings.warn('careful')\n"
        "thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()\n"
        "raise RuntimeError('at the end')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    found = lines(done.stdout)
    assert [line["logger"] for line in found] == ["noisy", "py.warnings", "uncaught", "uncaught"]
    assert found[2]["exception.type"] == "ZeroDivisionError"
    assert found[3]["exception.message"] == "at the end"
    assert (done.stderr, done.returncode) == ("", 1)


def test_bentomls_configurations_use_the_handler() -> None:
    pytest.importorskip("bentoml")
    program = (
        "import logging\n"
        "from ml_telemetry import bento\n"
        "bento.configure_process_logging()\n"
        "from bentoml._internal import log\n"
        "for configure in (log.configure_logging, log.configure_server_logging):\n"
        "    configure()\n"
        "    logging.getLogger('bentoml.serve').info('one')\n"
        "    logging.getLogger('circus').warning('two')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert [line["message"] for line in lines(done.stdout)] == ["one", "two"] * 2
    assert done.stderr == ""


def test_unwritable_value_becomes_text(capfd: pytest.CaptureFixture[str]) -> None:
    assert logs.write_line({"value": object})
    assert lines(capfd.readouterr().out) == [{"value": "<class 'object'>"}]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert logs.write_line({"value": float("nan")})
    assert lines(capfd.readouterr().out) == [{"value": None}]
