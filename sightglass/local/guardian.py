"""Ends the stack's programs when the runner was killed, and tells of a full disk: nobody else would.

Runs as one of the runner's programs, so that the runner starts it again should it die first.
"""

import contextlib
import logging
import os
import sys
import time
from pathlib import Path

from sightglass.local import disk, processes

GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL."""
INTERVAL = 0.25
"""Seconds between two looks at the parent."""
LOOK = 5.0
"""Seconds between two looks at the disk."""


def main(marker: str, log: str, folder: Path, alertmanager: str) -> None:
    """Wait for the parent process to end, then end every process that carries the marker.

    Meanwhile a full disk of ``folder`` is told to the ``alertmanager``, where there is one.
    What it has to say goes to the file ``log``: its standard output leads to the runner, which is gone by then.
    """
    logging.basicConfig(filename=log, format="%(asctime)s %(message)s", level=logging.INFO)
    parent = os.getppid()
    logging.info("watching the runner, pid %d", parent)
    # A dead parent may stay a zombie for ever, but it is the parent no more.
    look = 0.0
    while os.getppid() == parent:
        time.sleep(INTERVAL)
        if alertmanager and time.monotonic() >= look:
            look = time.monotonic() + LOOK
            if reason := disk.problem(folder):
                # It may be away; the next look tells it.
                with contextlib.suppress(OSError):
                    disk.tell(alertmanager, folder, reason)
    logging.warning("the runner is gone without having stopped its programs")
    count = processes.end(lambda found: found == marker, GRACE)
    logging.warning("ended %d processes", count)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4])
