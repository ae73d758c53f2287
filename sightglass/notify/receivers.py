"""Whom Alertmanager notifies: the log always, people where the environment names a channel."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import yaml
from pydantic import SecretStr

from sightglass.facts.errors import UserError
from sightglass.facts.settings import PREFIX, Settings

CONFIGURATION = "alertmanager.yaml"
CHANNELS = "channels"
"""Folder, relative to Alertmanager's working directory, of the files that hold addresses and keys."""
LOG_ADDRESS = "log.url"
"""File in it that holds where notifications are stored."""
PEOPLE = "people"
"""Receiver of the run copy that has every channel of the environment."""
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")

_TITLE = "{{ .Status | toUpper }}: {{ .GroupLabels.alertname }}{{ with .CommonLabels.service_name }} ({{ . }}){{ end }}"


def _each(*lines: str) -> str:
    """Text with these lines for each alert of a notification."""
    return "{{ range .Alerts }}" + "\n".join(lines) + "\n{{ end }}"


_MAIL = _each(
    "{{ .Status | toUpper }}: {{ .Annotations.summary }}",
    "{{ .Annotations.description }}",
    "Runbook:   {{ .Annotations.runbook_url }}",
    "Dashboard: {{ .Annotations.dashboard_url }}",
    "Traces:    {{ .Annotations.traces_url }}",
)
_SLACK = _each(
    "*{{ .Annotations.summary }}*",
    "{{ .Annotations.description }}",
    "<{{ .Annotations.runbook_url }}|Runbook> · <{{ .Annotations.dashboard_url }}|Dashboard>"
    " · <{{ .Annotations.traces_url }}|Traces>",
)
_LINKS = {"Runbook": "runbook_url", "Dashboard": "dashboard_url", "Traces": "traces_url"}


@dataclass(frozen=True)
class Channel:
    """One way to people: its name, the receiver's entry, and the secrets by their file's name."""

    name: str
    kind: str
    configuration: dict[str, Any]
    secrets: dict[str, str] = field(default_factory=dict)


def variable(name: str) -> str:
    """Environment variable of a field of the settings."""
    return PREFIX + name.upper()


def channels(settings: Settings) -> list[Channel]:
    """The channels that the environment names; a value that does not fit raises :class:`UserError`."""
    found = (make(settings) for make in _CHANNELS)
    return [channel for channel in found if channel is not None]


def configuration(native: str, settings: Settings) -> str:
    """What Alertmanager reads: the native file, with one receiver more where the environment names a channel."""
    ways = channels(settings)
    return _with_people(native, ways) if ways else native


def secret_files(settings: Settings, alerts_url: str) -> dict[str, str]:
    """Text of every file of :data:`CHANNELS` by name; ``alerts_url`` is the Collector's port for notifications."""
    files = {LOG_ADDRESS: f"{alerts_url}/alerts"}
    for way in channels(settings):
        files |= way.secrets
    return files


def ports(settings: Settings) -> list[int]:
    """TCP ports that the channels are reached at; a policy of a cluster has to allow them."""
    found: set[int] = set()
    for secret in (settings.alert_webhook_url, settings.alert_slack_url):
        if secret is not None:
            parts = urlsplit(secret.get_secret_value())
            found.add(parts.port or (80 if parts.scheme == "http" else 443))
    if settings.alert_pagerduty_key is not None:
        found.add(443)
    if settings.alert_smtp is not None:
        found.add(int(settings.alert_smtp.rpartition(":")[2]))
    return sorted(found)


def sentence(settings: Settings) -> str:
    """Where alerts go, for people; never a secret."""
    names = [way.name for way in channels(settings)]
    if not names:
        wanted = ("alert_webhook_url", "alert_slack_url", "alert_pagerduty_key", "alert_email_to")
        return (
            'Alerts go to the log only ({service_name="alertmanager"} in Loki); '
            f"set {', '.join(map(variable, wanted[:-1]))} or {variable(wanted[-1])} to notify people."
        )
    return f"Alerts go to {', '.join(['the log', *names[:-1]])} and {names[-1]}."


def _with_people(native: str, ways: list[Channel]) -> str:
    content = yaml.safe_load(native)
    receiver: dict[str, Any] = {"name": PEOPLE}
    for way in ways:
        receiver[way.kind] = [way.configuration]
    content["receivers"].append(receiver)
    route = content["route"]
    # What the native routes keep from people is taken by them first; all else goes to people and then to the log.
    route["routes"] = [*route["routes"], {"receiver": PEOPLE, "continue": True}, {"receiver": route["receiver"]}]
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000)


def _file(name: str) -> str:
    return f"{CHANNELS}/{name}"


def _address(secret: SecretStr | None, name: str) -> str | None:
    if secret is None:
        return None
    address = secret.get_secret_value()
    if not _is_address(address):
        raise UserError(f"{variable(name)} is no http or https address: set it anew or unset it.")
    return address


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        # A port that is no number is found out when it is asked for.
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
            and not re.search(r"\s", text)
        )
    except ValueError:
        return False


def _webhook(settings: Settings) -> Channel | None:
    address = _address(settings.alert_webhook_url, "alert_webhook_url")
    if address is None:
        return None
    entry = {"url_file": _file("webhook.url"), "send_resolved": True}
    return Channel("webhook", "webhook_configs", entry, {"webhook.url": address})


def _slack(settings: Settings) -> Channel | None:
    address = _address(settings.alert_slack_url, "alert_slack_url")
    if address is None:
        return None
    entry = {"api_url_file": _file("slack.url"), "send_resolved": True, "title": _TITLE, "text": _SLACK}
    return Channel("Slack", "slack_configs", entry, {"slack.url": address})


def _pagerduty(settings: Settings) -> Channel | None:
    secret = settings.alert_pagerduty_key
    if secret is None:
        return None
    key = secret.get_secret_value()
    if not re.fullmatch(r"[A-Za-z0-9]{32}", key):
        raise UserError(
            f"{variable('alert_pagerduty_key')} is no integration key, which has 32 letters and digits: "
            "set it anew or unset it."
        )
    entry = {
        "routing_key_file": _file("pagerduty.key"),
        "send_resolved": True,
        "description": _TITLE,
        # PagerDuty's own scale; a ticket may wait until the morning.
        "severity": '{{ if eq .CommonLabels.severity "page" }}critical{{ else }}warning{{ end }}',
        "details": {"alerts": _each("{{ .Annotations.summary }}", "{{ .Annotations.description }}")},
        "links": [
            {"text": text, "href": f"{{{{ (index .Alerts 0).Annotations.{name} }}}}"} for text, name in _LINKS.items()
        ],
    }
    return Channel("PagerDuty", "pagerduty_configs", entry, {"pagerduty.key": key})


def _email(settings: Settings) -> Channel | None:
    given = {
        name: getattr(settings, name)
        for name in ("alert_email_to", "alert_email_from", "alert_smtp", "alert_smtp_user", "alert_smtp_password")
        if getattr(settings, name) is not None
    }
    if not given:
        return None
    for name in ("alert_email_to", "alert_email_from", "alert_smtp"):
        if name not in given:
            raise UserError(f"{variable(next(iter(given)))} is set but {variable(name)} is not: e-mail needs both.")
    for name in ("alert_email_to", "alert_email_from"):
        if not re.fullmatch(r"[^@\s]+@[^@\s]+", given[name]):
            raise UserError(f"{variable(name)} is {given[name]!r}: set it to an e-mail address, or unset it.")
    host, _, port = given["alert_smtp"].rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise UserError(
            f"{variable('alert_smtp')} is {given['alert_smtp']!r}: set it to the mail server's host:port, "
            "e.g. smtp.example.org:587."
        )
    entry = {
        "to": given["alert_email_to"],
        "from": given["alert_email_from"],
        "smarthost": given["alert_smtp"],
        # Mail leaves this machine encrypted or not at all.
        "require_tls": host not in _LOOPBACK,
        "send_resolved": True,
        "headers": {"Subject": _TITLE},
        "text": _MAIL,
        "html": "",
    }
    user, password = given.get("alert_smtp_user"), given.get("alert_smtp_password")
    if (user is None) != (password is None):
        raise UserError(
            f"Only one of {variable('alert_smtp_user')} and {variable('alert_smtp_password')} is set: "
            "set both, or none where the mail server asks for none."
        )
    secrets = {}
    if user is not None and password is not None:
        entry |= {"auth_username": user, "auth_password_file": _file("smtp.password")}
        secrets = {"smtp.password": password.get_secret_value()}
    return Channel("e-mail", "email_configs", entry, secrets)


_CHANNELS: tuple[Callable[[Settings], Channel | None], ...] = (_webhook, _slack, _pagerduty, _email)
