"""Masks e-mail addresses, numbers of cards, tokens and keys in texts that others wrote.

The policy is ``redaction.toml``; Sightglass makes the statements of its Collector from it too. The time for a text
grows with its length and no faster.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any, Final

POLICY: Final[Mapping[str, Any]] = tomllib.loads(resources.files(__package__).joinpath("redaction.toml").read_text())
"""Tables ``cards``, ``addresses``, ``tokens`` and ``keys`` of expressions, and the ``replacement``."""
REPLACEMENT: Final[str] = POLICY["replacement"]
_GAP: Final = "[ -]?"


def each_card(gap: str = _GAP) -> list[str]:
    """The expression of each kind of card's number, with ``gap`` between groups of digits."""
    return [one.replace("{gap}", gap) for one in POLICY["cards"].values()]


def cards(gap: str = _GAP) -> str:
    """The expression of any card's number."""
    return "|".join(each_card(gap))


def _expressions() -> tuple[re.Pattern[str], ...]:
    card, addresses, tokens = cards(), POLICY["addresses"], POLICY["tokens"]
    # A letter or digit is a word's character that is no underscore: Python has no class of its own for it.
    local, domain = (f"(?:[^\\W_]|[{addresses[part].replace('{letter}', '')}])" for part in ("local", "domain"))
    return (
        re.compile(rf"(?<![0-9A-Za-z_.])(?:{card})(?:[^0-9A-Za-z_.](?:{card}))*(?=\Z|[^0-9A-Za-z_.]|[.](?:\Z|[^0-9]))"),
        # What stands before the sign is read once: a repetition that gives nothing back.
        *(
            re.compile(
                rf"(?:(?<!{local})|(?<={sign}))(?:(?!{sign}){local})++{sign}{domain}+(?:[.]{domain}+)*[.][^\W\d_]{{2,}}"
            )
            for sign in addresses["signs"]
        ),
        re.compile(rf"\b{tokens['word']}(?:{tokens['space']})+{tokens['character']}{{{tokens['at_least']},}}=*"),
        *(re.compile(rf"\b{key}\b") for key in POLICY["keys"].values()),
    )


_EXPRESSIONS: Final = _expressions()


def text(given: str) -> str:
    """The text with each find replaced by :data:`REPLACEMENT`; what stands around it stays."""
    for expression in _EXPRESSIONS:
        given = expression.sub(REPLACEMENT, given)
    return given


def value(given: Any) -> Any:
    """The value with its texts masked, also within lists and maps, and the names of maps; all else keeps its type."""
    if isinstance(given, str):
        return text(given)
    if isinstance(given, Mapping):
        return {text(str(name)): value(one) for name, one in given.items()}
    if isinstance(given, list | tuple):
        return [value(one) for one in given]
    return given
