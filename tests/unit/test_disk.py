"""A full disk is said by `make status`, and told to Alertmanager by the guardian itself."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from sightglass.clients import polling
from sightglass.clients.polling import NotYet
from sightglass.facts.settings import REPOSITORY
from sightglass.local import disk

FULL = Path("/proc")
"""A file system without any room."""
Heard = list[dict[str, Any]]


@contextmanager
def alertmanager() -> Iterator[tuple[str, Heard]]:
    """Notes what it is told."""
    heard: Heard = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.extend(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", heard
        finally:
            server.shutdown()
            thread.join()


def test_disk_with_room_is_no_problem(tmp_path: Path) -> None:
    assert disk.problem(tmp_path) is None
    assert disk.problem(tmp_path / "nothing") is None
    assert "is full (0 MiB are left): make room" in str(disk.problem(FULL))


@pytest.mark.parametrize("folder", [FULL, REPOSITORY], ids=["full", "with room"])
def test_guardian_tells_of_a_full_disk_and_of_no_other(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with alertmanager() as (url, heard):
        command = [
            sys.executable,
            "-m",
            "sightglass.local.guardian",
            "a marker",
            str(tmp_path / "log"),
            str(folder),
            url,
        ]
        with subprocess.Popen(command, cwd=REPOSITORY) as guardian:

            def told() -> None:
                if not heard:
                    raise NotYet("nothing was told")

            try:
                if folder == FULL:
                    polling.until(told, timeout=20, what="the alert")
                else:
                    with pytest.raises(polling.DeadlineError):
                        polling.until(told, timeout=3, what="an alert that must not come")
            finally:
                guardian.kill()
    labels = {"alertname": "DiskFills", "severity": "page", "full": "true", "folder": str(FULL)}
    assert [alert["labels"] for alert in heard[:1]] == ([labels] if folder == FULL else [])
    for alert in heard:
        assert Path(alert["annotations"]["runbook_url"].removeprefix("file://")).is_file()
