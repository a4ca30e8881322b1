"""What the planner decides, and what it says about it, one cause at a time."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_fp16fix.graph import build_view
from onnx_fp16fix.model import wrap_model
from onnx_fp16fix.plan.known.cancel import find_cancellations
from onnx_fp16fix.plan.known.facts import Facts
from onnx_fp16fix.plan.known.tolerate import overflow_tolerant
from onnx_text import model, planned

X = np.linspace(-3, 3, 32, dtype=np.float32).reshape(4, 8)


def ops_in_fp32(proto, feed) -> list[str]:
    scope, plan = planned(proto, feed)
    return [scope.nodes[index].op for index in plan.fp32]


def test_a_model_in_range_gets_an_empty_plan() -> None:
    _, plan = planned(model("(float[4,8] x) => (float[4,8] y) { y = Relu(x) }"), {"x": X})
    assert plan.is_empty()
    assert not plan.risks


def test_constant_weights_take_up_the_scale_for_free() -> None:
    proto = model(
        "(float[4,8] x) => (float[4,8] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, v) }",
        {"w": np.eye(8) * 1e6, "v": np.eye(8) * 1e-6},
    )
    _, plan = planned(proto, {"x": X})
    assert plan.exponents["h"] == plan.exponents["r"] >= 6
    assert not plan.muls
    assert not plan.fp32


def test_a_reader_that_needs_the_true_value_gets_a_mul() -> None:
    proto = model(
        "(float[4,8] x) => (float[4,8] y) { h = MatMul(x, w) s = Sigmoid(h) g = Mul(h, s) y = MatMul(g, v) }",
        {"w": np.eye(8) * 1e6, "v": np.eye(8) * 1e-6},
    )
    scope, plan = planned(proto, {"x": X})
    (slot,) = plan.muls
    assert scope.nodes[slot[0]].op == "Sigmoid"
    assert plan.muls[slot] == -plan.exponents["h"]
    assert plan.muls_why[slot] == "Sigmoid needs the true value of 'h'"


def test_an_exponential_out_of_range_stays_fp32_with_its_reason() -> None:
    proto = model("(float[4,8] x) => (float[4,8] y) { e = Exp(x) s = Add(e, one) y = Log(s) }", {"one": 1.0})
    scope, plan = planned(proto, {"x": X * 8})
    assert [scope.nodes[index].op for index in plan.fp32] == ["Exp", "Add", "Log"]
    assert plan.fp32[0].startswith("its output 'e' reaches")


def test_the_sum_inside_a_mean_is_bounded() -> None:
    proto = model(
        "(float[4,1024] x) => (float[4,1] y) { m = ReduceMean<axes = [1]>(x) y = Mul(m, c) }", {"c": 1e-2}
    )
    _, plan = planned(proto, {"x": np.full((4, 1024), 1000, np.float32)})
    # 1024 * 1000 * margin 2 must come below 65504
    assert max(plan.entries.get("x", 0), *(plan.muls.get((0, 0), 0),)) == 5
    assert plan.risks[0].message == "the sum inside ReduceMean reaches 1.024e+06"


def rms_norm(eps: float):
    return model(
        """(float[4,8] x) => (float[4,8] y) {
            q = Mul(x, x) m = ReduceMean<axes = [1]>(q) a = Add(m, eps) s = Sqrt(a) y = Div(x, s)
        }""",
        {"eps": eps},
    )


def test_a_guard_of_a_denominator_is_raised_instead_of_vanishing() -> None:
    x = X * 1000
    x[1] = 0
    scope, plan = planned(rms_norm(1e-6), {"x": x})
    assert not plan.fp32
    assert {(scope.nodes[i].op, slot) for i, slot in plan.raised} == {("Add", 1)}


def test_rows_as_small_as_epsilon_keep_the_small_sum_in_fp32() -> None:
    x = X * 1000
    x[1] = 1e-3  # its mean square is epsilon itself
    assert "Add" in ops_in_fp32(rms_norm(1e-6), {"x": x})


def test_a_guard_of_a_logarithm_is_never_raised() -> None:
    proto = model(
        "(float[4,8] x) => (float[4,8] y) { q = Mul(x, x) a = Add(q, eps) y = Log(a) }", {"eps": 1e-10}
    )
    assert ops_in_fp32(proto, {"x": X}) == ["Add", "Log"] or ops_in_fp32(proto, {"x": X}) == [
        "Mul",
        "Add",
        "Log",
    ]


def test_large_angles_are_built_in_fp32_from_the_integers_on() -> None:
    proto = model(
        """(int64[64] p, float[64,4] x) => (float[64,4] y) {
            f = Cast<to = 1>(p) u = Unsqueeze(f, axes) a = Mul(u, freq) c = Cos(a) y = Mul(x, c)
        }
        """.replace("axes", "one"),
        {"freq": 10.0 ** -np.arange(4)},
    )
    from onnx import numpy_helper

    proto.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "one"))
    feed = {"p": np.arange(4000, 4064), "x": np.ones((64, 4), np.float32)}
    scope, plan = planned(proto, feed)
    assert {scope.nodes[index].op for index in plan.fp32} == {"Cast", "Unsqueeze", "Mul", "Cos"}
    assert "angle of up to" in plan.fp32[scope.nodes[-2].index]


def test_a_sum_that_cancels_is_found_with_its_island() -> None:
    proto = model(
        """(float[4,8] x) => (float[4,1] v) {
            q = Mul(x, x) m = ReduceMean<axes = [1]>(q) e = ReduceMean<axes = [1]>(x) s = Mul(e, e) v = Sub(m, s)
        }"""
    )
    scope = build_view(wrap_model(proto)).main
    from onnx_fp16fix.calibrate import calibrate, open_data

    feed = {"x": (100 + X * 1e-2)}
    facts = Facts(scope, calibrate(proto, open_data(feed, proto)))
    (found,) = find_cancellations(facts)
    assert scope.nodes[found.node].op == "Sub"
    assert found.island == {0, 1, 2, 3, 4}
    assert found.ratio > 1e6


@pytest.mark.parametrize(
    ("body", "tolerant"),
    [
        ("h = Mul(x, c) y = Tanh(h)", {"h"}),
        ("h = Mul(x, c) k = Add(h, x) y = Tanh(k)", {"h", "k"}),
        ("h = Mul(x, c) k = Sum(h, x, x) y = Tanh(k)", {"h", "k"}),
        ("h = Mul(x, c) k = Mul(x, c) d = Sum(h, k) y = Tanh(d)", {"d"}),
        ("h = Mul(x, c) y = Softmax(h)", set()),
        ("h = Mul(x, c) k = Mul(x, c) d = Sub(h, k) y = Tanh(d)", {"d"}),
        ("h = Mul(x, c) k = Mul(h, x) y = Sigmoid(k)", {"k"}),
        ("h = Mul(x, c) k = Div(c, h) y = Tanh(k)", {"k"}),
        ("h = Mul(x, c) y = Max(h, x)", {"h"}),
        ("h = Mul(x, c) b = Less(x, c) k = Trilu(h) w = Where(b, k, x) y = Tanh(w)", {"h", "k", "w"}),
        ("h = Mul(x, c) b = Less(x, c) y = Where(b, h, x)", set()),
        ("h = Mul(x, c) k = Concat<axis = 0>(h, x) t = Tanh(k) y, z = Split<axis = 0>(t)", {"h", "k"}),
    ],
)
def test_overflow_is_harmless_only_on_a_way_that_saturates(body: str, tolerant: set[str]) -> None:
    proto = model(f"(float[4,8] x) => (float[4,8] y) {{ {body} }}", {"c": 100.0})
    scope, _ = planned(proto, {"x": X})
    from onnx_fp16fix.calibrate import RangeTable

    facts = Facts(scope, RangeTable({}, 0))
    found = overflow_tolerant(facts)
    names = {tensor.name for node in scope.nodes for tensor in node.outputs if id(tensor) in found}
    assert names == tolerant


def test_plans_repeat_exactly() -> None:
    proto = model(
        "(float[4,8] x) => (float[4,8] y) { h = MatMul(x, w) s = Sigmoid(h) g = Mul(h, s) y = MatMul(g, v) }",
        {"w": np.eye(8) * 1e6, "v": np.eye(8) * 1e-6},
    )
    assert planned(proto, {"x": X})[1] == planned(proto, {"x": X})[1]


def test_a_bias_that_the_sum_would_lose_may_vanish() -> None:
    proto = model(
        "(float[4,8] x) => (float[4,8] y) { h = Gemm(x, w, b) r = Relu(h) y = MatMul(r, v) }",
        {"w": np.eye(8) * 1e15, "b": np.ones(8), "v": np.eye(8) * 1e-15},
    )
    _, plan = planned(proto, {"x": X})
    assert not plan.fp32
    assert not plan.muls


def test_a_power_may_reach_far_beyond_fp16() -> None:
    proto = model(
        "(float[4,8] x) => (float[4,8] y) { p = Pow(x, three) y = MatMul(p, v) }",
        {"three": 3.0, "v": np.eye(8) * 1e-18},
    )
    _, plan = planned(proto, {"x": X * 1e6})
    assert not plan.fp32


def test_small_values_count_for_those_readers_only_that_need_them() -> None:
    """An entropy needs the small probabilities of an average; the product that uses these as weights does not."""
    proto = model(
        """(float[4,8] x) => (float[4,8] y, float[1,1] h) {
            s = Mul(x, steep) p = Softmax(s) y = MatMul(p, w)
            m = ReduceMean<axes=[0]>(p) l = Log(m) e = Mul(m, l) h = ReduceSum(e)
        }""",
        {"steep": np.float32([9.0]), "w": np.random.default_rng(0).standard_normal((8, 8))},
    )
    assert ops_in_fp32(proto, {"x": X}) == ["Softmax", "ReduceMean", "Log"]


def test_a_summand_may_lose_what_the_sum_loses() -> None:
    proto = model(
        "(float[4,8] x) => (float[4,8] y) { h = MatMul(x, w) b = MatMul(x, v) s = Add(h, b) y = MatMul(s, u) }",
        {"w": np.eye(8) * 1e7, "v": np.eye(8), "u": np.eye(8) * 1e-7},
    )
    _, plan = planned(proto, {"x": X})
    assert not plan.fp32
    assert not plan.muls
    assert plan.exponents["b"] == plan.exponents["s"] > 6
    assert "b" not in plan.lost_bits
