"""Every alert that is not made from the objectives, by the rules file that it is written to.

To add an alert: define it in :mod:`sightglass.alerting.service_alerts` or
:mod:`sightglass.alerting.pipeline_alerts`, write its page in
``docs/runbooks/`` and its cases in ``tests/unit/rules/``, then run ``python -m sightglass.alerting``.
"""

from pathlib import Path
from typing import Final

from sightglass.alerting import pipeline_alerts, service_alerts
from sightglass.alerting.pipeline_alerts import ALL_REQUESTS
from sightglass.alerting.rule import Alert, Group, render
from sightglass.facts.settings import REPOSITORY

RULES_DIR: Final = REPOSITORY / "helm-config" / "prometheus"


def _watchdog() -> Group:
    return Group(
        "watchdog",
        [
            Alert(
                name="Watchdog",
                expr="vector(1)",
                severity="none",
                when="always",
                summary="Always firing. When Alertmanager does not have it, alerts do not arrive.",
                description="A receiver that no longer hears of it knows that Prometheus or Alertmanager is down.",
                dashboard="sightglass-service",
                traces=ALL_REQUESTS,
            )
        ],
    )


FILES: Final = {
    RULES_DIR / "service.rules.yaml": (service_alerts.group(),),
    RULES_DIR / "pipeline.rules.yaml": (pipeline_alerts.group(),),
    RULES_DIR / "watchdog.rules.yaml": (_watchdog(),),
}
"""Groups by the file that they are written to."""


def generated() -> dict[Path, str]:
    """Text by path of these files."""
    source = "sightglass/alerting by `python -m sightglass.alerting`"
    return {path: render(groups, source) for path, groups in FILES.items()}
