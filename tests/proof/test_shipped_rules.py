"""Every shipped rule is proven in the fast form; what is known to be open is listed, and nothing else may fail."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnx_fp16fix.language import load_rules
from onnx_fp16fix.proof import prove_rule
from onnx_fp16fix.proof.catalogue import outdated

RULES = {rule.id: rule for rule in load_rules(["pack:all"])}
DOCS = Path(__file__).parents[2] / "docs" / "rules"
OPEN = {
    # an Add of a Neg is not found where a pattern has a difference
    ("MASK001", "spellings"), ("POS014", "spellings"), ("SUM005", "spellings"),
    # Div with Reciprocal in computed sizes; the root under moved(); Relu written as Max where a pattern has Relu
    ("CONV004", "spellings"), ("NORM004", "spellings"), ("QDQ003", "spellings"),
    # no case shows what the guard is for
    ("ATTN001", "guards"), ("CONV002", "guards"), ("CONV003", "guards"), ("SUM001", "guards"), ("WEIGHT004", "guards"),
    # what the rule asks for does not cover the whole case
    ("RES001", "fp16"), ("SUM007", "fp16"),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_a_shipped_rule_is_proven(rule):
    proof = prove_rule(rule, "fast")
    assert [f for f in proof.failures if (f.rule, f.step) not in OPEN] == []


def test_the_catalogue_is_what_the_rule_files_say():
    assert outdated(DOCS) == [], "run: python -m onnx_fp16fix.proof.catalogue docs/rules"
