"""Durations as Prometheus, Loki and Grafana write them."""

import re

_UNITS = {"y": 365 * 86_400.0, "w": 7 * 86_400.0, "d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[ywdhms])")
_WHOLE = re.compile(rf"-?(?:(?:{_PART.pattern})+|0)")


def seconds(duration: str, *, fractions: bool = False) -> float:
    """Seconds of a duration such as ``1h30m`` or ``-5m``; :class:`ValueError` for any other text.

    Only Grafana takes ``fractions`` such as ``1.5s``.
    """
    if not _WHOLE.fullmatch(duration) or ("." in duration and not fractions):
        raise ValueError(f"{duration!r} is no duration: write numbers with y, w, d, h, m, s or ms, such as 1h30m")
    length = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(duration))
    return -length if duration.startswith("-") else length
