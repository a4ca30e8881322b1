"""``precision="bf16"``: FP32's range, 8 bits; what needs more bits stays FP32, and the type is told everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import onnx_fp16fix
from onnx_fp16fix import cli
from onnx_fp16fix.calibrate import open_data
from onnx_fp16fix.errors import UsageError
from onnx_fp16fix.simulate import compare_simulated
from onnx_text import model

X = np.linspace(-3, 3, 32, dtype=np.float32).reshape(4, 8)
WEIGHTS = {"w": np.eye(8) * 1e6, "v": np.eye(8) * 1e-6}
CHAIN = "(float[4,8] x) => (float[4,8] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }"
FLOAT, BF16 = TensorProto.FLOAT, TensorProto.BFLOAT16


def fixed(proto: onnx.ModelProto, feed: dict[str, np.ndarray], **options: object) -> onnx_fp16fix.Outcome:
    outcome = onnx_fp16fix.fix(proto, feed, precision="bf16", **{"tensorrt": "off", **options})  # type: ignore[arg-type]
    assert outcome.model is not None
    onnx.checker.check_model(outcome.model, full_check=True)
    return outcome


def naive_error(proto: onnx.ModelProto, feed: dict[str, np.ndarray]) -> float:
    data = open_data(feed, proto)
    return compare_simulated(proto, proto, data, assume_fp16=True, half="bf16").output_rel_l2


def error_of(outcome: onnx_fp16fix.Outcome) -> float:
    check = outcome.verification.fp16_sim
    assert check.type == "bf16"
    return max(output.rel_l2 for output in check.outputs)


def test_what_overflows_in_fp16_is_typed_as_it_is() -> None:
    outcome = fixed(model(CHAIN, WEIGHTS), {"x": X})
    graph = outcome.model.graph
    assert [node.op_type for node in graph.node] == ["Cast", "MatMul", "Relu", "MatMul", "Cast"]
    assert {tensor.data_type for tensor in graph.initializer} == {BF16}
    assert {info.type.tensor_type.elem_type for info in (*graph.input, *graph.output)} == {FLOAT}
    assert outcome.run.status == "ok"
    assert not outcome.findings
    assert 0 < error_of(outcome) < 1e-2


def test_bf16_at_the_border() -> None:
    graph = fixed(model(CHAIN, WEIGHTS), {"x": X}, io="bf16").model.graph
    assert [node.op_type for node in graph.node] == ["MatMul", "Relu", "MatMul"]
    assert {info.type.tensor_type.elem_type for info in (*graph.input, *graph.output)} == {BF16}


def test_sequences_are_not_asked_of_onnx_runtime() -> None:
    """It has next to no BF16 kernels on a CPU, and what is no tensor needs no type."""
    text = """(float[4,8] x) => (float[8,8] y) {
        h = MatMul(x, w) r = Relu(h) s = SequenceConstruct(h, r) c = ConcatFromSequence<axis = 0>(s) y = MatMul(c, v)
    }"""
    outcome = fixed(model(text, WEIGHTS), {"x": X})
    assert outcome.run.status == "ok"
    assert 0 < error_of(outcome) < 1e-2


def test_onnx_runtime_is_not_fed_what_numpy_does_not_have() -> None:
    text = "(float[4,8] x) => (float[8,4] y) { s = Constant<value_ints = [8, 4]>() y = Reshape(x, s) }"
    outcome = fixed(model(text), {"x": X}, io="bf16")
    assert outcome.run.status == "ok"
    assert any("onnxruntime" in text for text in outcome.verification.not_checked)


def test_a_constant_beyond_bf16_is_scaled() -> None:
    """-FLT_MAX rounds to -inf in BF16, and 0 x -inf is NaN."""
    lowest = np.float32(np.finfo(np.float32).min)
    proto = model("(float[4,8] x) => (float[4,8] y) { m = Mul(x, low) y = Mul(m, up) }",
                  {"low": lowest, "up": np.float32(2.0**-120)})  # fmt: skip
    feed = {"x": np.eye(4, 8, dtype=np.float32) / 4}
    assert naive_error(proto, feed) == np.inf
    outcome = fixed(proto, feed)
    assert outcome.run.status == "ok"
    assert not outcome.plan.fp32_nodes
    assert error_of(outcome) < 1e-2


POSITIONS = """(float[1,600] mask) => (int64[1,600] y) {
    one = Constant<value_int = 1>() n = CumSum(mask, one) m = Sub(n, first) h = Mul(m, two) y = Cast<to = 7>(h)
}"""


def test_counts_that_fp16_holds_and_bf16_does_not() -> None:
    proto = model(POSITIONS, {"first": np.float32(1), "two": np.float32(2)})
    feed = {"mask": np.ones((1, 600), np.float32)}
    assert naive_error(proto, feed) > 0.3
    outcome = fixed(proto, feed)
    assert error_of(outcome) == 0
    assert {"CumSum", "Sub", "Mul"} <= {
        node.op_type for node in outcome.model.graph.node if node.op_type != "Cast"
    }
    assert len(outcome.plan.fp32_nodes) == 3


def test_cancellation_is_measured_and_goes_to_fp32() -> None:
    proto = model("""(float[4,8] x) => (float[4,1] y) {
        b = Add(x, far) q = Mul(b, b) m = ReduceMean<axes = [1]>(q) n = ReduceMean<axes = [1]>(b)
        o = Mul(n, n) y = Sub(m, o) }""", {"far": np.float32(20)})  # fmt: skip
    assert naive_error(proto, {"x": X}) > 0.5
    outcome = fixed(proto, {"x": X})
    assert error_of(outcome) < 8e-2
    assert any(finding.name == "bf16-precision" for finding in outcome.findings)


def test_ops_that_the_opset_has_no_bf16_form_of_are_named() -> None:
    text = "(float[1,2,4,4] x) => (float[1,2,4,4] y) { c = Conv<kernel_shape = [1,1]>(x, k) y = Relu(c) }"
    kernel = {"k": np.ones((2, 2, 1, 1), np.float32)}
    feed = {"x": np.ones((1, 2, 4, 4), np.float32)}
    old = fixed(model(text, kernel, opset=17), feed)
    assert any("Conv (opset 22)" in text for text in old.warnings)
    assert {t.data_type for t in old.model.graph.initializer} == {FLOAT}
    new = fixed(model(text, kernel, opset=22), feed)
    assert not new.warnings
    assert {t.data_type for t in new.model.graph.initializer} == {BF16}


def test_what_cannot_be_bf16_is_refused() -> None:
    with pytest.raises(UsageError, match="BF16 begins with opset 13"):
        fixed(model(CHAIN, WEIGHTS, opset=12), {"x": X})
    with pytest.raises(UsageError, match="with precision 'bf16' it can be 'fp32' or 'bf16'"):
        fixed(model(CHAIN, WEIGHTS), {"x": X}, io="fp16")


def test_the_command_writes_beside_the_input_and_its_lock_does_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, data = tmp_path / "net.onnx", tmp_path / "x.npz"
    onnx.save(model(CHAIN, WEIGHTS), source)
    np.savez(data, x=X)
    options = ["--data", str(data), "--tensorrt", "off", "--json", "--quiet"]
    assert cli.main(["fix", str(source), "--precision", "bf16", *options]) == 0
    run = json.loads(capsys.readouterr().out)
    written, lock = tmp_path / "net.bf16.onnx", tmp_path / "net.bf16.onnx.fp16fix.yaml"
    assert run["plan"]["precision"] == "bf16"
    assert run["output"]["path"] == str(written)
    assert "precision: bf16" in lock.read_text(encoding="utf-8")
    assert cli.main(["apply", str(lock), str(source), "-o", str(tmp_path / "again.onnx"), "--quiet"]) == 0
    assert (tmp_path / "again.onnx").read_bytes() == written.read_bytes()
    assert cli.main(["verify", str(source), str(written), *options]) == 0
    assert json.loads(capsys.readouterr().out)["verification"]["fp16_sim"]["type"] == "bf16"
