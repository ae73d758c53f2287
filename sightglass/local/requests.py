"""Requests for a service: what its own ``load`` module prints, else what its declaration gives as samples.

The module runs in the service's Python and prints one JSON object a line: ``kind`` (valid, corrupted or drifted),
``name`` of a corrupted one, ``status`` of the right answer, ``method``, ``path``, and ``body`` or ``body_base64``.
"""

import base64
import os
import subprocess
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ml_telemetry.declaration import Declaration
from sightglass.facts import declarations
from sightglass.facts.errors import UserError
from sightglass.facts.services import Service

TIMEOUT = 300.0
"""Seconds until a module has printed its requests: the first time it may have to fetch its data."""


class Sent(BaseModel):
    """One request, and the status of its right answer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["valid", "corrupted", "drifted"]
    name: str = ""
    status: int = 200
    method: str = "POST"
    path: str
    body: str | None = None
    body_base64: str | None = None

    @property
    def content(self) -> bytes | None:
        """The body as it is sent."""
        if self.body_base64 is not None:
            return base64.b64decode(self.body_base64)
        return None if self.body is None else self.body.encode()

    @property
    def label(self) -> str:
        """Its name in statistics, beside the method."""
        return f"{self.path} [{self.name or self.kind}]" if self.kind != "valid" else self.path


@dataclass(frozen=True)
class Requests:
    """The requests of one service by kind; ``source`` says where they come from."""

    source: str
    all: tuple[Sent, ...] = field(repr=False)

    def of_kind(self, kind: str) -> tuple[Sent, ...]:
        """Those of a kind."""
        return tuple(one for one in self.all if one.kind == kind)

    @property
    def valid(self) -> list[str]:
        """Bodies of the valid ones."""
        return [one.body for one in self.of_kind("valid") if one.body is not None]


def of(service: Service) -> Requests:
    """The requests of a service; :class:`UserError` where its module fails."""
    if service.load is None:
        declared = declarations.of(service)
        return Requests("the samples of its declaration", tuple(_from(declared)))
    command = [str(service.python), "-m", service.load]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"PYTHONPATH": str(service.folder), "PYTHONUTF8": "1"}
    try:
        done = subprocess.run(
            command, cwd=service.folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{service.load} of {service.name} printed no requests within {TIMEOUT:g} s.") from None
    said = done.stderr.strip().splitlines()
    if done.returncode:
        raise UserError(f"{service.load} of {service.name} failed: {said[-1] if said else 'it said nothing'}")
    try:
        found = tuple(Sent.model_validate_json(line) for line in done.stdout.splitlines() if line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "line"
        raise UserError(f"{service.load} of {service.name} printed a wrong request: {place}: {first['msg']}.") from None
    if not any(one.kind == "valid" for one in found):
        raise UserError(f"{service.load} of {service.name} printed no valid request.")
    return Requests(said[-1] if said else f"python -m {service.load}", found)


def _from(declared: Declaration) -> list[Sent]:
    """The samples, and what every service must refuse."""
    if not declared.samples:
        raise UserError(f"The declaration of {declared.name} has no samples: declare two or three requests.")
    path = declared.route
    valid = [Sent(kind="valid", path=path, body=sample.body) for sample in declared.samples]
    first = declared.samples[0].body

    def corrupted(name: str, status: int, body: str | None, **other: Any) -> Sent:
        return Sent(kind="corrupted", name=name, status=status, body=body, **{"path": path, **other})

    return [
        *valid,
        corrupted("unknown route", 404, first, path=f"{path}-none"),
        corrupted("wrong method", 405, None, method="GET"),
    ]
