"""Synthetic requests: those that a stack sends to itself, so that they do not count as its users'.

They carry a mark that only a holder of the stack's key can make; any other header changes nothing. The mark is made of
the trace id: who sees one cannot mark another request. A histogram keeps one request of each bucket as its exemplar,
and the requests of a proof would lose against everybody else's: they are kept as well.
"""

from __future__ import annotations

import hmac
from enum import StrEnum
from typing import Final

HEADER: Final = "ml-telemetry-synthetic"
KEY_VARIABLE: Final = "ML_TELEMETRY_SYNTHETIC_KEY"
"""Environment variable with the key; without it every request counts as a user's."""


class Source(StrEnum):
    """What sends synthetic requests."""

    LOAD = "load"
    PROOF = "proof"


def mark(key: str, source: Source, trace_id: str) -> str:
    """Return the header's value for a request of that trace id: the source, and 64 hexadecimal digits."""
    return f"{source}:{hmac.digest(key.encode(), f'{source}:{trace_id}'.encode(), 'sha256').hex()}"


def source_of(key: str, trace_id: str, sent: bytes | None) -> Source | None:
    """Return what sent the request with that header's value, or None where it was not made with the key."""
    if not key or sent is None:
        return None
    for source in Source:
        if hmac.compare_digest(mark(key, source, trace_id).encode(), sent):
            return source
    return None
