"""The services stand apart: nobody outside a service's folder knows it, and a service knows nobody's but its own."""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from ml_telemetry.declaration import Declaration
from sightglass.facts import declarations
from sightglass.facts.services import Service
from sightglass.facts.settings import REPOSITORY, SERVICES

OUTSIDE = ("sightglass", "dashboards", "load_testing", "example-service/model_store", "ml-telemetry/src")
ORDINARY = {"text"}
"""A feature's name that is a word of many formats as well."""
DEFAULTS = {field.default for field in fields(Declaration) if field.name == "route"}
"""What the package of telemetry takes where a declaration says nothing."""
SHARED = {"ml_telemetry", "model_store"}
"""What services may import of this project."""


def imported(tree: ast.AST) -> Iterator[str]:
    """Top-level packages that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def words(tree: ast.AST) -> set[str]:
    """Words of the texts that a module holds, but not of its documentation."""
    said = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    texts = (
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said
    )
    return {word for text in texts for word in re.findall(r"/?[\w.:-]+", text)}


def owned(service: Service) -> set[str]:
    """Names that only a service's own folder may say."""
    declared = declarations.of(service)
    features = {feature.name for feature in declared.features}
    return {service.name, service.package, *declared.classes, *features, declared.route} - ORDINARY


def modules(*folders: str) -> Iterator[tuple[Path, ast.AST]]:
    for folder in folders:
        for file in sorted((REPOSITORY / folder).rglob("*.py")):
            yield file.relative_to(REPOSITORY), ast.parse(file.read_text())


def named(tree: ast.AST, service: Service) -> set[str]:
    return (words(tree) | set(imported(tree))) & owned(service)


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_nobody_else_names_a_class_a_feature_or_the_route_of_a_service(service: Service) -> None:
    read = list(modules(*OUTSIDE))
    assert len(read) > 100
    found = {str(file): names for file, tree in read if (names := named(tree, service))}
    if declarations.of(service).route in DEFAULTS:
        found.pop("ml-telemetry/src/ml_telemetry/declaration.py")
    assert found == {}


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_naming_one_would_be_seen(service: Service) -> None:
    declared = declarations.of(service)
    for name in [service.name, declared.route, *declared.classes, *(one.name for one in declared.features)]:
        seen = named(ast.parse(f"query = 'sum(x{{label=\"{name}\"}})'"), service)
        assert seen == {name} - ORDINARY
    assert named(ast.parse(f"from {service.package} import training"), service) == {service.package}
    assert not named(ast.parse(f'"""Of {service.name}."""'), service)


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_service_imports_only_its_own_package_and_what_all_share(service: Service) -> None:
    ours = {"sightglass", "dashboards", "load_testing", "tests", *SHARED, *(one.package for one in SERVICES)}
    folder = str((service.folder / service.package).relative_to(REPOSITORY))
    read = list(modules(folder))
    assert any(file.name == "declaration.py" for file, _ in read)
    found = {
        str(file): wrong for file, tree in read if (wrong := set(imported(tree)) & ours - SHARED - {service.package})
    }
    assert found == {}


def test_an_import_of_another_would_be_seen() -> None:
    assert set(
        imported(ast.parse("import sightglass.facts\nfrom other_service.data import read\nfrom . import x"))
    ) == {
        "sightglass",
        "other_service",
    }
