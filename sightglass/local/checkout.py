"""Whose code a command runs: in a copied checkout it may be the original's, and act on the original's stack."""

import importlib.util
from pathlib import Path

from sightglass.facts.errors import UserError
from sightglass.facts.settings import REPOSITORY

_SIGN = Path("sightglass") / "facts" / "settings.py"


def require_own() -> None:
    """Raise :class:`UserError` where the environment in use was made for another checkout."""
    found = importlib.util.find_spec("ml_telemetry")
    other = Path(found.origin).resolve().parent if found and found.origin else REPOSITORY
    here = Path.cwd()
    if other.is_relative_to(REPOSITORY) and not ((here / _SIGN).exists() and here.resolve() != REPOSITORY):
        return
    original = REPOSITORY if other.is_relative_to(REPOSITORY) else other.parents[2]
    raise UserError(
        f"This Python environment was made for the checkout {original}: run `make` in {here}, which makes its own, "
        f"or work in {original}."
    )
