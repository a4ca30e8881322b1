"""Groups of commands of which only the one called is imported."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import ClassVar

import click

__all__ = ["LazyGroup"]


class LazyGroup(click.Group):
    """``places``: the module of ``cli`` and the name in it for each command, in the order of the help."""

    places: ClassVar[Mapping[str, tuple[str, str]]] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.places:
            if near := get_close_matches(cmd_name, list(self.places), 1):
                ctx.fail(f"No such command '{cmd_name}'. Did you mean '{near[0]}'?")
            return None
        module, name = self.places[cmd_name]
        found: click.Command = getattr(import_module(f"onnx_fp16fix.cli.{module}"), name)
        return found
