"""FP16 inputs and outputs that cannot hold their values are a contradiction, not a failed verification."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnx_fp16fix
from onnx_fp16fix.errors import UsageError
from onnx_text import model

X = np.linspace(-300, 700, 12, dtype=np.float32).reshape(4, 3)
SQUARE = "(float[4,3] x) => (float[4,3] y, float[4,3] r) { y = Mul(x, x) r = Sqrt(y) }"


def test_an_output_beyond_fp16_is_refused_with_its_magnitude() -> None:
    with pytest.raises(
        UsageError, match=r"output 'y' reaches 4\.9e\+05, and io='fp16' makes it FP16"
    ) as raised:
        onnx_fp16fix.fix(model(SQUARE), {"x": X}, io="fp16", tensorrt="off")
    assert [problem.code for problem in raised.value.problems] == ["USAGE-CONTRADICTION"]


def test_force_writes_it_with_what_is_at_risk_and_so_does_its_lock(tmp_path: Path) -> None:
    outcome = onnx_fp16fix.fix(model(SQUARE), {"x": X}, io="fp16", force=True, tensorrt="off")
    assert outcome.run.exit_code == 1
    assert any(
        f.status == "left" and f.tensor == "y" and "becomes infinite" in f.message for f in outcome.findings
    )
    lock = tmp_path / "lock.yaml"
    lock.write_text(outcome.lock(), encoding="utf-8")
    again = onnx_fp16fix.apply(model(SQUARE), lock, {"x": X}, tensorrt="off")
    assert again.run.exit_code == 1
    assert again.model == outcome.model


def test_an_infinite_mask_is_fine_and_said() -> None:
    text = "(float[4,3] x, float[1,3] mask) => (float[4,3] y) { m = Add(x, mask) y = Softmax(m) }"
    feed = {"x": X / 100, "mask": np.array([[0, 0, -3e38]], np.float32)}
    outcome = onnx_fp16fix.fix(model(text), feed, io="fp16", tensorrt="off")
    assert outcome.run.status == "ok"
    assert any("input 'mask' reaches 3e+38" in text for text in outcome.warnings)
    assert not any("input 'x'" in text for text in outcome.warnings)


def test_an_input_beyond_fp16_that_matters_is_rejected_or_forced() -> None:
    proto = model("(float[4,3] x) => (float[4,3] y) <float k = {0.00001}> { y = Mul(x, k) }")
    feed = {"x": X * 1000}
    assert onnx_fp16fix.fix(proto, feed, io="fp16", tensorrt="off").run.exit_code == 4
    forced = onnx_fp16fix.fix(proto, feed, io="fp16", force=True, tensorrt="off")
    assert forced.run.exit_code == 1
    assert any(f.status == "left" for f in forced.findings)


def test_bf16_holds_it() -> None:
    outcome = onnx_fp16fix.fix(model(SQUARE), {"x": X}, precision="bf16", io="bf16", tensorrt="off")
    assert outcome.run.status == "ok"
    assert outcome.model is not None
    assert {info.type.tensor_type.elem_type for info in outcome.model.graph.output} == {
        onnx.TensorProto.BFLOAT16
    }


def test_a_constant_that_leaves_the_graph_stays_fp32() -> None:
    text = "(float[4,3] x) => (float[1] w, float[4,3] y) <float[1] w = {100000}> { q = Mul(x, w) y = Sigmoid(q) }"
    outcome = onnx_fp16fix.fix(model(text), {"x": X}, io="fp16", tensorrt="off")
    assert outcome.run.status == "ok"
