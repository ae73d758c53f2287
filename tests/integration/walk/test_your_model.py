"""The page docs/your-model.md as it stands: a new folder, a model that is in no example, and green rows for it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sightglass.facts.settings import REPOSITORY, SERVICES
from sightglass.local.supervise import Supervisor
from tests.integration.running import PORT_OFFSET

PAGE = (REPOSITORY / "docs" / "your-model.md").read_text()
FILES = dict(re.findall(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
(COMMANDS,) = re.findall(r"^```sh\n(export SIGHTGLASS_SERVICES.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
NAME = "flowers"
OWN = ("fastapi", "uvicorn", "scikit-learn", "joblib")
"""What the page's service imports besides the telemetry."""


def run(folder: Path, command: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euc", command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str], str]]:
    folder = tmp_path_factory.mktemp("my-model")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "SIGHTGLASS_STATE_DIR": str(folder / "state"),
        "SIGHTGLASS_PORT_OFFSET": str(PORT_OFFSET),
        # The examples have tests of their own.
        "WITHOUT": ",".join(service.name for service in SERVICES),
    }
    try:
        done = run(folder, COMMANDS, environment)
        assert done.returncode == 0, done.stdout
        yield folder, environment, done.stdout
    finally:
        # Also without the table: what runs can always be stopped.
        stopped = run(folder, "sightglass down", environment)
        assert "Nothing is left running" in stopped.stdout, stopped.stdout


def test_the_page_has_every_file_of_the_walk() -> None:
    assert set(FILES) == {"services.yaml", *(f"{NAME}/{part}.py" for part in ("declaration", "training", "service"))}


@pytest.mark.timeout(600)
def test_a_model_of_a_new_folder_has_green_rows(walked: tuple[Path, dict[str, str], str]) -> None:
    folder, environment, said = walked
    assert "trained on 150 flowers" in said
    prepared = f"export SIGHTGLASS_SERVICES={folder}/services.yaml;"
    report = json.loads(run(folder, f"{prepared} sightglass verify --json 2>/dev/null", environment).stdout)
    own = [row for row in report["rows"] if row["service"] == NAME]
    assert len(own) > 10
    assert [row for row in own if not row["ok"]] == []
    # The twin: without its service the rows are red, and name it.
    run(folder, f"{prepared} sightglass stop {NAME}", environment)
    stopped = json.loads(
        run(folder, f"{prepared} sightglass verify --json --timeout 4 2>/dev/null", environment).stdout
    )
    assert all(not row["ok"] for row in stopped["rows"] if row["service"] == NAME)
    run(folder, f"{prepared} sightglass start {NAME}", environment)
    load = run(folder, f"{prepared} sightglass load --service {NAME} --duration 3 --users 2", environment)
    assert load.returncode == 0, load.stdout


def test_the_declaration_of_the_page_is_what_is_read(walked: tuple[Path, dict[str, str], str]) -> None:
    folder, environment, _ = walked
    read = f"{sys.executable} -m ml_telemetry.declaration {NAME}.declaration:DECLARATION"
    assert json.loads(run(folder, read, environment).stdout)["classes"] == ["setosa", "versicolor", "virginica"]


@pytest.mark.timeout(600)
def test_a_service_runs_in_an_environment_of_its_own(walked: tuple[Path, dict[str, str], str]) -> None:
    folder, environment, _ = walked
    own, uv = folder / ".venv", str(Path(sys.executable).with_name("uv"))
    python = own / "bin" / "python"
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, str(own)],
        [
            uv,
            "pip",
            "install",
            "--quiet",
            "--system-certs",
            "--python",
            str(python),
            *OWN,
            str(REPOSITORY / "ml-telemetry"),
        ],
    ):
        subprocess.run(command, check=True, timeout=240)
    table = folder / "services.yaml"
    table.write_text(table.read_text() + "  python: .venv/bin/python\n")
    prepared = f"export SIGHTGLASS_SERVICES={table};"
    started = run(folder, f"{prepared} sightglass up", environment)
    assert started.returncode == 0, started.stdout
    state = Supervisor(Path(environment["SIGHTGLASS_STATE_DIR"])).states()[NAME]
    program = psutil.Process(state.pid)
    assert Path(program.cmdline()[0]) == python
    report = json.loads(run(folder, f"{prepared} sightglass verify --json 2>/dev/null", environment).stdout)
    own_rows = [row for row in report["rows"] if row["service"] == NAME]
    assert len(own_rows) > 10
    assert [row for row in own_rows if not row["ok"]] == []
