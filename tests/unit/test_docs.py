"""The documents say what the code does: ports, settings, make targets, links."""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

from sightglass.cli import commands, settings_page
from sightglass.facts import versions
from sightglass.facts.settings import PORTS, PREFIX, REPOSITORY, Settings
from sightglass.kubernetes.options import KubernetesSettings
from text_classifier.settings import Settings as ServiceSettings

README = (REPOSITORY / "README.md").read_text()
FOLDERS = ("docs", "ml-telemetry", "servers", "tests")
DOCUMENTS = [*REPOSITORY.glob("*.md"), *(file for one in FOLDERS for file in sorted((REPOSITORY / one).rglob("*.md")))]
CODE = re.compile(r"^```.*?^```|`[^`]*`", re.MULTILINE | re.DOTALL)
"""What stands between backticks, in a line or as a block."""


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


def commands_in(text: str) -> list[tuple[str, list[str]]]:
    """Each command of ours in a document's code, with its options."""
    found = []
    for code in CODE.findall(text):
        for name, rest in re.findall(r"\bsightglass ([a-z]+(?:-[a-z]+)*)\b([^|;&\n`]*)", code):
            found.append((name, re.findall(r"(?<!\S)(--[a-z-]+)", rest)))
    return found


@cache
def options_of(name: str) -> set[str]:
    """Every option of a command, as its help says them."""
    command = [sys.executable, "-m", "sightglass", name, "--help"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", told))


def unknown_commands(text: str) -> list[str]:
    """Commands and options that a document names and that do not exist."""
    found = []
    for name, options in commands_in(text):
        if name not in commands.main.commands:
            found.append(name)
        else:
            found += [f"{name} {option}" for option in options if option not in options_of(name)]
    return found


def test_commands_in_documents_exist_and_all_are_in_the_readme() -> None:
    wrong = {document.name: unknown for document in DOCUMENTS if (unknown := unknown_commands(document.read_text()))}
    assert wrong == {}
    named = {name for name, _ in commands_in(README)}
    assert {str(name) for name in commands.main.commands} - named == set()
    assert unknown_commands("`sightglass up --fast`, then\n```sh\nsightglass fly --real\n```") == ["up --fast", "fly"]


def anchors(document: Path) -> set[str]:
    """What a link may name in a document: its headings, as the web pages of repositories name them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def dangling(document: Path, text: str) -> list[str]:
    """Links of a document to a file or a heading that does not exist."""
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, heading = link.partition("#")
        file = document.parent / name if name else document
        if "://" in link or (file.exists() and (not heading or heading in anchors(file))):
            continue
        found.append(link)
    return found


def test_links_between_documents_lead_somewhere() -> None:
    assert {str(one): found for one in DOCUMENTS if (found := dangling(one, one.read_text()))} == {}
    wrong = "[a](docs/gone.md), [b](docs/your-model.md#gone), [c](#gone), [d](docs/your-model.md#4-name-it)"
    assert dangling(REPOSITORY / "README.md", wrong) == ["docs/gone.md", "docs/your-model.md#gone", "#gone"]


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
