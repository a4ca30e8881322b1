"""The value of a guard, of a ``let`` or of a number in a template, from the facts of a match.

Each expression is made into a function once, because a rule asks it at each of its matches.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

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
from onnx_fp16fix.language.guard import CONSTANTS, FACTS, MATH, FactSource, Unknown

__all__ = ["evaluate"]

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


Run = Callable[[FactSource], Any]
_RUNS: dict[int, tuple[Expr, Run]] = {}
"""Expressions as functions, by identity; the expression is kept, so that its id stays its own."""
_MOST_RUNS = 10_000


def evaluate(expr: Expr, source: FactSource) -> Any:
    """Value of a checked expression: float, bool, str, tuple, an array from ``values(c)``, or Unknown."""
    known = _RUNS.get(id(expr))
    if known is None:
        if len(_RUNS) >= _MOST_RUNS:
            _RUNS.clear()
        known = _RUNS[id(expr)] = (expr, _run(expr))
    return known[1](source)


def _run(expr: Expr) -> Run:
    """The expression as a function: a rule asks it at each of its matches."""
    return _MAKE[type(expr)](expr)


def _literal(expr: Number | Text) -> Run:
    value = expr.value
    return lambda source: value


def _name(expr: Name) -> Run:
    name = expr.id
    return lambda source: source.name(name)


def _member(expr: Member) -> Run:
    value = CONSTANTS[expr.dotted]
    return lambda source: value


def _listing(expr: Listing) -> Run:
    runs = [_run(item) for item in expr.items]

    def run(source: FactSource) -> Any:
        items = [item(source) for item in runs]
        return _unknown(items) or tuple(items)

    return run


def _unary(expr: Unary) -> Run:
    operand, negate = _run(expr.operand), expr.op == "not"

    def run(source: FactSource) -> Any:
        value = operand(source)
        if isinstance(value, Unknown):
            return value
        return not value if negate else -value

    return run


def _index(expr: Index) -> Run:
    runs = [_run(expr.value), _run(expr.index)]

    def run(source: FactSource) -> Any:
        values = [value(source) for value in runs]
        return _unknown(values) or _safe(_item, values, "an index")

    return run


def _item(value: Any, index: Any) -> Any:
    return value[int(index)]


def _binary(expr: Binary) -> Run:
    left, right = _run(expr.left), _run(expr.right)
    compute, what = _ARITHMETIC[expr.op], f"'{expr.op}'"
    return lambda source: _computed(compute, (left(source), right(source)), what)


def _computed(compute: Callable[..., Any], values: Sequence[Any], what: str) -> Any:
    """What is computed from these values, of which integers count as floats."""
    for value in values:
        if value.__class__ is not float:
            break
    else:  # nearly always: only what goes wrong needs a closer look
        try:
            result = compute(*values)
        except (ArithmeticError, ValueError):
            pass
        else:
            if result.__class__ is float and result == result:
                return result
    values = [_float(value) for value in values]
    return _unknown(values) or _safe(compute, values, what)


def _float(value: Any) -> Any:
    return float(value) if isinstance(value, int) else value


def _call(expr: Call) -> Run:
    function = expr.function
    if function in MATH:
        runs, compute = [_run(argument) for argument in expr.args], MATH[function][2]
        return lambda source: _computed(compute, [run(source) for run in runs], function)
    first, rest = expr.args[0], [_run(argument) for argument in expr.args[1:]]
    if FACTS[function].arguments[0] == "axes":
        subject = _run(first)

        def run_axes(source: FactSource) -> Any:
            values = [subject(source), *(argument(source) for argument in rest)]
            return _unknown(values) or source.fact(function, values[0], values[1:])

        return run_axes
    name = first.id if isinstance(first, Name) else ""
    if not rest:
        return lambda source: source.fact(function, name, ())

    def run_fact(source: FactSource) -> Any:
        values = [argument(source) for argument in rest]
        return _unknown(values) or source.fact(function, name, values)

    return run_fact


def _unknown(values: Sequence[Any]) -> Unknown | None:
    """All that is missing, None where nothing is."""
    for value in values:
        if value.__class__ is Unknown:
            missing = (fact for value in values if isinstance(value, Unknown) for fact in value.missing)
            return Unknown(tuple(dict.fromkeys(missing)))
    return None


def _safe(compute: Callable[..., Any], values: Sequence[Any], what: str) -> Any:
    """A number without a value (a logarithm of 0, an overflow) is unknown, never an accident."""
    try:
        for value in values:
            if value.__class__ is not float:
                with np.errstate(all="ignore"):
                    result = compute(*values)
                break
        else:
            result = compute(*values)
    except (ArithmeticError, ValueError, TypeError, IndexError):
        return Unknown((f"{what} has no value here",))
    if isinstance(result, complex) or (isinstance(result, float) and math.isnan(result)):
        return Unknown((f"{what} has no value here",))
    return result


def _compare(expr: Compare) -> Run:
    runs = [_run(operand) for operand in expr.operands]
    if len(runs) == 2:
        left, right, op = runs[0], runs[1], expr.ops[0]
        return lambda source: _compare_pair(op, left(source), right(source))

    def run(source: FactSource) -> Any:
        values = [operand(source) for operand in runs]
        pairs = zip(expr.ops, values, values[1:], strict=False)
        return _kleene_and([_compare_pair(op, left, right) for op, left, right in pairs])

    return run


def _compare_pair(op: str, left: Any, right: Any) -> Any:
    if left.__class__ is float and right.__class__ is float:
        return _COMPARISON[op](left, right)
    values = (left, right)
    found = _unknown(values)
    if found is not None:
        return found
    result = _safe(_COMPARISON[op], values, f"'{op}'")
    return result if isinstance(result, bool | Unknown) else _safe(bool, (result,), f"'{op}'")


def _logic(expr: Logic) -> Run:
    runs, conjunction = [_run(value) for value in expr.values], expr.op == "and"

    def run(source: FactSource) -> Any:
        values = [value(source) for value in runs]
        if conjunction:
            return _kleene_and(values)
        negated = _kleene_and([value if isinstance(value, Unknown) else not value for value in values])
        return negated if isinstance(negated, Unknown) else not negated

    return run


def _kleene_and(values: Sequence[Any]) -> Any:
    for value in values:
        if not isinstance(value, Unknown) and not value:
            return False
    return _unknown(values) or True


_MAKE: Final[dict[type, Callable[[Any], Run]]] = {
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
