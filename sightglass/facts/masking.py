"""The Collector's statements that mask texts, made from the policy of ``ml_telemetry.redaction``.

The Collector masks JSON texts too, where a character may be an escape: its expressions say that as well. ``python -m
sightglass.facts.masking`` writes them into the Collector's file, as `make generate` does.
"""

import re
from pathlib import Path
from typing import Final

from ml_telemetry import redaction
from sightglass.facts.settings import REPOSITORY

FILE: Final = REPOSITORY / "collector-config" / "collector.yaml"
_POLICY: Final = redaction.POLICY
_ESCAPE: Final = r"\\(?:[\x22\\/bfnrt]|u[0-9A-Fa-f]{4})"
"""An escape of a JSON text."""
_BEYOND_ASCII: Final = r"\\u(?:00[89A-Fa-f][0-9A-Fa-f]|0[1-9A-Fa-f][0-9A-Fa-f]{2}|[1-9A-Fa-f][0-9A-Fa-f]{3})"
"""Escapes of characters beyond ASCII, which may be letters."""
_LOCAL_ESCAPES: Final = r"\\u00(?:2[5BDEbde]|3[0-9]|4[1-9A-Fa-f]|5[0-9AFaf]|6[1-9A-Fa-f]|7[0-9Aa])|" + _BEYOND_ASCII
_WORDS: Final = {"{letter}": r"\p{L}\p{N}"}


def _characters(part: str) -> str:
    written: str = _POLICY["addresses"][part]
    for word, meaning in _WORDS.items():
        written = written.replace(word, meaning)
    return f"[{written}]"


def _number() -> str:
    """A card's number that is a number of JSON: what stands around it says so."""
    card = redaction.cards(gap="")
    return rf"([:\[,]\s*)-?(?:{card})(?:\s*,\s*-?(?:{card}))*(\s*[,}}\]])"


def _card() -> str:
    card = redaction.cards()
    return rf"(^|[^0-9A-Za-z_.]|{_ESCAPE})(?:{card})(?:[^0-9A-Za-z_.](?:{card}))*(\z|[^0-9A-Za-z_.]|[.](?:\z|[^0-9]))"


def _address() -> str:
    signs = "|".join(_POLICY["addresses"]["signs"])
    local, domain = _characters("local"), rf"(?:{_characters('domain')}|{_BEYOND_ASCII})+"
    return rf"((?:{_ESCAPE})*?)(?:{local}|{_LOCAL_ESCAPES})+(?:{signs}|\\u0040){domain}(?:[.]{domain})*[.]\p{{L}}{{2,}}"


def _token() -> str:
    tokens = _POLICY["tokens"]
    spaces = rf"(?:{tokens['space']}|\\[bfnrt]|\\u00(?:09|0[AaDd]|20))+"
    value = rf"(?:{tokens['character']}|\\/|\\u00(?:2[BFbf]|3[Dd])){{{tokens['at_least']},}}=*"
    return rf"((?:{_ESCAPE})+|\b){tokens['word']}{spaces}{value}"


def _key(key: str) -> str:
    return rf"((?:{_ESCAPE})+|\b){key}\b"


def _text(expression: str) -> str:
    """As a text of the Collector's language."""
    return '"' + expression.replace("\\", "\\\\") + '"'


def statements() -> tuple[str, ...]:
    """The lines of the Collector's file that hold an expression of the policy, in their order."""
    hints = " or ".join(f'IsMatch(cache["text"], {_text(one)})' for one in redaction.each_card())
    kinds = [(_number(), "$$1 0$$2", "card"), (_card(), f"$$1{redaction.REPLACEMENT}$$2", "card")]
    kinds += [
        (one, f"$$1{redaction.REPLACEMENT}", "secret")
        for one in (_address(), _token(), *(_key(key) for key in _POLICY["keys"].values()))
    ]
    return (
        f'set(cache["card"], true) where {hints}',
        *(
            f'replace_all_patterns(attributes, "value", {_text(expression)}, "{put}") where cache["{kind}"] != nil'
            for expression, put, kind in kinds
        ),
    )


_LINE: Final = re.compile(
    r'^( +- )((?:set\(cache\["card"\], true\)|replace_all_patterns\(attributes, "value",).*)$', re.MULTILINE
)


def text(written: str) -> str:
    """The Collector's file with these statements; :class:`ValueError` where it has not one line for each."""
    wanted = statements()
    found = _LINE.findall(written)
    if len(found) != len(wanted):
        raise ValueError(
            f"{FILE} has {len(found)} lines that mask, and the policy has {len(wanted)}: add or remove one."
        )
    following = iter(wanted)
    return _LINE.sub(lambda line: line[1] + next(following), written)


def write(file: Path = FILE) -> bool:
    """Write the file anew where it is stale; says whether it was."""
    written = file.read_text()
    fresh = text(written)
    if fresh != written:
        file.write_text(fresh)
    return fresh != written


if __name__ == "__main__":
    if write():
        print(f"wrote {FILE.relative_to(REPOSITORY)}")
