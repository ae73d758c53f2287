"""The corpus with its fallback, and what training leaves in the model store."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn

import model_store
from ml_telemetry.declaration import Declaration
from text_classifier import corpus, training
from text_classifier.estimator import Parameters, new_pipeline
from text_classifier.settings import CLASSES


def run(
    home: Path, *arguments: str, data: Path | None = None, code: Path | None = None
) -> subprocess.CompletedProcess[str]:
    # A proxy that is not there stands for a machine without a network.
    away = {"https_proxy": "http://127.0.0.1:9", "SCIKIT_LEARN_DATA": str(data or home / "no-data")}
    environment = os.environ | away | {"SIGHTGLASS_MODELS_DIR": str(home), "COLUMNS": "200"}
    if code is not None:
        environment["PYTHONPATH"] = str(code)
    command = [sys.executable, "-m", "text_classifier.training", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    home = tmp_path_factory.mktemp("home")
    return home, run(home)


def models(home: Path) -> list[Path]:
    return sorted(home.glob("text-classifier/*/model.json"))


def test_small_corpus_is_large_enough_balanced_and_without_leaks() -> None:
    small = corpus.small_corpus()
    assert small.name == corpus.SMALL_CORPUS_NAME
    for label in range(len(CLASSES)):
        assert small.train.labels.count(label) >= 40
        assert small.test.labels.count(label) >= 10
    assert len(set(small.train.texts)) == len(small.train.texts)

    def sentences(texts: tuple[str, ...]) -> set[str]:
        return {sentence for text in texts for sentence in text.split(". ")[1:]}

    assert sentences(small.train.texts)
    assert sentences(small.test.texts)
    assert not sentences(small.train.texts) & sentences(small.test.texts)
    assert len(set(small.test.texts)) == len(small.test.texts)


def test_hash_of_the_data_depends_on_texts_and_labels() -> None:
    one = corpus.small_corpus()
    assert one.sha256 == corpus.small_corpus().sha256
    relabelled = corpus.Corpus(one.name, corpus.Split(one.train.texts, one.train.labels[::-1]), one.test)
    rewritten = corpus.Corpus(one.name, corpus.Split(("x", *one.train.texts[1:]), one.train.labels), one.test)
    renamed = replace(one, classes=("cars", *one.classes[1:]))
    assert len({one.sha256, relabelled.sha256, rewritten.sha256, renamed.sha256}) == 4


def test_fingerprint_depends_on_parameters_classes_and_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    one = training.fingerprint(Parameters())
    assert one == training.fingerprint(Parameters())
    others = {
        training.fingerprint(Parameters(max_features=10)),
        training.fingerprint(Parameters(), ("cars", *CLASSES[1:])),
        training.fingerprint(Parameters(), CLASSES[::-1]),
    }
    monkeypatch.setattr(metadata, "version", lambda name: "9" if name == "numpy" else "1")
    others.add(training.fingerprint(Parameters()))
    assert len(others | {one}) == 5


def test_without_data_and_network_training_says_that_it_falls_back(
    trained: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    home, done = trained
    assert done.returncode == 0, done.stderr
    assert "training on the small corpus of this project, a toy whose scores say nothing of real texts" in done.stdout
    assert f"on the test split of {corpus.SMALL_CORPUS_NAME}" in done.stdout
    assert len(models(home)) == 1


def test_model_says_where_it_comes_from(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    (path,) = models(trained[0])
    described: dict[str, Any] = json.loads(path.read_text())
    assert described["corpus"] == corpus.SMALL_CORPUS_NAME
    assert described["training_data_sha256"] == corpus.small_corpus().sha256
    assert described["training_sha256"] == training.fingerprint(Parameters())
    assert described["classes"] == list(CLASSES)
    scores = described["scores"]
    assert 0.85 <= scores["accuracy"] <= 0.97
    assert 0.01 < scores["calibration_error"] < 0.15
    assert set(scores["per_class"]) == set(CLASSES)
    for score in scores["per_class"].values():
        assert set(score) == {"precision", "recall", "f1", "support"}
    assert sum(score["support"] for score in scores["per_class"].values()) == len(corpus.small_corpus().test.texts)
    assert described["libraries"]["scikit-learn"] == sklearn.__version__
    assert Declaration.from_json(json.dumps(described["declaration"])).sha256 == described["declaration_sha256"]
    profile = described["reference_profile"]["characters"]
    assert profile["p05"] <= profile["p50"] <= profile["p95"]
    assert described["git_commit"] == model_store.git_commit(Path(training.__file__).parent)


def test_toy_model_is_as_sure_as_a_models_are_with_real_posts() -> None:
    small = corpus.small_corpus()
    model = new_pipeline(Parameters()).fit(small.train.texts, small.train.labels)
    probabilities = model.predict_proba(small.test.texts)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == small.test.labels
    low, middle, high = np.quantile(confidence, [0.1, 0.5, 0.9])
    assert low < 0.75
    assert 0.8 < middle < 0.99
    assert 0.9 < high < 0.9995
    # Where it is wrong it is less sure.
    assert confidence[~right].mean() < confidence[right].mean() - 0.1
    # Mistakes are those of a reader: a car for a motorcycle, one game for the other.
    wrong = {(small.test.labels[row], int(probabilities[row].argmax())) for row in np.flatnonzero(~right)}
    assert wrong & {(0, 1), (1, 0)}
    assert wrong & {(2, 3), (3, 2)}


def test_if_missing_trains_once(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    home, _ = trained
    done = run(home, "--if-missing")
    assert (done.returncode, "nothing to do" in done.stdout) == (0, True)
    assert len(models(home)) == 1


def test_model_of_other_data_stays_when_its_data_is_away_only(
    trained: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    home = tmp_path / "home"
    shutil.copytree(trained[0], home)
    (path,) = models(home)
    path.write_text(path.read_text().replace(corpus.small_corpus().sha256, "0" * 64))
    assert "nothing to do" in run(home, "--if-missing").stdout
    assert len(models(home)) == 1
    assert "nothing to do" not in run(home, "--if-missing", "--corpus", "small").stdout
    assert json.loads(path.read_text())["training_data_sha256"] == corpus.small_corpus().sha256


def test_renamed_class_is_trained_and_served_under_its_new_name(
    trained: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    home, code = tmp_path / "home", tmp_path / "code"
    shutil.copytree(trained[0], home)
    package = shutil.copytree(Path(training.__file__).parent, code / "text_classifier")
    for name in ("settings.py", "small_corpus.json"):
        file = package / name
        file.write_text(file.read_text().replace('"rec.autos"', '"cars"'))
    done = run(home, "--if-missing", code=code)
    assert "nothing to do" not in done.stdout, done.stdout
    newest = max(models(home), key=lambda path: path.stat().st_mtime)
    assert json.loads(newest.read_text())["classes"] == ["cars", *CLASSES[1:]]


def test_demanded_corpus_that_is_away_is_a_clear_error(tmp_path: Path) -> None:
    done = run(tmp_path, "--corpus", "newsgroups")
    assert done.returncode == 1
    assert "SCIKIT_LEARN_DATA" in done.stderr
    assert "Traceback" not in done.stderr
    assert models(tmp_path) == []


def test_commit_is_that_of_the_repository_with_dirt(tmp_path: Path) -> None:
    assert model_store.git_commit(tmp_path) == "unknown"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    (tmp_path / "file").write_text("one")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert model_store.git_commit(tmp_path) == head
    (tmp_path / "file").write_text("two")
    assert model_store.git_commit(tmp_path) == f"{head}-dirty"


def test_two_machines_make_one_digest_and_the_same_bytes(
    trained: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "12345")
    other = run(tmp_path)
    assert other.returncode == 0, other.stderr

    def content(home: Path) -> dict[str, bytes]:
        (folder,) = (path.parent for path in models(home))
        return {f"{folder.name}/{file.name}": file.read_bytes() for file in sorted(folder.iterdir())}

    assert content(trained[0]) == content(tmp_path)
    # The twin: other parameters, another digest.
    assert training.fingerprint(Parameters(seed=8)) != training.fingerprint(Parameters())
