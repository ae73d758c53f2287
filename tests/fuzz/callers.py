"""Hostile requests by number: the corpus of raw requests, marked words wherever a caller can put one, and damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from tests.unit.raw_requests import BODY, CORPUS, TRACE, request

WHOLE: Final = tuple(raw.sent for raw in CORPUS if not raw.late and not raw.then)
"""Entries of the corpus that are answered at once."""
LARGEST: Final = 64 * 1024
"""Bytes of a damaged request: many of them are sent."""

Spot = Callable[[bytes], bytes]


def _header(name: bytes, value: bytes = b"%b") -> Spot:
    return lambda word: request(name.replace(b"%b", word) + b": " + value.replace(b"%b", word))


HIDDEN: Final[dict[str, Spot]] = {
    "text": lambda word: request(body=b'{"text": "my goalie %b"}' % word),
    "key": lambda word: request(body=b'{"text": "my goalie", "%b": 1}' % word),
    "wrong type": lambda word: request(body=b'{"text": ["%b"]}' % word),
    "malformed body": lambda word: request(body=b'{"text": "%b' % word),
    "path": lambda word: request(line=b"POST /%b HTTP/1.1" % word),
    "query": lambda word: request(line=b"POST /predict?%b=%b HTTP/1.1" % (word, word)),
    "method": lambda word: request(line=b"%b /predict HTTP/1.1" % word),
    "version": lambda word: request(line=b"POST /predict HTTP/1.1%b" % word),
    "header name": _header(b"%b"),
    "content type": _header(b"content-type", b"text/%b"),
    "content encoding": _header(b"content-encoding"),
    "authorization": _header(b"authorization", b"Bearer %b"),
    "cookie": _header(b"cookie", b"a=%b"),
    "referer": _header(b"referer", b"https://example.org/%b"),
    "accept": _header(b"accept"),
    "forwarded for": _header(b"x-forwarded-for"),
    "forwarded": _header(b"forwarded", b"for=%b"),
    "baggage": _header(b"baggage", b"a=%b"),
    "traceparent": _header(b"traceparent", b"00-%b-00f067aa0ba902b7-01"),
    "tracestate": _header(b"tracestate", b"%b"),
    "host": lambda word: request(host=b"<%b>"),
    "port": lambda word: request(host=b"example.org:%b"),
}
"""Where a caller can put a word that must be found nowhere afterwards."""
SHOWN: Final[dict[str, Spot]] = {
    "host": lambda word: request(host=word + b".example.org"),
    "user agent": _header(b"user-agent"),
    "request id": _header(b"x-request-id"),
}
"""Where the contract keeps the word: the search must find it there."""


@dataclass(frozen=True)
class Request:
    """One hostile request; ``whole`` says that it is complete, so that an answer is owed."""

    kind: str
    sent: bytes
    whole: bool


class Callers:
    """Makes the request of a number: equal seeds and words give equal requests."""

    def __init__(self, seed: int, hidden: str, shown: str) -> None:
        self._seed = seed
        self._hidden = hidden.encode()
        self._shown = shown.encode()

    def request(self, number: int) -> Request:
        """Return the request of that number."""
        random = Random(f"{self._seed}:{number}")
        kind = random.choices(("corpus", "hidden", "shown", "json", "damaged", "noise"), (2, 4, 1, 2, 4, 1))[0]
        if kind == "corpus":
            return Request(kind, random.choice(WHOLE), whole=True)
        if kind == "hidden":
            name = random.choice(list(HIDDEN))
            return Request(f"{kind}: {name}", HIDDEN[name](self._hidden), whole=True)
        if kind == "shown":
            name = random.choice(list(SHOWN))
            return Request(f"{kind}: {name}", SHOWN[name](self._shown), whole=True)
        if kind == "json":
            body = json.dumps(document(random, self._hidden.decode()), ensure_ascii=random.random() < 0.5)
            return Request(kind, request(body=body.encode(errors="surrogatepass")), whole=True)
        if kind == "damaged":
            # Without the word: what is left out may move it to where it is kept, as into the host.
            undamaged = random.choice([*WHOLE, request(body=BODY)])
            return Request(kind, _damaged(random, undamaged[:LARGEST]), whole=False)
        return Request(kind, random.randbytes(random.randrange(1, 2_000)), whole=False)


def document(random: Random, word: str, depth: int = 0) -> Any:
    """Return a JSON value of any shape, often an object with a text."""
    leaves: list[Any] = [None, True, 0, -1, 1e308, 2**70, "", " ", word, "\x00", "\ud800", "🏒", "a" * 5_000, TRACE]
    if depth > 3 or random.random() < 0.3:
        return random.choice(leaves)
    if random.random() < 0.3:
        return [document(random, word, depth + 1) for _ in range(random.randrange(4))]
    keys = ["text", "Text", "", word, "trace_id", "severity", "level", "__proto__"]
    return {random.choice(keys): document(random, word, depth + 1) for _ in range(random.randrange(1, 4))}


def _damaged(random: Random, sent: bytes) -> bytes:
    """Change, insert, leave out or repeat some bytes."""
    changed = bytearray(sent)
    for _ in range(random.randrange(1, 6)):
        place = random.randrange(len(changed) + 1)
        length = random.randrange(1, 20)
        what = random.randrange(4)
        if what == 0:
            changed[place : place + 1] = random.randbytes(1)
        elif what == 1:
            changed[place:place] = random.choice((b"\r\n", b"\x00", b"\n", b": ", b" ", b"\xff", b"\r\n\r\n", b"\t"))
        elif what == 2:
            del changed[place : place + length]
        else:
            changed[place:place] = changed[place : place + length]
    return bytes(changed)
