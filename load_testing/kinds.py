"""The kinds of requests: the good one, and those that a service must refuse."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import orjson

from text_classifier.settings import settings

ROUTE: Final = "/predict"


@dataclass(frozen=True)
class Kind:
    """One kind of request: how it is made from a post, and the one status that answers it rightly."""

    mistake: str
    status: int
    body: Callable[[str], bytes | None]
    method: str = "POST"
    path: str = ROUTE

    @property
    def name(self) -> str:
        """Its name in the statistics, beside the method."""
        return f"{self.path} [{self.mistake}]" if self.mistake else self.path

    @property
    def corrupted(self) -> bool:
        """Whether the service must refuse it."""
        return bool(self.mistake)


def _json(document: object) -> bytes:
    return orjson.dumps(document)


def _good(text: str) -> bytes:
    return _json({"text": text})


def _too_long(text: str) -> bytes:
    limit = settings().max_characters
    return _good((text * (limit // len(text) + 1))[: limit + 1])


GOOD: Final = Kind("", 200, _good)

CORRUPTED: Final = (
    Kind("malformed JSON", 400, lambda text: _good(text)[:-1]),
    Kind("not UTF-8", 400, lambda text: _good(text)[:-2] + b'\xff\xfe"}'),
    Kind("no JSON at all", 400, lambda text: b"text=" + text.encode()),
    Kind("wrong type", 422, lambda text: _json({"text": text.split()})),
    Kind("no object", 422, lambda text: _json([text])),
    Kind("missing field", 422, lambda text: _json({"txt": text})),
    Kind("empty text", 422, lambda _: _json({"text": ""})),
    Kind("blank text", 422, lambda _: _json({"text": " \n\t "})),
    Kind("too long text", 413, _too_long),
    Kind("unknown route", 404, _good, path="/prediction"),
    Kind("wrong method", 405, lambda _: None, method="GET"),
)
