"""Why a rule changed nothing: its closest partial match in the model, and what ended it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from onnx_fp16fix.language.match import Matcher
from onnx_fp16fix.language.miss import Miss
from onnx_fp16fix.language.op_index import OpIndex
from onnx_fp16fix.language.roots import root_ops
from onnx_fp16fix.language.rule import Rule
from onnx_fp16fix.language.run import MatchRecord
from onnx_fp16fix.language.trace import Trace

__all__ = ["missed_match", "not_run", "refused_match"]

_TRIES = 64
"""Roots looked at for one rule in one scope: those with most of the pattern's ops above them."""
_STEPS = 20_000
"""Steps of the matcher for one rule."""


def not_run(rule: Rule, clause: str, reason: str) -> Miss:
    """A rule that is not for this model at all."""
    return Miss(rule.id, rule.name, clause, reason, 0, rule.size)


def refused_match(rule: Rule, records: Iterable[MatchRecord]) -> Miss | None:
    """Of the matches whose guards, sizes or variants said no, the one that passed most of them."""
    records = [record for record in records if record.rule == rule.id]
    if not records:
        return None
    best = max(records, key=lambda record: _passed(record.clause))
    facts = ", ".join(f"{name} = {_show(value)}" for name, value in best.facts.items())
    reason = f"{best.reason} ({facts})" if facts else best.reason
    return Miss(
        rule.id,
        rule.name,
        best.clause,
        reason,
        rule.size,
        rule.size,
        best.scope,
        best.node,
        best.nodes,
        best.facts,
        best.missing,
    )


def missed_match(rule: Rule, scopes: Sequence[tuple[Matcher, OpIndex]]) -> Miss:
    """The attempt at a pattern that got furthest, among the likeliest roots of each scope."""
    best: Miss | None = None
    steps = 0
    for matcher, index in scopes:
        for pattern in rule.patterns:
            for root in index.likeness(pattern, _TRIES):
                if steps > _STEPS:
                    break
                matcher.trace = Trace()
                matcher.at(pattern, matcher.scope.nodes[root], rule.variables, rule.shared)
                attempt, steps = matcher.trace.best, steps + matcher.steps
                matcher.trace = None
                if attempt is None or (best is not None and attempt.fitted <= best.fitted):
                    continue
                clause, _, reason = attempt.reason.partition(": ")
                nodes = tuple(matcher.scope.nodes[i].label for i in sorted(attempt.nodes))
                label, size = matcher.scope.nodes[root].label, pattern.size()
                fitted = min(attempt.fitted, size)
                best = Miss(
                    rule.id, rule.name, clause, reason, fitted, size, matcher.scope.path, label, nodes
                )
    if best is not None:
        return best
    ops = sorted({op for pattern in rule.patterns for op in root_ops(pattern)})
    return Miss(rule.id, rule.name, "match", f"the model has no {' or '.join(ops)}", 0, rule.size)


def _passed(clause: str) -> tuple[int, int]:
    """Order in which clauses are decided."""
    word, number = re.match(r"([a-z]*)(?:\[(\d+)\])?", clause).groups()  # type: ignore[union-attr]
    stages = ("vars", "where", "again", "overlap", "equal", "replace")
    return (stages.index(word) if word in stages else 0, int(number or 0))


def _show(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
