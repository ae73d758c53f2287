"""The model: words, TF-IDF and a calibrated linear classifier, as one pipeline that also runs stage by stage."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline

_WORD: Final = re.compile(r"\b\w\w+\b")
_LETTERS: Final = bytes(code for code in range(128) if chr(code).isalpha())
_DIGITS: Final = b"0123456789"
_SPACES: Final = bytes(code for code in range(128) if chr(code).isspace())


@dataclass(frozen=True, slots=True)
class Parameters:
    """Every number that decides what the training produces; part of the fingerprint of the training."""

    max_features: int = 30_000
    min_document_frequency: int = 2
    regularisation: float = 10.0
    calibration_folds: int = 5
    seed: int = 7

    def as_dict(self) -> dict[str, float]:
        """Return the parameters as plain data for the model's metadata."""
        return asdict(self)


def normalise(text: str) -> list[str]:
    """Split a text into lower-case words of at least two characters."""
    return _WORD.findall(text.lower())


def has_word(text: str) -> bool:
    """Whether anything of a text is left when it is normalised."""
    return _WORD.search(text) is not None


def _as_is(words: list[str]) -> list[str]:
    return words


def new_pipeline(parameters: Parameters) -> Pipeline:
    """Return the untrained model; it takes texts and gives calibrated probabilities."""
    classifier = LogisticRegression(C=parameters.regularisation, max_iter=1000, random_state=parameters.seed)
    return Pipeline(
        [
            (
                "counts",
                CountVectorizer(
                    analyzer=normalise,
                    max_features=parameters.max_features,
                    min_df=parameters.min_document_frequency,
                    dtype=np.float64,
                ),
            ),
            ("tfidf", TfidfTransformer(sublinear_tf=True)),
            # One calibrator on held-out folds and one model on all data: a prediction costs one matrix product.
            (
                "classifier",
                CalibratedClassifierCV(
                    classifier, method="temperature", cv=parameters.calibration_folds, ensemble=False
                ),
            ),
        ]
    )


@dataclass(slots=True)
class TextProfile:
    """What a text looks like, without the text: the input features that drift detection watches."""

    characters: int
    words: int
    word_length: float
    alphabetic: float
    digit: float
    special: float
    out_of_vocabulary: float = 0.0


def profile(text: str, words: Sequence[str]) -> TextProfile:
    """Describe a text and its words; lengths in characters, the rest as shares between 0 and 1."""
    total = len(text)
    if text.isascii():
        # ASCII is the common case, and deleting bytes is far faster than asking every character.
        data = text.encode("ascii")
        letters = total - len(data.translate(None, _LETTERS))
        digits = total - len(data.translate(None, _DIGITS))
        spaces = total - len(data.translate(None, _SPACES))
    else:
        letters = sum(map(str.isalpha, text))
        digits = sum(map(str.isdigit, text))
        spaces = sum(map(str.isspace, text))
    share = 1.0 / total if total else 0.0
    count = len(words)
    return TextProfile(
        total,
        count,
        len("".join(words)) / count if count else 0.0,
        letters * share,
        digits * share,
        (total - letters - digits - spaces) * share,
    )


class StagedPipeline:
    """A trained pipeline cut at its stages, so that each one can be timed and batched."""

    def __init__(self, pipeline: Pipeline, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        steps = pipeline.named_steps
        # The vocabulary is shared with the original; only the analyser differs, for words arrive ready.
        self._counts: CountVectorizer = copy.copy(steps["counts"]).set_params(analyzer=_as_is)
        self._tfidf: TfidfTransformer = steps["tfidf"]
        self._classifier: CalibratedClassifierCV = steps["classifier"]

    def vectorize(self, documents: Sequence[list[str]]) -> tuple[Any, NDArray[np.float64]]:
        """Turn the words of each document into a TF-IDF row; also return how many words were in the vocabulary."""
        counts = self._counts.transform(documents)
        running = np.concatenate(([0.0], np.cumsum(counts.data)))
        known = running[counts.indptr[1:]] - running[counts.indptr[:-1]]
        return self._tfidf.transform(counts, copy=False), known

    def predict(self, features: Any) -> NDArray[np.float64]:
        """Return the calibrated probability of every class for every row."""
        probabilities: NDArray[np.float64] = self._classifier.predict_proba(features)
        return probabilities


def expected_calibration_error(probabilities: NDArray[np.float64], labels: NDArray[np.int64], bins: int = 10) -> float:
    """Mean distance between confidence and accuracy over equal-width bins of confidence, weighted by their size."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    error = 0.0
    for index in range(bins):
        chosen = bin_of == index
        if chosen.any():
            error += chosen.mean() * abs(float(confidence[chosen].mean()) - float(correct[chosen].mean()))
    return error
