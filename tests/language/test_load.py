"""Everything wrong in rule files is reported at once, each with its place."""

from __future__ import annotations

from dataclasses import replace

import pytest

from language._models import load_text
from onnx_fp16fix.errors import RuleFileError
from onnx_fp16fix.language import load_rules, packs, select_rules, shipped_rules

GOOD = """schema: fp16fix/1
rules:
  - id: TEST001
    name: test-rule
    summary: A test
    equal: exact
    match: Exp(x)
    action: {name: rescale}
"""


def problems(text: str, folder) -> list[str]:
    with pytest.raises(RuleFileError) as caught:
        load_text(text, folder)
    assert caught.value.exit_code == 2
    return [str(problem).replace(str(folder) + "/", "") for problem in caught.value.problems]


def test_all_problems_of_a_file_come_at_once_with_their_places(tmp_path):
    text = """\
schema: fp16fix/1
rules:
  - id: TEST001
    name: Not a name
    sumary: A test
    equal: exactly
    match: |
      d = Epx(x)
      d / Sqrt(ReduceMean(d ** 2, axis=ax, keepdims=1) + eps)
    vars: {x: tensor, e: const scalar}
    where:
      - absmx(x) > 3
      - absmax(z) > 3
      - value(x) > 3 and x > 2
    let: {s: 9 ** 9 ** 9, t: 1}
    replace:
      - set: {x: x * s}
      - with: |
          y = x * u
          Rleu(x)
    tests:
      - hit: Exp(
"""
    assert problems(text, tmp_path) == [
        "rules.yaml:5:5: a rule has no key 'sumary' [RULE-KEY]\n  hint: did you mean 'summary'?",
        "rules.yaml:4:11: 'name' must look like rms-square-overflow, not 'Not a name' [RULE-TYPE]",
        "rules.yaml:6:12: 'equal' cannot be 'exactly' [RULE-TYPE]\n  hint: did you mean 'exact'?",
        "rules.yaml:8:11: ONNX has no operator 'Epx' [RULE-OP]\n  hint: did you mean 'Exp'?",
        "rules.yaml:9:40: ReduceMean has no attribute 'axis' [RULE-OP]\n  hint: did you mean 'axes'?",
        "rules.yaml:10:23: 'e' is not a name of the pattern [RULE-NAME]",
        "rules.yaml:12:9: there is no function 'absmx' in guards [RULE-CALL]\n  hint: did you mean 'absmax'?",
        "rules.yaml:13:16: 'z' is not a tensor bound by the pattern [RULE-NAME]",
        "rules.yaml:14:15: value() needs a constant, 'x' is a tensor [RULE-TYPE]\n"
        "  hint: declare it in vars: x: const scalar",
        "rules.yaml:14:26: 'x' is a tensor; ask for a fact of it, such as absmax(x) [RULE-NAME]",
        "rules.yaml:15:14: this number has no value in float64 (too large, or not defined) [RULE-NUMBER]",
        "rules.yaml:17:9: only the last variant can do without 'when'; those after it are never reached [RULE-KEY]",
        "rules.yaml:19:19: 'u' is not bound by the pattern [RULE-NAME]",
        "rules.yaml:20:11: ONNX has no operator 'Rleu' [RULE-OP]\n  hint: did you mean 'Relu'?",
        "rules.yaml:19:11: 'y' is made but never used [RULE-NAME]",
        "rules.yaml:15:27: 't' is computed but never used [RULE-NAME]",
        "rules.yaml:22:17: this cannot be read as an expression [RULE-SYNTAX]\n"
        "  hint: a bracket is open: inside [ ] and { } of YAML a comma ends the text, unless it is in quotes",
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            ("match: Exp(x)", "match: x"),
            "7:12: a pattern must be an operation; a name alone matches everything",
        ),
        (("match: Exp(x)", "match: Exp(x) | Log(y)"), "the alternatives of '|' must bind the same names"),
        (("match: Exp(x)", "match: 'Exp(x, x, x)'"), "7:13: Exp takes at most 1 input, not 3"),
        (("match: Exp(x)", "match: Exp(x)\n    vars: {y: tensor}"), "8:12: 'y' is not a name of the pattern"),
        (("match: Exp(x)", "match: Exp(x)\n    vars: {x: tensr}"), "8:15: 'tensr' is not a kind"),
        (
            ("match: Exp(x)", "match: Exp(x)\n    vars: {x: attr}"),
            "'x' is a tensor in the pattern but declared as 'attr'",
        ),
        (("{name: rescale}", "{name: rescal}"), "8:20: there is no action 'rescal'"),
        (("{name: rescale}", "{name: rescale, size: 3}"), "action rescale has no key 'size'"),
        (
            ("{name: rescale}", "{name: fp32-island, max_nodes: many}"),
            "action fp32-island, 'max_nodes': Input should be",
        ),
        (
            ("{name: rescale}", "{name: fp32-island, until: vmax(y) < 3}"),
            "'y' is not a tensor bound by the pattern",
        ),
        (("equal: exact", "equal: context"), "equal: context needs 'assumes'"),
        (("equal: exact", "equal: real\n    tol: 3"), "'tol' must be a number between 0 and 1"),
        (("equal: exact", "equal: exact\n    opset: 13+"), "7:12: '13+' is not a range such as '>=13'"),
        (
            ("equal: exact", "equal: exact\n    after: [NORM999]"),
            "7:13: 'after' names the unknown rule 'NORM999'",
        ),
        (("schema: fp16fix/1", "schema: fp16fix/2"), "1:9: unknown language version 'fp16fix/2'"),
        (("rules:", "requires: onnx-fp16fix>=99.1\nrules:"), "2:11: needs onnx-fp16fix 99.1, this is"),
        (("rules:", "requires: other\nrules:"), "2:11: 'requires' must read like onnx-fp16fix>=0.4"),
        (("schema: fp16fix/1\n", ""), "1:1: a rule file needs the key 'schema'"),
        (("rules:", "ruls:"), "did you mean 'rules'?"),
        (("id: TEST001", "id: test1"), "3:9: 'id' must look like NORM001, not 'test1'"),
        (("    action: {name: rescale}\n", ""), "a rule needs either 'replace' or 'action'"),
        (
            ("action: {name: rescale}", "replace: [{set: {z: 1}}]"),
            "'z' is not a captured tensor, constant or attribute",
        ),
        (
            ("action: {name: rescale}", "replace: [{with: x > 1}]"),
            "comparisons and '|' have no place in a replacement",
        ),
        (("Exp(x)", "Exp(moved(x))"), None),
        (("action: {name: rescale}", "replace: [{with: Min(x, 2)}]"), "unless it is in quotes"),
        (("schema: fp16fix/1", "schema: fp16fix-lock/1\nplan: {}"), "1:9: this is the lock file of a fix"),
        (("match: Exp(x)", "match: Exp(x ** y)"), "the exponent in a pattern must be a number"),
        (("match: Exp(x)", "match: (Exp(x), Log(y))"), "the roots of a pattern must share a name"),
        (("match: Exp(x)", "match: Exp([x, y])"), "several roots cannot stand in a pattern"),
    ],
)
def test_each_mistake_has_its_message(change, expected, tmp_path):
    text = GOOD.replace(*change)
    if expected is None:
        assert load_text(text, tmp_path)
    else:
        assert expected in "\n".join(problems(text, tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        ("summary:", "summry:"),
        ("action:", "acton:"),
        ("match:", "mach:"),
        ("rules:", "ruls:"),
        ("action: {name: rescale}", "replace: [{with: Min(x, 2)}]"),
        ("schema: fp16fix/1", "schema: fp16fix-lock/1\nplan: {}\ntool: 1"),
    ],
)
def test_a_mistake_is_told_once(change, tmp_path):
    assert len(problems(GOOD.replace(*change), tmp_path)) == 1


def test_moved_values_cannot_be_rebuilt(tmp_path):
    text = GOOD.replace("Exp(x)", "Exp(moved(x))").replace(
        "action: {name: rescale}", "replace: [{with: Exp(x)}]"
    )
    assert "'with' cannot rebuild what moved() matched" in problems(text, tmp_path)[0]


def test_ids_and_names_are_unique_over_all_files(tmp_path):
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "b.yaml").write_text(GOOD)
    with pytest.raises(RuleFileError) as caught:
        load_rules([tmp_path])
    assert [problem.code for problem in caught.value.problems] == ["RULE-DUPLICATE", "RULE-DUPLICATE"]


def test_a_rule_with_other_mistakes_still_holds_its_id_and_its_names(tmp_path):
    broken = GOOD.replace("equal: exact", "equal: exactly").replace("Exp(x)", "Epx(x)")
    (tmp_path / "a.yaml").write_text(broken + "    where: [vmax(x) > 1]\n")
    (tmp_path / "b.yaml").write_text(GOOD)
    (tmp_path / "c.yaml").write_text(
        GOOD.replace("TEST001", "TEST002").replace("test-rule", "c") + "    after: TEST001\n"
    )
    with pytest.raises(RuleFileError) as caught:
        load_rules([tmp_path])
    found = [(problem.code, problem.message) for problem in caught.value.problems]
    assert [code for code, _ in found] == ["RULE-TYPE", "RULE-OP", "RULE-DUPLICATE", "RULE-DUPLICATE"]
    assert "'TEST001' is already used in" in found[2][1]


def test_a_pattern_that_cannot_be_read_is_one_mistake(tmp_path):
    text = GOOD.replace("match: Exp(x)", "match: Exp(x").replace(
        "action: {name: rescale}",
        "vars: {x: tensor}\n    where: [vmax(x) > s]\n    replace: [{with: Exp(x)}]",
    )
    assert [problem.split(": ")[1] for problem in problems(text, tmp_path)] == [
        "this cannot be read as an expression [RULE-SYNTAX]\n  hint"
    ]


def test_a_file_reached_twice_counts_once(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(GOOD)
    assert len(load_rules([file, tmp_path, f"{file},{file}"])) == 1


def test_use_brings_in_other_files_and_packs(tmp_path):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "one.yaml").write_text(GOOD)
    rules = load_text("schema: fp16fix/1\nuse: [pack:norm, ./ours/*.yaml]\n", tmp_path)
    assert {"TEST001", "NORM001"} <= {rule.id for rule in rules}


def test_missing_files_and_packs_are_named(tmp_path):
    with pytest.raises(RuleFileError) as caught:
        load_rules([str(tmp_path / "none.yaml"), "pack:nrom"])
    first, second = caught.value.problems
    assert (first.code, second.code) == ("RULE-READ", "RULE-READ")
    assert "no such file" in first.message
    assert second.hint == "did you mean 'norm'?"


def test_an_unknown_rule_is_named_with_a_suggestion():
    rules = load_rules(["pack:all"])
    assert {rule.family for rule in select_rules(rules, ["NORM"])} == {"NORM"}
    assert [rule.id for rule in select_rules(rules, ["rms-square-overflow"])] == ["NORM001"]
    with pytest.raises(RuleFileError) as caught:
        select_rules(rules, ["NORN001"])
    assert str(caught.value).startswith(
        "no rule is called 'NORN001' [RULE-UNKNOWN]\n  hint: did you mean 'NORM001'?"
    )


def test_shipped_rules_without_their_cases_are_the_same_rules():
    assert shipped_rules() == tuple(replace(rule, cases=()) for rule in load_rules(["pack:all"]))


def test_every_family_is_a_pack():
    assert {"all", "attention", "mask", "norm", "sum"} <= set(packs())
