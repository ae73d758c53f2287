"""Service level objectives: reads ``helm-config/slo.yaml`` and makes ``helm-config/prometheus/slo.rules.yaml`` of it.

    python -m sightglass.alerting.slo           # write
    python -m sightglass.alerting.slo --check   # exit status 1 if it is stale

Raw counters are read over five minutes only, into the recordings ``slo:sli_events:increase5m`` and
``slo:sli_bad_events:increase5m``; every longer window is an average of those, so that three days cost as little as one
hour. An average of counts divided by an average of counts weighs every event alike. Both are 0, never absent, without
traffic, for each service of the table.
"""

import re
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Final, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ml_telemetry import signals
from sightglass.alerting import files
from sightglass.alerting.observed import OBSERVED
from sightglass.alerting.promql import USERS, grown
from sightglass.alerting.rule import Alert, Group, Recording, Severity, percent, render
from sightglass.alerting.service_alerts import LABEL, requests_of
from sightglass.facts.durations import seconds
from sightglass.facts.errors import UserError
from sightglass.facts.settings import REPOSITORY

SLO_FILE: Final = REPOSITORY / "helm-config" / "slo.yaml"
RULES_FILE: Final = REPOSITORY / "helm-config" / "prometheus" / "slo.rules.yaml"
BASE: Final = "5m"
"""The window that is read from raw counters."""
LONG: Final = "1h"
"""Windows above this are evaluated with ``LONG_INTERVAL``, the others with ``INTERVAL``."""
INTERVAL, LONG_INTERVAL = "15s", "1m"

_ONE: Final = re.compile(r"\d+[smhd]")
_KEYS: Final = "slo, service_name"


def length(duration: str) -> timedelta:
    """A duration like ``30m`` or ``3d``, one number and one unit; raises :class:`ValueError` for anything else."""
    if not _ONE.fullmatch(duration):
        raise ValueError(f"{duration!r} is no duration: write a number and s, m, h or d, e.g. 30m")
    return timedelta(seconds=seconds(duration))


def _checked_duration(duration: str) -> str:
    length(duration)
    return duration


Duration = Annotated[str, AfterValidator(_checked_duration)]
Ratio = Annotated[Decimal, Field(gt=0, lt=1)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Availability(_Model):
    """Share of requests that are not answered with 5xx."""

    ratio: Ratio


class Latency(_Model):
    """Share of good answers that are sent within some seconds."""

    ratio: Ratio
    seconds: float

    @model_validator(mode="after")
    def _can_be_measured(self) -> "Latency":
        bounds = signals.HTTP_DURATION.bounds
        if self.seconds not in bounds:
            known = ", ".join(f"{bound:g}" for bound in bounds)
            raise ValueError(
                f"{self.seconds:g} s is no bucket bound of {signals.HTTP_DURATION.name}: use one of {known}"
            )
        return self


class Objectives(_Model):
    """The two objectives."""

    availability: Availability
    latency: Latency


class Window(_Model):
    """A long window that says that it matters, a short one that says that it goes on."""

    long: Duration
    short: Duration
    burn_rate: Annotated[Decimal, Field(gt=0)]

    @model_validator(mode="after")
    def _ordered(self) -> "Window":
        if not length(BASE) <= length(self.short) < length(self.long):
            raise ValueError(f"the short window {self.short} must be from {BASE} to below the long one, {self.long}")
        return self


class Policy(_Model):
    """When somebody is told, and how urgently."""

    severity: Literal["page", "ticket"]
    windows: Annotated[list[Window], Field(min_length=1)]
    minimum_bad_events: Annotated[int, Field(ge=1)]
    hold: Duration = Field(alias="for")


class Slo(_Model):
    """The file of objectives."""

    period: Duration
    objectives: Objectives
    alerts: dict[Annotated[str, Field(pattern="^[a-z]+$")], Policy]

    @model_validator(mode="after")
    def _can_fire(self) -> "Slo":
        for name, policy in self.alerts.items():
            for window in policy.windows:
                for objective, ratio in self.ratios.items():
                    if window.burn_rate * (1 - ratio) >= 1:
                        raise ValueError(
                            f"a burn rate of {window.burn_rate} ({name}) is more than the whole of {objective} "
                            f"at {ratio}: it could never be reached"
                        )
        return self

    @property
    def ratios(self) -> dict[str, Decimal]:
        """Objective by name."""
        return {"availability": self.objectives.availability.ratio, "latency": self.objectives.latency.ratio}

    @property
    def windows(self) -> list[str]:
        """Every window that an alert asks for, and the base, from short to long."""
        asked = {w for policy in self.alerts.values() for window in policy.windows for w in (window.long, window.short)}
        return sorted(asked | {BASE}, key=length)


def load(path: Path = SLO_FILE) -> Slo:
    """Read the file of objectives; raises :class:`UserError` that names what does not fit."""
    try:
        return Slo.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"]) or "the file"
        message = problem["msg"].removeprefix("Value error, ")
        raise UserError(f"{path}: {place} does not fit: {message}.") from None


def groups(slo: Slo) -> list[Group]:
    """Recording and alert rules: the short windows often, the long ones less often."""
    short = [window for window in slo.windows if length(window) <= length(LONG)]
    long = [window for window in slo.windows if length(window) > length(LONG)]
    by_speed: dict[bool, list[Alert]] = {True: [], False: []}
    for name, policy in slo.alerts.items():
        is_short = any(length(window.long) <= length(LONG) for window in policy.windows)
        by_speed[is_short] += [_alert(slo, objective, name, policy) for objective in slo.ratios]
    now = Recording(
        "slo:current_burn_rate:ratio",
        f"slo:sli_error:ratio_rate{BASE} / on ({_KEYS}) slo:error_budget:ratio",
    )
    remaining = Recording(
        "slo:period_error_budget_remaining:ratio",
        f"1 - ({_error_ratio(slo.period)}) / on ({_KEYS}) slo:error_budget:ratio",
    )
    return [
        Group(
            "slo",
            [*_objectives(slo), *_events(slo), *_ratios(short), now, *_counts(slo, short), *by_speed[True]],
            INTERVAL,
        ),
        Group("slo-long", [*_ratios(long), remaining, *_counts(slo, long), *by_speed[False]], LONG_INTERVAL),
    ]


def generated() -> dict[Path, str]:
    """Text by path of the one rules file."""
    source = f"{SLO_FILE.name} by `python -m sightglass.alerting.slo`"
    return {RULES_FILE: render(groups(load()), source)}


def _objectives(slo: Slo) -> list[Recording]:
    rules = []
    for objective, ratio in slo.ratios.items():
        labels = {"slo": objective}
        days = length(slo.period) / timedelta(days=1)
        values = {"objective:ratio": ratio, "error_budget:ratio": 1 - ratio, "period:days": f"{days:g}"}
        rules += [Recording(f"slo:{name}", f"{OBSERVED} * {value}", labels) for name, value in values.items()]
    return rules


def _events(slo: Slo) -> list[Recording]:
    """Events and bad events of the last five minutes, of all worker processes of a service together."""
    status = signals.HTTP_STATUS.label
    bound = f"{Decimal(str(slo.objectives.latency.seconds)).normalize():f}"

    def events(series: str, *matchers: str) -> str:
        selector = f"{signals.HTTP_DURATION.prometheus_name}_{series}{{{', '.join((USERS, *matchers))}}}"
        return grown(selector, BASE, "service_name", predictions=True)

    def or_none(expression: str) -> str:
        return f"({expression} and on (service_name) {OBSERVED}) or 0 * {OBSERVED}"

    good = f'{status}=~"2.."'
    in_time = events("bucket", good, f'le="{bound}"')
    late = f"clamp_min(\n{events('count', good)}\n- {in_time}, 0)"
    counts = {
        "availability": (or_none(events("count")), or_none(events("count", f'{status}=~"5.."'))),
        "latency": (or_none(events("count", good)), or_none(late)),
    }
    return [
        Recording(name, expr, {"slo": objective})
        for objective, exprs in counts.items()
        for name, expr in zip(
            (f"slo:sli_events:increase{BASE}", f"slo:sli_bad_events:increase{BASE}"), exprs, strict=True
        )
    ]


def _error_ratio(window: str) -> str:
    """Share of bad events in a window, 0 without events."""
    bad, all_ = f"slo:sli_bad_events:increase{BASE}", f"slo:sli_events:increase{BASE}"
    if window != BASE:
        bad, all_ = f"avg_over_time({bad}[{window}])", f"avg_over_time({all_}[{window}])"
    return f"{bad} / ({all_} > 0) or 0 * {all_}"


def _ratios(windows: list[str]) -> list[Recording]:
    return [Recording(f"slo:sli_error:ratio_rate{window}", _error_ratio(window)) for window in windows]


def _counts(slo: Slo, windows: list[str]) -> list[Recording]:
    """Bad events in each long window: what five minutes counted, every five minutes."""
    long = {window.long for policy in slo.alerts.values() for window in policy.windows}
    bad = f"slo:sli_bad_events:increase{BASE}"
    return [
        Recording(f"slo:sli_bad_events:increase{window}", f"sum_over_time({bad}[{window}:{BASE}])")
        for window in windows
        if window in long
    ]


def _alert(slo: Slo, objective: str, name: str, policy: Policy) -> Alert:
    budget = 1 - slo.ratios[objective]
    selector = f'{{slo="{objective}"}}'
    least = policy.minimum_bad_events
    pairs = [
        f"(\n  slo:sli_error:ratio_rate{w.long}{selector} > {w.burn_rate} * {budget}\n"
        f"and\n  slo:sli_error:ratio_rate{w.short}{selector} > {w.burn_rate} * {budget}\n"
        f"and\n  {_enough(w.long, selector, least)}\n)"
        for w in policy.windows
    ]
    rates = " or ".join(f"{w.burn_rate} over {w.long} and {w.short}" for w in policy.windows)
    what, traceql = _described(slo, objective)
    severity: Severity = policy.severity
    return Alert(
        name=f"{objective.capitalize()}BudgetBurns{name.capitalize()}",
        expr="\nor\n".join(pairs),
        severity=severity,
        hold=policy.hold,
        when=f"burn rate above {rates}, with {least} bad requests or more",
        summary=f"{LABEL} uses up its {objective} budget too fast.",
        description=(
            f"{{{{ $value | humanizePercentage }}}} of {what}; {percent(float(budget))} may be, over {slo.period}."
        ),
        dashboard="sightglass-slo",
        variables={"service": LABEL},
        traces=traceql,
        labels={"slo": objective},
    )


def _enough(window: str, selector: str, least: int) -> str:
    """Whether enough is bad in a long window; what it counts is up to five minutes old, which an hour cannot wait."""
    count = f"slo:sli_bad_events:increase{window}{selector} >= {least}"
    if length(window) > length(LONG):
        return count
    return f"({count} or slo:sli_bad_events:increase{BASE}{selector} >= {least})"


def _described(slo: Slo, objective: str) -> tuple[str, str]:
    """What is counted as bad, in words and as TraceQL."""
    users = f'span.{signals.SYNTHETIC.name} = false && resource.{signals.DEPLOYMENT_TRACK.name} != "shadow"'
    request = f"{requests_of()} && {users}"
    status = f"span.{signals.HTTP_STATUS.name}"
    if objective == "availability":
        return "requests were answered with 5xx", f"{{ {request} && {status} >= 500 }}"
    milliseconds = f"{slo.objectives.latency.seconds * 1000:g}ms"
    good = f"{status} >= 200 && {status} < 300"
    return f"good answers took longer than {milliseconds}", f"{{ {request} && {good} && duration > {milliseconds} }}"


if __name__ == "__main__":
    files.command(generated, "sightglass.alerting.slo")()
