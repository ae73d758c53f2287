"""One meaning, one colour, on every dashboard."""

from typing import Final

GREEN: Final = "green"
YELLOW: Final = "yellow"
ORANGE: Final = "orange"
RED: Final = "red"
BLUE: Final = "blue"
PURPLE: Final = "purple"
GREY: Final = "#808080"

GOOD: Final = GREEN
REFUSED: Final = ORANGE
"""The caller's mistake: 4xx."""
FAILED: Final = RED
"""Our mistake: 5xx, lost, failed."""

STATUS: Final = {"2.*": GOOD, "3.*": BLUE, "4.*": REFUSED, "5.*": FAILED}
"""By status code."""
LEVELS: Final = {"debug|unknown": GREY, "info": GOOD, "warn": REFUSED, "error|fatal": FAILED}
"""By log level."""
QUANTILES: Final = {"p10": PURPLE, "p50": GREEN, "p90|p95": YELLOW, "p99": RED, "mean": BLUE}
"""The further out, the warmer."""
