"""The documents say what the code does: ports, settings, make targets, links."""

import re
from pathlib import Path

from sightglass.cli import commands, settings_page
from sightglass.facts import versions
from sightglass.facts.settings import PORTS, PREFIX, REPOSITORY, Settings
from sightglass.kubernetes.options import KubernetesSettings
from text_classifier.settings import Settings as ServiceSettings

README = (REPOSITORY / "README.md").read_text()
DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def rows(text: str, columns: int) -> list[tuple[str, ...]]:
    """Cells of every table row with that many columns."""
    found = [
        tuple(cell.strip() for cell in line.strip("|").split("|")) for line in text.splitlines() if line[:1] == "|"
    ]
    return [row for row in found if len(row) == columns]


def test_the_page_of_settings_is_fresh_and_has_every_one() -> None:
    page = settings_page.PAGE.read_text()
    assert page == settings_page.text()
    ports = [(row[0], row[1]) for row in rows(page, 4) if row[0].isdecimal()]
    assert ports == [(str(port.default), port.component) for port in PORTS]
    for name in (*Settings.model_fields, *KubernetesSettings.model_fields):
        assert f"`{PREFIX}{name.upper()}`" in page, name
    for fields in (Settings.model_fields, KubernetesSettings.model_fields):
        assert [name for name, field in fields.items() if not field.description] == []


def test_settings_named_in_documents_exist() -> None:
    page = settings_page.PAGE.read_text() + (REPOSITORY / "docs" / "your-model.md").read_text()
    for document in DOCUMENTS:
        for name in set(re.findall(rf"\b{PREFIX}[A-Z_]+\b", document.read_text())):
            assert name in page, f"{document}: {name}"


def test_every_setting_of_the_service_is_in_its_page() -> None:
    page = (REPOSITORY / "docs" / "your-model.md").read_text()
    table = {row[0]: row[1:] for row in rows(page, 3)}
    for name, field in ServiceSettings.model_fields.items():
        assert field.description
        default = "" if field.default == "" else f"`{field.default}`"
        assert table[f"`TEXT_CLASSIFIER_{name.upper()}`"] == (field.description.rstrip("."), default)


def test_make_targets_in_documents_exist_and_all_are_in_the_readme() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    for document in DOCUMENTS:
        named = set(re.findall(r"make ([a-z]+(?:-[a-z]+)*)\b", " ".join(re.findall(r"`[^`]*`", document.read_text()))))
        assert named <= targets, document
    told = {name for name in targets if f"make {name}" in README or f"sightglass {name}" in README}
    assert targets - told == {"help", "lock", "format"}


def test_commands_in_documents_exist_and_all_are_in_the_readme() -> None:
    known = {str(name) for name in commands.main.commands}
    for document in DOCUMENTS:
        named = re.findall(
            r"\bsightglass ([a-z]+(?:-[a-z]+)*)\b", " ".join(re.findall(r"`[^`]*`", document.read_text()))
        )
        assert set(named) <= known, document
    assert {name for name in known if f"sightglass {name}" not in README} == set()


def test_links_between_documents_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document}: {link}"


def test_folders_in_the_readme_exist() -> None:
    for folder in re.findall(r"`([a-z-]+/)`", README):
        assert (REPOSITORY / folder).is_dir(), folder


def test_files_named_in_documents_exist() -> None:
    for document in DOCUMENTS:
        for name in re.findall(
            r"`((?:sightglass|tests|helm-config|collector-config|example-service|ml-telemetry)/[^`\s]+)`",
            document.read_text(),
        ):
            assert (REPOSITORY / Path(name)).exists(), f"{document}: {name}"


def test_the_licence_of_every_server_is_in_its_page() -> None:
    page = (REPOSITORY / "docs" / "licences.md").read_text()
    known = {name: server.licence for name, server in versions.load().servers.items()}
    assert {row[0]: row[1] for row in rows(page, 2) if row[0] in known} == known
