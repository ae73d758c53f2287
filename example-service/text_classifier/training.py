"""Train the classifier and save it in the store of models: ``python -m text_classifier.training [--if-missing]``."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal

import click
import numpy as np
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from sklearn.metrics import accuracy_score, precision_recall_fscore_support
from sklearn.pipeline import Pipeline

import model_store
from model_store import Stored
from text_classifier import corpus as corpora
from text_classifier import estimator
from text_classifier.declaration import DECLARATION
from text_classifier.settings import CLASSES, MODEL_NAME, SERVICE_NAME

_LIBRARIES: Final = ("scikit-learn", "numpy", "scipy", "joblib")
_QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)


def fingerprint(parameters: estimator.Parameters, classes: Sequence[str] = CLASSES) -> str:
    """SHA-256 of the code, parameters, names and libraries that decide what the training produces."""
    # This module too: it decides what the model says about itself.
    code = [Path(file) for file in (estimator.__file__, corpora.__file__, __file__)]
    return model_store.fingerprint(code, {**parameters.as_dict(), "classes": list(classes)}, _LIBRARIES)


def find(data_sha256: str | None, training_sha256: str) -> Stored | None:
    """Return the model that is served, if it is of this data and this training.

    None for the data takes any: a machine that lost its network keeps the model that it has.
    """
    newest = model_store.current(SERVICE_NAME)
    if newest is None or newest.metadata["training_sha256"] != training_sha256:
        return None
    return newest if data_sha256 in (None, newest.metadata["training_data_sha256"]) else None


def evaluate(model: Pipeline, split: corpora.Split) -> dict[str, Any]:
    """Score a model on a split: accuracy, calibration error, and precision, recall, F1 and support per class."""
    probabilities = model.predict_proba(split.texts)
    labels = np.asarray(split.labels)
    predicted = probabilities.argmax(axis=1)
    scores = precision_recall_fscore_support(labels, predicted, labels=range(len(CLASSES)), zero_division=0.0)
    per_class = {
        name: {
            "precision": float(precision),
            "recall": float(recall),
            "f1": float(f1),
            "support": int(support),
        }
        for name, precision, recall, f1, support in zip(CLASSES, *scores, strict=True)
    }
    return {
        "accuracy": float(accuracy_score(labels, predicted)),
        "macro_f1": float(np.mean([score["f1"] for score in per_class.values()])),
        "calibration_error": estimator.expected_calibration_error(probabilities, labels),
        "per_class": per_class,
    }


def reference_profile(model: Pipeline, split: corpora.Split) -> dict[str, dict[str, float]]:
    """Quantiles of each input feature on a split, the reference that drift is measured against."""
    staged = estimator.StagedPipeline(model, CLASSES)
    documents = [estimator.normalise(text) for text in split.texts]
    _, known = staged.vectorize(documents)
    rows = []
    for text, words, in_vocabulary in zip(split.texts, documents, known, strict=True):
        row = estimator.profile(text, words)
        row.out_of_vocabulary = 1.0 - in_vocabulary / row.words if row.words else 0.0
        rows.append(row)
    return {
        name: {
            f"p{quantile * 100:02.0f}": float(value)
            for quantile, value in zip(
                _QUANTILES, np.quantile([getattr(row, name) for row in rows], _QUANTILES), strict=True
            )
        }
        for name in estimator.TextProfile.__slots__
    }


def save(model: Pipeline, corpus: corpora.Corpus, training_sha256: str, parameters: estimator.Parameters) -> Stored:
    """Save a trained model with everything needed to trace a prediction back to its training."""
    versions = {name: metadata.version(name) for name in _LIBRARIES} | {"python": platform.python_version()}
    return model_store.save(
        SERVICE_NAME,
        model,
        training_sha256,
        corpus.sha256,
        {
            "name": MODEL_NAME,
            "corpus": corpus.name,
            "git_commit": model_store.git_commit(Path(__file__).parent),
            "classes": list(corpus.classes),
            "class_shares": (np.bincount(corpus.train.labels) / len(corpus.train.labels)).tolist(),
            "parameters": parameters.as_dict(),
            "scores": evaluate(model, corpus.test),
            "reference_profile": reference_profile(model, corpus.test),
            "libraries": versions,
            # So that a record can be read years later with the declaration that it was made under.
            "declaration": json.loads(DECLARATION.as_json()),
            "declaration_sha256": DECLARATION.sha256,
        },
    )


def _report(console: Console, model: Stored) -> None:
    scores = model.metadata["scores"]
    table = Table(
        title=f"{MODEL_NAME} {model.version} ({model.digest}): accuracy {scores['accuracy']:.3f}, calibration error "
        f"{scores['calibration_error']:.3f} on the test split of {model.metadata['corpus']}"
    )
    table.add_column("class")
    for column in ("precision", "recall", "f1", "support"):
        table.add_column(column, justify="right")
    for name, score in scores["per_class"].items():
        table.add_row(name, *(f"{score[key]:.3f}" for key in ("precision", "recall", "f1")), str(score["support"]))
    console.print(table)


@click.command()
@click.option("--if-missing", is_flag=True, help="Do nothing when a model of the same data and training exists.")
@click.option(
    "--corpus",
    "source",
    type=click.Choice(["auto", "newsgroups", "small"]),
    default="auto",
    show_default=True,
    help="auto takes 20 Newsgroups, else the small corpus of this project.",
)
def main(if_missing: bool, source: Literal["auto", "newsgroups", "small"]) -> None:
    """Train the text classifier and save it in the store of models (SIGHTGLASS_MODELS_DIR)."""
    console = Console()
    parameters = estimator.Parameters()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("loading the corpus", total=None)
        try:
            corpus = corpora.load(source)
        except corpora.CorpusUnavailableError as error:
            raise click.ClickException(str(error)) from error
        training_sha256 = fingerprint(parameters)
        fallen_back = corpus.name == corpora.SMALL_CORPUS_NAME and source == "auto"
        if if_missing and (found := find(None if fallen_back else corpus.sha256, training_sha256)):
            known = str(found.metadata["corpus"])
            console.print(f"{MODEL_NAME} {found.version} was trained by the same code on {known}: nothing to do.")
            return
        if fallen_back:
            console.print(
                "20 Newsgroups cannot be had here: training on the small corpus of this project, a toy whose scores "
                "say nothing of real texts. Set SCIKIT_LEARN_DATA or connect to the network for the real one."
            )
        progress.update(task, description=f"training on {len(corpus.train.texts)} texts of {corpus.name}")
        model = estimator.new_pipeline(parameters)
        model.fit(corpus.train.texts, corpus.train.labels)
        progress.update(task, description=f"scoring on {len(corpus.test.texts)} texts and saving")
        try:
            saved = save(model, corpus, training_sha256, parameters)
        except model_store.StoreError as error:
            raise click.ClickException(str(error)) from error
    _report(console, saved)


if __name__ == "__main__":
    sys.exit(main())
