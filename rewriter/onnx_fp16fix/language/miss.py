"""How close a rule came that changed nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnx_fp16fix.model import ScopePath

__all__ = ["Miss"]


@dataclass(frozen=True, slots=True)
class Miss:
    """The closest a rule came.

    ``fitted`` of ``size`` operations of the pattern fitted; ``clause`` (``match``, ``vars.x``, ``inner``,
    ``where[0]``, ``replace``, ``overlap``, ``equal``, ``opset``, ``targets``) ended it, ``reason`` says how.
    ``node`` is where the match would have its root, "" where nothing of it was found.
    """

    rule: str
    name: str
    clause: str
    reason: str
    fitted: int = 0
    size: int = 0
    scope: ScopePath = ()
    node: str = ""
    nodes: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
