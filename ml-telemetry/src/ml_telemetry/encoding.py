"""JSON as bytes: by orjson where it is installed, which is faster, else by Python's own."""

from __future__ import annotations

import json
from typing import Any

try:
    import orjson
except ImportError:

    def dumps(value: Any) -> bytes:
        """Encode a value; what JSON does not know is written as text."""
        return json.dumps(_plain(value), default=str, ensure_ascii=False, separators=(",", ":")).encode()

else:
    _OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS

    def dumps(value: Any) -> bytes:
        """Encode a value; what JSON does not know is written as text."""
        return orjson.dumps(value, default=str, option=_OPTIONS)


def _plain(value: Any) -> Any:
    """Replace what Python would write and JSON does not have: numbers that are none become null."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value
