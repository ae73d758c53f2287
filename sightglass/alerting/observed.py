"""Which services there must be: one recording for each row of the table, which other rules compare with what is sent.

A service that is down sends nothing, so no metric could name it.
"""

from collections.abc import Iterable
from typing import Final

from sightglass.alerting.rule import Group, Recording, render

FILE: Final = "observed.rules.yaml"
OBSERVED: Final = "observed:service:info"
"""Always 1, by ``service_name``."""


def text(names: Iterable[str]) -> str:
    """The rules file of these services."""
    rules = [Recording(OBSERVED, "vector(1)", {"service_name": name}) for name in names]
    return render([Group("observed", rules)], "the table of services by `make generate`, `make up` and `make deploy`")
