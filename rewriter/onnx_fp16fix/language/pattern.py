"""Patterns: what an expression means, whichever of its ONNX spellings a model uses.

Products, sums and extrema are n-ary *combinations* with weights, so that one pattern covers operand orders, nesting,
Div, Reciprocal, Sqrt and Neg at once: ``x / Sqrt(m + eps)`` is the product of x to the 1 and of (m + eps) to the -1/2.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnx_fp16fix.language.expression import Expr
from onnx_fp16fix.language.terms import Weight

__all__ = [
    "Absent",
    "Capture",
    "Combination",
    "Either",
    "Inner",
    "Moved",
    "Operation",
    "Pattern",
    "Roots",
    "Wild",
    "patterns_in",
]


class _Sized:
    __slots__ = ()

    def size(self) -> int:
        """Operations in the pattern."""
        inner = children(self)  # type: ignore[arg-type]
        own = 1 if isinstance(self, Operation | Combination) else 0
        return own + sum(child.size() for child in inner)


@dataclass(frozen=True, slots=True)
class Wild(_Sized):
    """``_``: anything."""


@dataclass(frozen=True, slots=True)
class Absent(_Sized):
    """``None``: an input that the node does not have."""


@dataclass(frozen=True, slots=True)
class Capture(_Sized):
    """A bare name; its kind is the rule's variable of that name."""

    name: str


@dataclass(frozen=True, slots=True)
class Inner(_Sized):
    """A value named by ``d = ...``; every use is the same value."""

    name: str
    pattern: Pattern


@dataclass(frozen=True, slots=True)
class Combination(_Sized):
    """Parts joined by ``kind``: ``*`` (weights are exponents), ``+`` (factors), Max, Min, And, Or (always 1).

    ``number`` is the constant among them, None when there is none.
    """

    kind: str
    parts: tuple[tuple[Pattern, Weight], ...]
    number: float | None = None


@dataclass(frozen=True, slots=True)
class Operation(_Sized):
    """One op. ``literal`` (``op.Div``) takes that very node and no other spelling.

    ``attributes`` hold the expressions as written: a literal, or a name that is bound. ``star`` takes the remaining
    inputs, ``stars`` the remaining attributes; without it those not mentioned must have their default. The value is the
    ``output`` of so many ``outputs``; those of one ``group`` are of one node.
    """

    op: str
    domain: str
    literal: bool
    args: tuple[Pattern, ...]
    star: str | None
    attributes: tuple[tuple[str, Expr], ...]
    stars: str | None
    output: int = 0
    outputs: int = 1
    group: str = ""


@dataclass(frozen=True, slots=True)
class Either(_Sized):
    """``a | b``: the first that matches."""

    options: tuple[Pattern, ...]

    def size(self) -> int:
        """Operations in the largest option."""
        return max(option.size() for option in self.options)


@dataclass(frozen=True, slots=True)
class Moved(_Sized):
    """``moved(a)``: a after any ops that only move, repeat or drop elements (Reshape, Expand, Slice, ...)."""

    pattern: Pattern


@dataclass(frozen=True, slots=True)
class Roots(_Sized):
    """``(a, b)``: several results of one formula, that share values. Only as a whole pattern."""

    patterns: tuple[Pattern, ...]


Pattern = Wild | Absent | Capture | Inner | Combination | Operation | Either | Moved | Roots


def children(pattern: Pattern) -> tuple[Pattern, ...]:
    """Direct parts of a pattern."""
    if isinstance(pattern, Inner | Moved):
        return (pattern.pattern,)
    if isinstance(pattern, Combination):
        return tuple(part for part, _ in pattern.parts)
    if isinstance(pattern, Operation):
        return pattern.args
    if isinstance(pattern, Roots):
        return pattern.patterns
    return pattern.options if isinstance(pattern, Either) else ()


def patterns_in(pattern: Pattern) -> Iterator[Pattern]:
    """The pattern and everything inside it."""
    yield pattern
    for child in children(pattern):
        yield from patterns_in(child)
