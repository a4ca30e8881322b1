"""The proof finds what is wrong with a rule: each broken rule below fails the step it must fail, the sound one none."""

from __future__ import annotations

import re

import pytest

from language._models import case, load_text
from onnx_fp16fix.language.given import parse_given
from onnx_fp16fix.proof import lint, prove_rule, rule_file_schema, scaffold
from onnx_fp16fix.proof.catalogue import catalogue
from onnx_fp16fix.proof.guards import mutants
from onnx_fp16fix.proof.inputs import draw_samples
from onnx_fp16fix.proof.respell import respell
from onnx_fp16fix.proof.text import suite_text
from onnx_fp16fix.runtime import open_session

SOUND = scaffold("TEST001", "test-rule")


def prove_text(text, tmp_path, thoroughness="fast"):
    (rule,) = load_text(text, tmp_path)
    return prove_rule(rule, thoroughness)


def changed(*swaps: tuple[str, str], text: str = SOUND) -> str:
    for old, new in swaps:
        assert text.count(old), old
        text = text.replace(old, new)
    return text


def steps(proof) -> set[str]:
    return {failure.step for failure in proof.failures}


def test_the_scaffold_is_proven_and_clean(tmp_path):
    proof = prove_text(SOUND, tmp_path, "full")
    assert proof.failures == []
    assert set(proof.checks) == {
        "cases", "structure", "equality", "twice", "other readers", "spellings", "opsets", "fp16", "guards",
    }  # fmt: skip
    assert lint(load_text(SOUND, tmp_path)) == ()


def test_a_wrong_formula_fails_equality(tmp_path):
    proof = prove_text(changed(("a * value(c), b", "a * (2 * value(c)), b")), tmp_path)
    assert "equality" in steps(proof)


def test_a_rule_that_only_rounds_otherwise_is_not_exact(tmp_path):
    swaps = (("a * value(c), b", "a * (value(c) * 3), b) * (1 / 3"),)
    assert "equality" in steps(prove_text(changed(*swaps), tmp_path))
    assert "equality" not in steps(prove_text(changed(*swaps, ("equal: exact ", "equal: real ")), tmp_path))


def test_a_guard_that_nothing_tests_is_named_with_a_case_to_paste(tmp_path):
    text = changed(("is_pow2(c) and value(c) < 1", "value(c) > 0.01"), ("p * 0.1\n", "p * 0.001953125\n"))
    text = changed(
        (
            "because: where[0]",
            "because: match",
        ),
        text=text,
    )
    proof = prove_text(
        text.replace("- absmax(p) > FP16.max", "- absmax(p) > FP16.max\n      - rank(a) < 9"), tmp_path
    )
    found = [failure.message for failure in proof.failures if failure.step == "guards"]
    assert any("rank(a) < 9" in message for message in found), found


def test_every_guard_and_every_when_has_a_mutant(tmp_path):
    (rule,) = load_text(SOUND, tmp_path)
    assert [mutant.clause for mutant in mutants(rule)] == ["where[0]", "where[1]"]


def test_a_cure_that_overflows_itself_fails_in_fp16(tmp_path):
    proof = prove_text(
        changed(("MatMul(a * value(c), b)", "MatMul(a * 1024, b) * (value(c) / 1024)")), tmp_path
    )
    assert "fp16" in steps(proof)


def test_a_rule_that_takes_its_own_result_again_is_not_settled(tmp_path):
    text = changed(("MatMul(a * value(c), b)", "(MatMul(a, b) * 0.5) * (2 * value(c))"))
    assert steps(prove_text(text, tmp_path)) & {"twice", "fp16"}


def test_the_cases_of_the_author_come_first(tmp_path):
    proof = prove_text(changed(("p * 0.1\n", "p * 0.25\n")), tmp_path, "quick")
    assert steps(proof) == {"cases"}
    assert proof.failures[0].place.endswith("rules.yaml:29") or re.search(r":\d+$", proof.failures[0].place)


def test_a_failure_comes_as_a_case_that_can_be_pasted(tmp_path):
    proof = prove_text(changed(("a * value(c), b", "a * (2 * value(c)), b")), tmp_path)
    entry = next(failure.case for failure in proof.failures if failure.step == "equality")
    pasted = SOUND.rstrip() + "\n" + "\n".join(f"      {line}" for line in entry.splitlines()) + "\n"
    (rule,) = load_text(pasted, tmp_path)
    assert len(rule.cases) == 5
    assert prove_rule(rule, "quick").passed


def test_a_rule_without_cases_is_no_proof(tmp_path):
    text = SOUND[: SOUND.index("    tests:")]
    assert steps(prove_text(text, tmp_path)) == {"cases"}
    quick = prove_text(text, tmp_path, "quick")
    assert quick.passed
    assert quick.warnings


def test_spellings_keep_the_formula_and_change_the_text(tmp_path):
    (rule,) = load_text(SOUND, tmp_path)
    suite = rule.cases[0].suite
    texts = [suite_text(spelling.suite) for spelling in respell(suite, lambda expr: None)]
    assert len(texts) == len(set(texts)) >= 3
    assert suite_text(suite) not in texts


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("    references:\n      - https://example.org/where-this-was-seen\n", "", "LINT-DOCS"),
        ("because: where[1]", "because: match", "LINT-CASES"),
        ("    where:", "    after: []\n    where:", None),
    ],
)
def test_lint_reports(old, new, code, tmp_path):
    found = {problem.code for problem in lint(load_text(changed((old, new)), tmp_path))}
    assert found == ({code} if code else set())


def test_lint_sees_the_same_pattern_twice(tmp_path):
    other = SOUND.split("rules:\n", 1)[1].replace("TEST001", "TEST002").replace("test-rule", "other-rule")
    for old, new in (("p = ", "q = "), ("p * ", "q * "), ("absmax(p)", "absmax(q)"), ("p: ", "q: ")):
        other = other.replace(old, new)
    codes = [problem.code for problem in lint(load_text(SOUND + other, tmp_path))]
    assert codes == ["LINT-OVERLAP", "LINT-SHADOWED"]


def test_the_schema_knows_every_key():
    from onnx_fp16fix.language.build_rule import KEYS

    rule = rule_file_schema()["properties"]["rules"]["items"]
    assert set(rule["properties"]) == set(KEYS)
    assert all(entry["description"] for entry in rule["properties"].values())


def test_the_catalogue_names_every_shipped_rule():
    from onnx_fp16fix.language import load_rules

    pages = catalogue()
    for rule in load_rules(["pack:all"]):
        assert f"| {rule.name} |" in pages["README.md"]


def test_masks_keep_and_drop_an_entry_of_each_row_whatever_their_zeros_mean():
    """Two masks, one of them inverted: each row has an entry that both keep."""
    words = dict.fromkeys(("mask", "pad_mask"), "float [3, 8] vmin=0 vmax=1")
    given = {name: parse_given(text) for name, text in words.items()}
    model = case("mask + pad_mask", **words)
    for masks in (True, False):
        rows = [
            (sample.feeds["mask"] * (1 - sample.feeds["pad_mask"])).max(-1)
            for sample in draw_samples(model, given, open_session(model), seed=0, masks=masks)
        ]
        assert all(set(row) == {1} for row in rows) == masks
