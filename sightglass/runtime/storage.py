"""MinIO's buckets and users: each server has a user of its own that may touch its own bucket only."""

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jwt
from minio import Minio
from minio.credentials.providers import StaticProvider
from minio.error import MinioAdminException, S3Error, ServerError
from minio.minioadmin import MinioAdmin
from urllib3.exceptions import HTTPError

from sightglass.clients import buckets, polling
from sightglass.facts import credentials, object_storage
from sightglass.facts.credentials import Credentials, S3User
from sightglass.facts.errors import UserError

_READ = ("s3:GetObject", "s3:ListBucket", "s3:GetBucketLocation")
_WRITE = ("s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts")
START_TIMEOUT = 30.0
"""Seconds that MinIO may refuse requests after it said that it is ready."""
JOB_TIMEOUT = 300.0
"""The same for the Job of a cluster, which is there before MinIO is."""
TOKEN_LIFETIME = 10 * 365 * 24 * 3600
"""Seconds that the token for MinIO's own metrics is good for; on one machine it is made anew with every start."""


def _policy(actions: Sequence[str], buckets: Sequence[str]) -> dict[str, Any]:
    resources = [f"arn:aws:s3:::{bucket}{tail}" for bucket in buckets for tail in ("", "/*")]
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": resources}]}


BUCKETS = (object_storage.LOKI_BUCKET, object_storage.TEMPO_BUCKET)
POLICIES: dict[str, dict[str, Any]] = {
    "loki": _policy([*_READ, *_WRITE], [object_storage.LOKI_BUCKET]),
    "tempo": _policy([*_READ, *_WRITE], [object_storage.TEMPO_BUCKET]),
    "reader": _policy(_READ, BUCKETS),
    "metrics": {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["admin:Prometheus"]}]},
}
"""MinIO policy by the name of the user that has it."""


def provision_once(endpoint: str, credentials: Credentials, data_dir: Path) -> None:
    """Call :func:`provision` unless it was done before.

    Encrypting each administrative request costs MinIO 64 MiB and a tenth of a second, so a file in ``data_dir``,
    where MinIO keeps its data, remembers what was set.
    """
    wanted = hashlib.sha256(repr((POLICIES, BUCKETS, _users(credentials))).encode()).hexdigest()
    done = data_dir / "sightglass-provisioned"
    if done.exists() and done.read_text() == wanted:
        return
    provision(endpoint, credentials)
    done.write_text(wanted)


def _users(credentials: Credentials) -> dict[str, S3User]:
    return {name: getattr(credentials, name) for name in POLICIES}


def provision(endpoint: str, credentials: Credentials, *, timeout: float = START_TIMEOUT) -> None:
    """Create the buckets, policies and users at ``host:port`` that are not there yet; MinIO has ``timeout`` seconds."""
    users = _users(credentials)
    root = buckets.client(endpoint, credentials.root)
    try:
        polling.until(lambda: _make_buckets(root), timeout=timeout, what=f"MinIO at {endpoint} to take requests")
    except polling.DeadlineError as error:
        raise UserError(f"{error}. See `make logs NAME=minio`.") from None
    except S3Error as error:
        raise UserError(
            f"MinIO at {endpoint} refuses this stack's own credentials ({error.code}): is it another stack's? "
            "Set SIGHTGLASS_PORT_OFFSET, or forget this stack's data with `make clean`."
        ) from None
    provider = StaticProvider(credentials.root.access_key, credentials.root.secret_key)
    admin = MinioAdmin(endpoint=endpoint, credentials=provider, secure=False, region=object_storage.S3_REGION)
    for name, policy in POLICIES.items():
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(policy, file)
            file.flush()
            admin.policy_add(policy_name=name, policy_file=file.name)
        admin.user_add(access_key=users[name].access_key, secret_key=users[name].secret_key)
        with contextlib.suppress(MinioAdminException):  # "already in effect" when it is repeated
            admin.policy_set(policy_name=name, user=users[name].access_key)
    _require_policies(admin)


def _make_buckets(root: Minio) -> None:
    try:
        for bucket in BUCKETS:
            if not root.bucket_exists(bucket_name=bucket):
                root.make_bucket(bucket_name=bucket)
    except (ServerError, HTTPError) as error:
        # On a busy machine MinIO says that it is ready a moment before it is; in a cluster it may not have begun.
        raise polling.NotYet(str(error)) from None


def _require_policies(admin: MinioAdmin) -> None:
    users = json.loads(admin.user_list())
    wrong = [name for name in POLICIES if users.get(name, {}).get("policyName") != name]
    if wrong:
        raise UserError(f"MinIO did not take the policies of {', '.join(wrong)}: see `make logs NAME=minio`.")


def metrics_token(user: S3User) -> str:
    """Bearer token for MinIO's metrics, in the form its own ``mc admin prometheus generate`` gives out."""
    claims = {"sub": user.access_key, "iss": "prometheus", "exp": int(time.time()) + TOKEN_LIFETIME}
    return jwt.encode(claims, user.secret_key, algorithm="HS512")


def main() -> None:
    """Provision the MinIO at ``S3_ENDPOINT`` with the secrets in ``CREDENTIALS``: the Job of a cluster."""
    try:
        endpoint, text = os.environ["S3_ENDPOINT"], os.environ["CREDENTIALS"]
    except KeyError as missing:
        sys.exit(f"{missing} is not set: `make deploy` starts this Job with all that it needs.")
    try:
        provision(endpoint, credentials.from_json(text), timeout=JOB_TIMEOUT)
    except (UserError, ValueError) as error:
        sys.exit(str(error))
    print(f"Buckets {', '.join(BUCKETS)} and users {', '.join(POLICIES)} are set at {endpoint}.")


if __name__ == "__main__":
    main()
