"""Ops that a pattern asks for literally (``op.Div``), and spellings that have fewer of them."""

from __future__ import annotations

from onnx_fp16fix.language.expression import Binary, Call, Suite, walk
from onnx_fp16fix.language.pattern import Operation, patterns_in
from onnx_fp16fix.language.rule import Rule

__all__ = ["literal_ops", "loses"]

_SYMBOLS = {"Add": "+", "Sub": "-", "Mul": "*", "Div": "/", "Pow": "**"}


def literal_ops(rule: Rule) -> set[str]:
    """Ops that a pattern asks for literally (``op.Div``): no other spelling of them counts."""
    return {
        part.op
        for pattern in rule.patterns
        for part in patterns_in(pattern)
        if isinstance(part, Operation) and part.literal
    }


def loses(spelling: Suite, suite: Suite, literal: set[str]) -> bool:
    """Whether the spelling has fewer of a literal op than the suite it spells."""
    return any(_uses(spelling, op) < _uses(suite, op) for op in literal)


def _uses(suite: Suite, op: str) -> int:
    exprs = [*(expr for _, expr in suite.steps), suite.result]
    parts = [part for expr in exprs for part in walk(expr)]
    named = [part for part in parts if isinstance(part, Call) and part.function.rpartition(".")[2] == op]
    return len(named) + len(
        [part for part in parts if isinstance(part, Binary) and part.op == _SYMBOLS.get(op)]
    )
