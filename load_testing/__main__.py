"""``python -m load_testing``."""

import locust  # noqa: F401 - before everything else, for it replaces sockets and threads by cooperative ones

from load_testing.cli import main

main(prog_name="python -m load_testing")
