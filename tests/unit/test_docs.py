"""The documents say what the code does: ports, settings, make targets, links."""

import re
from pathlib import Path

from sightglass.settings import PORTS, PREFIX, REPOSITORY, Settings
from text_classifier.settings import Settings as ServiceSettings

README = (REPOSITORY / "README.md").read_text()
DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def rows(text: str, columns: int) -> list[tuple[str, ...]]:
    """Cells of every table row with that many columns."""
    found = [
        tuple(cell.strip() for cell in line.strip("|").split("|")) for line in text.splitlines() if line[:1] == "|"
    ]
    return [row for row in found if len(row) == columns]


def test_table_of_ports_is_the_settings() -> None:
    table = [row for row in rows(README, 4) if row[0].isdecimal()]
    assert table == [(str(port.default), port.component, port.purpose, f"`{port.variable}`") for port in PORTS]


def test_every_setting_is_in_the_readme() -> None:
    named = set(re.findall(rf"`({PREFIX}[A-Z_]+)", README)) - {port.variable for port in PORTS}
    assert named == {PREFIX + field.upper() for field in Settings.model_fields}


def test_every_setting_of_the_service_is_in_its_page() -> None:
    page = (REPOSITORY / "docs" / "your-model.md").read_text()
    table = {row[0]: row[1:] for row in rows(page, 3)}
    for name, field in ServiceSettings.model_fields.items():
        assert field.description
        assert table[f"`TEXT_CLASSIFIER_{name.upper()}`"] == (field.description.rstrip("."), f"`{field.default}`")


def test_make_targets_in_documents_exist_and_all_are_in_the_readme() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE))
    for document in DOCUMENTS:
        named = set(re.findall(r"make ([a-z]+)\b", " ".join(re.findall(r"`[^`]*`", document.read_text()))))
        assert named <= targets, document
    assert {name for name in targets if f"make {name}" not in README} == {"help", "lock", "format"}


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
            r"`((?:sightglass|tests|helm-config|collector-config|example-service)/[^`\s]+)`", document.read_text()
        ):
            assert (REPOSITORY / Path(name)).exists(), f"{document}: {name}"
