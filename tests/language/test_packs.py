"""Rule packs of installed distributions: found by entry point, never imported, and what is wrong with them said."""

from __future__ import annotations

import sys

import pytest

from onnx_fp16fix.errors import RuleFileError
from onnx_fp16fix.language import installed_packs, load_rules, packs

RULE = """schema: fp16fix/1
rules:
  - id: ACME001
    name: exp-overflow-at-acme
    summary: exp overflows
    equal: exact
    match: Exp(x)
    where: [vmax(x) > 11]
    action: {name: rescale}
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Puts a distribution with these entry points and files where Python finds it."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])

    def distribution(name: str, points: dict[str, str], files: dict[str, str]) -> None:
        info = site / f"{name.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n")
        lines = "".join(f"{key} = {value}\n" for key, value in points.items())
        (info / "entry_points.txt").write_text(f"[onnx_fp16fix.rules]\n{lines}")
        for path, text in files.items():
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            (site / path).write_text(text)

    return distribution


POISON = "raise SystemExit('a pack is data: nothing of it may run')\n"


@pytest.mark.parametrize(
    ("value", "file"),
    [
        ("acme_rules", "acme_rules/exp.yaml"),
        ("acme_rules:fp16", "acme_rules/fp16/exp.yaml"),
        ("acme_rules.deep.fp16", "acme_rules/deep/fp16/math/exp.yaml"),
    ],
)
def test_a_pack_is_found_and_none_of_its_code_runs(install, value, file):
    install("acme-rules", {"acme": value}, {file: RULE, "acme_rules/__init__.py": POISON})
    (rule,) = load_rules(["pack:acme"])
    assert rule.id == "ACME001"
    assert rule.place.file == "pack:acme/" + file.split(value.replace(".", "/").replace(":", "/") + "/")[1]
    assert [(pack.name, pack.origin, pack.problem) for pack in installed_packs()] == [
        ("acme", "acme-rules 1.2", "")
    ]
    assert "acme" not in packs()


def test_a_rule_file_may_use_a_pack_and_a_pack_its_own_files(install, tmp_path):
    files = {
        "acme_rules/__init__.py": "",
        "acme_rules/all.yaml": "schema: fp16fix/1\nuse: [more/exp.yaml, pack:sum]\n",
        "acme_rules/more/exp.yaml": RULE,
    }
    install("acme-rules", {"acme": "acme_rules"}, files)
    (tmp_path / "mine.yaml").write_text("schema: fp16fix/1\nuse: pack:acme\n")
    assert {"ACME001", "SUM001"} <= {rule.id for rule in load_rules([tmp_path / "mine.yaml"])}


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("acme", "no_such_package", "there is no package 'no_such_package'"),
        ("acme", "acme_rules:nowhere", "the package 'acme_rules' has no folder 'nowhere'"),
        ("acme", "acme_rules:../..", "does not read like package:folder"),
        ("acme", "/etc", "does not read like package:folder"),
        ("acme", "json", "holds no rule files"),
        ("norm", "acme_rules", None),
    ],
)
def test_a_pack_that_cannot_be_loaded_says_whose_it_is_and_why(install, name, value, problem):
    install("acme-rules", {name: value}, {"acme_rules/__init__.py": ""})
    if problem is None:  # a shipped pack keeps its name
        assert {rule.family for rule in load_rules(["pack:norm"])} == {"NORM"}
        assert installed_packs()[0].problem == "a shipped pack has the name 'norm'"
        return
    with pytest.raises(RuleFileError) as caught:
        load_rules(["pack:acme"])
    (found,) = caught.value.problems
    assert found.code == "RULE-PACK"
    assert problem in found.message
    assert "'acme' of acme-rules 1.2" in found.message


def test_two_distributions_cannot_offer_one_pack(install):
    for name in ("one", "two"):
        install(f"{name}-rules", {"acme": f"{name}_rules"}, {f"{name}_rules/exp.yaml": RULE})
    with pytest.raises(RuleFileError, match=r"one-rules 1\.2 and two-rules 1\.2 both offer it"):
        load_rules(["pack:acme"])


def test_mistakes_in_a_pack_have_their_place_and_a_missing_pack_a_hint(install):
    install("acme-rules", {"acme": "acme_rules"}, {"acme_rules/exp.yaml": RULE.replace("Exp(x)", "Epx(x)")})
    with pytest.raises(RuleFileError, match=r"pack:acme/exp\.yaml:7:12: ONNX has no operator 'Epx'"):
        load_rules(["pack:acme"])
    with pytest.raises(RuleFileError, match="did you mean 'acme'"):
        load_rules(["pack:acmee"])
