"""Sums and products in a pattern as flat lists of numbers and parts, each part with its factor or its exponent."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

from onnx_fp16fix.errors import Problem
from onnx_fp16fix.language.combine import may_nest
from onnx_fp16fix.language.expression import Binary, Call, Expr, Number, Unary

__all__ = ["flatten", "kind_of", "number_of", "power_of"]


def kind_of(expr: Expr) -> str:
    """``+`` or ``*``: what the outermost operator of a formula joins; ``-x`` alone is a sum."""
    kind = "+" if isinstance(expr, Binary) and expr.op in "+-" else "*"
    if isinstance(expr, Unary) and not (isinstance(expr.operand, Binary) and expr.operand.op in "*/"):
        kind = "+"
    return kind


def flatten(
    kind: str, expr: Expr, weight: Fraction = Fraction(1)
) -> Iterator[float | tuple[Expr, Fraction] | Problem]:
    """Numbers and parts of a sum (each times its weight) or product (each to the power of it), and what is wrong."""
    value = number_of(expr)
    if value is not None:
        yield _raised(expr, value, weight) if kind == "*" else value * float(weight)
    elif kind == "+" and isinstance(expr, Binary) and expr.op in ("+", "-"):
        yield from flatten(kind, expr.left, weight)
        yield from flatten(kind, expr.right, weight if expr.op == "+" else -weight)
    elif kind == "+" and isinstance(expr, Unary) and expr.op == "-":
        yield from flatten(kind, expr.operand, -weight)
    elif kind == "*" and isinstance(expr, Unary) and expr.op == "-":
        yield -1.0
        yield from flatten(kind, expr.operand, weight)
    elif kind == "*" and isinstance(expr, Binary) and expr.op in ("*", "/"):
        yield from flatten(kind, expr.left, weight)
        yield from flatten(kind, expr.right, weight if expr.op == "*" else -weight)
    elif kind == "*" and (power := power_of(expr)) is not None and may_nest(power[1], weight):
        yield from flatten(kind, power[0], weight * power[1])
    elif isinstance(expr, Binary) and expr.op == "**" and power_of(expr) is None:
        yield expr.place.problem("RULE-PATTERN", "the exponent in a pattern must be a number")
    elif isinstance(expr, Unary) and expr.op == "not":
        yield expr.place.problem("RULE-PATTERN", "'not' cannot stand in a pattern; write Not(x)")
    else:
        yield expr, weight


def _raised(expr: Expr, value: float, weight: Fraction) -> float | Problem:
    try:
        result = value ** float(weight)
    except (OverflowError, ZeroDivisionError):
        result = math.nan
    if not isinstance(result, float) or not math.isfinite(result):
        return expr.place.problem("RULE-NUMBER", "this number cannot be raised to that power")
    return result


def number_of(expr: Expr) -> float | None:
    """The value of a number, of a number with a sign, or of ``2 ** -14``."""
    if isinstance(expr, Number):
        return expr.value
    if isinstance(expr, Unary) and expr.op == "-":
        value = number_of(expr.operand)
        return None if value is None else -value
    if isinstance(expr, Binary) and expr.op in ("*", "/", "**"):
        left, right = number_of(expr.left), number_of(expr.right)
        if left is None or right is None:
            return None
        try:
            result = left**right if expr.op == "**" else left * right if expr.op == "*" else left / right
        except (OverflowError, ZeroDivisionError):
            return math.nan
        return result if isinstance(result, float) else math.nan
    return None


def power_of(expr: Expr) -> tuple[Expr, Fraction] | None:
    """Base and exponent of ``a ** 2``, ``Sqrt(a)`` and ``Reciprocal(a)``; None for anything else."""
    if isinstance(expr, Call) and len(expr.args) == 1 and expr.function in ("Sqrt", "Reciprocal"):
        return expr.args[0], Fraction(1, 2) if expr.function == "Sqrt" else Fraction(-1)
    if isinstance(expr, Binary) and expr.op == "**":
        exponent = number_of(expr.right)
        if exponent is not None and math.isfinite(exponent) and exponent:
            return expr.left, Fraction(exponent).limit_denominator(64)
    return None
