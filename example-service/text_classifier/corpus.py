"""The training data: 20 Newsgroups through scikit-learn's own loader, else a small corpus written for this project."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass
from importlib import resources
from itertools import combinations
from typing import Any, Literal
from urllib.error import URLError

from sklearn.datasets import fetch_20newsgroups

from text_classifier.settings import CLASSES

SMALL_CORPUS_NAME = "sightglass-small"
NEWSGROUPS_NAME = "20newsgroups"
# How many texts of the small corpus are composed from each class's sentences.
_TEXTS_PER_CLASS = {"train": 60, "test": 15}


class CorpusUnavailableError(Exception):
    """20 Newsgroups is neither in scikit-learn's data folder nor on the network; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Split:
    """Texts and, for each, the index of its class in ``CLASSES``."""

    texts: tuple[str, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus with the split its publisher defined."""

    name: str
    train: Split
    test: Split

    @property
    def sha256(self) -> str:
        """SHA-256 over every text and label of both splits, in order."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            for text, label in zip(split.texts, split.labels, strict=True):
                data = text.encode("utf-8", "surrogatepass")
                digest.update(b"%d:%d:" % (label, len(data)))
                digest.update(data)
        return digest.hexdigest()


def load(source: Literal["auto", "newsgroups", "small"] = "auto") -> Corpus:
    """Load a corpus; ``auto`` takes 20 Newsgroups and falls back to the small corpus.

    Raises ``CorpusUnavailableError`` when ``newsgroups`` is demanded and cannot be had.
    """
    if source == "small":
        return small_corpus()
    try:
        return newsgroups()
    except CorpusUnavailableError:
        if source == "newsgroups":
            raise
        return small_corpus()


def newsgroups() -> Corpus:
    """Load the four groups of 20 Newsgroups from ``SCIKIT_LEARN_DATA`` or the network (about 14 MB)."""
    return Corpus(NEWSGROUPS_NAME, _newsgroups_split("train"), _newsgroups_split("test"))


def _newsgroups_split(subset: Literal["train", "test"]) -> Split:
    try:
        with warnings.catch_warnings():
            # Its "Retry downloading" is no news: what matters is whether it came in the end.
            warnings.simplefilter("ignore", UserWarning)
            data: Any = fetch_20newsgroups(
                subset=subset, categories=CLASSES, remove=("headers", "footers", "quotes"), n_retries=1, delay=0.5
            )
    except (URLError, OSError, EOFError) as error:
        message = (
            f"20 Newsgroups could not be loaded ({type(error).__name__}): connect to the network, or set "
            "SCIKIT_LEARN_DATA to a folder that holds 20news-bydate_py3.pkz."
        )
        raise CorpusUnavailableError(message) from error
    # Some posts are empty once headers and quotes are gone: nothing can be learnt from them.
    kept = [
        (text, CLASSES.index(data.target_names[target]))
        for text, target in zip(data.data, data.target, strict=True)
        if text.strip()
    ]
    return Split(tuple(text for text, _ in kept), tuple(label for _, label in kept))


def small_corpus() -> Corpus:
    """Compose the small corpus; the sentences of the test split occur in no training text."""
    source = json.loads(resources.files(__package__).joinpath("small_corpus.json").read_text("utf-8"))
    openers: list[str] = source["openers"]

    def compose(split: Literal["train", "test"]) -> Split:
        texts: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(CLASSES):
            pairs = list(combinations(source["classes"][name][split], 2))
            count = _TEXTS_PER_CLASS[split]
            for number in range(count):
                first, second = pairs[number * len(pairs) // count]
                texts.append(f"{openers[number % len(openers)]} {first} {second}")
                labels.append(label)
        return Split(tuple(texts), tuple(labels))

    return Corpus(SMALL_CORPUS_NAME, compose("train"), compose("test"))
