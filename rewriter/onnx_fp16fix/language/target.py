"""What a model is made for: a runtime, its version, and the type its weights get there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from onnx_fp16fix.errors import Problem, UsageError

__all__ = ["TYPES", "Target", "parse_target"]

TYPES = ("fp16", "bf16", "int8")
"""Types a target can compute in."""
_FORM = re.compile(
    r"(?P<name>[a-z][a-z0-9-]*)(?::(?P<version>\d{1,6}(?:\.\d{1,6})*))?(?::(?P<type>[a-z0-9]+))?"
)


@dataclass(frozen=True, slots=True)
class Target:
    """``version``: numbers such as (11, 2), None for the newest one known of."""

    name: str
    version: tuple[int, ...] | None = None
    type: str = TYPES[0]

    def __str__(self) -> str:
        version = "" if self.version is None else " " + ".".join(map(str, self.version))
        return f"{self.name}{version} in {self.type.upper()}"


def parse_target(text: str, default: str = TYPES[0]) -> Target:
    """``tensorrt``, ``tensorrt:11.2`` or ``tensorrt:8.4:int8``; ``default`` is the type where none is named.

    Raises UsageError.
    """
    form = _FORM.fullmatch(text.strip().lower())
    if form is None or form["type"] not in (None, *TYPES):
        hint = "NAME, NAME:VERSION or NAME:VERSION:TYPE, with the type fp16, bf16 or int8: tensorrt:11.2"
        raise UsageError(Problem("USAGE-TARGET", f"'{text}' is no target", hint=hint))
    version = tuple(map(int, form["version"].split("."))) if form["version"] else None
    return Target(form["name"], version, form["type"] or default)
