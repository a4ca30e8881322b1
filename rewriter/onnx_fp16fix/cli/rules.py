"""``rules``: a group of commands about rule files themselves; nothing here touches a model of the user's."""

from __future__ import annotations

import json
from typing import ClassVar

import click

from onnx_fp16fix.cli.group import LazyGroup

__all__ = ["command", "rules_document"]


class _Rules(LazyGroup):
    places: ClassVar = {
        "list": ("rules_show", "list_command"),
        "show": ("rules_show", "show_command"),
        "lint": ("rules_proof", "lint_command"),
        "test": ("rules_proof", "test_command"),
        "new": ("rules_show", "new_command"),
        "schema": ("rules_show", "schema_command"),
    }


@click.command("rules", cls=_Rules)
def command() -> None:
    """List, show, check, prove and begin rule files."""


def rules_document(name: str, exit_code: int, **content: object) -> str:
    """The JSON document of one of these commands."""
    head = {"schema": "fp16fix-rules/1", "command": f"rules {name}", "exit_code": exit_code}
    return json.dumps({**head, **content}, indent=2, ensure_ascii=False)
