"""The training data: 20 Newsgroups through scikit-learn's own loader, else a small corpus written for this project."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass
from importlib import resources
from random import Random
from typing import Any, Literal
from urllib.error import URLError

from sklearn.datasets import fetch_20newsgroups

from text_classifier.settings import CLASSES

SMALL_CORPUS_NAME = "sightglass-toy"
"""Every page that shows a score of its model shows this name too: such a score says nothing of real texts."""
NEWSGROUPS_NAME = "20newsgroups"
UNSEEN = ("sci.space", "sci.med", "comp.graphics", "talk.politics.misc")
"""Groups that the model was never trained on."""
# How many texts of the small corpus are composed for each class.
_TEXTS_PER_CLASS = {"train": 120, "test": 36}
# What a text is composed of, in turn: sentences of its class, of the class beside it, of both, remarks of anybody. Most
# tell their class, some hardly, a few not at all, so that a model is right as often and as surely as with real posts.
_COMPOSITIONS = (
    ("own", "common"),
    ("own", "own"),
    ("own", "remark"),
    ("own", "common"),
    ("own", "own"),
    ("own", "common"),
    ("own", "own", "beside"),
    ("common", "common"),
    ("own", "own"),
    ("common", "own"),
    ("own", "own"),
    ("own", "remark"),
)


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
    classes: tuple[str, ...] = CLASSES

    @property
    def sha256(self) -> str:
        """SHA-256 over the names of the classes and every text and label of both splits, in order."""
        digest = hashlib.sha256(json.dumps(self.classes).encode())
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


def unseen(known: Corpus) -> tuple[str, ...]:
    """Texts of other groups than the classes; of the small corpus there are none but its remarks."""
    if known.name != NEWSGROUPS_NAME:
        source = json.loads(resources.files(__package__).joinpath("small_corpus.json").read_text("utf-8"))
        return tuple(source["remarks"]["test"])
    data = _fetched("test", UNSEEN)
    return tuple(text for text in data.data if text.strip())


def _newsgroups_split(subset: Literal["train", "test"]) -> Split:
    data = _fetched(subset, CLASSES)
    # Some posts are empty once headers and quotes are gone: nothing can be learnt from them.
    kept = [
        (text, CLASSES.index(data.target_names[target]))
        for text, target in zip(data.data, data.target, strict=True)
        if text.strip()
    ]
    return Split(tuple(text for text, _ in kept), tuple(label for _, label in kept))


def _fetched(subset: Literal["train", "test"], groups: tuple[str, ...]) -> Any:
    try:
        with warnings.catch_warnings():
            # Its "Retry downloading" is no news: what matters is whether it came in the end.
            warnings.simplefilter("ignore", UserWarning)
            return fetch_20newsgroups(
                subset=subset, categories=groups, remove=("headers", "footers", "quotes"), n_retries=1, delay=0.5
            )
    except (URLError, OSError, EOFError) as error:
        message = (
            f"20 Newsgroups could not be loaded ({type(error).__name__}): connect to the network, or set "
            "SCIKIT_LEARN_DATA to a folder that holds 20news-bydate_py3.pkz."
        )
        raise CorpusUnavailableError(message) from error


def small_corpus() -> Corpus:
    """Compose the small corpus, the same each time; the sentences of the test split occur in no training text."""
    source = json.loads(resources.files(__package__).joinpath("small_corpus.json").read_text("utf-8"))
    return Corpus(SMALL_CORPUS_NAME, _compose(source, "train"), _compose(source, "test"))


def _compose(source: dict[str, Any], split: Literal["train", "test"]) -> Split:
    random = Random(split)  # noqa: S311 - a choice of sentences
    composed: dict[str, int] = {}
    for label, name in enumerate(CLASSES):
        common = next(group for group in source["common"].values() if name in group["classes"])
        (beside,) = set(common["classes"]) - {name}
        pools = {
            "own": source["classes"][name][split],
            "beside": source["classes"][beside][split],
            "common": common[split],
            "remark": source["remarks"][split],
        }
        for number in range(_TEXTS_PER_CLASS[split]):
            kinds = _COMPOSITIONS[number % len(_COMPOSITIONS)]
            text = ""
            while not text or text in composed:
                # Only random() itself gives the same numbers in every version of Python.
                sentences = [pools[kind][int(random.random() * len(pools[kind]))] for kind in kinds]
                opener = source["openers"][number % len(source["openers"])]
                if len(set(sentences)) == len(sentences):
                    text = " ".join([opener, *sentences])
            composed[text] = label
    return Split(tuple(composed), tuple(composed.values()))
