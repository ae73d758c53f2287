"""A keyed hash of a text: equal texts have equal hashes, and nobody without the key can try short texts out.

Each hash goes with the id of its key, so that it can be looked up after the key was replaced.
"""

from __future__ import annotations

import hmac
import os
import re
from dataclasses import dataclass
from typing import Final

KEY_VARIABLE: Final = "ML_TELEMETRY_HASH_KEY"
"""Environment variable with ``ID:KEY``, the key in hexadecimal digits; without it no text is hashed."""
_FORM: Final = re.compile(r"([A-Za-z0-9-]{1,64}):((?:[0-9a-f]{2}){16,64})")


@dataclass(frozen=True, slots=True)
class TextHash:
    """A key and its id."""

    key_id: str
    key: bytes

    def __call__(self, text: str) -> str:
        """Return the HMAC-SHA-256 of the text in UTF-8, 64 hexadecimal digits."""
        return hmac.digest(self.key, text.encode(), "sha256").hex()


def from_environment() -> TextHash | None:
    """Return the hash that the environment asks for; raises ``ValueError``, which does not quote it, if it is none."""
    given = os.environ.get(KEY_VARIABLE, "").strip()
    if not given:
        return None
    if not (match := _FORM.fullmatch(given)):
        raise ValueError(f"{KEY_VARIABLE} is no key: set it to ID:KEY, with a KEY of 32 to 128 hexadecimal digits.")
    return TextHash(match[1], bytes.fromhex(match[2]))
