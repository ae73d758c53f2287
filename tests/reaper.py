"""Ends what a test run started once the run is over, however it ended: it watches a pipe that only the run holds.

It has a session of its own, so that what kills the run's terminal or process group does not reach it.
"""

import os
import sys

from sightglass.local import processes

GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL."""


def main(run: str) -> None:
    """Wait until the other end of standard input is closed, then end every process of that run."""
    while os.read(0, 1):
        pass
    processes.end(lambda found: found == run, GRACE, processes.OWNER)


if __name__ == "__main__":
    main(sys.argv[1])
