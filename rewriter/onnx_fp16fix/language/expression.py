"""Expressions of the rule language as plain data, every part with its place in the YAML file.

Pattern, guard and template share this form; what each may contain is checked where it is compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from onnx_fp16fix.language.yaml_source import Place

__all__ = [
    "Binary",
    "Call",
    "Compare",
    "Expr",
    "Index",
    "Listing",
    "Logic",
    "Member",
    "Name",
    "Number",
    "Output",
    "Suite",
    "Text",
    "Unary",
    "children",
    "walk",
]


@dataclass(frozen=True, slots=True)
class Name:
    """A name; ``_`` too, and ``None``, an input that is absent."""

    id: str
    place: Place


@dataclass(frozen=True, slots=True)
class Number:
    """A number as float64; ``integer`` tells how it was written."""

    value: float
    place: Place
    integer: bool = False


@dataclass(frozen=True, slots=True)
class Text:
    """A quoted text (values of string attributes)."""

    value: str
    place: Place


@dataclass(frozen=True, slots=True)
class Unary:
    """``-x`` or ``not x``."""

    op: str
    operand: Expr
    place: Place


@dataclass(frozen=True, slots=True)
class Binary:
    """Arithmetic, or ``|`` between alternatives."""

    op: str
    left: Expr
    right: Expr
    place: Place


@dataclass(frozen=True, slots=True)
class Compare:
    """A chain ``a < b <= c``: ``operands`` has one more element than ``ops``."""

    ops: tuple[str, ...]
    operands: tuple[Expr, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Logic:
    """``and`` or ``or`` over two or more values."""

    op: str
    values: tuple[Expr, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Listing:
    """``[a, b]`` or ``(a, b)``."""

    items: tuple[Expr, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Index:
    """``ax[0]``."""

    value: Expr
    index: Expr
    place: Place


@dataclass(frozen=True, slots=True)
class Member:
    """A dotted name outside a call: ``FP16.max``."""

    dotted: str
    place: Place


@dataclass(frozen=True, slots=True)
class Call:
    """``function(args, *star, key=value, **stars)``; ``function`` may be dotted (``op.Div``)."""

    function: str
    args: tuple[Expr, ...]
    keywords: tuple[tuple[str, Expr], ...]
    star: Name | None
    stars: Name | None
    place: Place


@dataclass(frozen=True, slots=True)
class Output:
    """One of the ``count`` outputs of ``v, i = TopK(x, k)``: the value of the step that names it."""

    call: Call
    slot: int
    count: int
    place: Place


Expr = Name | Number | Text | Unary | Binary | Compare | Logic | Listing | Index | Member | Call | Output


@dataclass(frozen=True, slots=True)
class Suite:
    """Assignments in order, then the value. ``v, i = ...`` is one step for each name (``_`` aside)."""

    steps: tuple[tuple[Name, Expr], ...]
    result: Expr


def walk(expr: Expr) -> Iterator[Expr]:
    """The expression and everything inside it, outermost first."""
    waiting = [expr]
    while waiting:
        part = waiting.pop()
        yield part
        waiting.extend(reversed(children(part)))


def children(expr: Expr) -> tuple[Expr, ...]:
    """Direct parts."""
    parts = _PARTS.get(type(expr))
    return () if parts is None else parts(expr)


def _of_call(call: Call) -> tuple[Expr, ...]:
    names = tuple([name for name in (call.star, call.stars) if name is not None])
    return (*call.args, *[value for _, value in call.keywords], *names)


_PARTS: Final[dict[type, Callable[[Any], tuple[Expr, ...]]]] = {
    Unary: lambda expr: (expr.operand,),
    Binary: lambda expr: (expr.left, expr.right),
    Compare: lambda expr: expr.operands,
    Logic: lambda expr: expr.values,
    Listing: lambda expr: expr.items,
    Index: lambda expr: (expr.value, expr.index),
    Output: lambda expr: (expr.call,),
    Call: _of_call,
}
"""The parts of each kind of expression that has any."""
