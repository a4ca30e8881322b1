"""Every shipped rule is proven in the fast form, documented, and silent without calibration."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnx_fp16fix import shipped
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.language import apply_rules, load_rules
from onnx_fp16fix.model import Model
from onnx_fp16fix.proof import prove_rule
from onnx_fp16fix.proof.catalogue import outdated
from onnx_fp16fix.proof.trial import case_model

RULES = {rule.id: rule for rule in load_rules(["pack:all"])}
DOCS = Path(__file__).parents[2] / "docs" / "rules"
ABOUT_STRUCTURE = ("CONV001", "CONV002")
"""Rules about types alone, which need no guard and no range, and about sizes that a static shape tells."""


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_a_shipped_rule_is_proven(rule):
    assert prove_rule(rule, "fast").failures == []


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_a_rule_is_documented_and_filed_under_its_name(rule):
    assert rule.summary
    assert len(rule.why) > 100
    assert rule.references
    assert rule.where or rule.targets or rule.id in ABOUT_STRUCTURE, "something must express the problem"
    stem = rule.place.file.rsplit("/", 1)[-1].removesuffix(".yaml")
    assert stem == rule.name
    assert (shipped.rules_dir() / rule.place.file.removeprefix("rules/")).is_file()


@pytest.mark.parametrize(
    "rule", [r for r in RULES.values() if r.id not in ABOUT_STRUCTURE], ids=lambda r: r.id
)
def test_without_calibration_a_rule_waits(rule):
    for written in rule.cases:
        found = apply_rules(build_view(Model(case_model(written))), [rule], None)
        assert not found.patches
        assert not found.requests


def test_the_catalogue_is_what_the_rule_files_say():
    assert outdated(DOCS) == [], "run: python -m onnx_fp16fix.proof.catalogue docs/rules"
