"""Generated secrets, in one file that only its owner can read; never in the repository or on a command line."""

import hashlib
import hmac
import json
import os
import secrets
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path

from sightglass.facts.errors import UserError


def _secret() -> str:
    return secrets.token_hex(32)


@dataclass(frozen=True)
class S3User:
    """A MinIO user: its access key is its name."""

    access_key: str
    secret_key: str = field(default_factory=_secret)


@dataclass(frozen=True)
class HashKey:
    """A key under which texts are hashed; ``retired`` is when the next took its place, empty for the one in use."""

    id: str
    key: str
    created: str
    retired: str = ""


@dataclass(frozen=True)
class Credentials:
    """Every secret of one stack."""

    root: S3User = field(default_factory=lambda: S3User("root-" + secrets.token_hex(4)))
    loki: S3User = field(default_factory=lambda: S3User("loki"))
    tempo: S3User = field(default_factory=lambda: S3User("tempo"))
    reader: S3User = field(default_factory=lambda: S3User("reader"))
    metrics: S3User = field(default_factory=lambda: S3User("metrics"))
    grafana_admin_password: str = field(default_factory=_secret)
    hash_keys: tuple[HashKey, ...] = ()
    """Oldest first; see :mod:`sightglass.facts.hash_keys`."""

    @property
    def synthetic_key(self) -> str:
        """Marks the requests that the stack itself sends; made of a secret that every stack has."""
        return hmac.new(self.root.secret_key.encode(), b"synthetic", hashlib.sha256).hexdigest()


def new_hash_key(now: datetime) -> HashKey:
    """A key that is in use from now on; its id says since when."""
    return HashKey(f"{now:%Y%m%d}-{secrets.token_hex(4)}", _secret(), now.isoformat(timespec="seconds"))


def complete(known: Credentials) -> Credentials:
    """The credentials with a key for hashes; those of a stack from before there were such keys have none."""
    return known if known.hash_keys else replace(known, hash_keys=(new_hash_key(datetime.now(UTC)),))


def file_in(state_dir: Path) -> Path:
    """Where the generated secrets of the stack in that folder are."""
    return state_dir / "credentials.json"


def load_or_create(path: Path) -> Credentials:
    """Read the secrets, or generate those that are not there yet and write them."""
    try:
        kept = _parse(path.read_text(), path)
    except FileNotFoundError:
        kept = Credentials()
        path.parent.mkdir(parents=True, exist_ok=True)
    whole = complete(kept)
    if whole is not kept:
        save(whole, path)
    return whole


def save(credentials: Credentials, path: Path) -> None:
    """Write the secrets for their owner only; a failure leaves those that were there."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(to_json(credentials))
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


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
            # A stack from before there were such keys has none.
            hash_keys=tuple(HashKey(**key) for key in raw.get("hash_keys", ())),
            **{f.name: S3User(**raw[f.name]) for f in fields(Credentials) if f.type is S3User},
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"no credentials: {error}") from None
