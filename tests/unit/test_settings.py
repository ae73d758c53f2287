"""Settings and secrets: where they come from, and the sentence for each mistake."""

import json
import stat
from pathlib import Path

import pytest

from sightglass.facts import credentials, settings
from sightglass.facts.errors import UserError


def test_offset_moves_every_port_but_the_one_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTGLASS_PORT_OFFSET", "1000")
    monkeypatch.setenv("SIGHTGLASS_LOKI_HTTP_PORT", "5555")
    ports = settings.load().ports
    assert ports["loki_http"] == 5555
    assert {name: number - 1000 for name, number in ports.items() if name != "loki_http"} == {
        port.name: port.default for port in settings.PORTS if port.name != "loki_http"
    }


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("SIGHTGLASS_PORT_OFFSET", "many", "SIGHTGLASS_PORT_OFFSET does not fit"),
        ("SIGHTGLASS_PORT_OFFSET", "-1", "SIGHTGLASS_PORT_OFFSET does not fit"),
        ("SIGHTGLASS_ENVIRONMENT", "a b", "SIGHTGLASS_ENVIRONMENT does not fit"),
        ("SIGHTGLASS_MINIO_PORT", "0", "SIGHTGLASS_MINIO_PORT is '0': set it to a port number"),
        ("SIGHTGLASS_MINIO_PORT", "3100", "SIGHTGLASS_LOKI_HTTP_PORT and SIGHTGLASS_MINIO_PORT are both 3100"),
    ],
)
def test_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, sentence: str) -> None:
    monkeypatch.delenv("SIGHTGLASS_PORT_OFFSET", raising=False)
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=sentence):
        settings.load()


def test_secrets_are_made_once_and_for_their_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "state" / "credentials.json"
    made = credentials.load_or_create(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert credentials.load_or_create(file) == credentials.load(file) == made
    other = credentials.load_or_create(tmp_path / "other.json")
    assert made.root.secret_key != other.root.secret_key
    assert len({made.root.secret_key, made.loki.secret_key, made.tempo.secret_key, made.reader.secret_key}) == 4


def test_secrets_that_others_can_read_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "credentials.json"
    credentials.load_or_create(file)
    file.chmod(0o644)
    with pytest.raises(UserError, match=f"chmod 600 {file}"):
        credentials.load(file)


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"root": {"access_key": "x"}})])
def test_damaged_secrets_are_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "credentials.json"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(UserError, match="is damaged"):
        credentials.load(file)


def test_no_stack_yet(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make up"):
        credentials.load(tmp_path / "credentials.json")
