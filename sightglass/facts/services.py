"""The table of the services that are observed: what each is, where its code is, and where it listens.

One file names the services of this checkout, another those of its user. Nothing here imports a service: what its model
is says its declaration, which is read in the service's own environment (:mod:`sightglass.facts.declarations`).
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from sightglass.facts.errors import UserError

Kind = Literal["bentoml", "asgi"]
Track = Literal["stable", "canary", "baseline", "shadow"]
_Number = Annotated[int, Field(ge=1, le=65535)]
_Module = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$")]
_Object = Annotated[str, Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")]
_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,40}[a-z0-9]$")]
_Sentences = Annotated[
    tuple[tuple[str, str], ...],
    BeforeValidator(lambda given: tuple(given.items()) if isinstance(given, dict) else given),
]
"""A mapping of the file, as pairs: a service is hashable."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Instance(_Frozen):
    """One deployment of a service; a rollout has several side by side."""

    track: Track = "stable"
    port: _Number
    replicas: int = Field(default=1, ge=1)


class Service(_Frozen):
    """One service; ``folder`` and ``python`` are absolute once the table is read."""

    name: _Name
    kind: Kind
    application: _Object
    """Module and name of what is served."""
    declaration: _Object
    """Module and name of the declaration of its model."""
    port: _Number
    folder: Path = Path()
    """Where its modules are."""
    python: Path = Path(sys.executable)
    """The Python that runs it."""
    training: _Module | None = None
    """Module that makes the model where it is missing; without one the service brings its own."""
    stock: _Object | None = None
    """The same model served as its framework's documentation does it, for `bench`."""
    load: _Module | None = None
    """Module that prints requests for load tests; without one the samples of the declaration are sent."""
    variables: _Sentences = ()
    """Environment variables that its training reads, each with a sentence for the page of settings."""
    image: str | None = None
    """Image of a service that is not of this checkout, for a cluster."""
    instances: tuple[Instance, ...] = ()

    @model_validator(mode="after")
    def _has_an_instance(self) -> "Service":
        if not self.instances:
            object.__setattr__(self, "instances", (Instance(port=self.port),))
        return self

    @property
    def port_name(self) -> str:
        """Name of its public port among all ports."""
        return self.name.replace("-", "_")

    @property
    def package(self) -> str:
        """The package or module of its application."""
        return self.application.partition(":")[0].partition(".")[0]

    @property
    def prefix(self) -> str:
        """Beginning of the environment variables that are its own settings."""
        return f"{self.package.upper()}_"

    def arguments(self, host: str, port: int) -> list[str]:
        """What Python is started with to serve, in the service's folder."""
        address = ("--host", host, "--port", str(port))
        if self.kind == "bentoml":
            return ["-m", "bentoml", "serve", self.application, *address]
        # Each request has a line of its own already.
        quiet = ("--no-access-log", "--log-level", "warning", "--timeout-graceful-shutdown", "10")
        return ["-m", "uvicorn", self.application, *address, *quiet]

    def code(self) -> list[Path]:
        """The modules that run in it."""
        package = self.folder / self.package
        return sorted(package.rglob("*.py")) if package.is_dir() else sorted(self.folder.glob("*.py"))


def read(file: Path) -> tuple[Service, ...]:
    """The services of a file, in its order; :class:`UserError` says what does not fit."""
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The table of services {file} cannot be read: {error}.") from None
    except yaml.YAMLError as error:
        raise UserError(f"The table of services {file} is no YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        raise UserError(f"The table of services {file} must have one entry for each service, with its name before it.")
    return tuple(_service(file, str(name), entry) for name, entry in content.items())


def _service(file: Path, name: str, entry: dict[str, object]) -> Service:
    try:
        found = Service.model_validate({**entry, "name": name})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "entry"
        raise UserError(f"The service {name!r} in {file} does not fit: {place}: {first['msg']}.") from None
    root = file.resolve().parent
    folder = (root / found.folder.expanduser()).resolve()
    if not folder.is_dir():
        raise UserError(f"The service {name!r} in {file} has the folder {folder}, which is not there.")
    # Not resolved: the Python of a virtual environment is a link.
    python = root / found.python.expanduser()
    if not python.exists():
        raise UserError(f"The service {name!r} in {file} has the Python {python}, which is not there.")
    return found.model_copy(update={"folder": folder, "python": python})


def together(tables: Iterable[tuple[Service, ...]], taken: frozenset[str]) -> tuple[Service, ...]:
    """All services of some tables; no name may be there twice or be one of ``taken``."""
    found: dict[str, Service] = {}
    for service in (service for table in tables for service in table):
        if service.name in found:
            raise UserError(f"Two services have the name {service.name!r}: give one of them another.")
        if service.name in taken:
            raise UserError(f"The service {service.name!r} has the name of a component of the stack: take another.")
        found[service.name] = service
    return tuple(found.values())
