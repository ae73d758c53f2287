"""A full disk of the stack's folder: seen, and told where Prometheus can tell nothing, because it cannot write."""

import json
import shutil
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

LEAST = 64 * 2**20
"""Bytes that must be left: with less, the next block or segment of a server may not fit."""
ALERT = "DiskFills"
KEPT = timedelta(minutes=2)
"""How long the alert stands after it was told last."""


def problem(folder: Path) -> str | None:
    """What is wrong with the disk of a folder, None where it has room."""
    try:
        left = shutil.disk_usage(folder).free
    except OSError:
        return None
    if left >= LEAST:
        return None
    return (
        f"The disk of {folder} is full ({left / 2**20:.0f} MiB are left): make room. Until then servers cannot write, "
        "and what is sent may be lost. The Collector and the log files count what they lose."
    )


def tell(alertmanager: str, folder: Path, reason: str) -> None:
    """Give Alertmanager the alert itself; :class:`OSError` where it cannot be reached."""
    runbook = Path(__file__).resolve().parents[2] / "docs" / "runbooks" / f"{ALERT}.md"
    alert = {
        "labels": {"alertname": ALERT, "severity": "page", "full": "true", "folder": str(folder)},
        "annotations": {
            "summary": f"{folder} has no room left.",
            "description": reason,
            "runbook_url": runbook.as_uri(),
        },
        "endsAt": (datetime.now(UTC) + KEPT).isoformat(),
    }
    request = urllib.request.Request(  # noqa: S310 - the stack's own address
        f"{alertmanager}/api/v2/alerts",
        json.dumps([alert]).encode(),
        {"content-type": "application/json"},
    )
    # The stack's own address: never through a proxy.
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5):
        pass
