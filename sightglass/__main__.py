"""``python -m sightglass``."""

from sightglass.cli.commands import main

if __name__ == "__main__":
    main()
