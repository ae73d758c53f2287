"""This suite against the oldest and the newest OpenTelemetry that the package allows, in environments of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("resolution", ["lowest-direct", "highest"])
def test_suite_passes_with_the_ends_of_the_range(resolution: str, tmp_path: Path) -> None:
    uv, python = str(Path(sys.executable).with_name("uv")), str(tmp_path / "bin" / "python")
    install = [uv, "pip", "install", "--quiet", "--system-certs", "--python", python]
    needed = ["--resolution", resolution, "--requirements", str(ROOT / "pyproject.toml"), "--extra", "grpc"]
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, str(tmp_path)],
        [*install, *needed],
        [*install, "--no-deps", str(ROOT)],
        [*install, "pytest", "starlette", "trustme", "uvicorn"],
    ):
        subprocess.run(command, check=True, timeout=240)
    shown = subprocess.run([uv, "pip", "list", "--python", python], check=True, capture_output=True, text=True).stdout
    (version,) = [line.split()[1] for line in shown.splitlines() if line.startswith("opentelemetry-sdk ")]
    assert version.startswith("1.34.") is (resolution == "lowest-direct")
    pytest_of_its_own = [python, "-m", "pytest", "-c", os.devnull, "--rootdir", str(ROOT), "-p", "no:cacheprovider"]
    chosen = ["-q", "-m", "not long", "--deselect", "tests/test_telemetry_readme.py", "tests"]
    done = subprocess.run(
        [*pytest_of_its_own, *chosen], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout
