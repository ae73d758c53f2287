"""Variables in text: ``$name`` and ``${name}``, as Grafana and environment files have them."""

import re
from collections.abc import Callable

_VARIABLE = re.compile(r"\$(?:\{([^}]*)\}|(\w+))")


def fill(text: str, value: Callable[[str], str]) -> str:
    """Replace each variable by what ``value`` says of its name, without a format such as ``:regex`` behind it."""
    return _VARIABLE.sub(lambda match: value((match[1] or match[2] or "").partition(":")[0]), text)
