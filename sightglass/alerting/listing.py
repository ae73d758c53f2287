"""What fires and why: Prometheus' side of every alert joined with Alertmanager's, for ``make alerts``."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from sightglass.clients import backends
from sightglass.clients.backends import Alertmanager
from sightglass.facts.target import Target

WATCHDOG = "Watchdog"
_COMMON = frozenset({"alertname", "severity", "service_namespace", "deployment_environment_name"})
"""Labels that every alert of a stack has, or that are shown by themselves."""
_LINKS = {"runbook": "runbook_url", "dashboard": "dashboard_url", "traces": "traces_url"}
_STATES = ("firing", "pending")


@dataclass(frozen=True)
class Alert:
    """One alert as both servers know it; ``since`` is Unix seconds, ``value`` the expression's last one, None
    where that is no finite number.

    ``silenced`` and ``inhibited`` hold the ids of what keeps it from people; ``receivers`` is empty until
    Alertmanager has heard of it.
    """

    name: str
    severity: str
    state: str
    since: float
    labels: dict[str, str]
    summary: str
    description: str
    value: float | None
    expression: str
    silenced: list[str]
    inhibited: list[str]
    receivers: list[str]
    links: dict[str, str]


@dataclass(frozen=True)
class Listing:
    """Every alert but the Watchdog, and how many seconds ago Alertmanager heard that: None when it has not.

    ``broken`` holds a sentence for each rule that Prometheus cannot evaluate.
    """

    alerts: list[Alert]
    watchdog: float | None
    broken: list[str]

    def as_json(self) -> str:
        """The form that ``alerts --json`` prints."""
        return json.dumps(
            {
                "watchdog": {"heard": self.watchdog is not None, "seconds": self.watchdog},
                "broken_rules": self.broken,
                "alerts": [asdict(alert) for alert in self.alerts],
            },
            indent=2,
        )


def ask(target: Target) -> Listing:
    """Ask both servers; :class:`sightglass.clients.polling.NotYet` with a sentence when one of them does not answer."""
    answer = backends.get("prometheus", f"{target.prometheus_url}/api/v1/rules", {"type": "alert"}).json()
    heard = Alertmanager(target.alertmanager_url).alerts()
    return combine(answer["data"]["groups"], heard, datetime.now(UTC))


def combine(groups: Sequence[Mapping[str, Any]], heard: Sequence[Mapping[str, Any]], now: datetime) -> Listing:
    """Join rule groups as Prometheus' API has them with alerts as Alertmanager's API has them."""
    rules = [rule for group in groups for rule in group["rules"] if rule["type"] == "alerting"]
    known = {_key(alert["labels"]): alert for alert in heard}
    ages = [
        (now - _time(alert["updatedAt"])).total_seconds()
        for alert in heard
        if alert["labels"]["alertname"] == WATCHDOG and _time(alert["endsAt"]) > now
    ]
    alerts = [alert for rule in rules if rule["name"] != WATCHDOG for alert in _alerts(rule, known)]
    return Listing(
        alerts=sorted(alerts, key=lambda alert: (_STATES.index(alert.state), alert.severity, alert.since)),
        watchdog=round(max(0.0, min(ages)), 1) if ages else None,
        broken=[f"{rule['name']} cannot be evaluated: {rule['lastError']}" for rule in rules if rule.get("lastError")],
    )


def _alerts(rule: Mapping[str, Any], known: Mapping[frozenset[tuple[str, str]], Mapping[str, Any]]) -> Iterator[Alert]:
    for found in rule["alerts"]:
        labels, notes = found["labels"], found["annotations"]
        # Alertmanager has no pending alerts, and none that began a moment ago.
        other = known.get(_key(labels), {"status": {"silencedBy": [], "inhibitedBy": []}, "receivers": []})
        yield Alert(
            name=rule["name"],
            severity=labels.get("severity", ""),
            state=found["state"],
            since=_time(found["activeAt"]).timestamp(),
            labels={name: value for name, value in labels.items() if name not in _COMMON},
            summary=notes.get("summary", ""),
            description=notes.get("description", ""),
            value=value if math.isfinite(value := float(found["value"])) else None,
            expression=rule["query"],
            silenced=list(other["status"]["silencedBy"]),
            inhibited=list(other["status"]["inhibitedBy"]),
            receivers=[receiver["name"] for receiver in other["receivers"]],
            links={name: notes[key] for name, key in _LINKS.items() if notes.get(key)},
        )


def _key(labels: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def show(listing: Listing, console: Console) -> None:
    """Print the listing for people; texts of rules are printed as they are, never as markup."""
    if listing.watchdog is None:
        console.print("[red]alerting does not work: Alertmanager does not hear the Watchdog, which always fires[/]")
    else:
        console.print(f"alerting works: Watchdog heard {listing.watchdog:.0f} s ago")
    for sentence in listing.broken:
        console.print(Text(sentence, style="red"))
    if not listing.alerts:
        console.print("[green]Clear: nothing is firing or pending.[/]")
    for alert in listing.alerts:
        # Never folded: an address must stay one word to be opened.
        console.print(_block(alert), soft_wrap=True)


def _block(alert: Alert) -> Text:
    since = datetime.fromtimestamp(alert.since).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    style = {"firing": "bold red", "pending": "yellow"}[alert.state]
    block = Text.assemble(
        (f"\n{alert.state} {alert.name}", style), f" ({alert.severity or 'no severity'}) since {since}"
    )
    rows = {
        "summary": alert.summary,
        "description": alert.description,
        "labels": ", ".join(f"{name}={value}" for name, value in sorted(alert.labels.items())),
        "value": "" if alert.value is None else f"{alert.value:g}",
        "because": " ".join(alert.expression.split()),
        "kept back": _kept_back(alert),
        "receivers": ", ".join(alert.receivers),
        **alert.links,
    }
    for name, text in rows.items():
        if text:
            block.append(f"\n{name:<13}", "dim").append(text)
    return block


def _kept_back(alert: Alert) -> str:
    reasons = (("silenced by", alert.silenced), ("inhibited by", alert.inhibited))
    return "; ".join(f"{reason} {', '.join(ids)}" for reason, ids in reasons if ids)
