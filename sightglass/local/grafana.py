"""Finds Grafana: a folder that the person names, or the official release, fetched with the servers.

Grafana is not built like the other servers, because its frontend is no Go module.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from sightglass.facts import versions
from sightglass.facts.errors import UserError
from sightglass.local.fetch import Archive
from sightglass.local.servers import archive, host

NAME = "grafana"


@dataclass(frozen=True)
class GrafanaHome:
    """An unpacked Grafana release."""

    path: Path
    """The folder with ``bin``, ``conf`` and ``public``: Grafana's homepath."""
    command: tuple[str, ...]
    """What starts the server, before any flags."""


@dataclass(frozen=True)
class Unavailable:
    """There is no Grafana, and one sentence that says why and what to set."""

    reason: str


def release(grafana_home: Path | None) -> Archive | None:
    """The archive to fetch, None where the person has a Grafana or upstream has none for this machine."""
    return None if grafana_home else archive(NAME, *host())


def find(
    grafana_home: Path | None, unpacked: Path | None = None, failure: str | None = None
) -> GrafanaHome | Unavailable:
    """Return the Grafana to start: ``grafana_home`` if given, else what was unpacked; ``failure`` says why nothing was.

    Raises :class:`UserError` if ``grafana_home`` holds no Grafana.
    """
    if grafana_home is not None:
        found = inspect(grafana_home.absolute())
        if found is None:
            raise UserError(
                f"GRAFANA_HOME is {grafana_home.absolute()}, which is no unpacked Grafana release: it has to hold "
                "bin/grafana (or bin/grafana-server), conf/defaults.ini and public. Correct it or unset it."
            )
        return found
    version = versions.load().servers[NAME].version
    remedy = f"unpack a release of Grafana (such as {version}) and set GRAFANA_HOME to its folder."
    if unpacked is not None:
        return inspect(unpacked) or Unavailable(f"{unpacked} holds no Grafana release: remove it, or {remedy}")
    if failure is not None:
        return Unavailable(f"Grafana could not be fetched: {failure}. To have dashboards, {remedy}")
    system, machine = host()
    return Unavailable(f"There is no Grafana for {system} on {machine}: {remedy}")


def inspect(path: Path) -> GrafanaHome | None:
    """The Grafana in a folder, if it is one."""
    if not (path / "conf" / "defaults.ini").is_file() or not (path / "public").is_dir():
        return None
    for name, *arguments in (("grafana", "server"), ("grafana-server",)):
        program = path / "bin" / name
        if program.is_file() and os.access(program, os.X_OK):
            return GrafanaHome(path, (str(program), *arguments))
    return None
