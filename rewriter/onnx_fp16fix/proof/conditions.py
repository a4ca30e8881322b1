"""Which conditions follow from others, as far as bounds by numbers show it: ``a > 8`` is ``a > 4`` too."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from onnx_fp16fix.language.evaluate import evaluate
from onnx_fp16fix.language.expression import Compare, Expr, Logic
from onnx_fp16fix.language.guard import NOTHING, Unknown
from onnx_fp16fix.proof.text import expression_text

__all__ = ["Conditions"]

_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "=="}
_Interval = tuple[float, bool, float, bool]
"""Lowest value, whether it is left out, highest value, whether it is left out."""
_ANY: _Interval = (-math.inf, False, math.inf, False)


class Conditions:
    """Conditions that are all true: bounds of expressions by their text, and the text of every other condition."""

    def __init__(self, expressions: Iterable[Expr]) -> None:
        self.bounds: dict[str, _Interval] = {}
        self.others: set[str] = set()
        for expr in expressions:
            self._add(expr)

    def _add(self, expr: Expr) -> None:
        if isinstance(expr, Logic) and expr.op == "and":
            for value in expr.values:
                self._add(value)
            return
        bound = _bound(expr)
        if bound is None:
            self.others.add(expression_text(expr))
        else:
            text, interval = bound
            self.bounds[text] = _narrowed(self.bounds.get(text, _ANY), interval)

    def contradict(self) -> str | None:
        """An expression that no number satisfies, None where there is none."""
        return next((text for text, interval in self.bounds.items() if _is_empty(interval)), None)

    def imply(self, other: Conditions) -> bool:
        """Whether the other ones are true wherever these are, as far as can be seen."""
        return other.others <= self.others and _all_within(self.bounds, other.bounds)


def _all_within(bounds: Mapping[str, _Interval], wider: Mapping[str, _Interval]) -> bool:
    return all(
        _narrowed(bounds.get(text, _ANY), interval) == bounds.get(text) for text, interval in wider.items()
    )


def _bound(expr: Expr) -> tuple[str, _Interval] | None:
    """The expression that a comparison bounds by a number, and how."""
    if not isinstance(expr, Compare) or len(expr.ops) != 1 or expr.ops[0] not in _TURNED:
        return None
    left, right = (evaluate(operand, NOTHING) for operand in expr.operands)
    if isinstance(left, Unknown) and isinstance(right, int | float):
        return expression_text(expr.operands[0]), _interval(expr.ops[0], float(right))
    if isinstance(right, Unknown) and isinstance(left, int | float):
        return expression_text(expr.operands[1]), _interval(_TURNED[expr.ops[0]], float(left))
    return None


def _interval(op: str, number: float) -> _Interval:
    low, high = (
        (number, op == ">") if op in (">", ">=", "==") else (-math.inf, False),
        ((number, op == "<") if op in ("<", "<=", "==") else (math.inf, False)),
    )
    return (*low, *high)


def _narrowed(one: _Interval, other: _Interval) -> _Interval:
    low, high = max(one[:2], other[:2]), min((one[2], not one[3]), (other[2], not other[3]))
    return (*low, high[0], not high[1])


def _is_empty(interval: _Interval) -> bool:
    low, above, high, below = interval
    return low > high or (low == high and (above or below))
