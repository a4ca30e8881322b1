"""What a rule is once it is loaded: plain frozen data, every expression parsed and every name checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from onnx_fp16fix.language.expression import Expr, Suite
from onnx_fp16fix.language.pattern import Pattern
from onnx_fp16fix.language.target import Target
from onnx_fp16fix.language.yaml_source import Place

__all__ = ["DEFAULT_ALLOWED", "EQUAL", "ActionCall", "Case", "OpsetRange", "Rule", "Variable", "Variant"]


EQUAL: Final = ("exact", "real", "context", "lossy")
"""Classes of equality, strictest first."""
DEFAULT_ALLOWED: Final = ("exact", "real", "context")
"""Classes that are applied unless a user says otherwise; ``lossy`` only when asked for."""


@dataclass(frozen=True, slots=True)
class Variable:
    """Kind of a captured name.

    ``kind``: ``tensor``, ``const``, ``attr`` or ``axes``. ``scalar`` narrows a const to one element. ``shape`` has an
    int, a name (bound to the size), None (any size) or ``...`` (any number of sizes, at most once) for each place.
    """

    name: str
    kind: str
    scalar: bool = False
    shape: tuple[Any, ...] | None = None


@dataclass(frozen=True, slots=True)
class ActionCall:
    """A named action with its checked parameters; those that are guards come parsed in ``expressions``."""

    name: str
    parameters: Any
    expressions: Mapping[str, Expr] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to mend a match; exactly one of ``template``, ``settings`` and ``action`` is filled."""

    when: Expr | None = None
    template: Suite | None = None
    settings: tuple[tuple[str, Expr], ...] = ()
    action: ActionCall | None = None


@dataclass(frozen=True, slots=True)
class OpsetRange:
    """Opset versions a rule is for, both ends included."""

    low: int = 1
    high: int = 1 << 30

    def __contains__(self, opset: int) -> bool:
        return self.low <= opset <= self.high

    def __str__(self) -> str:
        return f">={self.low}" if self.high >= 1 << 30 else f">={self.low},<={self.high}"


@dataclass(frozen=True, slots=True)
class Case:
    """One entry of ``tests:``; ``given`` maps a name of the suite to its text, ``because``/``uses`` name a clause,
    ``target`` is asked for where the case names one, else all of the rule."""

    hit: bool
    suite: Suite
    given: Mapping[str, str]
    clause: str | None
    todo: str | None
    opset: int
    place: Place
    target: Target | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """A loaded rule. ``patterns`` has one entry for each alternative of ``match: any``, none where the action is one
    for the whole model."""

    id: str
    name: str
    summary: str
    equal: str
    patterns: tuple[Pattern, ...]
    variables: Mapping[str, Variable]
    variants: tuple[Variant, ...]
    place: Place
    why: str = ""
    status: str = "stable"
    references: tuple[str, ...] = ()
    assumes: tuple[str, ...] = ()
    tol: float | None = None
    where: tuple[Expr, ...] = ()
    let: tuple[tuple[str, Expr], ...] = ()
    shared: bool = False
    opset: OpsetRange = OpsetRange()
    targets: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    cases: tuple[Case, ...] = ()

    @property
    def family(self) -> str:
        """Letters of the id: NORM for NORM001."""
        return self.id.rstrip("0123456789")

    @property
    def size(self) -> int:
        """Operations in the largest pattern; of two overlapping matches the larger one wins."""
        return max((pattern.size() for pattern in self.patterns), default=0)
