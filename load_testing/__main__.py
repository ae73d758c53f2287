"""``python -m load_testing``, which is what ``sightglass load`` runs."""

import sys

try:
    # Before everything else, for it replaces sockets and threads by cooperative ones.
    import locust  # noqa: F401

    from load_testing.cli import main
except ModuleNotFoundError as error:
    sys.exit(f"sightglass: `sightglass load` needs {error.name}, which is not installed: `make load` installs it.")

if __name__ == "__main__":
    main(prog_name="sightglass load")
