"""Mutation: a rule with one guard taken away must fail something, or the guard says nothing that is tested."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from onnx_fp16fix.language.cases import run_case
from onnx_fp16fix.language.expression import Compare, Number, Suite, Unary
from onnx_fp16fix.language.given import parse_given
from onnx_fp16fix.language.rule import Case, Rule
from onnx_fp16fix.proof.operands import places
from onnx_fp16fix.proof.text import expression_text

__all__ = ["Mutant", "cases_notice", "mutants", "near_cases"]

_FACTORS = (2.0**-12, 2.0**-6, 2.0**-3, 2.0**3, 2.0**6, 2.0**12)


@dataclass(frozen=True, slots=True)
class Mutant:
    """The rule without the guard ``clause``; other clauses keep their numbers."""

    clause: str
    guard: str
    rule: Rule


def mutants(rule: Rule) -> Iterator[Mutant]:
    """One for each entry of ``where`` and each ``when``."""
    for index, guard in enumerate(rule.where):
        always = Compare(("==",), (Number(0.0, guard.place), Number(0.0, guard.place)), guard.place)
        where = (*rule.where[:index], always, *rule.where[index + 1 :])
        yield Mutant(f"where[{index}]", expression_text(guard), replace(rule, where=where))
    for index, variant in enumerate(rule.variants):
        if variant.when is not None:
            changed = replace(variant, when=None)
            variants = (*rule.variants[:index], changed, *rule.variants[index + 1 :])
            yield Mutant(
                f"replace[{index}].when", expression_text(variant.when), replace(rule, variants=variants)
            )


def cases_notice(rule: Rule, mutant: Mutant) -> bool:
    """Whether a case that holds of the rule fails without the guard: a miss that is a hit now, or another variant."""
    for case in rule.cases:
        loose = (
            case if case.hit else replace(case, clause=None)
        )  # another guard that refuses it proves nothing
        if run_case(rule, case).passed and not run_case(mutant.rule, loose).passed:
            return True
    return False


def near_cases(rule: Rule) -> Iterator[Case]:
    """Hits with one given range or one constant changed by large factors: places where guards may decide otherwise."""
    for case in rule.cases:
        if case.hit and case.todo is None:
            for name, text in case.given.items():
                for factor in _FACTORS:
                    changed = _scaled(text, factor)
                    if changed is not None:
                        yield replace(case, given={**case.given, name: changed}, clause=None)
            yield from (replace(case, suite=suite, clause=None) for suite in _other_constants(case.suite))


def _scaled(text: str, factor: float) -> str | None:
    entry = parse_given(text)
    if not entry.facts:
        return None
    words = re.sub(r"\b(absmax|vmin|vmax|smallest|fill)=\S+", "", text).split()
    return " ".join([*words, *(f"{key}={value * factor:.6g}" for key, value in entry.facts.items())])


def _other_constants(suite: Suite) -> Iterator[Suite]:
    for expr, put in places(suite):
        if isinstance(expr, Number) and not expr.integer:
            for factor in (*_FACTORS, -1.0):
                value = expr.value * factor
                number = Number(abs(value), expr.place)
                yield put(Unary("-", number, expr.place) if value < 0 else number)
