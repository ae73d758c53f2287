"""Keyed hashes of texts: what a line tells, how keys are replaced, and how a text is found under any of them."""

from __future__ import annotations

import hashlib
import hmac
import json
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner

from ml_telemetry import hashing, signals
from ml_telemetry.events import log_prediction
from ml_telemetry.hashing import TextHash
from ml_telemetry.record import BatchRecord, Connection, PredictionRecord, RequestRecord
from sightglass.cli.commands import main
from sightglass.facts import credentials, environments, hash_keys
from sightglass.facts.cluster import ClusterTopology
from sightglass.facts.credentials import Credentials
from sightglass.kubernetes import secrets, workloads
from text_classifier.declaration import CONTRACT

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
TEXT = "a puck in the net"


def test_hash_is_keyed() -> None:
    one, other = TextHash("a", b"1" * 32), TextHash("b", b"2" * 32)
    assert one("ä") == hmac.new(b"1" * 32, "ä".encode(), hashlib.sha256).hexdigest()
    assert len({one("ä"), one("a"), other("ä"), hashlib.sha256("ä".encode()).hexdigest()}) == 4


@pytest.mark.parametrize("value", ["secretkey", f"id:{'z' * 64}", "id:abcd", f"id :{'ab' * 32}", ":"])
def test_key_that_is_none_is_an_error_that_does_not_quote_it(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(hashing.KEY_VARIABLE, value)
    with pytest.raises(ValueError, match="32 to 128 hexadecimal") as caught:
        hashing.from_environment()
    assert value not in str(caught.value) or value == ":"
    monkeypatch.setenv(hashing.KEY_VARIABLE, f"id:{'ab' * 32}")
    assert hashing.from_environment() == TextHash("id", b"\xab" * 32)


@pytest.mark.parametrize("keyed", [True, False])
def test_line_has_a_hash_only_where_there_is_a_key(keyed: bool, capfd: pytest.CaptureFixture[str]) -> None:
    record = RequestRecord("0af7651916cd43dd8448eb211c80319c", "", True, "")
    record.connection = Connection("POST", "/predict", "http", "1.1", "localhost", 3000, "127.0.0.1", "test")
    record.prediction = PredictionRecord()
    record.prediction.batch = BatchRecord(1)
    record.prediction.features = (1, 1, 1, 1, 1, 1, 1)
    if keyed:
        record.prediction.text_hash, record.prediction.hash_key_id = "ab", "key"
    log_prediction(record, CONTRACT, {}, "stable")
    line = json.loads(capfd.readouterr().out)
    found = {name: line.get(name) for name in (signals.INPUT_HASH.name, signals.INPUT_HASH_KEY_ID.name)}
    assert found == dict(zip(found, ("ab", "key") if keyed else (None, None), strict=True))


def test_each_stack_has_a_key_of_its_own_and_keeps_it(tmp_path: Path) -> None:
    one = credentials.load_or_create(tmp_path / "one" / "credentials.json")
    other = credentials.load_or_create(tmp_path / "other" / "credentials.json")
    assert len({key.key for made in (one, other) for key in made.hash_keys}) == 2
    assert credentials.load_or_create(tmp_path / "one" / "credentials.json") == one


def test_stack_from_before_gets_a_key_and_keeps_all_else(tmp_path: Path) -> None:
    file = tmp_path / "credentials.json"
    before = Credentials()
    raw = json.loads(credentials.to_json(before))
    del raw["hash_keys"]
    file.write_text(json.dumps(raw))
    file.chmod(0o600)
    assert credentials.load(file) == before
    after = credentials.load_or_create(file)
    assert replace(after, hash_keys=()) == before
    assert len(after.hash_keys) == 1
    assert credentials.load(file) == after
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_rotation_keeps_old_keys_as_long_as_lines_made_with_them() -> None:
    first = credentials.complete(Credentials())
    second = hash_keys.rotated(first, NOW)
    assert [key.retired for key in second.hash_keys] == [NOW.isoformat(timespec="seconds"), ""]
    assert second.hash_keys[0].key == first.hash_keys[0].key
    # Loki keeps lines for 31 days.
    assert hash_keys.kept_for() > timedelta(days=31)
    needed = NOW + hash_keys.kept_for()
    almost = hash_keys.rotated(second, needed - timedelta(seconds=1))
    assert [key.id for key in almost.hash_keys[:2]] == [key.id for key in second.hash_keys]
    late = hash_keys.rotated(second, needed)
    assert [key.id for key in late.hash_keys[:1]] == [second.hash_keys[1].id]
    assert len(late.hash_keys) == 2
    assert replace(late, hash_keys=()) == replace(first, hash_keys=())


def test_service_is_given_the_key_in_use_and_no_other() -> None:
    known = hash_keys.rotated(credentials.complete(Credentials()), NOW)
    old, used = known.hash_keys
    given = environments.service_keys(known)
    assert given[hashing.KEY_VARIABLE] == f"{used.id}:{used.key}"
    assert old.key not in str(given)
    assert hashing.KEY_VARIABLE not in environments.service_keys(Credentials())
    holding = {
        name
        for name, data in secrets.contents(known, ClusterTopology(), "token").items()
        if used.key in " ".join(data.values())
    }
    assert holding == {secrets.KEPT, workloads.KEYS}


def test_text_is_found_under_every_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTGLASS_STATE_DIR", str(tmp_path / "state"))
    file = tmp_path / "state" / "credentials.json"
    first = credentials.load_or_create(file)
    lines = [TextHash(first.hash_keys[0].id, bytes.fromhex(first.hash_keys[0].key))(TEXT)]
    done = CliRunner().invoke(main, ["rotate-hash-key"])
    assert (done.exit_code, done.exception) == (0, None)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    used = credentials.load(file).hash_keys[-1]
    assert used.id in done.output
    assert not any(key.key in done.output for key in credentials.load(file).hash_keys)
    lines.append(TextHash(used.id, bytes.fromhex(used.key))(TEXT))
    printed = CliRunner().invoke(main, ["hash"], input=f"{TEXT}\n")
    assert [row.split()[1] for row in printed.stdout.splitlines()] == lines
    assert "|".join(lines) in printed.stderr
    exact = CliRunner().invoke(main, ["hash", "--exact"], input=f"{TEXT}\n")
    assert [row.split()[1] for row in exact.stdout.splitlines()] != lines


def test_without_a_stack_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGHTGLASS_STATE_DIR", str(tmp_path / "none"))
    for command in (["rotate-hash-key"], ["hash"]):
        done = CliRunner().invoke(main, command, input=TEXT)
        assert done.exit_code != 0
        assert "make up" in done.output + str(done.exception), done.output
