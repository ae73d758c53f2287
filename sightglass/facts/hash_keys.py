"""Keys under which the service hashes texts: one in use, and those before it, kept while lines made with them are."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import yaml

from ml_telemetry.hashing import TextHash
from sightglass.facts.credentials import Credentials, HashKey, new_hash_key
from sightglass.facts.services import Service
from sightglass.facts.settings import REPOSITORY

LOKI_CONFIG = REPOSITORY / "helm-config" / "loki" / "loki.yaml"
LATE = timedelta(days=7)
"""Lines may be this late, and Loki's deletion too."""


@dataclass(frozen=True)
class Hash:
    """A text under one key."""

    key: HashKey
    value: str


def rotated(known: Credentials, now: datetime) -> Credentials:
    """The credentials with a new key in use; a key whose last line is gone goes too."""
    old = [key if key.retired else replace(key, retired=now.isoformat(timespec="seconds")) for key in known.hash_keys]
    kept = [key for key in old if _needed_until(key) > now]
    return replace(known, hash_keys=(*kept, new_hash_key(now)))


def hashes(known: Credentials, text: str) -> Iterator[Hash]:
    """The text's hash under every key that is kept, oldest first."""
    for key in known.hash_keys:
        yield Hash(key, TextHash(key.id, bytes.fromhex(key.key))(text))


def kept_for() -> timedelta:
    """How long a line may be stored after it was written."""
    period: str = yaml.safe_load(LOKI_CONFIG.read_text())["limits_config"]["retention_period"]
    return timedelta(hours=int(period.removesuffix("h"))) + LATE


def _needed_until(key: HashKey) -> datetime:
    return datetime.fromisoformat(key.retired) + kept_for()


def sentence(known: Credentials) -> str:
    """What there is, for people; no key is told."""
    *old, used = known.hash_keys
    kept = f"{len(old)} before it are kept for `sightglass hash`" if old else "there is none before it"
    return f"Texts are hashed under the key {used.id} from now on; {kept}."


def query(found: Iterable[Hash], services: Iterable[Service]) -> str:
    """LogQL that finds the lines of a text under any key."""
    names = "|".join(service.name for service in services)
    return f'{{service_name=~"{names}"}} |~ "{"|".join(one.value for one in found)}"'
