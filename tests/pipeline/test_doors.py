"""``fix`` and ``apply`` as users call them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnx_fp16fix
from onnx_fp16fix.errors import UsageError, VerificationError
from onnx_text import model

X = np.linspace(-3, 3, 32, dtype=np.float32).reshape(4, 8)
OVERFLOWING = {"w": np.eye(8) * 1e6, "v": np.eye(8) * 1e-6}
CHAIN = "(float[4,8] x) => (float[4,8] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"
NORM_RULE = """
schema: fp16fix/1
rules:
  - id: USER001
    name: rms-square-overflow
    equal: exact
    summary: squares leave the FP16 range
    why: Squares of values beyond 255 leave the FP16 range.
    match: x / Sqrt(ReduceMean(x ** 2, axes=ax, keepdims=1) + eps)
    vars: {x: tensor, eps: const scalar, ax: axes}
    where:
      - absmax(x) ** 2 > FP16.max
    let:
      s: 2.0 ** -6
    replace:
      - with: |
          xs = x * s
          xs / Sqrt(ReduceMean(xs ** 2, axes=ax, keepdims=1) + value(eps) * s ** 2)
"""
NORM = """(float[4,8] x) => (float[4,8] y) {
    q = Mul(x, x) m = ReduceMean<axes = [1]>(q) a = Add(m, eps) s = Sqrt(a) y = Div(x, s)
}"""


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    path = tmp_path / "chain.onnx"
    onnx.save(model(CHAIN, OVERFLOWING), path)
    return path


@pytest.fixture
def rule(tmp_path: Path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(NORM_RULE, encoding="utf-8")
    return path


def test_a_path_and_a_proto_give_the_same_model(chain: Path) -> None:
    from_path = onnx_fp16fix.fix(chain, {"x": X}, tensorrt="off")
    from_proto = onnx_fp16fix.fix(onnx.load(chain), {"x": X}, tensorrt="off")
    assert from_path.model == from_proto.model
    assert from_path.run.status == "ok"


def test_the_input_is_never_changed(chain: Path) -> None:
    proto = onnx.load(chain)
    before = proto.SerializeToString()
    onnx_fp16fix.fix(proto, {"x": X}, tensorrt="off")
    assert proto.SerializeToString() == before


def test_fp32_precision_gives_the_rescaled_model_with_the_same_bits(chain: Path) -> None:
    outcome = onnx_fp16fix.fix(chain, {"x": X}, precision="fp32", tensorrt="off")
    assert outcome.verification is not None
    assert outcome.verification.fp32 is not None
    assert outcome.verification.fp32.identical
    assert outcome.model is not None
    assert [node.op_type for node in outcome.model.graph.node] == ["MatMul", "Relu", "MatMul"]
    assert all(tensor.data_type == onnx.TensorProto.FLOAT for tensor in outcome.model.graph.initializer)


def test_without_data_the_user_is_warned(chain: Path) -> None:
    outcome = onnx_fp16fix.fix(chain, tensorrt="off")
    assert outcome.run.data is not None
    assert outcome.run.data.random
    assert any("seeded random inputs" in warning for warning in outcome.warnings)


def test_what_fails_verification_cannot_be_saved(tmp_path: Path) -> None:
    sizes = (
        np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    )  # too much to be kept in FP32
    wide = model("(float[4,64] x) => (float[4,64] y) { y = MatMul(x, w) }", {"w": sizes})
    outcome = onnx_fp16fix.fix(wide, {"x": np.tile(X, (1, 8))}, tolerance=1e-9, tensorrt="off")
    assert outcome.run.status == "rejected"
    assert outcome.run.exit_code == 4
    with pytest.raises(VerificationError):
        outcome.save(tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_rules_that_do_not_match_leave_the_file_as_it_is(chain: Path, rule: Path, tmp_path: Path) -> None:
    outcome = onnx_fp16fix.apply(chain, rule, {"x": X}, tensorrt="off")
    outcome.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == chain.read_bytes()


def test_a_users_rule_rewrites_what_it_matches(rule: Path) -> None:
    outcome = onnx_fp16fix.apply(model(NORM, {"eps": 1e-6}), rule, {"x": X * 1000}, tensorrt="off")
    assert [entry.applied for entry in outcome.run.rules] == [1]
    assert outcome.verification is not None
    assert outcome.verification.fp32 is not None
    assert outcome.verification.fp32.identical
    check = outcome.verification.fp16_sim
    assert check is not None
    assert check.outputs[0].rel_l2 is not None
    assert check.outputs[0].rel_l2 < 1e-2


def test_applying_twice_is_applying_once(rule: Path) -> None:
    once = onnx_fp16fix.apply(model(NORM, {"eps": 1e-6}), rule, {"x": X * 1000}, tensorrt="off").model
    assert once is not None
    again = onnx_fp16fix.apply(once, rule, {"x": X * 1000}, tensorrt="off")
    assert again.model == once
    assert sum(entry.applied for entry in again.run.rules) == 0


def test_apply_without_rules_is_refused(chain: Path) -> None:
    with pytest.raises(UsageError, match="apply needs rules"):
        onnx_fp16fix.apply(chain, [], {"x": X})


def test_check_names_what_breaks_and_changes_nothing(chain: Path) -> None:
    outcome = onnx_fp16fix.check(chain, {"x": X})
    assert outcome.run.exit_code == 1
    assert outcome.model is None
    overflow = next(finding for finding in outcome.findings if finding.tensor == "h")
    assert overflow.kind == "overflow"
    assert overflow.status == "available"


def test_verify_tells_a_wrong_model_from_a_right_one(chain: Path, tmp_path: Path) -> None:
    onnx_fp16fix.fix(chain, {"x": X}, tensorrt="off").save(tmp_path / "right.onnx")
    assert onnx_fp16fix.verify(chain, tmp_path / "right.onnx", {"x": X}, tensorrt="off").run.exit_code == 0
    onnx.save(model(CHAIN, {**OVERFLOWING, "v": np.eye(8) * 2e-6}), tmp_path / "wrong.onnx")
    assert onnx_fp16fix.verify(chain, tmp_path / "wrong.onnx", {"x": X}, tensorrt="off").run.exit_code == 4


def test_a_model_with_nans_in_fp32_says_where_they_begin() -> None:
    proto = model("(float[4,8] x) => (float[4,8] y) { l = Log(x) y = Relu(l) }")
    outcome = onnx_fp16fix.check(proto, {"x": X})
    finding = next(finding for finding in outcome.findings if finding.kind == "nan")
    assert finding.tensor == "l"


def test_cancellation_is_measured_and_mended() -> None:
    """The variance as E[x**2] - E[x]**2 of rows far from zero: rounding noise in FP16 at any scale."""
    proto = model(
        """(float[4,8] x) => (float[4,8] y) {
            q = Mul(x, x) m = ReduceMean<axes = [1]>(q) e = ReduceMean<axes = [1]>(x) s = Mul(e, e)
            v = Sub(m, s) p = Relu(v) a = Add(p, eps) r = Sqrt(a) d = Sub(x, e) y = Div(d, r)
        }""",
        {"eps": 1e-3},
    )
    feed = {"x": np.float32(np.float16(20 + np.random.default_rng(0).standard_normal((4, 8))))}
    outcome = onnx_fp16fix.fix(proto, feed, tensorrt="off")
    assert outcome.run.status == "ok", outcome.verification
    assert outcome.plan is not None
    assert "v" in outcome.plan.fp32_nodes
    assert any("times smaller than its operands" in finding.message for finding in outcome.findings)


def test_fix_keeps_the_nodes_in_fp32_that_the_users_rules_name(chain: Path, tmp_path: Path) -> None:
    rules = tmp_path / "keep.yaml"
    rules.write_text(
        """
schema: fp16fix/1
rules:
  - id: KEEP001
    name: relu-wished-in-fp32
    equal: exact
    summary: a wish
    why: The user wants it.
    match: Relu(x)
    vars: {x: tensor}
    action: {name: fp32-island}
""",
        encoding="utf-8",
    )
    outcome = onnx_fp16fix.fix(chain, {"x": X}, rules, tensorrt="off")
    assert outcome.run.status == "ok"
    assert outcome.plan is not None
    assert outcome.plan.fp32_nodes == ["r"]
