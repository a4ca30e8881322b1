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


@pytest.mark.parametrize(
    ("steps", "fp32"),
    [
        pytest.param((9, 8, 7, 6, 5, 4, 3, 2, 1), 5, id="a quarter of the tolerance, not half"),
        pytest.param((40, 30, 22, 16, 12, 9, 7, 5), 6, id="whose inputs could not be rounded"),
    ],
)
def test_where_fp32_is_paid_for_other_samples_get_room(steps: tuple[int, ...], fp32: int) -> None:
    """With one FP32 node less the error was 3.2e-3 and 7.3e-3: within the tolerance, and nearer to it."""
    rng, last = np.random.default_rng(0), len(steps)
    body = [f"d{number} = Sub({f'd{number - 1}' if number else 'x'}, c{number})" for number in range(last)]
    proto = model(
        f"(float[1,64] x) => (float[1,16] y) {{ {' '.join(body)} e = MatMul(d{last - 1}, w) y = Tanh(e) }}",
        {
            **{f"c{number}": np.float32([step]) for number, step in enumerate(steps)},
            "w": rng.standard_normal((64, 16)) / 8,
        },
    )
    feed = {"x": rng.uniform(0.5, 1.5, (1, 64)).astype(np.float32) + np.float32(sum(steps))}
    outcome = onnx_fp16fix.fix(proto, feed, tensorrt="off")
    assert outcome.plan is not None
    assert outcome.plan.fp32_nodes == [f"d{number}" for number in range(fp32)]
    assert outcome.verification is not None
    assert outcome.verification.fp16_sim is not None
    assert (outcome.verification.fp16_sim.outputs[0].rel_l2 or 1) < 2.5e-3


def test_what_the_user_wants_in_fp16_stays_there() -> None:
    proto, feed = chain(27.0, 9.0, 3.0)
    outcome = onnx_fp16fix.fix(proto, feed, tensorrt="off", force_fp16="a")
    assert outcome.plan is not None
    assert "a" not in outcome.plan.fp32_nodes


@pytest.mark.parametrize(("steps", "narrow"), [((20.0, 7.0, 2.0), True), ((5.0, 2.0, 0.5), False)])
def test_a_result_that_other_samples_may_not_reach_is_told(steps: tuple[float, ...], narrow: bool) -> None:
    """Rounding x, which is 30 with differences of 1 that matter, takes as much as all else."""
    proto, feed = chain(*steps)
    outcome = onnx_fp16fix.fix(proto, feed, tensorrt="off", force_fp16=".*")
    assert outcome.run.status == "ok"
    found = [finding for finding in outcome.findings if finding.name == "fp16-narrow"]
    assert [finding.status for finding in found] == ["skipped"] * narrow
    assert all("other samples may be off by more" in finding.message for finding in found)


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


def error(before: onnx.ModelProto, after: onnx.ModelProto, feed: dict[str, np.ndarray]) -> float:
    return compare_simulated(before, after, open_data([feed], before), tensors="outputs").output_rel_l2


def test_an_output_of_few_elements_is_right_where_it_comes_near_zero_too() -> None:
    """A Kalman update with a gain of nearly 1: what cancels, the prediction, may be far larger than the result."""
    text = """(float[1,2] x, float[1,2] z) => (float[1,2] y) {
      r = Sub(z, x)
      k = Mul(r, gain)
      y = Add(x, k)
    }"""
    proto = model(text, {"gain": np.float32([0.9995, 0.9995])})
    rng = np.random.default_rng(3)
    feeds = [{name: rng.normal(0, 300, (1, 2)).astype(np.float32) for name in "xz"} for _ in range(3)]
    outcome = onnx_fp16fix.fix(proto, feeds, tensorrt="off")
    assert outcome.verification is not None
    near = {"x": np.float32([[400, -700]]), "z": np.float32([[2, 1]])}
    assert error(proto, proto, near) == 0
    naive = compare_simulated(proto, proto, open_data([near], proto), assume_fp16=True).output_rel_l2
    assert naive > 1e-2
    assert error(proto, outcome.model, near) < 5e-3


def test_a_product_of_a_few_numbers_is_no_reason_to_be_inexact() -> None:
    """The floor is beyond the tolerance; what is lost on top of it is the rounding of two means and a small product."""
    text = """(float[1,64,3] p, float[1,64,3] q) => (float[1,3] t) {
      a = ReduceMean<axes=[1], keepdims=0>(p)
      b = ReduceMean<axes=[1], keepdims=0>(q)
      c = MatMul(a, turn)
      t = Sub(b, c)
    }"""
    turn = np.float32([[0.9998, -0.0175, 0.0087], [0.0175, 0.9998, 0.0], [-0.0087, 0.0, 1.0]])
    proto = model(text, {"turn": turn})
    rng = np.random.default_rng(0)
    feeds = []
    for _ in range(3):
        p = rng.normal(900, 100, (1, 64, 3)).astype(np.float32)
        feeds.append({"p": p, "q": (p @ turn + rng.normal(0, 3, p.shape)).astype(np.float32)})
    outcome = onnx_fp16fix.fix(proto, feeds, tensorrt="off")
    naive = compare_simulated(proto, proto, open_data(feeds, proto), assume_fp16=True).output_rel_l2
    found = max(error(proto, outcome.model, feed) for feed in feeds)
    assert found < naive / 4
