"""What lint sees: conditions that nothing meets, variants that nothing reaches, rules that others shadow."""

from __future__ import annotations

import pytest

from language._models import load_text
from onnx_fp16fix.language import load_rules
from onnx_fp16fix.proof import lint

RULE = """\
  - id: {id}
    name: {name}
    summary: A test
    why: for no reason
    references: [here]
    equal: real
    match: {match}
    where: [{where}]
    replace: [{variants}]
    tests:
      - hit: Exp(Sqrt(x))
        given: {{x: "float [4] absmax=100"}}
"""
HEAD = "schema: fp16fix/1\nrules:\n"
SCALE = "set: {x: x * 2}"


def rule(
    id: str = "TEST001", match: str = "Exp(x ** 0.5)", where: str = "absmax(x) > 50", variants: str = ""
) -> str:
    name = f"rule-{id.lower()}"
    return RULE.format(id=id, name=name, match=match, where=where, variants=variants or f"{{{SCALE}}}")


def unreachable(text: str, tmp_path) -> list[str]:
    return [p.message for p in lint(load_text(HEAD + text, tmp_path)) if p.code == "LINT-UNREACHABLE"]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("absmax(x) > 1e3", "absmax(x) > 1e5", 1),
        ("absmax(x) > 1e3", "1e5 < absmax(x)", 1),
        ("absmax(x) > 1e3", "absmax(x) >= 1e3", 0),
        ("absmax(x) >= 1e3", "absmax(x) > 1e3", 1),
        ("absmax(x) > 1e5", "absmax(x) > 1e3", 0),
        ("absmax(x) > 1e3", "absmax(x) > 1e5 and rank(x) == 2", 1),
        ("absmax(x) > 1e3 and rank(x) == 2", "absmax(x) > 1e5", 0),
        ("absmax(x) > 1e3 or rank(x) == 2", "rank(x) == 2", 0),
        ("absmax(x) > 1e3", "vmax(x) > 1e5", 0),
        ("absmax(x) > 40", "rank(x) == 2", 1),  # 'where' says more
        ("absmax(x) < 8", "rank(x) == 2", 1),
        ("rank(x) < 2 and rank(x) > 2", "rank(x) == 2", 1),
        ("absmax(x) * 2 > FP16.max", "absmax(x) * 2 > 2 * FP16.max", 1),
    ],
)
def test_a_variant_that_nothing_reaches(first, second, expected, tmp_path):
    variants = f"{{when: {first}, {SCALE}}}, {{when: {second}, {SCALE}}}, {{{SCALE}}}"
    assert len(unreachable(rule(variants=variants), tmp_path)) == expected


def test_guards_that_contradict_each_other(tmp_path):
    text = rule(where="vmin(x) > 4, vmax(x) > 3, vmin(x) < 4")
    assert unreachable(text, tmp_path) == ["TEST001: no match can meet all of 'where': vmin(x)"]


@pytest.mark.parametrize(
    ("match", "where", "expected"),
    [
        ("Exp(y)", "absmax(x) > 50", ["TEST001 is tried first and takes every hit among its tests"]),
        ("Exp(y)", "absmax(x) > 500", []),
    ],
)
def test_a_rule_whose_hits_another_one_takes(match, where, expected, tmp_path):
    smaller = rule("TEST002", match="Sqrt(x)").replace("hit: Exp(Sqrt(x))", "hit: Exp(Sqrt(x))")
    text = HEAD + rule(where=where) + smaller
    found = [p.message for p in lint(load_text(text, tmp_path)) if p.code == "LINT-SHADOWED"]
    assert [message.split(": ")[1] for message in found] == expected


def test_no_shipped_rule_is_shadowed_by_another():
    codes = {p.code for p in lint(load_rules(["pack:all"]))}
    assert not codes & {"LINT-UNREACHABLE", "LINT-SHADOWED", "LINT-DOCS", "LINT-CASES"}
