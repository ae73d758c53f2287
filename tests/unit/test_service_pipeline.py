"""The pipeline, its stages and the profile of a text."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.pipeline import Pipeline

from text_classifier import corpus
from text_classifier.estimator import (
    Parameters,
    StagedPipeline,
    TextProfile,
    expected_calibration_error,
    new_pipeline,
    normalise,
    profile,
)
from text_classifier.settings import CLASSES


@pytest.fixture(scope="module")
def trained() -> Pipeline:
    split = corpus.small_corpus().train
    return new_pipeline(Parameters()).fit(split.texts, split.labels)


def test_normalise_gives_lower_case_words_of_two_characters() -> None:
    assert normalise("The QUICK, brown fox's a 42 naïve_one!") == ["the", "quick", "brown", "fox", "42", "naïve_one"]
    assert normalise(" \n! a") == []


def test_stages_give_what_the_whole_pipeline_gives(trained: Pipeline) -> None:
    texts = ["The goalie stopped the puck", "My bike needs a clutch", "zzz yyy"]
    staged = StagedPipeline(trained, CLASSES)
    features, _ = staged.vectorize([normalise(text) for text in texts])
    assert np.array_equal(staged.predict(features), trained.predict_proba(texts))
    assert not np.array_equal(staged.predict(features[::-1]), trained.predict_proba(texts))


def test_vectorize_counts_known_words_with_repetitions(trained: Pipeline) -> None:
    staged = StagedPipeline(trained, CLASSES)
    _, known = staged.vectorize([["goalie", "goalie", "unheardof"], [], ["unheardof"], ["puck"]])
    assert known.tolist() == [2.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ab cd, 12", (9, 3, 2.0, 4 / 9, 2 / 9, 1 / 9)),
        ("äb cd, ٣٤", (9, 3, 2.0, 4 / 9, 2 / 9, 1 / 9)),
        ("!!", (2, 0, 0.0, 0.0, 0.0, 1.0)),
        ("", (0, 0, 0.0, 0.0, 0.0, 0.0)),
    ],
)
def test_profile(text: str, expected: tuple[float, ...]) -> None:
    found = profile(text, normalise(text))
    values = [getattr(found, name) for name in TextProfile.__slots__]
    assert values == pytest.approx([*expected, 0.0])


def test_profile_of_ascii_and_other_text_agree() -> None:
    text = "Call 555 now!\tOr\nlater? (x_y) #1"
    plain, other = profile(text, []), profile(text + "é", [])
    total = len(text)
    assert other.alphabetic * (total + 1) == pytest.approx(plain.alphabetic * total + 1)
    for name in ("digit", "special"):
        assert getattr(other, name) * (total + 1) == pytest.approx(getattr(plain, name) * total)


def test_calibration_error_is_zero_when_confidence_is_right_and_large_when_it_is_not() -> None:
    probabilities = np.tile([0.8, 0.2], (10, 1))
    assert expected_calibration_error(probabilities, np.asarray([0] * 8 + [1] * 2)) == pytest.approx(0.0)
    assert expected_calibration_error(probabilities, np.asarray([1] * 10)) == pytest.approx(0.8)
