"""``python -m dashboards``: write the dashboards' JSON, or check that it is fresh."""

import sys
from pathlib import Path

import click

from dashboards import catalogue


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--folder", type=click.Path(path_type=Path), default=catalogue.FOLDER, help="Where the JSON lies.")
@click.option("--check", is_flag=True, help="Write nothing; exit 1 and name what is not fresh.")
def main(folder: Path, check: bool) -> None:
    """Generate the Grafana dashboards' JSON from Python."""
    names = catalogue.stale(folder)
    if not check:
        catalogue.write(folder)
        print(f"{len(catalogue.BOARDS)} dashboards, {len(names)} changed{': ' if names else ''}{', '.join(names)}")
        return
    for name in names:
        print(f"{folder.name}/{name} is not what the code makes: run `python -m dashboards`.", file=sys.stderr)
    sys.exit(1 if names else 0)


if __name__ == "__main__":
    main(prog_name="python -m dashboards")
