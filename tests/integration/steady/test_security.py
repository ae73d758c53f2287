"""Nothing listens beyond this machine, no secret lies open, and no server reaches another's bucket."""

import io
import stat

import psutil
import pytest
from minio.error import S3Error

from sightglass.clients import buckets, http, polling
from sightglass.clients.polling import NotYet
from sightglass.facts import object_storage
from sightglass.facts.credentials import S3User
from sightglass.facts.settings import HOST
from sightglass.local import processes
from sightglass.runtime import storage
from tests.integration.running import Running


def members(stack: Running) -> list[psutil.Process]:
    return processes.find(lambda marker: marker.startswith(f"{stack.settings.state_dir}#"))


def test_everything_listens_on_the_loopback_address_only(stack: Running) -> None:
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for process in members(stack)
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    # MinIO takes both of the machine's own addresses.
    assert {address for address, _ in listening} - {"::1"} == {HOST}
    served = {n for name, n in stack.settings.ports.items() if name not in ("grafana", "locust")}
    assert served <= {port for _, port in listening}


def test_no_secret_on_a_command_line_or_in_a_file_that_others_can_read(stack: Running) -> None:
    users = (getattr(stack.credentials, name) for name in ("root", *storage.POLICIES))
    secrets = [user.secret_key for user in users] + [stack.credentials.grafana_admin_password]
    for process in members(stack):
        assert not any(secret in word for secret in secrets for word in process.cmdline())
    holding = []
    for file in stack.settings.state_dir.rglob("*"):
        if file.is_file() and not file.is_relative_to(stack.settings.state_dir / "data"):
            text = file.read_bytes()
            if any(secret.encode() in text for secret in secrets):
                holding.append(file.name)
                assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    assert sorted(holding) == ["credentials.json", "supervisord.conf"]
    token = stack.settings.run_dir / "secrets" / "minio.token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_each_server_gets_only_its_own_secret(stack: Running) -> None:
    for process in members(stack):
        program = process.name()
        own = {"loki": {"loki"}, "tempo": {"tempo"}, "minio": {"root"}}.get(program, set())
        values = " ".join(process.environ().values())
        seen = {name for name in ("root", *storage.POLICIES) if getattr(stack.credentials, name).secret_key in values}
        assert seen == own, program


@pytest.mark.parametrize(
    ("user", "bucket", "may"),
    [
        ("loki", object_storage.LOKI_BUCKET, {"read", "write"}),
        ("loki", object_storage.TEMPO_BUCKET, set()),
        ("tempo", object_storage.TEMPO_BUCKET, {"read", "write"}),
        ("tempo", object_storage.LOKI_BUCKET, set()),
        ("reader", object_storage.LOKI_BUCKET, {"read"}),
        ("reader", object_storage.TEMPO_BUCKET, {"read"}),
        ("metrics", object_storage.LOKI_BUCKET, set()),
    ],
)
def test_bucket_access(stack: Running, user: str, bucket: str, may: set[str]) -> None:
    account: S3User = getattr(stack.credentials, user)
    client = buckets.client(stack.target.s3_endpoint.removeprefix("http://"), account)
    can = set()
    try:
        next(iter(client.list_objects(bucket_name=bucket)), None)
        can.add("read")
    except S3Error as error:
        if error.code != "AccessDenied":
            raise
    try:
        client.put_object(bucket_name=bucket, object_name="written-by-a-test", data=io.BytesIO(b"x"), length=1)
        client.remove_object(bucket_name=bucket, object_name="written-by-a-test")
        can.add("write")
    except S3Error as error:
        if error.code != "AccessDenied":
            raise
    assert can == may


def test_minios_metrics_need_the_token(stack: Running) -> None:
    url = f"{stack.target.s3_endpoint}/minio/v2/metrics/cluster"
    assert http.session.get(url).status_code == 403
    token = (stack.settings.run_dir / "secrets" / "minio.token").read_text()
    assert http.session.get(url, headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_prometheus_scrapes_every_server_itself(stack: Running) -> None:
    servers = {"prometheus", "alertmanager", "loki", "tempo", "promtail", "minio"}

    def scraped() -> None:
        up = {sample.labels["service_name"] for sample in stack.prometheus.query("up == 1")}
        if servers - up:
            raise NotYet(f"not scraped: {servers - up}")

    polling.until(scraped, timeout=40, what="a scrape of every server")
