"""The terminal, and the words for what holds and what does not."""

from rich.console import Console

WIDTH = 150
"""Columns where there is no terminal to ask."""
_GREEN, _RED, _YELLOW = "[green]ok[/]", "[red]FAILED[/]", "[yellow]left out[/]"


def console(*, stderr: bool = False) -> Console:
    """A console as wide as the terminal, or wide enough for a table's rows where there is none."""
    made = Console(stderr=stderr)
    return made if made.is_terminal else Console(stderr=stderr, width=WIDTH)


def mark(ok: bool | None) -> str:
    """The word for a thing that holds, or does not; None is a thing that was not looked at on purpose."""
    return _YELLOW if ok is None else _GREEN if ok else _RED
