"""Train the model and save it in the store of models: ``python -m wine_quality.training [--if-missing]``."""

from __future__ import annotations

import json
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from rich.console import Console
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import KFold, cross_val_predict

import model_store
from model_store import Stored
from wine_quality import data as wines
from wine_quality.declaration import DECLARATION, FEATURES, SERVICE_NAME

PARAMETERS: Final = {"n_estimators": 100, "random_state": 7}
_LIBRARIES: Final = ("scikit-learn", "numpy", "scipy", "joblib")
_FOLDS: Final = 4
_RESAMPLES: Final = 2_000


def fingerprint() -> str:
    """SHA-256 of the code, parameters and libraries that decide what the training produces."""
    return model_store.fingerprint([Path(wines.__file__), Path(__file__)], PARAMETERS, _LIBRARIES)


def evaluate(loaded: wines.Wines) -> dict[str, float]:
    """Mean absolute error on wines that a model never saw, with its 95 % upper bound from resampled rows.

    Each distinct red wine is estimated once, by a model that was trained without it: one split of so few rows says as
    much about the split as about the model.
    """
    rows = np.concatenate((loaded.train, loaded.test))
    folds = KFold(_FOLDS, shuffle=True, random_state=PARAMETERS["random_state"])
    errors = np.abs(cross_val_predict(_new(), rows[:, :-1], rows[:, -1], cv=folds) - rows[:, -1])
    random = np.random.RandomState(PARAMETERS["random_state"])
    means = errors[random.randint(len(errors), size=(_RESAMPLES, len(errors)))].mean(axis=1)
    return {
        "mean_absolute_error": float(errors.mean()),
        "mean_absolute_error_upper": float(np.quantile(means, 0.95)),
        "of_a_constant": float(np.abs(rows[:, -1] - np.median(rows[:, -1])).mean()),
        "rows": len(rows),
    }


def _new() -> RandomForestRegressor:
    # One row is predicted at a time: threads would cost more than they save.
    return RandomForestRegressor(**PARAMETERS, n_jobs=1)


def train(loaded: wines.Wines) -> RandomForestRegressor:
    """Train on the red wines of the training split."""
    return _new().fit(loaded.train[:, :-1], loaded.train[:, -1])


def save(model: RandomForestRegressor, loaded: wines.Wines) -> Stored:
    """Save a trained model with everything needed to trace a prediction back to its training."""
    described: dict[str, Any] = {
        "name": DECLARATION.name,
        "corpus": loaded.name,
        "features": list(FEATURES),
        "parameters": PARAMETERS,
        "scores": evaluate(loaded),
        "rows": {"train": len(loaded.train), "test": len(loaded.test)},
        "libraries": {name: metadata.version(name) for name in _LIBRARIES} | {"python": platform.python_version()},
        "git_commit": model_store.git_commit(Path(__file__).parent),
        # So that a record can be read years later with the declaration that it was made under.
        "declaration": json.loads(DECLARATION.as_json()),
        "declaration_sha256": DECLARATION.sha256,
    }
    return model_store.save(SERVICE_NAME, model, fingerprint(), loaded.sha256, described)


@click.command()
@click.option("--if-missing", is_flag=True, help="Do nothing when a model of the same data and training exists.")
def main(if_missing: bool) -> None:
    """Train the wine model and save it in the store of models (SIGHTGLASS_MODELS_DIR)."""
    console = Console()
    try:
        loaded = wines.load()
        known = model_store.current(SERVICE_NAME)
        # A machine that lost its data keeps the model that it has.
        same = known is not None and (
            known.metadata["training_sha256"] == fingerprint()
            and (loaded.name == wines.TOY_NAME or known.metadata["training_data_sha256"] == loaded.sha256)
        )
        if if_missing and known is not None and same:
            corpus = known.metadata["corpus"]
            console.print(
                f"{DECLARATION.name} {known.version} was trained by the same code on {corpus}: nothing to do."
            )
            return
        if loaded.name == wines.TOY_NAME:
            console.print(
                "Wine Quality cannot be had here: training on generated rows, a toy whose scores say nothing of real "
                f"wines. Set {wines.VARIABLE} or connect to the network for the real ones.",
                soft_wrap=True,
            )
        saved = save(train(loaded), loaded)
    except (wines.DataError, model_store.StoreError) as error:
        raise click.ClickException(str(error)) from None
    scores = saved.metadata["scores"]
    mean, upper = scores["mean_absolute_error"], scores["mean_absolute_error_upper"]
    console.print(
        f"{DECLARATION.name} {saved.version} ({saved.digest}): mean absolute error {mean:.3f}, at most {upper:.3f} "
        f"(95 %), on {scores['rows']} red wines of {saved.metadata['corpus']}, each unseen by the model that "
        "estimated it; "
        f"a constant has {scores['of_a_constant']:.3f}",
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(main())
