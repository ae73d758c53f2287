"""Finding and ending every process of a stack, whoever its parent is now."""

import os
from collections.abc import Callable

import psutil

MARKER = "SIGHTGLASS_STACK"
"""Environment variable that every process of a stack inherits: ``<state folder>#<run>``."""

OWNER = "SIGHTGLASS_OWNER"
"""Environment variable that a stack passes on: whoever started it may look for all that is of it."""


def find(belongs: Callable[[str], bool], variable: str = MARKER) -> list[psutil.Process]:
    """All processes of this user whose marker satisfies ``belongs``, but for the caller itself."""
    found = []
    for process in psutil.process_iter():
        try:
            marker = process.environ().get(variable)
        except psutil.Error:
            continue
        if marker is not None and belongs(marker) and process.pid != os.getpid():
            found.append(process)
    return found


def end(belongs: Callable[[str], bool], grace: float, variable: str = MARKER) -> int:
    """SIGTERM to all that belong, SIGKILL to what is left after ``grace`` seconds; returns how many there were."""
    first = find(belongs, variable)
    for process in first:
        _signal(process.terminate)
    psutil.wait_procs(first, timeout=grace)
    # Children that were started meanwhile carry the marker too.
    while stubborn := find(belongs, variable):
        for process in stubborn:
            _signal(process.kill)
        psutil.wait_procs(stubborn, timeout=5)
    return len(first)


def resident_bytes(pid: int) -> int:
    """Resident memory in bytes of a process and its descendants; 0 when it is gone."""
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
    except psutil.Error:
        return 0
    total = 0
    for process in family:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue
    return total


def listener(port: int) -> str:
    """Who listens on a TCP port, for an error message."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:2] == (port,) and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass
    return "another program"


def _signal(send: Callable[[], None]) -> None:
    try:
        send()
    except psutil.NoSuchProcess:
        return
