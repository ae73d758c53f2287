"""Object storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import urllib3
from minio import Minio

from sightglass.clients import polling
from sightglass.facts import object_storage
from sightglass.facts.credentials import S3User

if TYPE_CHECKING:
    from sightglass.facts.target import Target


def client(endpoint: str, user: S3User, *, read: float = 10.0) -> Minio:
    """S3 client for ``host:port`` that says at once when nobody is there: who calls it knows whether to wait.

    ``read`` are the seconds between two bytes of an answer.
    """
    return Minio(
        endpoint,
        access_key=user.access_key,
        secret_key=user.secret_key,
        secure=False,
        region=object_storage.S3_REGION,
        http_client=urllib3.PoolManager(timeout=urllib3.Timeout(connect=min(1.0, read), read=read), retries=False),
    )


def reader(target: Target) -> Minio:
    """S3 client of a stack's read-only user, which keeps to the caller's deadline."""
    user = S3User(target.s3_access_key, target.s3_secret_key)
    return client(target.s3_endpoint.removeprefix("http://"), user, read=polling.time_left(10))
