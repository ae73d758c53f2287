"""Generated secrets, in one file that only its owner can read; never in the repository or on a command line."""

import json
import os
import secrets
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from sightglass.errors import UserError


def _secret() -> str:
    return secrets.token_hex(32)


@dataclass(frozen=True)
class S3User:
    """A MinIO user: its access key is its name."""

    access_key: str
    secret_key: str = field(default_factory=_secret)


@dataclass(frozen=True)
class Credentials:
    """Every secret of one stack."""

    root: S3User = field(default_factory=lambda: S3User("root-" + secrets.token_hex(4)))
    loki: S3User = field(default_factory=lambda: S3User("loki"))
    tempo: S3User = field(default_factory=lambda: S3User("tempo"))
    reader: S3User = field(default_factory=lambda: S3User("reader"))
    metrics: S3User = field(default_factory=lambda: S3User("metrics"))
    grafana_admin_password: str = field(default_factory=_secret)


def load_or_create(path: Path) -> Credentials:
    """Read the secrets, or generate and write them with mode 0600 where there are none yet."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        credentials = Credentials()
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(to_json(credentials))
        return credentials
    return _parse(text, path)


def load(path: Path) -> Credentials:
    """Read the secrets of a stack that was started before; :class:`UserError` where there is none."""
    try:
        return _parse(path.read_text(), path)
    except FileNotFoundError:
        raise UserError(f"There is no stack in {path.parent}: start one with `make up`.") from None


def _parse(text: str, path: Path) -> Credentials:
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise UserError(f"{path} can be read by others (mode {mode:04o}): run `chmod 600 {path}`.")
    try:
        return from_json(text)
    except ValueError:
        raise UserError(f"{path} is damaged: `make clean` forgets this stack's data and starts anew.") from None


def to_json(credentials: Credentials) -> str:
    """The form in which secrets are kept."""
    return json.dumps(asdict(credentials), indent=2)


def from_json(text: str) -> Credentials:
    """Secrets from the form in which they are kept; :class:`ValueError` when it is another."""
    try:
        raw = json.loads(text)
        return Credentials(
            grafana_admin_password=raw["grafana_admin_password"],
            **{f.name: S3User(**raw[f.name]) for f in fields(Credentials) if f.name != "grafana_admin_password"},
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"no credentials: {error}") from None
