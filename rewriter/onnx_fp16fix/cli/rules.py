"""``rules``: a group of commands about rule files themselves; nothing here touches a model of the user's."""

from __future__ import annotations

import json
from importlib import import_module

import click

from onnx_fp16fix.cli.options import suggest

__all__ = ["command", "rules_document"]

_COMMANDS = {
    "list": "rules_show",
    "show": "rules_show",
    "lint": "rules_proof",
    "test": "rules_proof",
    "new": "rules_show",
    "schema": "rules_show",
}


class _Rules(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            suggest(ctx, cmd_name, _COMMANDS)
            return None
        module = import_module(f"onnx_fp16fix.cli.{_COMMANDS[cmd_name]}")
        found: click.Command = getattr(module, f"{cmd_name}_command")
        return found


@click.command("rules", cls=_Rules)
def command() -> None:
    """List, show, check, prove and begin rule files."""


def rules_document(name: str, exit_code: int, **content: object) -> str:
    """The JSON document of one of these commands."""
    head = {"schema": "fp16fix-rules/1", "command": f"rules {name}", "exit_code": exit_code}
    return json.dumps({**head, **content}, indent=2, ensure_ascii=False)
