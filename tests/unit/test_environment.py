"""What each command's Python environment has: all that it imports, and nothing that only others need."""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

import pytest

from bootstrap import LOCKS
from sightglass.facts.settings import REPOSITORY

SERVICES = {folder.name for folder in (REPOSITORY / "example-service").iterdir() if folder.is_dir()}
OURS = {"sightglass", "ml_telemetry", "load_testing", "dashboards", "tests", "bootstrap", *SERVICES}
DEVELOPERS = {"playwright", "kubernetes-validate", "mypy", "ruff", "grafana-foundation-sdk", "hypothesis"}
LATER = {"run": DEVELOPERS | {"locust", "pytest"}, "load": DEVELOPERS}
"""What waits for the command that uses it."""


def locked(part: str) -> set[str]:
    """Names of the packages that are installed."""
    return set(re.findall(r"^([a-z0-9-]+)==", (REPOSITORY / LOCKS[part]).read_text(), re.MULTILINE))


@cache
def packages() -> dict[str, set[str]]:
    """Names of packages by module at the top, as they are installed here."""
    found = metadata.packages_distributions()
    return {module: {re.sub(r"[-_.]+", "-", name).lower() for name in names} for module, names in found.items()}


def imported(folder: str) -> Iterator[tuple[Path, str]]:
    """Every module of others that is imported, also where it is imported late."""
    for file in sorted((REPOSITORY / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                top = name.partition(".")[0]
                if top not in OURS and top not in sys.stdlib_module_names:
                    yield file, name


def lacking(folder: str, names: set[str]) -> list[str]:
    return [
        f"{file.name}: {module}"
        for file, module in imported(folder)
        if not (packages().get(module.partition(".")[0], set()) & names)
    ]


@pytest.mark.parametrize(
    ("folder", "part"), [("sightglass", "run"), ("example-service", "run"), ("load_testing", "load"), ("tests", "dev")]
)
def test_what_is_imported_is_installed(folder: str, part: str) -> None:
    assert lacking(folder, locked(part)) == []
    assert lacking(folder, locked(part) - {"httpx", "scikit-learn", "locust", "pytest"}) != []


@pytest.mark.parametrize("part", LATER)
def test_what_only_other_commands_need_waits_for_them(part: str) -> None:
    assert LATER[part] & locked(part) == set()
    assert LATER[part] <= locked("dev")


def test_each_has_the_same_versions() -> None:
    def pins(part: str) -> set[str]:
        return set(re.findall(r"^[a-z0-9-]+==\S+", (REPOSITORY / LOCKS[part]).read_text(), re.MULTILINE))

    assert pins("run") < pins("load") < pins("dev")


def test_each_can_install_itself() -> None:
    for part in LOCKS:
        assert {"uv", "hatchling"} <= locked(part)


def test_commands_wait_for_no_more_than_they_need() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    needs = dict(re.findall(r"^([a-z-]+): \$\(VENV\)/(ready\S*)", makefile, re.MULTILINE))
    assert {needs[name] for name in ("up", "verify", "status", "deploy", "servers", "latency", "links")} == {"ready"}
    assert {needs[name] for name in ("load", "cost", "proof")} == {"ready-load"}
    assert {needs[name] for name in ("check", "unit", "integration", "cluster", "generate", "drill")} == {"ready-dev"}
