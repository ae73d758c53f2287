"""Requests for load tests, one JSON object a line: ``python -m text_classifier.load``."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterator
from typing import Any, Final

from text_classifier import corpus
from text_classifier.declaration import DECLARATION
from text_classifier.settings import settings

_EACH: Final = 20
"""How many requests there are of each mistake."""


def _json(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False).encode()


def _good(text: str) -> bytes:
    return _json({"text": text})


def _mistakes(text: str) -> Iterator[tuple[str, int, bytes | None, dict[str, str]]]:
    """Name, right status, body, and what else differs, of each wrong request that a text can be made into."""
    limit = settings().max_characters
    yield "malformed JSON", 400, _good(text)[:-1], {}
    yield "not UTF-8", 400, _good(text)[:-2] + b'\xff\xfe"}', {}
    yield "no JSON at all", 400, b"text=" + text.encode(), {}
    yield "wrong type", 422, _json({"text": text.split()}), {}
    yield "no object", 422, _json([text]), {}
    yield "missing field", 422, _json({"txt": text}), {}
    yield "empty text", 422, _json({"text": ""}), {}
    yield "blank text", 422, _json({"text": " \n\t "}), {}
    yield "too long text", 413, _good((text * (limit // len(text) + 1))[: limit + 1]), {}
    yield "unknown route", 404, _good(text), {"path": "/prediction"}
    yield "wrong method", 405, None, {"method": "GET"}


def _line(kind: str, status: int, body: bytes | None, **other: Any) -> str:
    found = {"kind": kind, "status": status, "path": DECLARATION.route, **other}
    if body is not None:
        try:
            found["body"] = body.decode()
        except UnicodeDecodeError:
            found["body_base64"] = base64.b64encode(body).decode()
    return json.dumps(found)


def main() -> None:
    """Print the texts of the test split, each mistake a few times, and posts of groups that the model never saw."""
    try:
        loaded = corpus.load()
        drifted = corpus.unseen(loaded)
    except corpus.CorpusUnavailableError as error:
        sys.exit(str(error))
    limit = settings().max_characters
    texts = [text for text in loaded.test.texts if len(text) <= limit]
    for text in texts:
        print(_line("valid", 200, _good(text)))
    for text in texts[:_EACH]:
        for name, status, body, other in _mistakes(text):
            # One is enough of what is large.
            if name != "too long text" or text is texts[0]:
                print(_line("corrupted", status, body, name=name, **other))
    for text in drifted:
        if len(text) <= limit:
            print(_line("drifted", 200, _good(text)))
    kind = "real posts" if loaded.name == corpus.NEWSGROUPS_NAME else "composed texts"
    print(f"corpus {loaded.name}: {len(texts)} {kind} of its test split", file=sys.stderr)


if __name__ == "__main__":
    main()
