"""What Tempo and Loki wrote to their buckets for a moment: little is listed and read, however much there is."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from minio import Minio
from minio.error import MinioException
from urllib3.exceptions import HTTPError

from sightglass.clients import buckets
from sightglass.clients.polling import NotYet
from sightglass.facts import object_storage
from sightglass.facts.target import Target

TENANT = "fake/"
"""Loki's only tenant."""
CHUNK_AGES = (60, 4200)
"""Seconds before a line at which its chunk began: under load few; never much more than Loki's ``max_chunk_age``."""
SLACK = 5
"""Seconds from a request being sent until its spans and lines have their times."""
_MILLISECOND = 1_000_000
_SECOND = 1_000_000_000


@contextmanager
def _listing(target: Target, bucket: str) -> Iterator[Minio]:
    """The store's client; :class:`NotYet` when the store says no."""
    try:
        yield buckets.reader(target)
    except (MinioException, HTTPError, OSError) as error:
        reason = getattr(error, "code", type(error).__name__)
        raise NotYet(f"minio does not list bucket {bucket} at {target.s3_endpoint} ({reason})") from None


class Blocks:
    """Tempo's blocks that were written since a moment, in nanoseconds since the epoch; each is read once."""

    def __init__(self, target: Target, since: int) -> None:
        self._target = target
        self._since = datetime.fromtimestamp(since // _SECOND, tz=UTC)
        self._times: dict[str, tuple[int, int]] = {}

    def covering(self, moment: int) -> str:
        """Name of the block that has traces of that moment; a block's times are seconds."""
        bucket = object_storage.TEMPO_BUCKET
        with _listing(self._target, bucket) as s3:
            # A block's name is random: only the listing says since when it is there, only its content what it covers.
            for found in s3.list_objects(bucket_name=bucket, recursive=True):
                name = str(found.object_name)
                new = found.last_modified >= self._since and name not in self._times
                if name.endswith("/meta.json") and new:
                    self._times[name] = _times(s3, bucket, name)
        for name, (start, end) in self._times.items():
            if start - SLACK <= moment // _SECOND <= end:
                return f"{bucket}/{name}"
        raise NotYet(f"bucket {bucket} has no block of this run yet")


def _times(s3: Minio, bucket: str, name: str) -> tuple[int, int]:
    answer = s3.get_object(bucket_name=bucket, object_name=name)
    try:
        meta = json.loads(answer.read())
    finally:
        answer.close()
        answer.release_conn()
    start, end = (datetime.fromisoformat(meta[key]).timestamp() for key in ("startTime", "endTime"))
    return int(start), int(end)


def chunk_covering(target: Target, moment: int) -> str:
    """Name of a chunk of Loki's that has lines of a moment, in nanoseconds since the epoch.

    A chunk is called ``tenant/fingerprint/from:through:checksum``, times in milliseconds in hexadecimal, so that its
    name says all, and those that began long before are not listed.
    """
    bucket = object_storage.LOKI_BUCKET
    wanted = moment // _MILLISECOND
    with _listing(target, bucket) as s3:
        streams = [str(found.object_name) for found in s3.list_objects(bucket_name=bucket, prefix=TENANT)]
        for age in CHUNK_AGES:
            for stream in streams:
                first = f"{stream}{wanted - 1000 * age:x}"
                for found in s3.list_objects(bucket_name=bucket, prefix=stream, start_after=first):
                    times = str(found.object_name).rsplit("/", 1)[-1].split(":")
                    if len(times) != 3:
                        continue
                    if int(times[0], 16) > wanted + 1000 * SLACK:
                        break
                    if int(times[1], 16) >= wanted:
                        return f"{bucket}/{found.object_name}"
    raise NotYet(f"bucket {bucket} has no chunk of this run yet")
