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
    if isinstance(expr, Number | Text):
        return expr.value
    if isinstance(expr, Name):
        return source.name(expr.id)
    if isinstance(expr, Member):
        return CONSTANTS[expr.dotted]
    if isinstance(expr, Listing):
        return _all([evaluate(item, source) for item in expr.items], lambda items: tuple(items))
    if isinstance(expr, Logic):
        return _logic(expr, source)
    if isinstance(expr, Compare):
        return _compare(expr, source)
    if isinstance(expr, Call):
        return _call(expr, source)
    return _operator(expr, source)


def _operator(expr: Unary | Binary | Index, source: FactSource) -> Any:
    if isinstance(expr, Unary):
        value = evaluate(expr.operand, source)
        if isinstance(value, Unknown):
            return value
        return not value if expr.op == "not" else -value
    if isinstance(expr, Index):
        values = [evaluate(expr.value, source), evaluate(expr.index, source)]
        return _all(values, lambda pair: _safe(lambda: pair[0][int(pair[1])], "an index"))
    values = [evaluate(expr.left, source), evaluate(expr.right, source)]
    return _all(values, lambda pair: _safe(lambda: _ARITHMETIC[expr.op](*map(_float, pair)), f"'{expr.op}'"))


def _float(value: Any) -> Any:
    return float(value) if isinstance(value, int | bool) else value


def _call(expr: Call, source: FactSource) -> Any:
    if expr.function in MATH:
        function = MATH[expr.function][2]
        values = [evaluate(argument, source) for argument in expr.args]
        return _all(values, lambda args: _safe(lambda: function(*map(_float, args)), expr.function))
    fact = FACTS[expr.function]
    if fact.arguments[0] == "axes":
        subject: Any = evaluate(expr.args[0], source)
    else:
        first = expr.args[0]
        subject = first.id if isinstance(first, Name) else ""
    rest = [evaluate(argument, source) for argument in expr.args[1:]]
    return _all([subject, *rest], lambda known: source.fact(expr.function, known[0], known[1:]))


def _all(values: Sequence[Any], combine: Callable[[Sequence[Any]], Any]) -> Any:
    missing = tuple(fact for value in values if isinstance(value, Unknown) for fact in value.missing)
    if any(isinstance(value, Unknown) for value in values):
        return Unknown(tuple(dict.fromkeys(missing)))
    return combine(values)


def _safe(compute: Callable[[], Any], what: str) -> Any:
    """A number without a value (a logarithm of 0, an overflow) is unknown, never an accident."""
    try:
        with np.errstate(all="ignore"):
            result = compute()
    except (ArithmeticError, ValueError, TypeError, IndexError):
        return Unknown((f"{what} has no value here",))
    if isinstance(result, complex) or (isinstance(result, float) and math.isnan(result)):
        return Unknown((f"{what} has no value here",))
    return result


def _compare(expr: Compare, source: FactSource) -> Any:
    values = [evaluate(operand, source) for operand in expr.operands]
    pairs = zip(expr.ops, values, values[1:], strict=False)
    return _kleene_and([_compare_pair(op, left, right) for op, left, right in pairs])


def _compare_pair(op: str, left: Any, right: Any) -> Any:
    return _all([left, right], lambda pair: _safe(lambda: bool(_COMPARISON[op](*pair)), f"'{op}'"))


def _logic(expr: Logic, source: FactSource) -> Any:
    values = [evaluate(value, source) for value in expr.values]
    if expr.op == "and":
        return _kleene_and(values)
    negated = _kleene_and([value if isinstance(value, Unknown) else not value for value in values])
    return negated if isinstance(negated, Unknown) else not negated


def _kleene_and(values: Sequence[Any]) -> Any:
    if any(not isinstance(value, Unknown) and not value for value in values):
        return False
    return _all(values, lambda known: True)


class _Nothing:
    """Facts of no match at all, for numbers written in a rule."""

    def name(self, name: str) -> Any:
        return Unknown((name,))

    def fact(self, function: str, subject: str | tuple[int, ...], arguments: Sequence[Any]) -> Any:
        return Unknown((function,))


NOTHING: Final[FactSource] = _Nothing()
