"""When constants of a model are those of a pattern: equal up to float32 rounding, never by absolute difference."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.language.expression import Expr, Listing, Number, Text, Unary
from onnx_fp16fix.language.spellings import RELATIVE
from onnx_fp16fix.language.terms import Weight

__all__ = ["close", "equal_constants", "literal", "weighed"]


def literal(expr: Expr) -> Any:
    """The value of a literal in a pattern: float, str or list."""
    if isinstance(expr, Number | Text):
        return expr.value
    if isinstance(expr, Listing):
        return [literal(item) for item in expr.items]
    if isinstance(expr, Unary):
        return -literal(expr.operand)
    return None


def close(value: float, wanted: float) -> bool:
    """Equal up to float32 rounding; relative only, so that 1e-6 is not 1e-5."""
    return value == wanted or abs(value - wanted) <= RELATIVE * abs(wanted)


def equal_constants(left: npt.NDArray[Any] | None, right: npt.NDArray[Any] | None) -> bool:
    if left is None or right is None:
        return False
    if left.size == 1 and right.size == 1:
        return close(float(left.reshape(-1)[0]), float(right.reshape(-1)[0]))
    return left.shape == right.shape and bool(np.allclose(left, right, rtol=RELATIVE, atol=0))


def weighed(kind: str, value: float, weight: Weight) -> float:
    if kind != "*":
        return value * float(weight)
    try:
        result = value ** float(weight)
    except (OverflowError, ZeroDivisionError):
        return float("nan")
    return result if isinstance(result, float) else float("nan")
