"""``python -m sightglass``."""

from sightglass.cli import main

if __name__ == "__main__":
    main()
