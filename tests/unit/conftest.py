"""What unit tests share."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from sightglass.facts import settings
from sightglass.local import build


class Built(Mapping[str, Path]):
    """Programs of the servers that are built already: a test that asks for another one is skipped by its name."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = paths

    def __getitem__(self, program: str) -> Path:
        if program not in self._paths:
            pytest.skip(f"needs {program}, which is not built yet: `make servers`")
        return self._paths[program]

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)


@pytest.fixture(scope="session")
def programs() -> Built:
    """Path by program; nothing is built for a unit test."""
    loaded = settings.load()
    return Built(build.built_binaries(bin_dir=loaded.bin_dir, cache_dir=loaded.cache_dir))


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model store with a model of the small corpus."""
    folder = tmp_path_factory.mktemp("bentoml")
    environment = os.environ | {"SIGHTGLASS_MODELS_DIR": str(folder)}
    command = [sys.executable, "-m", "text_classifier.training", "--corpus", "small"]
    subprocess.run(command, check=True, env=environment, capture_output=True, timeout=120)
    return folder
