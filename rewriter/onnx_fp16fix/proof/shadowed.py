"""Rules that can never fire beside others, because these take every match of theirs first: shown on their own hits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx

from onnx_fp16fix.graph import build_view
from onnx_fp16fix.language import EQUAL, Rule, apply_rules
from onnx_fp16fix.language.cases import case_table, givens
from onnx_fp16fix.language.rule import Case
from onnx_fp16fix.model import Model
from onnx_fp16fix.proof.trial import case_model

__all__ = ["shadowed"]


def shadowed(rules: Sequence[Rule]) -> Iterator[tuple[Rule, str]]:
    """Rules of which no hit is left to them, each with the id of a rule that takes one."""
    for rule in rules:
        taker = None
        for case in rule.cases:
            if case.hit and not case.todo:
                taker = _taker(rule, case, rules)
                if taker is None:
                    break
        if taker is not None:
            yield rule, taker


def _taker(rule: Rule, case: Case, rules: Sequence[Rule]) -> str | None:
    """The rule that takes the nodes of a hit before the rule can, None where it does not happen."""
    try:
        view = build_view(Model(case_model(case)))
    except (ValueError, onnx.shape_inference.InferenceError):
        return None  # the case is told elsewhere to be no model
    targets = [case.target] if case.target else rule.targets
    others = [other for other in rules if not other.targets or set(other.targets) & set(rule.targets)]
    run = apply_rules(view, others, case_table(givens(case)), targets=targets, allow=EQUAL)
    records = [record for record in run.records if record.rule == rule.id]
    if not records or any(record.status != "shadowed" for record in records):
        return None
    nodes = {name for record in records for name in record.nodes}
    return next(
        (
            record.rule
            for record in run.records
            if record.rule != rule.id and record.status == "applied" and nodes.intersection(record.nodes)
        ),
        None,
    )
