"""Lines are the same with and without the faster encoder."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from ml_telemetry import encoding

VALUES: list[dict[str, Any]] = [
    {"text": 'ä"\\\n\u2028😀', "number": 1.5, "count": 3, "none": None, "yes": True},
    {"nested": {"list": [1, "a", {"b": 0.1}], "pair": (1, 2)}},
    {"not a number": float("nan"), "endless": [float("inf"), -float("inf")]},
    {"tiny": 5e-324, "small": 1e-7, "large": 1e300},
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: next(iter(value)))
def test_both_encoders_say_the_same(value: dict[str, Any]) -> None:
    hidden = "import sys; sys.modules['orjson'] = None\nfrom ml_telemetry import encoding\n"
    code = f"{hidden}nan, inf = float('nan'), float('inf')\nsys.stdout.buffer.write(encoding.dumps({value!r}))"
    slow = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60).stdout
    assert json.loads(slow) == json.loads(encoding.dumps(value))
    assert b"\n" not in slow


def test_what_json_does_not_know_is_written_as_text() -> None:
    assert json.loads(encoding.dumps({"kind": ValueError("x"), 1: 2})) == {"kind": "x", "1": 2}
