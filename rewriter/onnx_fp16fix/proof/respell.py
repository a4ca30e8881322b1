"""Other spellings of a case: the same formula with other operators, operand orders and axes, one change at a time.

Each rewrite below is an equality over the reals that docs/rule-language.md promises to see through, so whatever rule
fires on the case must fire on its respelling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from onnx_fp16fix.language.expression import (
    Binary,
    Call,
    Expr,
    Listing,
    Name,
    Number,
    Suite,
    Unary,
)
from onnx_fp16fix.proof.operands import places
from onnx_fp16fix.proof.text import suite_text

__all__ = ["Spelling", "respell", "spread"]

_Item = TypeVar("_Item")

ShapeOf = Callable[[Expr], "tuple[int, ...] | None"]
"""Static shape of an expression of the case, None where it is not known."""


@dataclass(frozen=True, slots=True)
class Spelling:
    """``label`` says what was changed. ``rounds``: the new op itself may round otherwise (Pow with -1 or 0.5)."""

    label: str
    suite: Suite
    rounds: bool = False


def respell(suite: Suite, shape_of: ShapeOf) -> Iterator[Spelling]:
    """All suites that differ from this one by one change; the same text comes once."""
    seen = {suite_text(suite)}
    for expr, rebuild in places(suite):
        for label, other, rounds in _others(expr, shape_of):
            changed = rebuild(other)
            text = suite_text(changed)
            if text not in seen:
                seen.add(text)
                yield Spelling(
                    f"{label}: {text.splitlines()[-1]}" if "\n" not in text else label, changed, rounds
                )


_Other = tuple[str, Expr, bool]


def _others(expr: Expr, shape_of: ShapeOf) -> Iterator[_Other]:
    if isinstance(expr, Binary):
        yield from _binary(expr)
    if isinstance(expr, Call):
        yield from _call(expr)
        if expr.function in ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"):
            yield from _reduction(expr, shape_of)
    if isinstance(expr, Binary | Call) and not _is_number(expr):
        yield "through Identity", _make(expr, "Identity", expr), False
    if isinstance(expr, Binary) or (
        isinstance(expr, Call) and expr.function in ("Sqrt", "ReduceMean", "MatMul")
    ):
        yield "times 1", Binary("*", expr, _number(expr, 1), expr.place), False


def _binary(expr: Binary) -> Iterator[_Other]:
    left, right = expr.left, expr.right
    if expr.op in ("+", "*"):
        yield "operands swapped", replace(expr, left=right, right=left), False
    if expr.op == "*" and isinstance(left, Name) and isinstance(right, Name) and left.id == right.id:
        yield "a square as Pow", Binary("**", left, _number(expr, 2), expr.place), False
    if expr.op == "*" and isinstance(right, Call) and right.function == "Reciprocal" and len(right.args) == 1:
        yield "Reciprocal as Div", Binary("/", left, right.args[0], expr.place), False
    if expr.op == "/" and isinstance(right, Number) and right.value:
        yield "Div as Mul", Binary("*", left, _number(expr, 1 / right.value), expr.place), False
    elif expr.op == "/" and isinstance(left, Number) and left.value == 1:
        yield "1 / b as Reciprocal", _make(expr, "Reciprocal", right), False
    elif expr.op == "/":
        yield "Div as Reciprocal", replace(expr, op="*", right=_make(expr, "Reciprocal", right)), False
        yield (
            "Div as Pow",
            replace(expr, op="*", right=Binary("**", right, _number(expr, -1), expr.place)),
            True,
        )
    if expr.op == "-" and isinstance(right, Number):
        yield "Sub as Add", replace(expr, op="+", right=_number(expr, -right.value)), False
    elif expr.op == "-":
        yield "Sub as Add with Neg", replace(expr, op="+", right=_make(expr, "Neg", right)), False
    if expr.op == "**" and isinstance(right, Number):
        if right.value == 2 and isinstance(left, Name):
            yield "a square as Mul", Binary("*", left, left, expr.place), False
        if right.value == 0.5:
            yield "Pow as Sqrt", _make(expr, "Sqrt", left), False


def _call(call: Call) -> Iterator[_Other]:
    args = call.args
    if call.function in ("Add", "Mul", "Max", "Min", "And", "Or", "Sum") and len(args) == 2:
        yield "operands swapped", replace(call, args=(args[1], args[0])), False
    if call.function == "Sqrt":
        yield "Sqrt as Pow", Binary("**", args[0], _number(call, 0.5), call.place), True
    if call.function == "Reciprocal":
        yield "Reciprocal as 1 / b", Binary("/", _number(call, 1.0), args[0], call.place), False
        if isinstance(args[0], Call) and args[0].function == "Sqrt":
            root = args[0]
            yield "Reciprocal under the root", replace(root, args=(replace(call, args=root.args),)), False
    if call.function == "Where" and len(args) == 3 and not any(map(_is_infinite, args[1:])):
        kept, other = (_cast(call, mask) for mask in (args[0], _make(call, "Not", args[0])))
        left, right = Binary("*", kept, args[1], call.place), Binary("*", args[2], other, call.place)
        yield "Where as a sum of products", Binary("+", left, right, call.place), False
    if call.function == "Relu":
        yield "Relu as Max", replace(call, function="Max", args=(args[0], _number(call, 0.0))), False
    if call.function == "Max" and len(args) == 2 and isinstance(args[1], Number):
        yield (
            "Max as Clip",
            replace(call, function="Clip", args=(args[0],), keywords=(("min", args[1]),)),
            False,
        )
        if args[1].value == 0:
            yield "Max as Relu", _make(call, "Relu", args[0]), False
    if call.function == "ReduceSum" and len(args) == 1 and _squared(args[0]) is not None:
        square = _squared(args[0])
        assert square is not None
        yield "squares as ReduceSumSquare", replace(call, function="ReduceSumSquare", args=(square,)), True
    if call.function == "ReduceSumSquare" and len(args) == 1 and isinstance(args[0], Name):
        twice = Binary("*", args[0], args[0], call.place)
        yield "ReduceSumSquare as ReduceSum", replace(call, function="ReduceSum", args=(twice,)), True


def _reduction(call: Call, shape_of: ShapeOf) -> Iterator[_Other]:
    keywords = dict(call.keywords)
    axes = _whole(keywords.get("axes"))
    shape = shape_of(call.args[0]) if axes and len(call.args) == 1 else None
    if axes is None or shape is None:
        return
    rank = len(shape)
    other = [axis - rank if axis >= 0 else axis + rank for axis in axes]
    listed = Listing(tuple(_number(call, axis) for axis in other), call.place)
    turned = replace(call, keywords=tuple((k, listed if k == "axes" else v) for k, v in call.keywords))
    yield "axes counted from the other end", turned, False
    if _keeps(keywords):
        flat = tuple((key, value) for key, value in call.keywords if key != "keepdims")
        inner = replace(call, keywords=(*flat, ("keepdims", _number(call, 0))))
        lifted = Call("Unsqueeze", (inner,), (("axes", keywords["axes"]),), None, None, call.place)
        yield "keepdims=0 and Unsqueeze", lifted, False
    if call.function == "ReduceMean":
        count = 1
        for axis in axes:
            count *= shape[axis]
        total = replace(call, function="ReduceSum")
        yield "a mean as sum / N", Binary("/", total, _number(call, float(count)), call.place), True


def _keeps(keywords: dict[str, Expr]) -> bool:
    keep = keywords.get("keepdims")
    return keep is None or (isinstance(keep, Number) and keep.value == 1)


def _squared(expr: Expr) -> Name | None:
    if isinstance(expr, Binary) and isinstance(expr.left, Name):
        twice = expr.op == "*" and isinstance(expr.right, Name) and expr.right.id == expr.left.id
        power = expr.op == "**" and isinstance(expr.right, Number) and expr.right.value == 2
        return expr.left if twice or power else None
    return None


def _whole(expr: Expr | None) -> list[int] | None:
    if not isinstance(expr, Listing):
        return None
    found = []
    for item in expr.items:
        sign = -1 if isinstance(item, Unary) else 1
        number = item.operand if isinstance(item, Unary) else item
        if not isinstance(number, Number):
            return None
        found.append(sign * int(number.value))
    return found


def _is_number(expr: Expr) -> bool:
    if isinstance(expr, Binary):
        return _is_number(expr.left) and _is_number(expr.right)
    return isinstance(expr, Number) or (isinstance(expr, Unary) and _is_number(expr.operand))


def _make(at: Expr, function: str, *args: Expr) -> Call:
    return Call(function, args, (), None, None, at.place)


def _cast(at: Expr, value: Expr) -> Expr:
    return Call("Cast", (value,), (("to", _number(at, 1)),), None, None, at.place)


def _is_infinite(expr: Expr) -> bool:
    number = expr.operand if isinstance(expr, Unary) else expr
    return isinstance(number, Number) and not math.isfinite(number.value)


def _number(at: Expr, value: float) -> Expr:
    number = Number(abs(float(value)), at.place, integer=isinstance(value, int))
    return Unary("-", number, at.place) if value < 0 else number


def spread(items: list[_Item], most: int) -> list[_Item]:
    """At most so many of the items, evenly taken from the whole list."""
    if len(items) <= most:
        return items
    return [items[index * len(items) // most] for index in range(most)]
