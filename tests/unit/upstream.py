"""Plays upstream's release host, a mirror and a proxy: one HTTP server with what can go wrong on the way."""

import contextlib
import hashlib
import io
import ssl
import subprocess
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from sightglass.local.fetch import Archive


def pack(file: str, contents: Mapping[str, bytes]) -> bytes:
    """An archive of that name with these files, as upstream makes it: a tar, a zip, or the one file itself."""
    buffer = io.BytesIO()
    if file.endswith(".tar.gz"):
        with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
            for name, content in contents.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), 0o755
                tar.addfile(member, io.BytesIO(content))
    elif file.endswith(".zip"):
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, content in contents.items():
                packed.writestr(name, content)
    else:
        (content,) = contents.values()
        buffer.write(content)
    return buffer.getvalue()


@dataclass
class Trouble:
    """What goes wrong with one path."""

    breaks: int = 0
    """How often the connection ends in the middle."""
    truncated: bool = False
    """Half of it is sent as if it were all."""
    redirect: str | None = None
    status: int | None = None
    no_ranges: bool = False
    stops_at: threading.Event | None = None
    """Set once the middle was sent; then nothing more comes."""


@dataclass
class Seen:
    """One request."""

    method: str
    path: str
    range: str | None
    host: str = ""


@dataclass
class Upstream:
    """Files by path, and what was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    trouble: dict[str, Trouble] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    rate: float | None = None
    """Bytes a second, over all connections together."""
    url: str = ""

    def archive(self, name: str, file: str, contents: Mapping[str, bytes], **changes: object) -> Archive:
        """Put an archive here; it is pinned unless ``sha256`` says otherwise."""
        content = pack(file, contents)
        self.files[f"/{file}"] = content
        digest = hashlib.sha256(content).hexdigest()
        self.files.setdefault("/SUMS", b"")
        self.files["/SUMS"] += f"{digest}  {file}\n".encode()
        known: dict[str, object] = {
            "label": f"{name} 1.0",
            "name": f"{name}-1.0",
            "url": f"{self.url}/{file}",
            "sha256": digest,
            "checksums": f"{self.url}/SUMS",
            "members": dict.fromkeys(contents) and {key.rpartition("/")[2]: key for key in contents},
        }
        return Archive(**(known | changes))  # type: ignore[arg-type]

    def gets(self, file: str) -> list[str | None]:
        """The Range header of every GET of that file."""
        return [one.range for one in self.seen if (one.method, one.path) == ("GET", f"/{file}")]


class _Pace:
    """Lets so many bytes a second pass, whoever sends them."""

    def __init__(self, rate: float) -> None:
        self._rate, self._free, self._lock = rate, time.monotonic(), threading.Lock()

    def take(self, size: int) -> None:
        with self._lock:
            self._free = max(self._free, time.monotonic()) + size / self._rate
            wait = self._free - time.monotonic()
        time.sleep(max(0.0, wait))


def _handler(upstream: Upstream, pace: _Pace | None) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(send=False)

        def do_GET(self) -> None:
            self._answer(send=True)

        def _answer(self, *, send: bool) -> None:
            # A proxy is asked for whole addresses.
            path = urlsplit(self.path).path if self.path.startswith("http") else self.path
            wanted = self.headers.get("Range")
            host = urlsplit(self.path).netloc if self.path.startswith("http") else ""
            upstream.seen.append(Seen(self.command, path, wanted, host))
            trouble = upstream.trouble.get(path, Trouble())
            if trouble.redirect:
                self.send_response(302)
                self.send_header("Location", trouble.redirect)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            content = upstream.files.get(path)
            if trouble.status or content is None:
                self._refuse(trouble.status or 404)
                return
            if trouble.truncated:
                content = content[: len(content) // 2]
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and not trouble.no_ranges else 0
            if start and start >= len(content):
                self._refuse(416)
                return
            body = content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if not send:
                return
            if trouble.breaks:
                trouble.breaks -= 1
                body = body[: len(body) // 2]
                self.close_connection = True
            for position in range(0, len(body), 1 << 16):
                if pace:
                    pace.take(len(body[position : position + (1 << 16)]))
                self.wfile.write(body[position : position + (1 << 16)])
                if trouble.stops_at and position >= len(body) // 2:
                    trouble.stops_at.set()
                    time.sleep(60)

        def _refuse(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Keep the test's output clean."""

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no news."""


@contextlib.contextmanager
def serve(upstream: Upstream, tls: ssl.SSLContext | None = None) -> Iterator[Upstream]:
    """Serve it on this machine; ``rate`` counts from here on."""
    pace = _Pace(upstream.rate) if upstream.rate else None
    with _Server(("127.0.0.1", 0), _handler(upstream, pace)) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        upstream.url = f"{'https' if tls else 'http'}://localhost:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield upstream
        server.shutdown()
        thread.join()


def authority(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A company's certificate, and what a server needs to answer with it."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return certificate, context
