"""Commands of other modules, which are imported when they run: no other command waits for them."""

import os
import sys
from importlib import import_module

import click

from sightglass.facts.errors import UserError


class Elsewhere(click.Command):
    """A command that another module has; everything after its name is for that one."""

    def __init__(self, name: str, where: str, what: str) -> None:
        super().__init__(
            name,
            help=what,
            add_help_option=False,
            context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        )
        self.where = where

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep all for the module's own command."""
        ctx.args = args
        return []

    def invoke(self, ctx: click.Context) -> None:
        """Import the command and run it."""
        module, _, name = self.where.partition(":")
        if not name:
            # It changes Python's own sockets, and has to come before anything that was imported here.
            os.execv(sys.executable, [sys.executable, "-m", module, *ctx.args])  # noqa: S606 - no shell
        try:
            found: click.Command = getattr(import_module(module), name)
        except ModuleNotFoundError as error:
            raise UserError(
                f"`{ctx.command_path}` needs {error.name}, which is not installed: `make {self.name}` installs it."
            ) from None
        found.main(args=ctx.args, prog_name=ctx.command_path)


COMMANDS = (
    Elsewhere("load", "load_testing", "Send real requests to a service and judge every answer."),
    Elsewhere("bench", "sightglass.measure.overhead:main", "Measure what telemetry costs each service."),
    Elsewhere("cost", "sightglass.measure.cost:main", "Measure bytes, series and processor time of predictions."),
    Elsewhere("latency", "sightglass.measure.latency:main", "Measure seconds from emission to found."),
    Elsewhere("links", "sightglass.measure.link_seconds:main", "Follow every link of 100 requests, in seconds."),
    Elsewhere("proof", "sightglass.measure.proof:main", "Run verify again and again beside others' traffic."),
    Elsewhere("neighbours", "sightglass.measure.neighbours:main", "Send one bad item among good ones, of every kind."),
    Elsewhere("drill", "sightglass.measure.drill:main", "Quiet minutes of load, then a server that dies."),
    Elsewhere("queries", "sightglass.measure.dashboard_seconds:main", "Time each query of each dashboard."),
    Elsewhere("servers", "sightglass.local.build:main", "Fetch or build the servers that are missing."),
)
"""What ``sightglass`` offers beside its own commands."""
