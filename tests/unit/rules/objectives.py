"""Cases of the rules that are made from the objectives: long stories, told in minutes."""

from collections.abc import Iterator
from typing import Final

from tests.unit.rules.cases import OBSERVED, SERVICE, Case, Series, counter, ended, model, requests

MINUTE: Final = 60
DAY: Final = 24 * 60
"""In minutes."""
LATER: Final = 300
"""Minutes for which a service goes on after its story."""
BUDGETS: Final = {"availability": 0.005, "latency": 0.01}


def traffic(objective: str, *phases: tuple[float, float, float], **labels: str) -> Series:
    """Requests: minutes, requests a minute, and the burn rate of each phase."""
    budget = BUDGETS[objective]
    all_ = counter(*((m * MINUTE, rate / MINUTE) for m, rate, _ in phases), step=MINUTE)
    good = counter(*((m * MINUTE, rate * (1 - burn * budget) / MINUTE) for m, rate, burn in phases), step=MINUTE)
    bad = counter(*((m * MINUTE, rate * burn * budget / MINUTE) for m, rate, burn in phases), step=MINUTE)
    whole = f"1x{round(sum(m for m, _, _ in phases)) + LATER}"
    known = dict.fromkeys((*OBSERVED, *model()), whole)
    if objective == "availability":
        return {**known, requests(**labels): good, requests(status="500", **labels): bad}
    buckets = requests("http_server_request_duration_seconds_bucket", le="0.25", **labels)
    return {**known, requests(**labels): all_, buckets: good}


def minutes(*moments: float) -> tuple[int, ...]:
    """Seconds of moments in minutes."""
    return tuple(round(moment * MINUTE) for moment in moments)


def fast(objective: str, value: str) -> Iterator[Case]:
    """Above 14.4 over an hour and five minutes, or 6 over six hours and thirty minutes; ten bad requests."""
    alert = f"{objective.capitalize()}BudgetBurnsFast"
    labels = {"service_name": SERVICE}

    def case(kind: str, note: str, at: float, *phases: tuple[float, float, float], value: str = "") -> Case:
        story = traffic(objective, *phases)
        (moment,) = minutes(at)
        if kind == "fires":
            return Case(alert, "fires", story, (), moment, labels, value, note)
        return Case(alert, "below", story, (moment,), note=note)

    # Ten busy minutes before keep the six hours good, and are more than an hour ago when the case is looked at.
    busy = (10, 10_000, 0)
    hour = case("fires", "an hour", 80, busy, (75, 100, 17), (30, 100, 0), value=value)
    yield hour
    yield ended(hour, 91 * MINUTE)
    for label, other in (("synthetic", "true"), ("track", "shadow")):
        story = traffic(objective, busy, (75, 100, 17), (30, 100, 0), **{label: other})
        yield Case(alert, "below", story, minutes(80), note=f"{label} is {other}")
    story = traffic(objective, busy, (75, 100, 17), (30, 100, 0), synthetic="false", track="canary")
    yield Case(alert, "fires", story, (), 80 * MINUTE, labels, value, "users of a canary")
    yield case("below", "an hour", 80, busy, (75, 100, 13))
    six = case("fires", "six hours", 85, (90, 100, 7), (50, 100, 0))
    yield six
    yield ended(six, 126 * MINUTE)
    yield case("below", "six hours", 85, (90, 100, 5))
    yield case("below", "it is over, five minutes say", 85, busy, (60, 100, 26), (20, 100, 12))
    yield case("below", "it has just begun, an hour says", 84, busy, (69, 100, 11), (6, 100, 20))
    yield case("below", "it is over, half an hour says", 98, (60, 100, 9), (40, 100, 5))
    yield case("below", "it has just begun, six hours say", 120, (90, 100, 4.5), (31, 100, 8))
    # With little traffic, the number of bad requests decides.
    share = 0.5 / BUDGETS[objective]
    yield case("below", "eight in an hour", 80, busy, (75, 8 / 60 / 0.5, share))
    yield case("fires", "thirteen in an hour", 80, busy, (75, 13 / 60 / 0.5, share))
    few = 10 * BUDGETS[objective]
    yield case("below", "nine in six hours", 89, (95, 9 / 90 / few, 10))
    yield case("fires", "thirteen in six hours", 89, (95, 13 / 90 / few, 10))
    yield case("fires", "twelve in a new stack's first minutes", 4, (10, 6, share))
    yield case("below", "nine in a new stack's first minutes", 4, (5, 9 / 5 / 0.5, share), (10, 1, 0))
    yield case("below", "one in an idle night", 62, (60, 0.1, 0), (1, 1, 1 / BUDGETS[objective]), (10, 0, 0))
    yield case("below", "no traffic", 60, (70, 0, 0))
    yield Case(alert, "below", {}, minutes(0, 20), note="no service")


def slow(objective: str, value: str) -> Iterator[Case]:
    """Above 3 over a day and two hours, or 1 over three days and six hours; thirty bad requests, for 15 minutes."""
    alert = f"{objective.capitalize()}BudgetBurnsSlow"
    labels = {"service_name": SERVICE}

    def case(kind: str, note: str, at: float, *phases: tuple[float, float, float], value: str = "") -> Case:
        story = traffic(objective, *phases)
        (moment,) = minutes(at)
        if kind == "fires":
            return Case(alert, "fires", story, (), moment, labels, value, note)
        return Case(alert, "below", story, (moment,), note=note)

    # Two busy hours before keep the three days good, and are more than a day ago when the case is looked at.
    busy = (120, 100_000, 0)
    after = 120 + DAY + 30
    day = case("fires", "a day", after, busy, (DAY + 35, 100, 3.6), (200, 100, 0), value=value)
    yield day
    yield ended(day, (after + 130) * MINUTE)
    yield case("below", "a day", after, busy, (DAY + 35, 100, 2.6))
    three = case("fires", "three days", 600, (605, 100, 1.2), (400, 100, 0))
    yield three
    yield ended(three, 975 * MINUTE)
    yield case("below", "three days", 600, (605, 100, 0.8))
    yield case("below", "it is over, two hours say", after, busy, (DAY - 110, 100, 5), (145, 100, 2.5))
    yield case("below", "it has just begun, a day says", after, busy, (DAY - 90, 100, 2.3), (125, 100, 4))
    yield case("below", "it has just begun, three days say", 980, (600, 100, 0.75), (385, 100, 1.2))
    yield case("below", "it is over, six hours say", 980, (600, 100, 1.5), (385, 100, 0.8))
    rate = 1 / DAY / BUDGETS[objective] / 4
    yield case("below", "twenty-five in a day", after, busy, (DAY + 35, 25 * rate, 4))
    yield case("fires", "forty in a day", after, busy, (DAY + 35, 40 * rate, 4))
    rate = 1 / 600 / BUDGETS[objective] / 2
    yield case("below", "twenty-five in three days", 600, (605, 25 * rate, 2))
    yield case("fires", "forty in three days", 600, (605, 40 * rate, 2))
    # What three bad minutes do to a good day.
    burst = traffic(objective, (600, 100, 0), (3, 8000, 1 / BUDGETS[objective]), (60, 100, 0))
    yield Case(alert, "fires", burst, minutes(615), 620 * MINUTE, labels, note="a burst")
    yield case("below", "no traffic", 60, (70, 0, 0))


FAST: Final = (*fast("availability", "8.5%"), *fast("latency", "17%"))
SLOW: Final = (*slow("availability", "1.8%"), *slow("latency", "3.6%"))
