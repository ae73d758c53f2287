"""Writing generated files, and telling whether those in the repository are fresh."""

from collections.abc import Callable, Mapping
from pathlib import Path

import click

from sightglass.facts.settings import REPOSITORY

Files = Mapping[Path, str]
"""Text by path of the file."""


def stale(files: Files) -> list[Path]:
    """Paths whose file is missing or says something else."""
    return [path for path, text in files.items() if not path.is_file() or path.read_text() != text]


def command(make: Callable[[], Files], module: str) -> click.Command:
    """The command ``python -m <module>``: writes the files, or with ``--check`` exits 1 if one is stale."""

    @click.command(context_settings={"help_option_names": ["-h", "--help"]})
    @click.option("--check", is_flag=True, help="Write nothing; exit status 1 if a file is not what it should be.")
    def main(check: bool) -> None:
        """Write the files that are made from the alert definitions."""
        files = make()
        outdated = stale(files)
        if check and outdated:
            names = ", ".join(str(path.relative_to(REPOSITORY)) for path in outdated)
            click.echo(f"{names}: not what the source says; run `python -m {module}`.", err=True)
            raise click.exceptions.Exit(1)
        for path in outdated:
            path.write_text(files[path])

    return main
