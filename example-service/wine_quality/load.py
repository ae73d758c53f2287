"""Requests for load tests, one JSON object a line: ``python -m wine_quality.load``."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from typing import Any, Final

from wine_quality import data as wines
from wine_quality.declaration import DECLARATION, FEATURES

_EACH: Final = 20
"""How many requests there are of each mistake."""
_DRIFTED: Final = 1_000


def _wine(row: wines.Rows) -> dict[str, Any]:
    return dict(zip(FEATURES, row[:-1].tolist(), strict=True))


def _mistakes(wine: dict[str, Any]) -> Iterator[tuple[str, int, str | None, dict[str, str]]]:
    """Name, right status, body, and what else differs, of each wrong request that a wine can be made into."""
    first, *others = FEATURES
    yield "malformed JSON", 400, json.dumps(wine)[:-1], {}
    yield "no object", 422, json.dumps([wine]), {}
    yield "wrong type", 422, json.dumps({**wine, first: str(wine[first])}), {}
    yield "missing field", 422, json.dumps({name: wine[name] for name in others}), {}
    yield "unknown field", 422, json.dumps({**wine, "colour": 1.0}), {}
    yield "negative", 422, json.dumps({**wine, first: -1.0}), {}
    yield "not a number", 422, json.dumps({**wine, first: math.nan}), {}
    yield "unknown route", 404, json.dumps(wine), {"path": "/prediction"}
    yield "wrong method", 405, None, {"method": "GET"}


def _line(kind: str, status: int, body: str | None, **other: Any) -> str:
    found = {"kind": kind, "status": status, "path": DECLARATION.route, **other}
    return json.dumps(found if body is None else {**found, "body": body})


def main() -> None:
    """Print the red wines of the test split, each mistake a few times, and white wines."""
    try:
        loaded = wines.load()
    except wines.DataError as error:
        sys.exit(str(error))
    for row in loaded.test:
        print(_line("valid", 200, json.dumps(_wine(row))))
    for row in loaded.test[:_EACH]:
        for name, status, body, other in _mistakes(_wine(row)):
            print(_line("corrupted", status, body, name=name, **other))
    for row in loaded.white[:_DRIFTED]:
        print(_line("drifted", 200, json.dumps(_wine(row))))
    print(f"{loaded.name}: {len(loaded.test)} red wines that the training never saw", file=sys.stderr)


if __name__ == "__main__":
    main()
