"""UCI's Wine Quality: from a folder, from its publisher, or a toy with the same columns where neither can be had.

Source: P. Cortez, A. Cerdeira, F. Almeida, T. Matos, J. Reis, Decision Support Systems 47(4), 2009, pages 547 to 553.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import requests
from numpy.typing import NDArray
from sklearn.datasets import get_data_home

from wine_quality.declaration import FEATURES

VARIABLE: Final = "WINE_QUALITY_DATA"
NAME: Final = "uci-wine-quality"
TOY_NAME: Final = "sightglass-toy"
"""Every page that shows a score of its model shows this name too: such a score says nothing of real wines."""
ADDRESS: Final = "https://archive.ics.uci.edu/static/public/186/wine+quality.zip"
FILES: Final = {"red": "winequality-red.csv", "white": "winequality-white.csv"}
TEST_SHARE: Final = 0.25
_SEED: Final = 7
_COLUMNS: Final = len(FEATURES) + 1
# Mean, spread and effect on the score of each feature of the toy.
_TOY: Final = (
    *((8.3, 1.7, 0.05), (0.53, 0.18, -0.25), (0.27, 0.19, 0.02), (2.5, 1.4, 0.0), (0.087, 0.04, -0.05)),
    *((15.9, 10.0, 0.03), (46.0, 32.0, -0.1), (0.9967, 0.0019, -0.05), (3.31, 0.15, -0.05), (0.66, 0.17, 0.2)),
    *((10.4, 1.07, 0.35),),
)
_TOY_ROWS: Final = {"red": 800, "white": 400}
_TOY_NOISE: Final = 0.6

Rows = NDArray[np.float64]


class DataError(Exception):
    """A file that cannot be used; the message is one sentence that says what to set."""


@dataclass(frozen=True)
class Wines:
    """Rows of eleven measurements and the score: of red wines, each once and split, and of white ones."""

    name: str
    train: Rows
    test: Rows
    white: Rows

    @property
    def sha256(self) -> str:
        """SHA-256 over the rows of both splits, in order."""
        found = hashlib.sha256()
        for rows in (self.train, self.test):
            found.update(np.ascontiguousarray(rows).tobytes())
        return found.hexdigest()


def load() -> Wines:
    """Load the wines; :class:`DataError` where the folder that is named has none."""
    named = os.environ.get(VARIABLE)
    if named:
        return split(NAME, *(_read(Path(named) / FILES[colour]) for colour in ("red", "white")))
    kept = Path(get_data_home()) / "wine_quality"
    if not all((kept / name).exists() for name in FILES.values()) and not _fetched(kept):
        return split(TOY_NAME, _toy("red"), _toy("white"))
    return split(NAME, *(_read(kept / FILES[colour]) for colour in ("red", "white")))


def split(name: str, red: Rows, white: Rows) -> Wines:
    """Split the distinct red rows: one in six is there again, and a model that saw it would look better than it is."""
    distinct = np.unique(red, axis=0)
    order = np.random.RandomState(_SEED).permutation(len(distinct))
    most = round(len(distinct) * (1 - TEST_SHARE))
    return Wines(name, distinct[order[:most]], distinct[order[most:]], np.unique(white, axis=0))


def _read(file: Path) -> Rows:
    try:
        return parse(file.read_text().splitlines())
    except OSError as error:
        raise DataError(
            f"{file} cannot be read ({error.strerror}): set {VARIABLE} to a folder with {' and '.join(FILES.values())}."
        ) from None
    except ValueError as error:
        raise DataError(f"{file} is no file of Wine Quality ({error}): set {VARIABLE} to another folder.") from None


def parse(lines: Iterable[str]) -> Rows:
    """Rows of a file, its columns parted by semicolons (the publisher's) or commas; raises :class:`ValueError`."""
    heading, *rows = [line for line in lines if line.strip()]
    delimiter = ";" if ";" in heading else ","
    found = [[float(cell) for cell in row] for row in csv.reader(rows, delimiter=delimiter)]
    if wrong := [row for row in found if len(row) != _COLUMNS]:
        raise ValueError(f"a row has {len(wrong[0])} columns, not {_COLUMNS}")
    return np.array(found)


def _fetched(folder: Path) -> bool:
    """Get the publisher's archive, once; False where it cannot be had."""
    try:
        answer = requests.get(ADDRESS, timeout=10)
        answer.raise_for_status()
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            texts = {name: archive.read(name).decode() for name in FILES.values()}
    except (requests.RequestException, zipfile.BadZipFile, KeyError, UnicodeDecodeError):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
    return True


def _toy(colour: str) -> Rows:
    """Generate rows with the same columns, the same each time; white ones are of another kind."""
    random = np.random.RandomState(_SEED if colour == "red" else _SEED + 1)
    count = _TOY_ROWS[colour]
    drawn = random.normal(size=(count, len(_TOY)))
    shift = 0.0 if colour == "red" else 2.0
    effects = np.array([effect for _, _, effect in _TOY])
    score = 5.6 + drawn @ effects + random.normal(scale=_TOY_NOISE, size=count)
    measured = np.array([mean for mean, _, _ in _TOY]) + (drawn + shift) * np.array([spread for _, spread, _ in _TOY])
    # Measurements have few digits, and none is negative.
    return np.column_stack((np.abs(measured).round(4), score.round().clip(3, 8)))
