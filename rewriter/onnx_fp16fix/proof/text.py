"""Expressions, suites and cases as the text one would write in a rule file."""

from __future__ import annotations

from collections.abc import Mapping

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
    Output,
    Suite,
    Text,
    Unary,
)

__all__ = ["case_text", "expression_text", "number_text", "suite_text"]

_STRENGTH = {"|": 1, "+": 2, "-": 2, "*": 3, "/": 3, "@": 3, "**": 6}
_LOGIC, _COMPARISON, _SIGN, _ATOM = -1, 0, 5, 9


def number_text(value: float, integer: bool = False) -> str:
    """The shortest text that is read as this number."""
    if integer and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return repr(float(value))


def expression_text(expr: Expr) -> str:
    """One line; brackets stand only where they are needed."""
    return _text(expr)[0]


def suite_text(suite: Suite) -> str:
    """One line a step, then the value."""
    lines: list[str] = []
    several: dict[Call, list[str]] = {}
    for name, expr in suite.steps:
        if isinstance(expr, Output):
            names = several.setdefault(expr.call, ["_"] * expr.count)
            if any(other != "_" for other in names):
                lines.pop()
            names[expr.slot] = name.id
            lines.append(f"{', '.join(names)} = {_text(expr.call)[0]}")
        else:
            lines.append(f"{name.id} = {_text(expr)[0]}")
    return "\n".join([*lines, _text(suite.result)[0]])


def _text(expr: Expr) -> tuple[str, int]:
    """The text and how strongly its parts hold together."""
    if isinstance(expr, Name):
        return expr.id, _ATOM
    if isinstance(expr, Number):
        return number_text(expr.value, expr.integer), _ATOM if expr.value >= 0 else _SIGN
    if isinstance(expr, Text):
        return repr(expr.value), _ATOM
    if isinstance(expr, Member):
        return expr.dotted, _ATOM
    if isinstance(expr, Listing):
        return f"[{', '.join(_text(item)[0] for item in expr.items)}]", _ATOM
    if isinstance(expr, Index):
        return f"{_inside(expr.value, _ATOM)}[{_text(expr.index)[0]}]", _ATOM
    if isinstance(expr, Call):
        return _call(expr), _ATOM
    if isinstance(expr, Output):
        return _call(expr.call), _ATOM
    return _operator(expr)


def _operator(expr: Unary | Binary | Compare | Logic) -> tuple[str, int]:
    if isinstance(expr, Unary):
        sign = "not " if expr.op == "not" else "-"
        return f"{sign}{_inside(expr.operand, _SIGN)}", _LOGIC if expr.op == "not" else _SIGN
    if isinstance(expr, Compare):
        words = [_inside(expr.operands[0], _COMPARISON + 1)]
        for op, operand in zip(expr.ops, expr.operands[1:], strict=True):
            words += [op, _inside(operand, _COMPARISON + 1)]
        return " ".join(words), _COMPARISON
    if isinstance(expr, Logic):
        return f" {expr.op} ".join(_inside(value, _COMPARISON) for value in expr.values), _LOGIC
    strength = _STRENGTH[expr.op]
    rightward = expr.op == "**"
    left = _inside(expr.left, strength + 1 if rightward else strength)
    right = _inside(expr.right, _SIGN if rightward else strength + 1)
    return f"{left} {expr.op} {right}", strength


def _inside(expr: Expr, least: int) -> str:
    text, strength = _text(expr)
    return text if strength >= least else f"({text})"


def _call(call: Call) -> str:
    words = [_text(argument)[0] for argument in call.args]
    if call.star is not None:
        words.append(f"*{call.star.id}")
    words += [f"{key}={_text(value)[0]}" for key, value in call.keywords]
    if call.stars is not None:
        words.append(f"**{call.stars.id}")
    return f"{call.function}({', '.join(words)})"


def case_text(suite: Suite, given: Mapping[str, str], *, hit: bool, opset: int = 17, note: str = "") -> str:
    """An entry of ``tests:`` that can be pasted into a rule file; ``note`` becomes a comment above it."""
    kind, text = "hit" if hit else "miss", suite_text(suite)
    lines = [f"# {note}"] if note else []
    if "\n" in text:
        lines += [f"- {kind}: |", *(f"    {line}" for line in text.split("\n"))]
    else:
        lines.append(f"- {kind}: {text}")
    if given:
        entries = ", ".join(f'{name}: "{words}"' for name, words in given.items())
        lines.append(f"  given: {{{entries}}}")
    if opset != 17:
        lines.append(f"  opset: {opset}")
    return "\n".join(lines)
