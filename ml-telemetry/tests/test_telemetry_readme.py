"""The README is true: its code runs from the built wheel in a bare environment, and its lists are the program's."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import opentelemetry.environment_variables
import opentelemetry.sdk.environment_variables
import pytest

from collector import collector, plain, running
from ml_telemetry import variables
from waiting import until

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def named(mark: str) -> set[str]:
    (block,) = re.findall(rf"<!-- {mark} -->\n(.*?)<!-- end -->", README, re.DOTALL)
    return set(re.findall(r"`(OTEL_\w+)`", block))


def test_variables_are_listed_as_they_are_honoured() -> None:
    assert named("honoured") == variables.HONOURED
    assert named("own") == variables.OWN
    assert named("not honoured") == variables.NOT_HONOURED


def test_every_variable_of_opentelemetry_stands_in_one_list() -> None:
    modules = (opentelemetry.environment_variables, opentelemetry.sdk.environment_variables)
    known = {getattr(module, name) for module in modules for name in dir(module) if name.startswith("OTEL_")}
    lists = (variables.HONOURED, variables.OWN, variables.NOT_HONOURED)
    assert {name for name in known if not name.startswith(variables.FOREIGN)} - frozenset().union(*lists) == set()
    assert sum(map(len, lists)) == len(frozenset().union(*lists))


def wheel(folder: Path) -> Path:
    """Build the wheel with what is installed here."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.skipif(shutil.which("uv", path=Path(sys.executable).parent) is None, reason="needs uv")
def test_code_of_the_readme_runs_from_the_wheel_in_a_bare_environment(tmp_path: Path) -> None:
    uv = str(Path(sys.executable).parent / "uv")
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    bare = tmp_path / "bare"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(bare)], check=True, timeout=60)
    packages = [str(wheel(tmp_path / "dist")), "fastapi", "uvicorn"]
    install = [uv, "pip", "install", "--quiet", "--system-certs", "--python", str(bare / "bin" / "python"), *packages]
    subprocess.run(install, check=True, timeout=240)
    python = bare / "bin" / "python"
    with (
        collector() as received,
        running(python, code, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=received.endpoint) as program,
    ):
        answer = program.ask("/predict", {"area": 80, "heating": "gas"})
        assert answer.json["price"] == 240_000
        assert set(received.trace(answer.trace_id, 3)) == {"POST /predict", "prepare", "predict"}
        assert {plain(p)["feature"] for p in received.metric("ml.input.feature").exponential_histogram.data_points} == {
            "area"
        }
        (line,) = until(lambda: program.lines("ml.prediction"), "the line")
        assert (line["trace_id"], line["ml.prediction.value"]) == (answer.trace_id, 240_000)
