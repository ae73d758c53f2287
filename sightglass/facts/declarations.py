"""What the model of a service is: its declaration, as the service's own Python reads it."""

import os
import subprocess
from functools import cache

from ml_telemetry.declaration import Declaration, DeclarationError
from sightglass.facts.errors import UserError
from sightglass.facts.services import Service

TIMEOUT = 60.0
"""Seconds that reading a declaration may take: it is an import of a module."""


@cache
def of(service: Service) -> Declaration:
    """The declaration of a service; :class:`UserError` where it cannot be read."""
    command = [str(service.python), "-m", "ml_telemetry.declaration", service.declaration]
    # What is set for other Python programs would be imported by this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"PYTHONPATH": str(service.folder), "PYTHONUTF8": "1"}
    try:
        done = subprocess.run(
            command, cwd=service.folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{service.declaration} of {service.name} was not imported within {TIMEOUT:g} s.") from None
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise UserError(
            f"The declaration {service.declaration} of {service.name} cannot be read by {service.python}: "
            f"{said[-1] if said else 'it said nothing'}"
        )
    try:
        return Declaration.from_json(done.stdout)
    except (DeclarationError, ValueError) as error:
        raise UserError(f"The declaration of {service.name} cannot be used: {error}") from None
