"""What the package is made of: what it imports, and what it says of itself."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path

import pytest

import ml_telemetry

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OF_AN_EXTRA = {"bento.py": "bentoml", "protocol.py": "bentoml", "encoding.py": "fast", "delivery.py": "grpc"}
"""Modules that may import what only this extra installs."""


def _names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9._-]", requirement)[0] for requirement in requirements}


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def foreign(source: Path) -> list[str]:
    """Imports of modules that come with neither Python, nor OpenTelemetry, nor a declared dependency."""
    providers = metadata.packages_distributions()
    found = []
    for file in sorted(source.rglob("*.py")):
        declared = _names(PROJECT["dependencies"])
        if extra := OF_AN_EXTRA.get(file.name):
            declared |= _names(PROJECT["optional-dependencies"][extra])
        for module in _imports(file):
            top = module.partition(".")[0]
            known = top in sys.stdlib_module_names or top in ("ml_telemetry", "opentelemetry")
            if not known and not declared & set(providers.get(top, ())):
                found.append(f"{file.name}: {module}")
    return found


def test_nothing_is_imported_that_is_not_declared(tmp_path: Path) -> None:
    pytest.importorskip("bentoml")
    assert foreign(ROOT / "src") == []
    (tmp_path / "bad.py").write_text(
        "import sightglass.clients.polling\nfrom text_classifier import estimator\nimport json\n"
    )
    assert foreign(tmp_path) == ["bad.py: sightglass.clients.polling", "bad.py: text_classifier"]


def private(source: str) -> list[str]:
    """What a module uses of another module or object that is private to it."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            # A class reaches its own by ``self``, ``cls`` or an object of itself, which its name tells.
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if any(map(_is_private, alias.name.split(".")))]
        elif isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            if any(map(_is_private, names)):
                found.append(f"from {node.module}")
    return found


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_no_private_member_of_a_library_is_used() -> None:
    files = sorted((ROOT / "src").rglob("*.py"))
    assert {file.name: found for file in files if (found := private(file.read_text()))} == {}
    bad = "from bentoml._internal import log\nimport _bentoml_sdk\nexporter._client.send()\nself._own = 1\n"
    assert sorted(private(bad)) == ["_bentoml_sdk", "exporter._client", "from bentoml._internal"]


def overriding(module: object) -> list[str]:
    """Private members of a library's class that a class of ours defines anew."""
    return [
        f"{name}.{member}"
        for name, kind in inspect.getmembers(module, inspect.isclass)
        if kind.__module__.startswith("ml_telemetry")
        for member in vars(kind)
        if _is_private(member)
        for base in kind.__mro__[1:]
        # Python's own write such members into every class that is made of them.
        if base.__module__.partition(".")[0] not in ("ml_telemetry", "abc", "enum", "typing") and member in vars(base)
        if not member.startswith("_abc_")
    ]


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(ml_telemetry.__path__)])
def test_no_private_member_of_a_library_is_overridden(name: str) -> None:
    if name in ("bento", "protocol"):
        pytest.importorskip("bentoml")
    assert overriding(import_module(f"ml_telemetry.{name}")) == []


def test_an_override_would_be_found() -> None:
    class Base:
        def _hook(self) -> None:
            pass

    class Ours(Base):
        def _hook(self) -> None:
            pass

    Ours.__module__ = "ml_telemetry.example"

    class Module:
        ours = Ours

    assert overriding(Module) == ["ours._hook"]
