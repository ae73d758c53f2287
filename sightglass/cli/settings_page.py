"""The page of all settings: ``python -m sightglass.cli.settings_page`` writes it, as `make generate` does."""

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import AliasChoices
from pydantic.fields import FieldInfo

from sightglass.facts.settings import PORTS, PREFIX, REPOSITORY, SERVICES, Settings
from sightglass.kubernetes.options import KubernetesSettings

PAGE = REPOSITORY / "docs" / "settings.md"
_HEAD = """# Settings

Written by `make generate`. Each is an environment variable; a value that does not fit is named in one sentence. Where
two names stand, the second is an older one that does the same.
"""
OTHERS = (
    ("PIP_INDEX_URL", "Where the packages of the image come from, used while it is built only", "PyPI"),
    ("SIGHTGLASS_MODELS_DIR", "The store of models; the runner and the image set it", ""),
    (
        "SIGHTGLASS_MODEL_VERSION",
        "The version for people of a model in an image; `sightglass deploy` sets it",
        "the model's digest",
    ),
    ("SIGHTGLASS_YES`, `YES", "`1` answers the question of `clean` and `undeploy` with yes", ""),
)
"""What other programs define, or commands; our own are the fields of the two classes."""


def text() -> str:
    """The whole page."""
    parts = [
        _HEAD,
        "## The stack, on both targets\n",
        *_table(_rows(Settings.model_fields)),
        "\n## A cluster\n",
        *_table(_rows({n: f for n, f in KubernetesSettings.model_fields.items() if n != "without"})),
        "\n## Ports\n\nEverything listens on 127.0.0.1.\n",
        "| Port | Component | For | Variable |",
        "|---|---|---|---|",
        *(f"| {port.default} | {port.component} | {port.purpose} | {_variables(port)} |" for port in PORTS),
        "\n## Of other programs\n",
        *_table((*_of_services(), *OTHERS)),
        "\nWhat a service may be told stands in [your model](your-model.md#settings-of-the-service).",
    ]
    return "\n".join(parts) + "\n"


def _of_services() -> Iterator[tuple[str, str, str]]:
    """What the services of the table read, as the table has it."""
    for service in SERVICES:
        for name, meaning in service.variables:
            yield name, meaning, ""


def _variables(port: Any) -> str:
    return ", ".join(f"`{name}`" for name in (port.variable, port.older) if name)


def _table(rows: Iterable[tuple[str, str, str]]) -> Iterator[str]:
    yield "| Variable | Meaning | Default |"
    yield "|---|---|---|"
    for name, meaning, default in rows:
        yield f"| `{name}` | {meaning} | {default} |".replace("|  |", "| |")


def _rows(fields: dict[str, FieldInfo]) -> Iterator[tuple[str, str, str]]:
    for name, field in fields.items():
        alias = field.validation_alias
        names = [str(one) for one in alias.choices] if isinstance(alias, AliasChoices) else [f"{PREFIX}{name.upper()}"]
        yield "`, `".join(names), field.description or "", _default(field)


def _default(field: FieldInfo) -> str:
    if field.default_factory is not None:
        return "the user's cache folder"
    value = field.default
    if value in (None, "", REPOSITORY / ".sightglass"):
        return "`.sightglass`" if value else ""
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


if __name__ == "__main__":
    if not PAGE.exists() or PAGE.read_text() != text():
        PAGE.write_text(text())
        print(f"wrote {PAGE.relative_to(REPOSITORY)}")
