"""What the rules of a run did, and how close the others came."""

from __future__ import annotations

from pydantic import Field, JsonValue

from onnx_fp16fix.document.section import Section

__all__ = ["MissEntry", "RuleEntry"]


class RuleEntry(Section):
    """How often a rule was tried, matched and applied, and the matches it skipped for want of a fact."""

    id: str
    name: str = ""
    tried: int = 0
    matched: int = 0
    applied: int = 0
    skipped: int = 0
    seconds: float = 0.0


class MissEntry(Section):
    """How close a rule came that changed nothing: ``fitted`` of ``size`` operations of its pattern fitted at ``node``;
    ``clause`` ended it, ``reason`` says how. ``facts`` are those asked for, ``missing`` those not known."""

    rule: str
    name: str = ""
    clause: str
    reason: str
    fitted: int = 0
    size: int = 0
    scope: str = ""
    node: str | None = None
    nodes: list[str] = Field(default_factory=list)
    facts: dict[str, JsonValue] = Field(default_factory=dict)
    missing: list[str] = Field(default_factory=list)
