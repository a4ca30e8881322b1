"""Exponents that FP32 itself has no room for: where bits could change, and where they cannot."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnx_fp16fix.calibrate import calibrate, open_data
from onnx_fp16fix.emit import rescale
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.model import wrap_model
from onnx_fp16fix.plan import Plan, make_plan
from onnx_fp16fix.plan.known.facts import Facts
from onnx_fp16fix.plan.known.room import find_rooms
from onnx_fp16fix.runtime import open_session
from onnx_text import model

RANDOM = np.random.default_rng(0)


def planned(proto: onnx.ModelProto, **feeds: np.ndarray) -> Plan:
    """The plan; outputs in FP32 are the same bits with it."""
    scope, ranges = build_view(wrap_model(proto)).main, calibrate(proto, open_data(feeds, proto))
    plan = make_plan(scope, ranges)
    after = rescale(scope, Facts(scope, ranges), plan).model.proto
    expected, actual = (open_session(m).run(feeds) for m in (proto, after))
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name].view(np.uint32), value.view(np.uint32))
    return plan


def normal(*shape: int, size: float = 1.0) -> np.ndarray:
    return (RANDOM.standard_normal(shape) * size).astype(np.float32)


def test_products_that_fp32_rounds_to_subnormals_keep_their_scale() -> None:
    text = "(float[8,8] x) => (float[8,8] y) { a = Mul(x, small) b = Mul(a, a) c = Mul(b, large) y = Mul(c, large) }"
    proto = model(text, {"small": np.float32(1e-20), "large": np.float32(1e12)})
    plan = planned(proto, x=normal(8, 8))
    assert "b" not in plan.exponents
    assert "'a', typically 7" in plan.fp32[1]


def test_weights_that_fp32_holds_as_subnormals_are_scaled_all_the_same_where_sums_swallow_them() -> None:
    weights = normal(16, 16, size=1e4)
    weights[0] = 1e-41
    proto = model("(float[4,16] x) => (float[4,16] z) { y = MatMul(x, w) z = MatMul(y, v) }",
                  {"w": weights, "v": normal(16, 16, size=1e-4)})  # fmt: skip
    plan = planned(proto, x=normal(4, 16, size=10))
    assert not plan.fp32
    assert plan.operands[0, 1] > 0


def test_such_a_weight_keeps_its_scale_where_each_of_its_elements_shows() -> None:
    weights = np.geomspace(1e-41, 1e5, 16, dtype=np.float32)
    proto = model("(float[4,16] x) => (float[4,16] y) { y = Mul(x, w) }", {"w": weights})
    plan = planned(proto, x=normal(4, 16))
    assert not plan.operands


def test_tails_of_a_gate_leave_the_product_behind_it_its_scale() -> None:
    """sigmoid(-90) is 8e-40; a projection adds it to values of 1e5 and more."""
    text = """(float[4,32] g, float[4,32] u) => (float[4,8] y) {
        s = Sigmoid(g) a = Mul(g, s) h = Mul(a, u) p = MatMul(h, w) y = Mul(p, small) }"""
    proto = model(text, {"w": normal(32, 8), "small": np.float32(1e-4)})
    gate = normal(4, 32, size=100)
    gate[:, :4] = -90
    plan = planned(proto, g=gate, u=normal(4, 32, size=3000))
    assert not plan.fp32
    assert plan.exponents["h"] > 0


@pytest.mark.parametrize(("epsilon", "most"), [(1e-5, 54), (1e-12, 43)])
def test_an_epsilon_stays_a_normal_number(epsilon: float, most: int) -> None:
    text = f"(float[4,16] x) => (float[4,16] y) {{ a = Identity(x) y = LayerNormalization<epsilon = {epsilon}>(a, g) }}"
    proto = model(text, {"g": np.ones(16, np.float32)})
    x = normal(4, 16, size=1e12)
    scope, ranges = build_view(wrap_model(proto)).main, calibrate(proto, open_data({"x": x}, proto))
    rooms = find_rooms(Facts(scope, ranges), 64)
    assert rooms.slots[1, 0][1] == most
