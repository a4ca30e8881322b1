"""Static checks of loaded rules: what a file may hold but should not."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from onnx_fp16fix.errors import Problem
from onnx_fp16fix.language import Rule
from onnx_fp16fix.language.expression import Expr, Name, walk
from onnx_fp16fix.language.pattern import Capture, Inner, Pattern, patterns_in
from onnx_fp16fix.proof.conditions import Conditions
from onnx_fp16fix.proof.shadowed import shadowed
from onnx_fp16fix.proof.text import expression_text

__all__ = ["lint"]


def lint(rules: Sequence[Rule]) -> tuple[Problem, ...]:
    """Everything found, in the order of the rules. A file that does not load never comes here."""
    found = [problem for rule in rules for problem in _one(rule)]
    return (*found, *_overlaps(rules), *_shadowed(rules))


def _one(rule: Rule) -> Iterator[Problem]:
    if not rule.patterns:
        return  # an action for the whole model: there is nothing but its parameters
    yield from _documented(rule)
    yield from _names(rule)
    yield from _variants(rule)
    yield from _covered(rule)


def _documented(rule: Rule) -> Iterator[Problem]:
    if not rule.why:
        yield _problem(
            rule, "LINT-DOCS", "'why' is missing: what goes wrong in FP16, and why the cure is right"
        )
    if not rule.references:
        yield _problem(rule, "LINT-DOCS", "'references' is missing: where this was seen")
    if not rule.where:
        yield _problem(
            rule, "LINT-GUARD", "no 'where': the rule fires on every match, whether FP16 fails or not"
        )


def _names(rule: Rule) -> Iterator[Problem]:
    bound = [_bound(pattern) for pattern in rule.patterns]
    every = set().union(*bound)
    used = _used(rule)
    templates = any(variant.template is not None for variant in rule.variants)
    for name in sorted(_captures(rule) - used):
        if templates and not rule.shared and len(rule.patterns) == 1:
            message = f"'{name}' is captured and then dropped; write '_' if it does not matter"
            yield _problem(rule, "LINT-UNUSED", message)
    for guard in (*rule.where, *(expr for _, expr in rule.let)):
        for part in walk(guard):
            lacking = [
                n for n, names in enumerate(bound) if isinstance(part, Name) and part.id in every - names
            ]
            if isinstance(part, Name) and lacking:
                message = f"'{part.id}' is not bound in alternative {lacking[0]} of 'match': unknown there"
                yield part.place.problem("LINT-UNBOUND", f"{rule.id}: {message}")


def _captures(rule: Rule) -> set[str]:
    parts = (part for pattern in rule.patterns for part in patterns_in(pattern))
    return {part.name for part in parts if isinstance(part, Capture)}


def _bound(pattern: Pattern) -> set[str]:
    return {part.name for part in patterns_in(pattern) if isinstance(part, Capture | Inner)}


def _used(rule: Rule) -> set[str]:
    return {part.id for expr in _expressions(rule) for part in walk(expr) if isinstance(part, Name)}


def _expressions(rule: Rule) -> Iterator[Expr]:
    yield from rule.where
    yield from (expr for _, expr in rule.let)
    for variant in rule.variants:
        yield from [variant.when] if variant.when is not None else []
        for name, expr in variant.settings:
            yield expr
            yield Name(name, rule.place)
        if variant.template is not None:
            yield from (expr for _, expr in variant.template.steps)
            yield variant.template.result
        if variant.action is not None:
            yield from variant.action.expressions.values()


def _variants(rule: Rule) -> Iterator[Problem]:
    if (text := Conditions(rule.where).contradict()) is not None:
        yield _problem(rule, "LINT-UNREACHABLE", f"no match can meet all of 'where': {text}")
    earlier: list[tuple[int, Conditions]] = []
    for index, variant in enumerate(rule.variants):
        if variant.when is None:
            continue
        given = Conditions((*rule.where, variant.when))
        if (text := given.contradict()) is not None:
            message = f"replace[{index}] is never reached: 'where' and 'when' leave no value to {text}"
            yield _problem(rule, "LINT-UNREACHABLE", message)
        over = next((number for number, other in earlier if given.imply(other)), None)
        if over is not None:
            message = (
                f"replace[{index}] is never reached: replace[{over}] is taken wherever its 'when' is true"
            )
            yield _problem(rule, "LINT-UNREACHABLE", message)
        earlier.append((index, Conditions((variant.when,))))


def _covered(rule: Rule) -> Iterator[Problem]:
    if not rule.cases:
        yield _problem(rule, "LINT-CASES", "no 'tests': nothing can be proven of it")
        return
    named = {(case.hit, case.clause) for case in rule.cases}
    for index, guard in enumerate(rule.where):
        if (False, f"where[{index}]") not in named:
            message = f"no miss has 'because: where[{index}]' ({expression_text(guard)})"
            yield _problem(rule, "LINT-CASES", message)
    for index in range(len(rule.variants)):
        if len(rule.variants) > 1 and (True, f"replace[{index}]") not in named:
            yield _problem(rule, "LINT-CASES", f"no hit has 'uses: replace[{index}]'")


def _overlaps(rules: Sequence[Rule]) -> Iterator[Problem]:
    first: dict[str, Rule] = {}
    told: set[tuple[str, str]] = set()
    for rule in rules:
        for pattern in rule.patterns:
            form = _form(pattern)
            other = first.setdefault(form, rule)
            ordered = other.id in rule.after or rule.id in other.after
            apart = bool(other.targets or rule.targets) and not set(other.targets) & set(rule.targets)
            if other is not rule and not ordered and not apart and (other.id, rule.id) not in told:
                told.add((other.id, rule.id))
                message = f"has the same pattern as {other.id}; 'after' says which is tried first"
                yield _problem(rule, "LINT-OVERLAP", message)


def _shadowed(rules: Sequence[Rule]) -> Iterator[Problem]:
    for rule, taker in shadowed(rules) if len(rules) > 1 else ():
        message = (
            f"{taker} is tried first and takes every hit among its tests: 'after' or a guard tells them apart"
        )
        yield _problem(rule, "LINT-SHADOWED", message)


def _form(pattern: Pattern) -> str:
    """The pattern with names numbered and places left out."""
    text = re.sub(r"Place\([^)]*\)", "", repr(pattern))
    names: dict[str, str] = {}
    return re.sub(r"name='(\w+)'", lambda found: names.setdefault(found[1], f"name={len(names)}"), text)


def _problem(rule: Rule, code: str, message: str) -> Problem:
    return rule.place.problem(code, f"{rule.id}: {message}")
