"""A service of this checkout is its folder, its row in the table and its own tests: without them all else is green."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from sightglass.facts.settings import REPOSITORY, SERVICES

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]
GONE = SERVICES[-1]


def run(folder: Path, *command: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SIGHTGLASS_")}
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:]


def test_without_a_service_everything_is_green(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (REPOSITORY / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, copy / name)
    shutil.rmtree(copy / GONE.folder.relative_to(REPOSITORY) / GONE.package)
    table = copy / "example-service" / "services.yaml"
    kept = {name: entry for name, entry in yaml.safe_load(table.read_text()).items() if name != GONE.name}
    assert len(kept) == len(SERVICES) - 1
    table.write_text(yaml.safe_dump(kept, sort_keys=False))
    own = [file for file in (copy / "tests").rglob("test_*.py") if f"from {GONE.package}" in file.read_text()]
    assert own != []
    for file in own:
        file.unlink()
    # Some tests ask git which files there are.
    run(copy, "git", "init", "--quiet")
    run(copy, "git", "add", "--all")
    for target in ("generate", "check", "unit"):
        run(copy, "make", target)
