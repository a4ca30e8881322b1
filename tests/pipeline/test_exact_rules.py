"""``apply`` holds each rule that calls itself exact to it, also beside rules that may round differently."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnx_fp16fix
from onnx_fp16fix.errors import RuleFileError
from onnx_text import model

X = np.linspace(-3, 3, 32, dtype=np.float32).reshape(4, 8)
TWO = "(float[4,8] x) => (float[4,8] y, float[4,8] z) { e = Exp(x) y = Mul(e, three) t = Tanh(x) z = Neg(t) }"
HEAD = "schema: fp16fix/1\nrules:\n"
REAL = """
  - {id: REAL001, name: a, summary: s, equal: real, match: Tanh(x), replace: [{with: 2 * Sigmoid(2 * x) - 1}]}
"""
EXACT = """
  - {{id: EXACT001, name: exp-in-parts, summary: s, equal: exact, match: Exp(x), replace: [{{with: {template}}}]}}
"""


def applied(tmp_path: Path, text: str) -> onnx_fp16fix.Outcome:
    rules = tmp_path / "rules.yaml"
    rules.write_text(HEAD + text)
    proto = model(TWO, {"three": np.float32(3.0)})
    return onnx_fp16fix.apply(proto, rules, {"x": X}, tensorrt="off", trust_rules=True)


def test_a_real_rule_does_not_lend_its_tolerance_to_an_exact_one(tmp_path: Path) -> None:
    rounded = EXACT.format(template="Exp(x / 3) * Exp(x / 3) * Exp(x / 3)")
    outcome = applied(tmp_path, REAL + rounded)
    assert outcome.run.status == "rejected"
    (failure,) = outcome.verification.failures
    assert failure.startswith("EXACT001 calls itself exact, but outputs differ with it alone")


def test_an_exact_rule_that_keeps_every_bit_passes_beside_a_real_one(tmp_path: Path) -> None:
    outcome = applied(tmp_path, REAL + EXACT.format(template="Neg(Neg(Exp(x)))"))
    assert outcome.run.status == "ok"
    assert not outcome.verification.fp32.identical
    assert {rule.id: rule.applied for rule in outcome.run.rules} == {"REAL001": 1, "EXACT001": 1}


def test_rules_of_an_installed_pack_are_proven_like_any_others(tmp_path: Path, monkeypatch) -> None:
    text = HEAD + EXACT.format(template="Exp(x) + 1") + "    # no case, so add one\n"
    text = text.replace("replace:", "tests: [{hit: Exp(x), given: {x: 'float [4] absmax=3'}}], replace:")
    (tmp_path / "acme_rules").mkdir()
    (tmp_path / "acme_rules" / "exp.yaml").write_text(text)
    info = tmp_path / "acme_rules-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-rules\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[onnx_fp16fix.rules]\nacme = acme_rules\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuleFileError, match=r"EXACT001 fails its proof \(equality\)"):
        onnx_fp16fix.apply(model(TWO, {"three": np.float32(3.0)}), "pack:acme", {"x": X}, tensorrt="off")


def test_fix_holds_a_rule_of_the_users_own_to_its_bits_too(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    shift = (
        "{id: EXACT002, name: exp-shifted, summary: s, equal: %s, match: Exp(x) * c, vars: {c: const scalar}"
    )
    shift += ", where: [vmax(x) > 11], replace: [{with: Exp(x + log(value(c)))}]}"
    text = "(float[4,8] x) => (float[4,8] y) { e = Exp(x) y = Mul(e, small) }"
    proto, feed = model(text, {"small": np.float32(3e-5)}), {"x": X * 5}
    outcomes = []
    for equal in ("exact", "real"):
        rules.write_text(f"{HEAD}  - {shift % equal}\n")
        outcomes.append(onnx_fp16fix.fix(proto, rules=rules, data=feed, margin=1.0, tensorrt="off"))
    assert [outcome.run.rules[0].applied for outcome in outcomes] == [1, 1]
    assert [outcome.run.status for outcome in outcomes] == ["rejected", "ok"]
    assert outcomes[0].verification.failures[0].startswith("EXACT002 calls itself exact")
