"""Models where no node alone loses the accuracy that is missing."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnx_fp16fix
from onnx_fp16fix.calibrate import open_data
from onnx_fp16fix.simulate import compare_simulated
from onnx_text import model

# each difference is some 3 times smaller than its operands, too little to be suspected
TEXT = """(float[1,64] x) => (float[1,16] y) {
  a = Sub(x, c1)
  b = Sub(a, c2)
  d = Sub(b, c3)
  e = MatMul(d, w)
  y = Tanh(e)
}"""


def chain(*steps: float) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    constants = {f"c{number}": np.float32([step]) for number, step in enumerate(steps, 1)}
    proto = model(TEXT, {**constants, "w": rng.standard_normal((64, 16)) / 8})
    return proto, {"x": rng.uniform(0.5, 1.5, (1, 64)).astype(np.float32) + np.float32(sum(steps))}


@pytest.mark.parametrize(
    ("steps", "fp32"),
    [
        pytest.param((100.0, 30.0, 10.0), ["a", "b"], id="beyond the tolerance"),
        pytest.param((20.0, 7.0, 2.0), ["a"], id="too near to it"),
        pytest.param((5.0, 2.0, 0.5), [], id="well within"),
    ],
)
def test_the_nodes_that_matter_most_go_to_fp32_and_no_others(
    steps: tuple[float, float, float], fp32: list[str]
) -> None:
    proto, feed = chain(*steps)
    naive = compare_simulated(proto, proto, open_data(feed, proto), assume_fp16=True)
    assert (naive.output_rel_l2 > 5e-3) == bool(fp32)

    outcome = onnx_fp16fix.fix(proto, feed, tensorrt="off")

    assert outcome.run.status == "ok"
    assert outcome.plan is not None
    assert outcome.plan.fp32_nodes == fp32
    assert outcome.verification is not None
    assert outcome.verification.fp16_sim is not None
    (y,) = outcome.verification.fp16_sim.outputs
    assert y.rel_l2 is not None
    assert y.rel_l2 < 5e-3
    assert [f.tensor for f in outcome.findings if f.name == "fp16-precision"] == fp32


def test_what_the_user_wants_in_fp16_stays_there() -> None:
    proto, feed = chain(27.0, 9.0, 3.0)
    outcome = onnx_fp16fix.fix(proto, feed, tensorrt="off", force_fp16="a")
    assert outcome.plan is not None
    assert "a" not in outcome.plan.fp32_nodes


def test_matrix_products_go_to_fp32_where_nothing_cheaper_helps() -> None:
    # two products whose common part cancels, of operands that FP16 holds exactly
    text = (
        "(float[8,32] x) => (float[8,4] y) { a = MatMul(x, w1) b = MatMul(x, w2) d = Sub(a, b) y = Tanh(d) }"
    )
    rng = np.random.default_rng(0)
    w = rng.integers(40, 60, (32, 4)).astype(np.float32)
    weights = {"w1": w, "w2": w + rng.integers(-9, 10, (32, 4))}
    feed = {"x": rng.integers(1, 9, (8, 32)).astype(np.float32) / 256}
    proto = model(text, weights)
    outcome = onnx_fp16fix.fix(proto, feed, tensorrt="off", tolerance=2e-4)
    assert outcome.run.status == "ok"
    assert outcome.plan is not None
    assert {"a", "b"} <= set(outcome.plan.fp32_nodes)


def test_a_large_model_within_the_tolerance_is_not_searched_for_more_room() -> None:
    proto, feed = chain(20.0, 7.0, 2.0)
    rows = proto.graph.input[0].type.tensor_type.shape.dim[0]
    rows.dim_value = proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 20_000
    outcome = onnx_fp16fix.fix(proto, {"x": np.repeat(feed["x"], 20_000, axis=0)}, tensorrt="off")
    assert outcome.run.status == "ok"
    assert outcome.plan is not None
    assert outcome.plan.fp32_nodes == []
    small = onnx_fp16fix.fix(chain(20.0, 7.0, 2.0)[0], feed, tensorrt="off")
    assert small.plan is not None
    assert small.plan.fp32_nodes == ["a"]
