"""What applying rules gives back: patches, requests, one record a match, one line of statistics a rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from onnx_fp16fix.language.miss import Miss
from onnx_fp16fix.language.request import PlanRequest
from onnx_fp16fix.model import Patch, ScopePath

__all__ = ["MatchRecord", "RuleRun", "RuleStats"]


@dataclass(slots=True)  # never changed; frozen would cost time
class MatchRecord:
    """What became of one match.

    ``clause`` names what decided: ``replace[0]``, ``where[1]``, ``vars.x``, ``overlap``. ``missing`` lists unknown
    facts, ``facts`` the known ones that were asked for. ``removed``, ``added`` and ``changed`` (nodes that ``set``
    gave other inputs) are node names.
    """

    rule: str
    name: str
    status: Literal["applied", "skipped", "shadowed"]
    scope: ScopePath
    node: str
    nodes: tuple[str, ...]
    tensors: tuple[str, ...]
    reason: str
    clause: str
    missing: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    equal: str = "exact"
    tol: float | None = None
    indices: tuple[int, ...] = ()
    """Of ``nodes`` in their scope."""
    assumes: tuple[str, ...] = ()
    action: str | None = None


@dataclass(slots=True)
class RuleStats:
    """Counts of one rule and the CPU seconds it took."""

    rule: str
    name: str
    tried: int = 0
    matched: int = 0
    applied: int = 0
    skipped: int = 0
    shadowed: int = 0
    given_up: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class RuleRun:
    """The result of one pass over a model."""

    patches: tuple[Patch, ...] = ()
    requests: tuple[PlanRequest, ...] = ()
    records: tuple[MatchRecord, ...] = ()
    stats: tuple[RuleStats, ...] = ()
    misses: tuple[Miss, ...] = ()
    """For each rule that changes nothing, how close it came; only when asked for."""
