"""Guards, ``let`` and numbers of templates: expressions over facts, with a third truth value.

A missing fact is ``Unknown``. Arithmetic and comparisons pass it on, ``and``, ``or`` and ``not`` follow Kleene: false
and anything is false, true or anything is true. Everything is float64, so ``9 ** 9 ** 9`` is a number too large and
not a hang.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from onnx_fp16fix import fp16
from onnx_fp16fix.language.expression import (
    Binary,
    Call,
    Compare,
    Expr,
    Index,
    Listing,
    Logic,
    Member,
    Name,
    Number,
    Text,
    Unary,
)

__all__ = ["CONSTANTS", "FACTS", "MATH", "NOTHING", "Fact", "FactSource", "Unknown", "evaluate", "is_true"]


@dataclass(frozen=True, slots=True)
class Unknown:
    """A value that is not known; ``missing`` says which facts would be needed."""

    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """What each argument is (``tensor``, ``const``, ``axes``, ``number``), and how many may be left out."""

    arguments: tuple[str, ...]
    optional: int = 0


FACTS: Final[dict[str, Fact]] = {
    "rank": Fact(("tensor",)),
    "shape": Fact(("tensor",)),
    "dim": Fact(("tensor", "number")),
    "numel": Fact(("tensor", "axes"), optional=1),
    "dtype": Fact(("tensor",)),
    "uses": Fact(("tensor",)),
    "absmax": Fact(("tensor",)),
    "vmin": Fact(("tensor",)),
    "vmax": Fact(("tensor",)),
    "smallest": Fact(("tensor",)),
    "rms_min": Fact(("tensor", "axes"), optional=1),
    "size": Fact(("const",)),
    "value": Fact(("const",)),
    "values": Fact(("const",)),
    "is_finite": Fact(("const",)),
    "is_pow2": Fact(("const",)),
    "is_trailing": Fact(("axes", "number")),
}
"""Functions that ask for a fact of the match; documented in docs/rule-language.md."""


def _round(value: float) -> float:
    return float(round(value))


def _pow2_floor(value: float) -> float:
    return math.ldexp(1.0, fp16.floor_log2(value)) if value > 0 else math.nan


MATH: Final[dict[str, tuple[int, int, Callable[..., Any]]]] = {
    "min": (2, 8, min),
    "max": (2, 8, max),
    "round": (1, 1, _round),
    "abs": (1, 1, abs),
    "log": (1, 1, math.log),
    "log2": (1, 1, math.log2),
    "exp": (1, 1, math.exp),
    "sqrt": (1, 1, math.sqrt),
    "floor": (1, 1, lambda value: float(math.floor(value))),
    "ceil": (1, 1, lambda value: float(math.ceil(value))),
    "pow2_floor": (1, 1, _pow2_floor),
    "minimum": (2, 2, np.minimum),
    "maximum": (2, 2, np.maximum),
}
"""Functions of numbers: fewest and most arguments, and what they do. minimum and maximum also take ``values(c)``."""

CONSTANTS: Final = {
    "FP16.max": fp16.MAX,
    "FP16.min_normal": fp16.MIN_NORMAL,
    "FP16.tiny": fp16.TINY,
    "FP16.eps": fp16.EPS,
}

_ARITHMETIC: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "**": operator.pow,
}
_COMPARISON: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "in": lambda left, right: left in right,
    "not in": lambda left, right: left not in right,
}


class FactSource(Protocol):
    """Where names and facts come from: a match, or something made up by a test."""

    def name(self, name: str) -> Any:
        """Value of ``opset``, ``target`` or its version, a let name, an attribute, axes or a size; else Unknown."""

    def fact(self, function: str, subject: str | tuple[int, ...], arguments: Sequence[Any]) -> Any:
        """A fact of FACTS about a captured name (or about axes); Unknown if it is not known."""


def is_true(value: Any) -> bool:
    """Whether a guard holds: unknown is not true."""
    return not isinstance(value, Unknown) and bool(value)


def evaluate(expr: Expr, source: FactSource) -> Any:
    """Value of a checked expression: float, bool, str, tuple, an array from ``values(c)``, or Unknown."""
    return _EVALUATE[type(expr)](expr, source)


def _literal(expr: Number | Text, source: FactSource) -> Any:
    return expr.value


def _name(expr: Name, source: FactSource) -> Any:
    return source.name(expr.id)


def _member(expr: Member, source: FactSource) -> Any:
    return CONSTANTS[expr.dotted]


def _listing(expr: Listing, source: FactSource) -> Any:
    items = [evaluate(item, source) for item in expr.items]
    return _unknown(items) or tuple(items)


def _unary(expr: Unary, source: FactSource) -> Any:
    value = evaluate(expr.operand, source)
    if isinstance(value, Unknown):
        return value
    return not value if expr.op == "not" else -value


def _index(expr: Index, source: FactSource) -> Any:
    values = [evaluate(expr.value, source), evaluate(expr.index, source)]
    return _unknown(values) or _safe(_item, values, "an index")


def _item(value: Any, index: Any) -> Any:
    return value[int(index)]


def _binary(expr: Binary, source: FactSource) -> Any:
    values = [_float(evaluate(expr.left, source)), _float(evaluate(expr.right, source))]
    return _unknown(values) or _safe(_ARITHMETIC[expr.op], values, f"'{expr.op}'")


def _float(value: Any) -> Any:
    return float(value) if isinstance(value, int) else value


def _call(expr: Call, source: FactSource) -> Any:
    if expr.function in MATH:
        values = [_float(evaluate(argument, source)) for argument in expr.args]
        return _unknown(values) or _safe(MATH[expr.function][2], values, expr.function)
    first = expr.args[0]
    if FACTS[expr.function].arguments[0] == "axes":
        subject: Any = evaluate(first, source)
    else:
        subject = first.id if isinstance(first, Name) else ""
    rest = [evaluate(argument, source) for argument in expr.args[1:]]
    return _unknown([subject, *rest]) or source.fact(expr.function, subject, rest)


def _unknown(values: Sequence[Any]) -> Unknown | None:
    """All that is missing, None where nothing is."""
    for value in values:
        if isinstance(value, Unknown):
            missing = (fact for value in values if isinstance(value, Unknown) for fact in value.missing)
            return Unknown(tuple(dict.fromkeys(missing)))
    return None


def _safe(compute: Callable[..., Any], values: Sequence[Any], what: str) -> Any:
    """A number without a value (a logarithm of 0, an overflow) is unknown, never an accident."""
    try:
        if all(type(value) is float for value in values):
            result = compute(*values)
        else:
            with np.errstate(all="ignore"):
                result = compute(*values)
    except (ArithmeticError, ValueError, TypeError, IndexError):
        return Unknown((f"{what} has no value here",))
    if isinstance(result, complex) or (isinstance(result, float) and math.isnan(result)):
        return Unknown((f"{what} has no value here",))
    return result


def _compare(expr: Compare, source: FactSource) -> Any:
    values = [evaluate(operand, source) for operand in expr.operands]
    if len(values) == 2:
        return _compare_pair(expr.ops[0], values[0], values[1])
    pairs = zip(expr.ops, values, values[1:], strict=False)
    return _kleene_and([_compare_pair(op, left, right) for op, left, right in pairs])


def _compare_pair(op: str, left: Any, right: Any) -> Any:
    values = (left, right)
    found = _unknown(values)
    if found is not None:
        return found
    result = _safe(_COMPARISON[op], values, f"'{op}'")
    return result if isinstance(result, bool | Unknown) else _safe(bool, (result,), f"'{op}'")


def _logic(expr: Logic, source: FactSource) -> Any:
    values = [evaluate(value, source) for value in expr.values]
    if expr.op == "and":
        return _kleene_and(values)
    negated = _kleene_and([value if isinstance(value, Unknown) else not value for value in values])
    return negated if isinstance(negated, Unknown) else not negated


def _kleene_and(values: Sequence[Any]) -> Any:
    if any(not isinstance(value, Unknown) and not value for value in values):
        return False
    return _unknown(values) or True


_EVALUATE: Final[dict[type, Callable[[Any, FactSource], Any]]] = {
    Number: _literal,
    Text: _literal,
    Name: _name,
    Member: _member,
    Listing: _listing,
    Logic: _logic,
    Compare: _compare,
    Call: _call,
    Unary: _unary,
    Binary: _binary,
    Index: _index,
}


class _Nothing:
    """Facts of no match at all, for numbers written in a rule."""

    def name(self, name: str) -> Any:
        return Unknown((name,))

    def fact(self, function: str, subject: str | tuple[int, ...], arguments: Sequence[Any]) -> Any:
        return Unknown((function,))


NOTHING: Final[FactSource] = _Nothing()
