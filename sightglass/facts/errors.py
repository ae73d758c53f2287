"""The one exception that ends a command with a sentence instead of a traceback."""

import sys
from typing import IO, Any

import click


class UserError(click.ClickException):
    """Something the person at the keyboard can mend; the message says what is wrong and what to set or run."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the sentence; called by click at the end of a command."""
        print(f"sightglass: {self.message}", file=file or sys.stderr)
