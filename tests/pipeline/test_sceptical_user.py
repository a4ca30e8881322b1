"""What a tester who only had the README broke, kept from breaking again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_fp16fix
from onnx_fp16fix import cli
from onnx_fp16fix.errors import UsageError
from onnx_text import model

ROWS = (np.random.default_rng(1).standard_normal((64, 8)) * 0.05 + 30).astype(np.float32)
SMALL = "(float[4,8] x) => (float[4,8] y) { h = MatMul(x, w) y = Relu(h) }"
X = np.linspace(-3, 3, 32, dtype=np.float32).reshape(4, 8)


def labels(op: str) -> onnx.ModelProto:
    return model(f"(float[64,8] x) => (int64[64] l) {{ l = {op}<axis = -1, keepdims = 0>(x) }}")


def test_labels_are_compared_too() -> None:
    """Rows around 30 with differences of 0.05: FP16 has steps of 0.016 there, and some labels must flip. ``fix`` lets
    them be chosen from the rows as they are."""
    wrong = np.count_nonzero(ROWS.argmax(-1) != ROWS.astype(np.float16).argmax(-1))
    plain = onnx_fp16fix.verify(
        labels("ArgMax"), labels("ArgMax"), {"x": ROWS}, as_type="fp16", tensorrt="off"
    )
    fixed = onnx_fp16fix.fix(labels("ArgMax"), {"x": ROWS}, tensorrt="off", tolerance=1e-2)
    for outcome, error in ((plain, wrong / 64), (fixed, 0)):
        assert outcome.verification is not None
        assert outcome.verification.fp16_sim is not None
        (label,) = outcome.verification.fp16_sim.outputs
        assert (label.name, label.rel_l2) == ("l", pytest.approx(error))
    assert plain.run.status == "rejected"
    assert fixed.run.status == "ok"


def test_another_label_is_another_model() -> None:
    outcome = onnx_fp16fix.verify(labels("ArgMax"), labels("ArgMin"), {"x": ROWS}, tensorrt="off")
    assert outcome.run.exit_code == 4


def test_nothing_to_compare_is_not_a_pass() -> None:
    proto = model("(float[4,8] x) => (float[4,8] y) { l = Log(x) y = Relu(l) }")
    outcome = onnx_fp16fix.fix(proto, {"x": -np.abs(X) - 1}, tensorrt="off")
    assert outcome.run.exit_code == 4
    assert outcome.verification is not None
    assert "no finite value in FP32 already" in outcome.verification.failures[0]


def minus_infinity(sign: str) -> onnx.ModelProto:
    body = f"y = Relu(x) z = Sub(x, x) m = Log(z) l = {sign}(m)"
    return model(f"(float[4,8] x) => (float[4,8] y, float[4,8] l) {{ {body} }}")


def test_an_output_that_is_never_finite_does_not_hide_the_others() -> None:
    """A log-likelihood of minus infinity in FP32 and FP16; where FP16 makes something else of it, that fails."""
    outcome = onnx_fp16fix.fix(minus_infinity("Identity"), {"x": X}, tensorrt="off")
    assert outcome.run.status == "ok"
    assert outcome.verification is not None
    assert any("'l' has no finite value in FP32" in text for text in outcome.verification.not_checked)
    wrong = onnx_fp16fix.verify(
        minus_infinity("Identity"), minus_infinity("Neg"), {"x": X}, as_type="fp16", tensorrt="off"
    )
    assert wrong.run.status == "rejected"


def test_the_data_file_of_another_model_is_left_alone(tmp_path: Path) -> None:
    weights = {"w": np.eye(8)}
    onnx.save_model(
        model(SMALL, weights),
        tmp_path / "a.onnx",
        save_as_external_data=True,
        location="b.onnx.data",
        size_threshold=0,
    )
    before = (tmp_path / "b.onnx.data").read_bytes()
    onnx_fp16fix.fix(tmp_path / "a.onnx", {"x": X}, tensorrt="off").save(tmp_path / "b.onnx")
    assert (tmp_path / "b.onnx.data").read_bytes() == before
    onnx_fp16fix.verify(tmp_path / "a.onnx", tmp_path / "b.onnx", {"x": X}, tensorrt="off")


@pytest.mark.parametrize("command", ["fix", "calibrate", "bisect"])
def test_no_output_overwrites_what_is_read(command: str, tmp_path: Path) -> None:
    onnx.save(model(SMALL, {"w": np.eye(8)}), tmp_path / "m.onnx")
    np.savez(tmp_path / "d.npz", x=X)
    samples = (tmp_path / "d.npz").read_bytes()
    arguments = [
        command,
        str(tmp_path / "m.onnx"),
        "--data",
        str(tmp_path / "d.npz"),
        "-o",
        str(tmp_path / "d.npz"),
    ]
    assert cli.main(arguments) == 2
    assert (tmp_path / "d.npz").read_bytes() == samples


@pytest.mark.parametrize("command", ["fix", "calibrate", "check", "bisect"])
def test_a_folder_is_no_model(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main([command, "."]) == 3


def test_a_rule_that_calls_itself_exact_is_held_to_it(tmp_path: Path) -> None:
    rule = tmp_path / "lie.yaml"
    rule.write_text(
        """
schema: fp16fix/1
rules:
  - id: LIE001
    name: lie
    equal: exact
    summary: a liar
    match: Relu(x)
    vars: {x: tensor}
    replace:
      - with: Relu(x * 1.000001)
""",
        encoding="utf-8",
    )
    outcome = onnx_fp16fix.apply(model(SMALL, {"w": np.eye(8)}), rule, {"x": X}, tensorrt="off")
    assert outcome.run.exit_code == 4


@pytest.mark.parametrize(
    "options",
    [
        {"tensorrt": "required"},
        {"precision": "fp8"},
        {"precision": "bf16", "io": "fp16"},
        {"io": "FP16"},
        {"margin": -1},
        {"margin": float("nan")},
        {"tolerance": float("nan")},
        {"samples": 0},
    ],
)
def test_values_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="USAGE-VALUE"):
        onnx_fp16fix.fix(model(SMALL, {"w": np.eye(8)}), {"x": X}, **options)  # type: ignore[arg-type]


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(UsageError, match="a model is a path or a ModelProto, not int"):
        onnx_fp16fix.fix(5)  # type: ignore[arg-type]


def test_ir_version_3_stays_valid() -> None:
    """There every initializer is a graph input as well; factors that the planner adds must not be initializers."""
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "s"], ["h"]),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Mul", ["r", "t"], ["y"]),
        ],
        "g",
        [info("x", 1, ["N", 4]), info("s", 1, []), info("t", 1, [])],
        [info("y", 1, ["N", 4])],
        [numpy_helper.from_array(np.float32(1e6), "s"), numpy_helper.from_array(np.float32(1e-6), "t")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=3)
    outcome = onnx_fp16fix.fix(proto, {"x": np.ones((2, 4), np.float32)}, tensorrt="off")
    assert outcome.model is not None
    onnx.checker.check_model(outcome.model, full_check=True)


def test_fix_of_a_fixed_model_adds_nothing(tmp_path: Path) -> None:
    once = onnx_fp16fix.fix(model(SMALL, {"w": np.eye(8)}), {"x": X}, tensorrt="off").model
    assert once is not None
    twice = onnx_fp16fix.fix(once, {"x": X}, tensorrt="off").model
    assert twice is not None
    assert [node.op_type for node in twice.graph.node] == [node.op_type for node in once.graph.node]
    assert twice.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


def test_a_second_model_in_fp32_is_not_judged_and_verify_says_so() -> None:
    proto = model(SMALL, {"w": np.eye(8) * 1e6})
    entry = onnx_fp16fix.verify(proto, proto, {"x": X}, tensorrt="off").verification
    assert entry is not None
    assert entry.passed
    assert any("as_type='fp16' judges it" in text for text in entry.not_checked)
    judged = onnx_fp16fix.verify(proto, proto, {"x": X}, tensorrt="off", as_type="fp16").verification
    assert judged is not None
    assert not judged.passed
    assert not any("judges it" in text for text in judged.not_checked)


def test_a_model_that_is_fp16_already_is_not_taken_for_fp32_in_silence() -> None:
    fixed = onnx_fp16fix.fix(model(SMALL, {"w": np.eye(8)}), {"x": X}, tensorrt="off")
    assert fixed.run.warnings == []
    again = onnx_fp16fix.check(fixed.model, {"x": X})
    assert any("16-bit already" in text for text in again.run.warnings)


def test_a_raised_epsilon_is_told_at_its_true_size() -> None:
    """Squares of 3000 are stored times a power of two, and so is what keeps their mean from zero."""
    norm = model(
        """(float[4,8] x) => (float[4,8] y) {
            q = Mul(x, x) m = ReduceMean<axes = [1]>(q) a = Add(m, eps) s = Sqrt(a) y = Div(x, s)
        }""",
        {"eps": 1e-5},
    )
    outcome = onnx_fp16fix.fix(norm, {"x": X * 1000 + 7}, tensorrt="off")
    (raised,) = (
        finding for finding in outcome.findings if finding.kind == "underflow" and "eps" in finding.message
    )
    assert outcome.plan is not None
    name, _, power = raised.message.partition("stored times 2**-")
    assert f"stands for {2.0 ** (-24 + int(power)):.3g} " in name


def test_a_missing_data_file_is_told_with_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(
        model(SMALL, {"w": np.eye(8)}), path, save_as_external_data=True, location="m.data", size_threshold=0
    )
    (tmp_path / "m.data").unlink()
    assert cli.main(["check", str(path)]) == 3
    assert f"error: {path}, tensor 'w'" in capsys.readouterr().err


def test_wrong_use_that_was_silent_or_obscure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model(SMALL, {"w": np.eye(8)}), path)
    assert cli.main(["apply", str(path), "rules.yaml"]) == 2
    assert "RULES comes first" in capsys.readouterr().err
    assert cli.main(["fix", str(path), "--sidecar", str(tmp_path)]) == 2
    assert "--sidecar goes with --precision fp32" in capsys.readouterr().err


def test_fp32_has_another_name_than_fp16(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model(SMALL, {"w": np.eye(8)}), path)
    assert cli.main(["fix", str(path), "--precision", "fp32", "--tensorrt", "off", "-q", "--no-lock"]) == 0
    assert (tmp_path / "m.fixed.onnx").exists()
    assert not (tmp_path / "m.fp16.onnx").exists()


def test_what_a_forced_node_leaves_at_risk_is_not_called_fixed() -> None:
    outcome = onnx_fp16fix.fix(
        model(SMALL, {"w": np.eye(8)}), {"x": X}, tensorrt="off",
        limits={"x": 1e30}, force_fp16_ops="MatMul", force=True,
    )  # fmt: skip
    assert outcome.run.status == "findings"
    assert {finding.status for finding in outcome.findings if finding.node in ("n0", "h", "MatMul_0")} <= {
        "left"
    }
    assert not any(
        "'x' reaches" in finding.message for finding in outcome.findings if finding.status == "fixed"
    )


@pytest.mark.parametrize("node", [False, True])
def test_what_becomes_of_a_constant_is_told_once_and_true(node: bool) -> None:
    """Whether it is an initializer or a Constant node."""
    made = "eps = Constant<value_float = 1e-5>()" if node else ""
    proto = model(
        f"(float[4,8] x) => (float[4,8] y) {{ {made} h = Mul(x, big) s = Mul(h, h) m = ReduceMean<axes=[-1]>(s) "
        "e = Add(m, eps) r = Sqrt(e) y = Div(h, r) }",
        {"big": np.float32(1e4)} | ({} if node else {"eps": np.float32(1e-5)}),
    )
    outcome = onnx_fp16fix.fix(proto, {"x": X}, tensorrt="off")
    (told,) = [finding.message for finding in outcome.findings if finding.tensor == "eps"]
    assert "it becomes FP16's smallest value" in told


def test_a_constant_that_may_overflow_is_said_to_be_harmless() -> None:
    proto = model("(float[4,8] x) => (float[4,8] y) { a = Max(x, c) y = Clip(a, low, high) }",
                  {"c": np.float32(7e4), "low": np.float32(-1), "high": np.float32(5)})  # fmt: skip
    outcome = onnx_fp16fix.fix(proto, {"x": X}, tensorrt="off")
    assert outcome.plan is not None
    assert not outcome.plan.fp32_nodes
    messages = [finding.message for finding in outcome.findings if finding.tensor == "c"]
    assert any("may become infinite, for what reads it saturates" in message for message in messages)
