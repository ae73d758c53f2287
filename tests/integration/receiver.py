"""A real receiver of notifications: an HTTP server that remembers what was posted to it, and when."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Any, Self

from sightglass.clients import polling
from sightglass.clients.polling import NotYet


@dataclass(frozen=True)
class Notification:
    """One post: its path, when it came (Unix seconds), and its body."""

    path: str
    time: float
    body: dict[str, Any]


@dataclass(frozen=True)
class Arrival:
    """One alert of a notification, with the notification's time."""

    time: float
    alert: dict[str, Any]


class Receiver:
    """Takes every POST on a free port of this machine; a context manager."""

    def __init__(self) -> None:
        self.notifications: list[Notification] = []
        received = self.notifications

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                received.append(Notification(self.path, time.time(), body))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        return self._server.server_port

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def at(self, path: str) -> list[Notification]:
        """What was posted to that path, oldest first."""
        return [notification for notification in list(self.notifications) if notification.path == path]

    def arrivals(
        self, alertname: str, status: str, labels: Mapping[str, str], *, path: str, since: float = 0.0
    ) -> Iterator[Arrival]:
        """Every time that such an alert came: its name, "firing" or "resolved", and at least these labels."""
        wanted = {"alertname": alertname, **labels}.items()
        for notification in self.at(path):
            for alert in notification.body["alerts"]:
                if notification.time >= since and alert["status"] == status and wanted <= alert["labels"].items():
                    yield Arrival(notification.time, alert)

    def wait_for(
        self,
        alertname: str,
        status: str,
        labels: Mapping[str, str],
        timeout: float,
        *,
        path: str = "/webhook",
        since: float = 0.0,
    ) -> Arrival:
        """Wait for the first such alert that came at ``since`` (Unix seconds) or later."""

        def arrived() -> Arrival:
            for arrival in self.arrivals(alertname, status, labels, path=path, since=since):
                return arrival
            seen = [
                f"{alert['status']} {alert['labels']['alertname']} {alert['labels'].get('service_name', '')}"
                for notification in self.at(path)
                for alert in notification.body["alerts"]
            ]
            raise NotYet(f"{len(seen)} alerts came to {path}, the last of them {seen[-5:]}")

        what = f"{status} {alertname} {dict(labels)} at the receiver"
        return polling.until(arrived, timeout=timeout, what=what)
