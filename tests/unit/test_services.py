"""The table of services: what it takes, what it refuses in one sentence, and what follows from it."""

import sys
from pathlib import Path

import pytest

from sightglass.facts import declarations, services, settings
from sightglass.facts.errors import UserError
from sightglass.facts.services import Service

ENTRY = {"kind": "asgi", "application": "house.service:app", "declaration": "house.declaration:HOUSE", "port": 8123}
DECLARED = """
from ml_telemetry.declaration import Declaration, Feature, Kind, Stage, Task
HOUSE = Declaration(name="house", task=Task.REGRESSION, stages=(Stage(name="predict"),), features=(
    Feature(name="area", kind=Kind.NUMBER, unit="m2", description="Area."),))
"""


def written(where: Path, name: str = "house-prices", **changes: object) -> Path:
    file = where / "services.yaml"
    entry = {key: value for key, value in {**ENTRY, **changes}.items() if value is not None}
    file.write_text(f"{name}:\n" + "".join(f"  {key}: {value}\n" for key, value in entry.items()))
    return file


def test_an_entry_has_what_the_stack_needs(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (service,) = services.read(written(tmp_path, folder="code"))
    assert (service.name, service.port_name, service.folder) == ("house-prices", "house_prices", tmp_path / "code")
    assert service.python == Path(sys.executable)
    assert [(one.track, one.port, one.replicas) for one in service.instances] == [("stable", 8123, 1)]
    assert service.arguments("127.0.0.1", 9)[:5] == ["-m", "uvicorn", "house.service:app", "--host", "127.0.0.1"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kind": "flask"}, "does not fit: kind: Input should be 'bentoml' or 'asgi'"),
        ({"application": "house"}, "does not fit: application"),
        ({"declaration": None}, "does not fit: declaration: Field required"),
        ({"port": 70000}, "does not fit: port"),
        ({"colour": "red"}, "does not fit: colour: Extra inputs are not permitted"),
        ({"folder": "nowhere"}, "which is not there"),
        ({"python": "nowhere/bin/python"}, "which is not there"),
        ({"name": "House"}, "does not fit: name"),
    ],
)
def test_what_does_not_fit_is_one_sentence(tmp_path: Path, changes: dict[str, str], sentence: str) -> None:
    name = changes.pop("name", "house-prices")
    with pytest.raises(UserError) as refused:
        services.read(written(tmp_path, name, **changes))
    assert sentence in refused.value.message
    assert "\n" not in refused.value.message


@pytest.mark.parametrize(("text", "sentence"), [("- a\n", "one entry for each service"), ("a: [", "is no YAML")])
def test_what_is_no_table_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "services.yaml").write_text(text)
    with pytest.raises(UserError, match=sentence):
        services.read(tmp_path / "services.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        services.read(tmp_path / "none.yaml")


def test_the_users_services_join_and_one_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTGLASS_SERVICES", str(written(tmp_path)))
    loaded = settings.load()
    ours = [service.name for service in settings.SERVICES]
    assert [service.name for service in loaded.observed] == [*ours, "house-prices"]
    assert loaded.ports["house_prices"] == 8123 + loaded.port_offset
    monkeypatch.setenv("SIGHTGLASS_HOUSE_PRICES_PORT", "8999")
    assert settings.load().ports["house_prices"] == 8999
    monkeypatch.setenv("WITHOUT", f"{ours[0]}, grafana")
    assert [service.name for service in settings.load().observed] == [*ours[1:], "house-prices"]
    monkeypatch.setenv("WITHOUT", ",".join([*ours, "house-prices"]))
    with pytest.raises(UserError, match="WITHOUT leaves no service"):
        settings.load().require_services()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("tempo", "has the name of a component"), (settings.SERVICE, "Two services have the name")],
)
def test_a_name_is_there_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, sentence: str) -> None:
    monkeypatch.setenv("SIGHTGLASS_SERVICES", str(written(tmp_path, name)))
    with pytest.raises(UserError, match=sentence):
        settings.load()


def test_the_earlier_variable_still_moves_the_first_service(monkeypatch: pytest.MonkeyPatch) -> None:
    first = settings.SERVICES[0].port_name
    monkeypatch.setenv("SIGHTGLASS_SERVICE_PORT", "8555")
    assert settings.load().ports[first] == 8555
    monkeypatch.setenv(f"SIGHTGLASS_{first.upper()}_PORT", "8556")
    assert settings.load().ports[first] == 8556


def house(folder: Path, text: str) -> Service:
    package = folder / "house"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "declaration.py").write_text(text)
    return services.read(written(folder))[0]


def test_a_declaration_is_read_by_the_services_own_python(tmp_path: Path) -> None:
    assert declarations.of(house(tmp_path, DECLARED)).name == "house"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("HOUSE = 1\n", "is a int, not a Declaration"),
        ("import no_such_module\n", "There is no module 'no_such_module'"),
        (DECLARED.replace('"house"', '"A house"'), "cannot work"),
        ("HOUSE = [\n", "SyntaxError"),
    ],
)
def test_a_declaration_that_cannot_be_read_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as refused:
        declarations.of(house(tmp_path, text))
    assert "\n" not in refused.value.message
