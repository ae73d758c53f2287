"""Where alerts go: what the environment names, checked by Alertmanager's own tool."""

import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from sightglass.facts import credentials, settings
from sightglass.facts.errors import UserError
from sightglass.local import components, up
from sightglass.local.components import HELM_CONFIG, Component
from sightglass.notify import receivers

NATIVE = (HELM_CONFIG / "alertmanager" / "alertmanager.yaml").read_text()
KEY = "0123456789abcdef0123456789abcdef"
SECRETS = {
    "SIGHTGLASS_ALERT_WEBHOOK_URL": "https://webhook.example.org/secret-of-webhook",
    "SIGHTGLASS_ALERT_SLACK_URL": "https://hooks.slack.example.org/services/secret-of-slack",
    "SIGHTGLASS_ALERT_PAGERDUTY_KEY": KEY,
    "SIGHTGLASS_ALERT_SMTP_PASSWORD": "secret-of-smtp",
}
MAIL = {
    "SIGHTGLASS_ALERT_EMAIL_TO": "people@example.org",
    "SIGHTGLASS_ALERT_EMAIL_FROM": "alerts@example.org",
    "SIGHTGLASS_ALERT_SMTP": "smtp.example.org:587",
}
ALL = {**SECRETS, **MAIL, "SIGHTGLASS_ALERT_SMTP_USER": "alerts"}
CHANNELS = {
    "webhook": ({"SIGHTGLASS_ALERT_WEBHOOK_URL": SECRETS["SIGHTGLASS_ALERT_WEBHOOK_URL"]}, "webhook_configs"),
    "Slack": ({"SIGHTGLASS_ALERT_SLACK_URL": SECRETS["SIGHTGLASS_ALERT_SLACK_URL"]}, "slack_configs"),
    "PagerDuty": ({"SIGHTGLASS_ALERT_PAGERDUTY_KEY": KEY}, "pagerduty_configs"),
    "e-mail": (MAIL, "email_configs"),
}


def loaded(monkeypatch: pytest.MonkeyPatch, **environment: str) -> settings.Settings:
    for name in settings.Settings.model_fields:
        if name.startswith("alert_"):
            monkeypatch.delenv(receivers.variable(name), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return settings.load()


def files(monkeypatch: pytest.MonkeyPatch, **environment: str) -> dict[str, str]:
    """The configuration, and the files of the channels, by name."""
    known = loaded(monkeypatch, **environment)
    channels = receivers.secret_files(known, known.url("collector_alerts"))
    return {receivers.CONFIGURATION: receivers.configuration(NATIVE, known), **channels}


def people(text: str) -> dict[str, Any]:
    """The receiver of people by kind of channel; empty where there is none."""
    found = [receiver for receiver in yaml.safe_load(text)["receivers"] if receiver["name"] == receivers.PEOPLE]
    return {kind: value for receiver in found for kind, value in receiver.items() if kind != "name"}


def test_with_nothing_set_the_native_file_runs_and_up_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    made = files(monkeypatch)
    assert made == {
        "alertmanager.yaml": NATIVE,
        "log.url": f"http://127.0.0.1:{settings.load().ports['collector_alerts']}/alerts",
    }
    said = receivers.sentence(loaded(monkeypatch))
    assert said.startswith('Alerts go to the log only ({service_name="alertmanager"} in Loki); set SIGHTGLASS_ALERT_')
    for variables, _ in CHANNELS.values():
        assert next(iter(variables)) in said


def test_empty_variable_names_no_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    assert files(monkeypatch, **dict.fromkeys(ALL, ""))["alertmanager.yaml"] == NATIVE


@pytest.mark.parametrize("name", CHANNELS)
def test_each_variable_adds_its_channel_and_no_other(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    environment, kind = CHANNELS[name]
    made = files(monkeypatch, **environment)
    found = people(made["alertmanager.yaml"])
    assert list(found) == [kind]
    assert found[kind][0]["send_resolved"] is True
    assert receivers.sentence(loaded(monkeypatch, **environment)) == f"Alerts go to the log and {name}."


def test_every_channel_at_once_and_no_secret_outside_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    made = files(monkeypatch, **ALL)
    assert list(people(made["alertmanager.yaml"])) == [kind for _, kind in CHANNELS.values()]
    holding = {name: [file for file, text in made.items() if text == value] for name, value in SECRETS.items()}
    assert holding == {
        "SIGHTGLASS_ALERT_WEBHOOK_URL": ["webhook.url"],
        "SIGHTGLASS_ALERT_SLACK_URL": ["slack.url"],
        "SIGHTGLASS_ALERT_PAGERDUTY_KEY": ["pagerduty.key"],
        "SIGHTGLASS_ALERT_SMTP_PASSWORD": ["smtp.password"],
    }
    said = receivers.sentence(settings.load())
    assert said == "Alerts go to the log, webhook, Slack, PagerDuty and e-mail."
    for secret in SECRETS.values():
        assert secret not in made["alertmanager.yaml"] + said + repr(settings.load())


def test_mail_is_encrypted_unless_it_stays_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    made = people(files(monkeypatch, **MAIL)["alertmanager.yaml"])["email_configs"][0]
    assert made["require_tls"] is True
    local = files(monkeypatch, **{**MAIL, "SIGHTGLASS_ALERT_SMTP": "127.0.0.1:25"})
    assert people(local["alertmanager.yaml"])["email_configs"][0]["require_tls"] is False


@pytest.mark.parametrize("kind", ["slack_configs", "email_configs", "pagerduty_configs"])
def test_messages_say_what_happened_and_where_to_look(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    text = str(people(files(monkeypatch, **ALL)["alertmanager.yaml"])[kind])
    for annotation in ("summary", "description", "runbook_url", "dashboard_url", "traces_url"):
        assert f"Annotations.{annotation}" in text


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"SIGHTGLASS_ALERT_WEBHOOK_URL": "somewhere"}, "SIGHTGLASS_ALERT_WEBHOOK_URL is no http or https address"),
        ({"SIGHTGLASS_ALERT_WEBHOOK_URL": "ftp://example.org"}, "SIGHTGLASS_ALERT_WEBHOOK_URL is no http or https"),
        ({"SIGHTGLASS_ALERT_WEBHOOK_URL": "https://host:x/"}, "SIGHTGLASS_ALERT_WEBHOOK_URL is no http or https"),
        ({"SIGHTGLASS_ALERT_WEBHOOK_URL": "https://host:99999/"}, "SIGHTGLASS_ALERT_WEBHOOK_URL is no http or https"),
        ({"SIGHTGLASS_ALERT_WEBHOOK_URL": "http://[abc"}, "SIGHTGLASS_ALERT_WEBHOOK_URL is no http or https address"),
        ({"SIGHTGLASS_ALERT_SLACK_URL": "https://"}, "SIGHTGLASS_ALERT_SLACK_URL is no http or https address"),
        ({"SIGHTGLASS_ALERT_PAGERDUTY_KEY": "short"}, "SIGHTGLASS_ALERT_PAGERDUTY_KEY is no integration key"),
        ({"SIGHTGLASS_ALERT_EMAIL_TO": "a@example.org"}, "SIGHTGLASS_ALERT_EMAIL_FROM is not"),
        ({**MAIL, "SIGHTGLASS_ALERT_SMTP": ""}, "SIGHTGLASS_ALERT_EMAIL_TO is set but SIGHTGLASS_ALERT_SMTP is not"),
        ({"SIGHTGLASS_ALERT_SMTP": "a:25"}, "SIGHTGLASS_ALERT_SMTP is set but SIGHTGLASS_ALERT_EMAIL_TO is not"),
        ({**MAIL, "SIGHTGLASS_ALERT_EMAIL_TO": "nobody"}, "SIGHTGLASS_ALERT_EMAIL_TO is 'nobody': set it to an e-mail"),
        ({**MAIL, "SIGHTGLASS_ALERT_SMTP": "example.org"}, "SIGHTGLASS_ALERT_SMTP is 'example.org': .*host:port"),
        ({**MAIL, "SIGHTGLASS_ALERT_SMTP_USER": "a"}, "Only one of SIGHTGLASS_ALERT_SMTP_USER and .*_PASSWORD is set"),
        ({"SIGHTGLASS_ALERT_PACE": "0.5"}, "SIGHTGLASS_ALERT_PACE does not fit"),
    ],
)
def test_wrong_value_is_named_and_no_secret_is_printed(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        files(monkeypatch, **environment)
    for name in set(SECRETS) & set(environment):
        assert environment[name] not in str(error.value)


def test_ports_are_those_of_the_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    assert receivers.ports(loaded(monkeypatch)) == []
    assert receivers.ports(loaded(monkeypatch, SIGHTGLASS_ALERT_WEBHOOK_URL="http://example.org:8080/x")) == [8080]
    assert receivers.ports(loaded(monkeypatch, SIGHTGLASS_ALERT_WEBHOOK_URL="http://example.org/x")) == [80]
    assert receivers.ports(loaded(monkeypatch, **{**MAIL, "SIGHTGLASS_ALERT_SMTP": "example.org:587"})) == [587]
    assert 443 in receivers.ports(loaded(monkeypatch, **ALL))


def planned(monkeypatch: pytest.MonkeyPatch, folder: Path, **environment: str) -> Component:
    monkeypatch.setenv("SIGHTGLASS_STATE_DIR", str(folder))
    made = components.build(loaded(monkeypatch, **environment), credentials.Credentials(), up.PLANNED_PROGRAMS, None)
    return next(component for component in made if component.name == "alertmanager")


def test_changed_receiver_restarts_alertmanager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    none = planned(monkeypatch, tmp_path).digest()
    assert planned(monkeypatch, tmp_path).digest() == none
    one = planned(monkeypatch, tmp_path, SIGHTGLASS_ALERT_WEBHOOK_URL="http://example.org/1").digest()
    # Only the file with the address differs.
    other = planned(monkeypatch, tmp_path, SIGHTGLASS_ALERT_WEBHOOK_URL="http://example.org/2").digest()
    assert len({none, one, other}) == 3


def run_folder(monkeypatch: pytest.MonkeyPatch, folder: Path, **environment: str) -> Path:
    component = planned(monkeypatch, folder, **environment)
    assert component.prepare
    component.prepare()
    assert component.directory
    return component.directory


def test_run_folder_is_for_its_owner_only_and_forgets_a_channel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = run_folder(monkeypatch, tmp_path, **ALL)
    channels = folder / receivers.CHANNELS
    assert {file.name for file in channels.iterdir()} == {
        *("log.url", "webhook.url", "slack.url", "pagerduty.key", "smtp.password")
    }
    modes = {stat.S_IMODE(file.stat().st_mode) for file in (folder / "alertmanager.yaml", *channels.iterdir())}
    assert modes == {0o600}
    run_folder(monkeypatch, tmp_path)
    assert {file.name for file in channels.iterdir()} == {"log.url"}


@pytest.fixture
def amtool(programs: Mapping[str, Path]) -> Path:
    return programs["amtool"]


def check(amtool: Path, file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(amtool), "check-config", str(file)], capture_output=True, text=True, check=False)


def test_run_file_with_every_channel_passes_amtool(
    amtool: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = run_folder(monkeypatch, tmp_path, **ALL, SIGHTGLASS_ALERT_PACE="10") / "alertmanager.yaml"
    done = check(amtool, file)
    assert done.returncode == 0, done.stderr
    assert "2 receivers" in done.stdout
    file.write_text(file.read_text().replace("routing_key_file", "key_of_route_file"))
    broken = check(amtool, file)
    assert broken.returncode != 0
    assert "key_of_route_file not found" in broken.stdout + broken.stderr


@pytest.mark.parametrize(
    ("environment", "labels", "expected"),
    [
        (ALL, ["alertname=ServerDown", "severity=page"], "people,log"),
        (ALL, ["alertname=IngestDelay", "severity=ticket"], "people,log"),
        (ALL, ["alertname=Watchdog", "severity=none"], "log"),
        ({}, ["alertname=ServerDown", "severity=page"], "log"),
        ({}, ["alertname=Watchdog", "severity=none"], "log"),
    ],
)
def test_routes_as_amtool_walks_them(
    amtool: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    environment: dict[str, str],
    labels: list[str],
    expected: str,
) -> None:
    file = run_folder(monkeypatch, tmp_path, **environment) / "alertmanager.yaml"
    command = [str(amtool), "config", "routes", "test", f"--config.file={file}", *labels]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, expected), done.stderr
