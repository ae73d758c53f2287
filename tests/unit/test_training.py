"""The corpus with its fallback, and what training leaves in the model store."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import bentoml
import pytest
import yaml

from text_classifier import corpus, training
from text_classifier.pipeline import Parameters
from text_classifier.settings import CLASSES


def run(home: Path, *arguments: str, data: Path | None = None) -> subprocess.CompletedProcess[str]:
    # A proxy that is not there stands for a machine without a network.
    away = {"https_proxy": "http://127.0.0.1:9", "SCIKIT_LEARN_DATA": str(data or home / "no-data")}
    environment = os.environ | away | {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True", "COLUMNS": "200"}
    command = [sys.executable, "-m", "text_classifier.training", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    home = tmp_path_factory.mktemp("home")
    return home, run(home)


def models(home: Path) -> list[Path]:
    return sorted(home.glob("models/news_classifier/*/model.yaml"))


def test_small_corpus_is_large_enough_balanced_and_without_leaks() -> None:
    small = corpus.small_corpus()
    assert small.name == corpus.SMALL_CORPUS_NAME
    for label in range(len(CLASSES)):
        assert small.train.labels.count(label) >= 40
        assert small.test.labels.count(label) >= 10
    assert len(set(small.train.texts)) == len(small.train.texts)

    def sentences(texts: tuple[str, ...]) -> set[str]:
        return {sentence for text in texts for sentence in text.split(". ")[1:]}

    assert not sentences(small.train.texts) & sentences(small.test.texts)


def test_hash_of_the_data_depends_on_texts_and_labels() -> None:
    one = corpus.small_corpus()
    assert one.sha256 == corpus.small_corpus().sha256
    relabelled = corpus.Corpus(one.name, corpus.Split(one.train.texts, one.train.labels[::-1]), one.test)
    rewritten = corpus.Corpus(one.name, corpus.Split(("x", *one.train.texts[1:]), one.train.labels), one.test)
    assert len({one.sha256, relabelled.sha256, rewritten.sha256}) == 3


def test_fingerprint_depends_on_the_parameters() -> None:
    assert training.fingerprint(Parameters()) == training.fingerprint(Parameters())
    assert training.fingerprint(Parameters()) != training.fingerprint(Parameters(max_features=10))


def test_without_data_and_network_training_says_that_it_falls_back(
    trained: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    home, done = trained
    assert done.returncode == 0, done.stderr
    assert "training on the small corpus" in done.stdout
    assert len(models(home)) == 1


def test_model_says_where_it_comes_from(trained: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    (path,) = models(trained[0])
    metadata: dict[str, Any] = yaml.safe_load(path.read_text())["metadata"]
    assert metadata["corpus"] == corpus.SMALL_CORPUS_NAME
    assert metadata["training_data_sha256"] == corpus.small_corpus().sha256
    assert metadata["training_sha256"] == training.fingerprint(Parameters())
    assert metadata["classes"] == list(CLASSES)
    scores = metadata["scores"]
    assert scores["accuracy"] > 0.9
    assert scores["calibration_error"] < 0.2
    assert set(scores["per_class"]) == set(CLASSES)
    for score in scores["per_class"].values():
        assert set(score) == {"precision", "recall", "f1", "support"}
    assert sum(score["support"] for score in scores["per_class"].values()) == len(corpus.small_corpus().test.texts)
    assert metadata["libraries"]["bentoml"] == bentoml.__version__
    profile = metadata["reference_profile"]["characters"]
    assert profile["p05"] <= profile["p50"] <= profile["p95"]
    assert metadata["git_commit"] == training.git_commit(Path(training.__file__).parent)


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
    assert len(models(home)) == 2


def test_demanded_corpus_that_is_away_is_a_clear_error(tmp_path: Path) -> None:
    done = run(tmp_path, "--corpus", "newsgroups")
    assert done.returncode == 1
    assert "SCIKIT_LEARN_DATA" in done.stderr
    assert "Traceback" not in done.stderr
    assert models(tmp_path) == []


def test_commit_is_that_of_the_repository_with_dirt(tmp_path: Path) -> None:
    assert training.git_commit(tmp_path) == "unknown"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    (tmp_path / "file").write_text("one")
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert training.git_commit(tmp_path) == head
    (tmp_path / "file").write_text("two")
    assert training.git_commit(tmp_path) == f"{head}-dirty"
