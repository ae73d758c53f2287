"""The store of trained models: one folder a model, named by the digest of what made it.

``SIGHTGLASS_MODELS_DIR`` holds a folder for each service. In it ``current`` names the digest that is served, and
``versions.json`` the version for people (date and number) of each. Those are facts of this store and not of a model:
two machines that train from one commit and one set of data have the same folder, byte for byte.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import joblib

VARIABLE: Final = "SIGHTGLASS_MODELS_DIR"
VERSION_VARIABLE: Final = "SIGHTGLASS_MODEL_VERSION"
"""The version for people where the store does not know it: in an image."""
SHORT: Final = 12
"""Digits of a digest that name a folder and stand in answers."""
_CURRENT: Final = "current"
_VERSIONS: Final = "versions.json"


class StoreError(Exception):
    """The store cannot be used; the message is one sentence that says what to set or run."""


@dataclass(frozen=True)
class Stored:
    """A model in its folder."""

    folder: Path
    metadata: Mapping[str, Any]
    version: str
    """For people, as ``2026-12-01.2``."""

    @property
    def digest(self) -> str:
        """The first digits of the digest of code, data and parameters."""
        return self.folder.name

    def load(self) -> Any:
        """The model itself."""
        return joblib.load(self.folder / "model.joblib")


def fingerprint(code: Iterable[Path], parameters: Mapping[str, Any], libraries: Iterable[str]) -> str:
    """SHA-256 of the code, parameters and libraries that decide what a training produces."""
    versions = {name: metadata.version(name) for name in libraries}
    decisive = {"parameters": parameters, "libraries": versions}
    found = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode())
    for file in code:
        found.update(file.read_bytes())
    return found.hexdigest()


def git_commit(folder: Path) -> str:
    """Return the commit of ``folder``'s repository, with ``-dirty`` if files differ from it, else ``unknown``."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def root() -> Path:
    """The folder of the store; :class:`StoreError` where none is set."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        raise StoreError(f"{VARIABLE} is not set: set it to the folder that keeps the models, as `make up` does.")
    return Path(folder)


def current(name: str) -> Stored | None:
    """The model of a service that is served; None where there is none."""
    home = root() / name
    try:
        digest = (home / _CURRENT).read_text().strip()
        described = json.loads((home / digest / "model.json").read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"The model of {name} in {home} cannot be read ({error}): remove that folder.") from None
    version = _versions(home).get(digest) or os.environ.get(VERSION_VARIABLE) or digest
    return Stored(home / digest, described, version)


def save(name: str, model: Any, training_sha256: str, data_sha256: str, described: Mapping[str, Any]) -> Stored:
    """Keep a trained model with all that traces a prediction back to its training, and serve it from now on."""
    digest = hashlib.sha256(f"{training_sha256}\n{data_sha256}".encode()).hexdigest()
    content = {"sha256": digest, "training_sha256": training_sha256, "training_data_sha256": data_sha256, **described}
    home = root() / name
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _alone(home):
            folder = home / digest[:SHORT]
            made = Path(tempfile.mkdtemp(prefix=".new-", dir=home))
            joblib.dump(model, made / "model.joblib")
            (made / "model.json").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)
            versions = _versions(home)
            if folder.name not in versions:
                versions[folder.name] = _next_version(versions.values(), datetime.now(UTC))
                _replace(home / _VERSIONS, json.dumps(versions, indent=1) + "\n")
            _replace(home / _CURRENT, folder.name + "\n")
    except OSError as error:
        raise StoreError(
            f"The model could not be saved ({error.strerror}): set {VARIABLE} to a folder you can write, it is "
            f"{home.parent} now."
        ) from None
    return Stored(folder, content, versions[folder.name])


def _next_version(known: Iterable[str], now: datetime) -> str:
    day = f"{now:%Y-%m-%d}"
    numbers = [int(version.rpartition(".")[2]) for version in known if version.startswith(f"{day}.")]
    return f"{day}.{max(numbers, default=0) + 1}"


def _versions(home: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads((home / _VERSIONS).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found


def _replace(file: Path, text: str) -> None:
    new = file.with_name(f".{file.name}.new")
    new.write_text(text)
    new.replace(file)


@contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Two trainings at once would give two models one number."""
    with (home / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
