"""Lines that Loki would refuse arrive all the same, and what was changed of them is counted."""

import json
import secrets
import time
from collections.abc import Mapping

import pytest

from sightglass.clients import http, polling
from sightglass.clients.polling import NotYet
from sightglass.local import logfiles
from sightglass.verify.signal_checks import SECOND
from tests.integration.running import Running

WAIT = 20.0
MINUTE = 60 * SECOND


def push(stack: Running, service: str, lines: Mapping[int, str]) -> None:
    """Send lines by the Loki port, text by time."""
    body = {
        "streams": [{"stream": {"service_name": service}, "values": [[str(at), text] for at, text in lines.items()]}]
    }
    http.session.post(f"{stack.settings.url('collector_loki')}/loki/api/v1/push", json=body).raise_for_status()


def text(trace_id: str, **more: object) -> str:
    return json.dumps({"message": "foreign", "trace_id": trace_id, "span_id": secrets.token_hex(8), **more})


def found(stack: Running, service: str, trace_id: str, at: int) -> dict[str, str]:
    def once() -> dict[str, str]:
        query = f'{{service_name="{service}"}} | trace_id="{trace_id}"'
        lines = stack.loki.lines(query, start=at - 5 * MINUTE, end=at + 5 * MINUTE)
        if len(lines) != 1:
            raise NotYet(f"{len(lines)} lines of {trace_id}")
        return {**lines[0].labels, "line": lines[0].line}

    return polling.until(once, timeout=WAIT, what=f"the line of {trace_id} at its time")


def test_lines_far_behind_their_stream_arrive_at_their_own_time(stack: Running) -> None:
    service, now = f"late-{secrets.token_hex(4)}", time.time_ns()
    ids = {minutes: secrets.token_hex(16) for minutes in (0, 29, 31, 61, 95)}
    # One by one, the newest first: each is far behind what the stream has.
    for minutes, trace_id in ids.items():
        push(stack, service, {now - minutes * MINUTE: text(trace_id)})
        found(stack, service, trace_id, now - minutes * MINUTE)
    push(stack, service, {now - 400 * 24 * 60 * MINUTE: text(old := secrets.token_hex(16))})
    assert found(stack, service, old, now)["sightglass_changed"] == "time_behind"


def test_lines_and_metadata_above_the_limits_are_cut_counted_and_found_by_their_ids(stack: Running) -> None:
    service, now = f"large-{secrets.token_hex(4)}", time.time_ns()
    long, wide, neighbour = (secrets.token_hex(16) for _ in range(3))
    push(stack, service, {now: text(long, much="x" * 1_000_000), now + 1: text(neighbour)})
    attributes = [{"key": f"key.{number}", "value": {"stringValue": "y" * 2000}} for number in range(300)]
    record = {"timeUnixNano": str(now), "traceId": wide, "spanId": "a" * 16, "attributes": attributes}
    origin = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
    body = {"resourceLogs": [{"resource": origin, "scopeLogs": [{"logRecords": [record]}]}]}
    http.session.post(f"{stack.target.otlp_http_url}/v1/logs", json=body).raise_for_status()
    cut = found(stack, service, long, now)
    assert (cut["sightglass_changed"], len(cut["line"])) == ("body", 256_000)
    assert found(stack, service, wide, now)["sightglass_changed"] == "attributes"
    assert "sightglass_changed" not in found(stack, service, neighbour, now)

    def counted() -> None:
        query = f'sum by (reason) (telemetry_changed_total{{service_name="{service}"}})'
        reasons = {sample.labels["reason"]: sample.value for sample in stack.prometheus.query(query)}
        if reasons != {"body": 1, "attributes": 1}:
            raise NotYet(str(reasons))

    polling.until(counted, timeout=WAIT, what="what was cut to be counted")


@pytest.mark.parametrize("size", [300_000, 3_000_000])
def test_a_long_line_of_a_log_file_arrives(stack: Running, size: int) -> None:
    service, now, trace_id = f"printed-{secrets.token_hex(4)}", time.time_ns(), secrets.token_hex(16)
    file = logfiles.begin(stack.settings.service_logs_dir, service)
    file.write_text(text(trace_id, much="x" * size) + "\n" + text(behind := secrets.token_hex(16)) + "\n")
    try:
        assert found(stack, service, trace_id, now)["sightglass_changed"] == "body"
        found(stack, service, behind, now)
    finally:
        file.unlink()
