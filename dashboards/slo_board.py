"""SLO: is each objective held, how much of its error budget is left, and how fast is it being spent."""

from dashboards.colours import FAILED, GREEN, ORANGE, RED, YELLOW
from dashboards.layout import Board, Row
from dashboards.names import Uid
from dashboards.objectives import BURN_RATES, BURN_WINDOWS, PERIOD_DAYS, WINDOWS
from dashboards.panels import lines, number, rows
from dashboards.queries import prom, prom_now
from dashboards.variables import SERVICE, service

_DAY = 86_400
_OBJECTIVES = {
    "availability": ("Availability", "bad: answered with 5xx, or not at all"),
    "latency": ("Latency", "bad: answered too slowly"),
}


def board() -> Board:
    """One row an objective, then the alerts that watch them."""
    return Board(
        uid=Uid.SLO,
        title="SLO",
        description="Is each objective held, how much error budget is left, and how fast is it spent?",
        variables=[service()],
        rows=[*(_objective(slo) for slo in _OBJECTIVES), _alerts()],
        span="now-6h",
        refresh="1m",
    )


def _objective(slo: str) -> Row:
    title, bad = _OBJECTIVES[slo]
    labels = f'{{{SERVICE}, slo="{slo}"}}'
    budget, burn = f"slo:error_budget:ratio{labels}", f"slo:current_burn_rate:ratio{labels}"
    left = f"slo:period_error_budget_remaining:ratio{labels}"
    # At the present rate; nothing is shown while nothing is burnt.
    exhausted = f"clamp_min({left}, 0) * slo:period:days{labels} * {_DAY} / ({burn} > 0)"
    return Row(
        title,
        [
            number(
                f"{title}: objective",
                f"Share of requests that must be good over the period ({bad}).",
                prom_now(f"slo:objective:ratio{labels}"),
                unit="percentunit",
                decimals=2,
                spark=False,
            ),
            number(
                f"{title}: good now",
                "Share of good requests in the last five minutes.",
                prom(f"1 - slo:sli_error:ratio_rate5m{labels}"),
                unit="percentunit",
                decimals=2,
                none="no traffic",
            ),
            number(
                f"{title}: budget left",
                "Share of the period's error budget that is not spent; below zero the objective is broken.",
                prom(left),
                unit="percentunit",
                decimals=1,
                thresholds=[(0.0, ORANGE), (0.25, YELLOW), (0.5, GREEN)],
                base=RED,
            ),
            number(
                f"{title}: burn rate",
                "How many times faster than allowed the budget is spent now; at 1 it lasts exactly the period.",
                prom(burn),
                unit="short",
                decimals=1,
                thresholds=BURN_RATES,
                none="no traffic",
            ),
            number(
                f"{title}: budget lasts",
                "Time until the budget is spent at the present burn rate; nothing is burnt where it shows none.",
                prom(exhausted),
                unit="s",
                thresholds=[(0, RED), (_DAY, ORANGE), (3 * _DAY, YELLOW), (PERIOD_DAYS * _DAY, GREEN)],
                none="nothing burnt",
                spark=False,
            ),
            number(
                f"{title}: period",
                "Days over which the objective is counted.",
                prom_now(f"slo:period:days{labels}"),
                unit="suffix: days",
                spark=False,
            ),
            lines(
                f"{title}: bad requests",
                "Share of bad requests over windows from short to long, beside the share that the objective allows.",
                *(prom(f"slo:sli_error:ratio_rate{window}{labels}", window) for window in WINDOWS),
                prom(budget, "allowed"),
                unit="percentunit",
                colours={"allowed": FAILED},
            ),
            lines(
                f"{title}: burn rates",
                "Burn rate over four windows; a page needs a long and a short one above the line at the same time.",
                *(
                    prom(f"slo:sli_error:ratio_rate{window}{labels} / on (slo, service_name) {budget}", window)
                    for window in BURN_WINDOWS
                ),
                unit="short",
                thresholds=BURN_RATES,
            ),
            lines(
                f"{title}: budget over time",
                "Share of the error budget that is left; a steep fall is an incident, a slow one a habit.",
                prom(left, "left"),
                unit="percentunit",
                minimum=None,
                maximum=1,
                thresholds=[(0.25, YELLOW)],
            ),
        ],
    )


def _alerts() -> Row:
    firing = 'max by (alertname, severity, slo, service_name) (ALERTS{alertstate="firing", alertname!="Watchdog"})'
    return Row(
        "Alerts",
        [
            rows(
                "Alerts that fire",
                "What fires now, of all parts; an empty table is good news.",
                prom_now(firing, table=True),
                columns={
                    "alertname": ("Alert", "string"),
                    "severity": ("Severity", "string"),
                    "slo": ("Objective", "string"),
                    "service_name": ("Service", "string"),
                },
                none="nothing fires",
            ),
        ],
    )
