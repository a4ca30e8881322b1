"""What crosses the border of a body: one type and one exponent on both sides, and no Cast or Mul per iteration."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from body_chain import FALSE, TRUE, W, X, broken, chain, computed
from onnx_fp16fix.model import infer_types, wrap_model
from onnx_fp16fix.model.model import Model
from onnx_text import model

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


def inside(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Nodes of all bodies."""
    return [node for scope in Model(proto).scopes() if scope.path for node in scope.graph.node]


def crossing(proto: onnx.ModelProto) -> dict[str, int]:
    """Element types of the bodies' float inputs and outputs by name."""
    types = infer_types(wrap_model(proto))
    return {
        info.name: found
        for scope in Model(proto).scopes()
        if scope.path and isinstance(scope.graph, onnx.GraphProto)
        for info in (*scope.graph.input, *scope.graph.output)
        if (found := types.get(scope.path, info.name).elem_type) in (HALF, FLOAT)
    }


def test_a_state_of_a_thousand_iterations_is_fp16_at_one_exponent() -> None:
    proto = model(
        """(int64 n, bool c, float[4,8] x) => (float[4,8] y) {
        y = Loop (n, c, x) <body = b (int64 i, bool go, float[4,8] p) => (bool again, float[4,8] q) {
            again = Identity(go)  h = MatMul(p, big)  q = Mul(h, small) }>
        }""",
        {"big": np.roll(np.eye(8, dtype=np.float32), 3, 0) * 3000, "small": np.float32(1 / 3000)},
    )
    feed = {"n": np.array(1000), "c": TRUE, "x": X * 1e5}
    assert broken(proto, feed)
    plan, _, made = chain(proto, feed)
    body = plan.bodies["0:body:0",]
    assert plan.exponents["y"] == body.exponents["p"] == body.exponents["q"] > 0
    assert crossing(made.model.proto) == {"p": HALF, "q": HALF}
    assert [node.op_type for node in inside(made.model.proto)] == ["Identity", "MatMul", "Mul"]
    assert plan.fp32_flops_share == 0


def test_the_initial_state_and_the_result_are_scaled_outside() -> None:
    """The state is bounded, but 1e6 on its way in and out: Muls and Casts run once."""
    proto = model(
        """(int64 n, bool c, float[4,8] x) => (float[4,8] z) {
        a = MatMul(x, w)
        y = Loop (n, c, a) <body = b (int64 i, bool go, float[4,8] p) => (bool again, float[4,8] q) {
            again = Identity(go)  h = MatMul(p, w)  q = Add(h, p) }>
        z = Tanh(y)
        }""",
        {"w": W},
    )
    feed = {"n": np.array(3), "c": TRUE, "x": X * 1e6}
    plan, _, made = chain(proto, feed)
    assert plan.exponents["a"] == plan.exponents["y"] == plan.bodies["1:body:0",].exponents["p"] >= 4
    assert {node.op_type for node in inside(made.model.proto)} == {"Identity", "MatMul", "Add"}


def test_the_branches_of_an_if_agree_and_one_of_them_pays() -> None:
    proto = model(
        """(bool c, float[4,8] x) => (float[4,8] y) {
        v = If (c) <then_branch = t () => (float[4,8] a) { h = MatMul(x, w)  a = Mul(h, big) },
                    else_branch = e () => (float[4,8] b) { b = Tanh(x) }>
        y = Mul(v, small)
        }""",
        {"w": W, "big": np.float32(1e5), "small": np.float32(1e-5)},
    )
    plan, rescaled, made = chain(proto, *({"c": flag, "x": X} for flag in (TRUE, FALSE)))
    assert crossing(made.model.proto) == {"a": HALF, "b": HALF}
    assert plan.exponents["v"] == plan.bodies["0:then_branch:0",].exponents["a"] >= 4
    assert set(plan.bodies["0:else_branch:0",].results) == {"b"}
    assert rescaled.inserted_muls == 1


def test_what_a_body_reads_from_outside_is_read_as_it_is_stored() -> None:
    proto = model(
        """(int64 n, bool c, float[4,8] x) => (float[4,8] y) {
        g = Mul(x, x)
        y = Loop (n, c, x) <body = b (int64 i, bool go, float[4,8] p) => (bool again, float[4,8] q) {
            again = Identity(go)  m = ReduceMean<axes=[-1]>(g)  r = Sqrt(m)  d = Div(p, r)  q = MatMul(d, w) }>
        }""",
        {"w": W},
    )
    feed = {"n": np.array(3), "c": TRUE, "x": X * 300}
    assert broken(proto, feed)
    plan, _, made = chain(proto, feed)
    assert plan.exponents["g"] >= 4
    assert plan.bodies["1:body:0",].exponents["m"] == plan.exponents["g"]
    assert {node.op_type for node in inside(made.model.proto)}.isdisjoint({"Cast"})
    assert crossing(made.model.proto) == {"p": HALF, "q": HALF}


def test_swapped_and_stacked_states_share_one_exponent() -> None:
    proto = model(
        """(int64 n, bool c, float[4,8] x0, float[4,8] x1) => (float[4,8] y0, float[4,8] y1, float[5,4,8] all) {
        y0, y1, all = Loop (n, c, x0, x1) <body = b (int64 i, bool go, float[4,8] p, float[4,8] q)
                => (bool again, float[4,8] q, float[4,8] r, float[4,8] r) {
            again = Identity(go)  h = MatMul(p, w)  r = Add(h, q) }>
        }""",
        {"w": W * 60},
    )
    feed = {"n": np.array(5), "c": TRUE, "x0": X, "x1": X * 2}
    assert broken(proto, feed)
    plan, _, made = chain(proto, feed)
    assert len({plan.exponents[name] for name in ("y0", "y1", "all")}) == 1
    assert set(crossing(made.model.proto).values()) == {HALF}


def test_a_sum_crosses_in_fp32_and_its_casts_stay_outside() -> None:
    proto = model(
        """(int64 n, bool c, float[4,8] x, float[4,8] zero) => (float[4,8] y) {
        y = Loop (n, c, zero) <body = b (int64 i, bool go, float[4,8] p) => (bool again, float[4,8] q) {
            again = Identity(go)  q = Add(p, x) }>
        }"""
    )
    feed = {"n": np.array(3000), "c": TRUE, "x": X, "zero": X * 0}
    plan, _, made = chain(proto, feed)
    assert crossing(made.model.proto) == {"p": FLOAT, "q": FLOAT}
    assert "a sum over 3000 iterations" in plan.bodies["0:body:0",].float_borders["p"]
    assert [node.op_type for node in inside(made.model.proto)] == ["Identity", "Add"]


def test_a_branch_that_hands_out_a_constant() -> None:
    proto = model(
        """(bool c, float[4,8] x) => (float[4,8] y, float[4,8] z) {
        y, z = If (c) <then_branch = t () => (float[4,8] a, float[4,8] ones) { ones = Expand(one, size)
                           h = MatMul(x, w)  a = Mul(h, big) },
                       else_branch = e () => (float[4,8] none, float[4,8] some)
                           <float[4,8] none, float[4,8] some> { }>
        }""",
        {"w": W, "big": np.float32(1e5), "one": np.float32(1)},
    )
    other = proto.graph.node[0].attribute[1].g
    other.initializer.extend(
        [numpy_helper.from_array(X * 0, "none"), numpy_helper.from_array(np.abs(X) + 1, "some")]
    )
    proto.graph.initializer.append(numpy_helper.from_array(np.int64([4, 8]), "size"))
    plan, _, made = chain(proto, *({"c": flag, "x": X} for flag in (TRUE, FALSE)))
    assert set(crossing(made.model.proto).values()) == {HALF}
    assert plan.exponents["y"] > 0
    assert computed(made.model.proto, "MatMul", "Mul") == {HALF}


def test_what_ends_a_loop_is_computed_in_fp32() -> None:
    """Newton's iteration for a root, until the square is off by 1e-4: FP16 would go on for ever."""
    proto = model(
        """(int64 n, bool c, float[4,8] a) => (float[4,8] y) {
        y = Loop (n, c, a) <body = b (int64 i, bool go, float[4,8] p) => (bool again, float[4,8] q) {
            d = Div(a, p)  s = Add(p, d)  q = Mul(s, half)
            u = Mul(q, q)  e = Sub(u, a)  m = Abs(e)  most = ReduceMax<keepdims=0>(m)  more = Greater(most, near)
            h = MatMul(q, w)  t = Tanh(h)  g = ReduceMax<keepdims=0>(t)  large = Greater(g, far)  less = Not(large)
            again = And(more, less) }>
        }""",
        {"half": np.float32(0.5), "near": np.float32(1e-4), "far": np.float32(2), "w": W},
    )
    feed = {"n": np.array(200), "c": TRUE, "a": np.abs(X) + 100}
    plan, _, made = chain(proto, feed)
    assert "decides how often 'y' turns" in plan.bodies["0:body:0",].float_borders["p"]
    assert computed(made.model.proto, "MatMul") == {HALF}
    assert crossing(made.model.proto) == {"p": FLOAT, "q": FLOAT}
