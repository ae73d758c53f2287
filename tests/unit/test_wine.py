"""The wine service: its data, what its training leaves, and every answer of its routes."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from sightglass.clients import polling
from sightglass.clients.polling import GiveUp, NotYet
from sightglass.facts.settings import REPOSITORY, SERVICES
from tests.unit.ports import free_port
from wine_quality import data
from wine_quality.declaration import DECLARATION, FEATURES

SERVICE = next(one for one in SERVICES if one.name == "wine-quality")
WINE: dict[str, Any] = DECLARATION.samples[0].request
# A proxy that is not there stands for a machine without a network.
AWAY = {"https_proxy": "http://127.0.0.1:9", "SCIKIT_LEARN_DATA": "/nowhere", "WINE_QUALITY_DATA": ""}
HEADING = ";".join(f'"{name}"' for name in (*FEATURES, "quality"))


def run(home: Path, module: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | AWAY | {"SIGHTGLASS_MODELS_DIR": str(home)} | more
    command = [sys.executable, "-m", f"wine_quality.{module}", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    done = run(folder, "training")
    assert "a toy whose scores say nothing of real wines" in done.stdout, done.stderr
    return folder


def described(home: Path) -> dict[str, Any]:
    (file,) = home.glob("wine-quality/*/model.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def folder_of(where: Path, red: list[list[float]], white: list[list[float]], delimiter: str = ";") -> Path:
    for name, rows in (("red", red), ("white", white)):
        lines = [HEADING.replace(";", delimiter), *(delimiter.join(map(str, row)) for row in rows)]
        (where / f"winequality-{name}.csv").write_text("\n".join(lines) + "\n")
    return where


@pytest.mark.parametrize("delimiter", [";", ","])
def test_no_row_of_the_test_split_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delimiter: str
) -> None:
    rows = [[float(number)] * 12 for number in range(40)]
    monkeypatch.setenv("WINE_QUALITY_DATA", str(folder_of(tmp_path, [*rows, *rows[:20]], rows[:3], delimiter)))
    loaded = data.load()
    assert (len(loaded.train), len(loaded.test), len(loaded.white)) == (30, 10, 3)
    both = {tuple(row) for row in loaded.train} & {tuple(row) for row in loaded.test}
    assert both == set()
    # The twin: rows that are there twice, split as they come, are in both.
    every = np.array([*rows, *rows])
    assert {tuple(row) for row in every[:40]} & {tuple(row) for row in every[40:]}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read"),
        (f"{HEADING}\n1;2\n", "a row has 2 columns, not 12"),
        (f"{HEADING}\na;b\n", "is no file"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_sentence(tmp_path: Path, content: str | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "winequality-red.csv").write_text(content)
    done = run(tmp_path, "training", WINE_QUALITY_DATA=str(tmp_path))
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "set WINE_QUALITY_DATA" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_toy_is_the_same_each_time_and_looks_like_a_model(home: Path) -> None:
    found = described(home)
    assert found["corpus"] == data.TOY_NAME
    scores = found["scores"]
    assert 0.4 < scores["mean_absolute_error"] < scores["mean_absolute_error_upper"] < scores["of_a_constant"]
    assert scores["rows"] == found["rows"]["train"] + found["rows"]["test"]
    assert found["declaration_sha256"] == DECLARATION.sha256


def test_two_machines_make_one_digest_and_the_same_bytes(home: Path, tmp_path: Path) -> None:
    assert run(tmp_path, "training", PYTHONHASHSEED="99").returncode == 0

    def content(store: Path) -> dict[str, bytes]:
        (folder,) = (file.parent for file in store.glob("wine-quality/*/model.json"))
        return {f"{folder.name}/{file.name}": file.read_bytes() for file in sorted(folder.iterdir())}

    assert content(home) == content(tmp_path)


def test_if_missing_trains_once(home: Path) -> None:
    assert "nothing to do" in run(home, "training", "--if-missing").stdout
    assert "nothing to do" not in run(home, "training").stdout


@pytest.fixture(scope="module")
def url(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    log = tmp_path_factory.mktemp("service") / "service.log"
    port = free_port()
    own = {"SIGHTGLASS_MODELS_DIR": str(home), "OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(SERVICE.python), *SERVICE.arguments("127.0.0.1", port)],
            cwd=SERVICE.folder,
            env=os.environ | own,
            stdout=output,
            stderr=output,
        )
    address = f"http://127.0.0.1:{port}"

    def ready() -> None:
        if process.poll() is not None:
            raise GiveUp(log.read_text())
        try:
            status = requests.get(f"{address}/readyz", timeout=5).status_code
        except requests.RequestException as error:
            raise NotYet(type(error).__name__) from None
        if status != 200:
            raise NotYet(str(status))

    try:
        polling.until(ready, timeout=60, what="the service to be ready")
        yield address
    finally:
        process.terminate()
        process.wait(20)
    # Each request has one line, of a prediction or of a refusal; nothing of what callers sent is in one.
    events = [json.loads(line)["event.name"] for line in log.read_text().splitlines()]
    assert set(events) >= {"ml.prediction", "ml.request.rejected"}
    assert SECRET not in log.read_text()


SECRET = "zq-secret-9b1"


def test_an_estimate_is_answered(url: str) -> None:
    answer = requests.post(f"{url}/predict", json=WINE, timeout=10)
    found = answer.json()
    assert answer.status_code == 200, found
    assert 0 <= found["value"] <= 10
    assert (found["unit"], found["model"]["name"]) == ("{score}", "wine_quality")
    assert found["model"]["digest"]
    assert answer.headers["traceresponse"].split("-")[1] == found["trace_id"]


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (json.dumps(WINE)[:-1], 400, "The body is no JSON object"),
        (json.dumps([WINE]), 422, "The body must be a JSON object"),
        (
            json.dumps({**WINE, "alcohol": SECRET}),
            422,
            "The field 'alcohol' does not fit: input should be a valid number",
        ),
        (json.dumps({**WINE, "alcohol": None}), 422, "The field 'alcohol' does not fit"),
        (json.dumps({**WINE, "alcohol": True}), 422, "The field 'alcohol' does not fit"),
        (json.dumps({**WINE, "alcohol": -1}), 422, "greater than or equal to 0"),
        (json.dumps({**WINE, "alcohol": 1e9}), 422, "less than or equal to 100000"),
        (json.dumps({**WINE, "alcohol": math.nan}), 422, "finite number"),
        (json.dumps({name: WINE[name] for name in FEATURES[1:]}), 422, "The field 'fixed_acidity' does not fit"),
        (json.dumps({**WINE, SECRET: 1.0}), 422, "A field is no measurement of a wine: send fixed_acidity,"),
    ],
)
def test_a_wine_that_does_not_fit_is_one_sentence(url: str, body: str, status: int, sentence: str) -> None:
    answer = requests.post(f"{url}/predict", data=body, headers={"content-type": "application/json"}, timeout=10)
    error = answer.json()["error"]
    assert (answer.status_code, set(error)) == (status, {"type", "message", "trace_id"})
    assert sentence in error["message"]
    assert SECRET not in answer.text


def test_health_is_answered_and_other_routes_are_refused(url: str) -> None:
    assert requests.get(f"{url}/livez", timeout=10).json() == {"status": "ok"}
    assert requests.get(f"{url}/nothing", timeout=10).json()["error"]["type"] == "unknown_route"
    assert requests.get(f"{url}/predict", timeout=10).json()["error"]["type"] == "method_not_allowed"


def test_without_a_model_it_ends_and_says_what_to_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(SERVICE.python), *SERVICE.arguments("127.0.0.1", free_port())],
        cwd=SERVICE.folder,
        env=os.environ | {"SIGHTGLASS_MODELS_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "run 'python -m wine_quality.training' first" in done.stderr
    assert "Traceback" not in done.stderr


def test_load_prints_each_kind_and_nothing_that_was_trained_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    done = run(tmp_path, "load")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {one["kind"] for one in found} == {"valid", "corrupted", "drifted"}
    for name, value in AWAY.items():
        monkeypatch.setenv(name, value)
    trained = {tuple(row[:-1]) for row in data.load().train.tolist()}
    sent = {tuple(json.loads(one["body"]).values()) for one in found if one["kind"] == "valid"}
    assert sent
    assert sent & trained == set()
