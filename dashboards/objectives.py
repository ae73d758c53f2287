"""What the objectives' own file says, for thresholds: a panel turns red where an alert would."""

from typing import Final

from dashboards.colours import ORANGE, RED, YELLOW
from dashboards.panels import Steps
from sightglass.alerting import slo

_SLO: Final = slo.load()
_PAGES = [float(w.burn_rate) for policy in _SLO.alerts.values() for w in policy.windows if policy.severity == "page"]
_ALL = [(float(window.burn_rate), window) for policy in _SLO.alerts.values() for window in policy.windows]

WINDOWS: Final = _SLO.windows
"""Windows of the error ratios, from short to long."""
BURN_WINDOWS: Final = [slo.BASE, *sorted({window.long for _, window in _ALL}, key=slo.length)]
"""The shortest window, and those that decide whether a burn rate matters."""
DURATION: Final[Steps] = [
    (_SLO.objectives.latency.seconds / 2, YELLOW),
    (_SLO.objectives.latency.seconds, RED),
]
"""Seconds of a request."""
BURN_RATES: Final[Steps] = [(min(rate for rate, _ in _ALL), YELLOW), (min(_PAGES), ORANGE), (max(_PAGES), RED)]
"""From a ticket over a page to the fastest burn that is watched."""
PERIOD_DAYS: Final = slo.length(_SLO.period).days
