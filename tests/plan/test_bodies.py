"""Bodies of If, Loop and Scan: planned, rescaled and typed like the main graph, and right in simulated FP16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

import onnx_fp16fix
from body_chain import FALSE, RNG, TRUE, W, X, broken, chain, computed
from onnx_fp16fix.model.model import Model
from onnx_fp16fix.runtime import open_session
from onnx_text import model

HALF, FLOAT = {TensorProto.FLOAT16}, {TensorProto.FLOAT}

BRANCHES = """(bool c, float[4,8] x) => (float[4,1] y) {
    y = If (c) <
        then_branch = t () => (float[4,1] a) { s = Mul(x, x)  m = ReduceMean<axes=[-1]>(s)  a = Sqrt(m) },
        else_branch = e () => (float[4,1] b) { h = MatMul(x, w)  s = Mul(h, h)  m = ReduceSum(s, axis)  b = Sqrt(m) }>
}"""


def with_axis(proto: onnx.ModelProto) -> onnx.ModelProto:
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.int64([-1]), "axis"))
    return proto


def test_both_branches_of_an_if_are_scaled() -> None:
    proto = with_axis(model(BRANCHES, {"w": W}))
    feeds = [{"c": flag, "x": X * 200} for flag in (TRUE, FALSE)]
    assert broken(proto, *feeds)
    plan, _, made = chain(proto, *feeds)
    assert computed(made.model.proto, "Mul", "MatMul", "ReduceMean", "ReduceSum", "Sqrt") == HALF
    assert [path for path, body in plan.bodies.items() if body.exponents] == [
        ("0:then_branch:0",),
        ("0:else_branch:0",),
    ]
    assert plan.fp32_flops_share == 0
    assert plan.flops == 4 * 8 * 8 * 2 / 2  # one of two samples takes that branch


def test_a_branch_that_calibration_never_took_stays_fp32() -> None:
    proto = with_axis(model(BRANCHES, {"w": W}))
    plan, _, made = chain(proto, {"c": TRUE, "x": X})
    assert computed(made.model.proto, "MatMul") == FLOAT
    assert computed(made.model.proto, "ReduceMean") == HALF
    assert set(plan.bodies["0:else_branch:0",].fp32.values()) == {
        "the else branch of If 'y' ran on no sample: one in which 'c' is false would show its ranges"
    }


LOOP = """(int64 n, bool c, float[4,8] x) => (float[4,8] y, float[3,4,8] all) {
    y, all = Loop (n, c, x) <body = b (int64 i, bool go, float[4,8] p) => (bool again, float[4,8] q, float[4,8] out) {
        again = Identity(go)
        s = Mul(p, p)  m = ReduceMean<axes=[-1]>(s)  e = Add(m, eps)  r = Sqrt(e)  d = Div(p, r)
        h = MatMul(d, w)
        k = Mul(h, big)
        q = Add(k, p)
        out = Identity(h)
    }>
}"""


def test_a_norm_on_the_state_of_a_loop() -> None:
    proto = model(LOOP, {"w": W, "eps": np.float32(1e-6), "big": np.float32(90)})
    feed = {"n": np.array(3), "c": TRUE, "x": X * 300}
    assert broken(proto, feed)
    plan, rescaled, made = chain(proto, feed)
    assert computed(made.model.proto, "Mul", "MatMul", "ReduceMean", "Div", "Sqrt", "Add") == HALF
    assert plan.flops == 3 * 2 * 4 * 8 * 8
    assert rescaled.exponents["0:body:0::s"] >= 5


def test_a_state_that_grows_beyond_fp16() -> None:
    proto = model(
        """(int64 n, bool c, float[4,8] x) => (float[4,8] y) {
        y = Loop (n, c, x) <body = b (int64 i, bool go, float[4,8] p) => (bool again, float[4,8] q) {
            again = Identity(go)  h = MatMul(p, w)  q = Mul(h, five) }>
        }""",
        {"w": W, "five": np.float32(40)},
    )
    feed = {"n": np.array(6), "c": TRUE, "x": X}
    assert open_session(proto).run(feed)["y"].max() > 1e6
    assert broken(proto, feed)
    _, _, made = chain(proto, feed)
    assert computed(made.model.proto, "MatMul") == HALF


def test_a_scan_with_a_state_and_both_kinds_of_border() -> None:
    proto = model(
        """(float[4,8] s0, float[5,4,8] xs) => (float[4,8] s, float[5,4,1] ys) {
        s, ys = Scan<num_scan_inputs=1, body = b (float[4,8] p, float[4,8] x) => (float[4,8] q, float[4,1] y) {
            a = MatMul(x, w)  b1 = MatMul(p, w)  t = Add(a, b1)  q = Tanh(t)
            v = Mul(x, x)  u = ReduceMean<axes=[-1]>(v)  y = Sqrt(u) }> (s0, xs)
        }""",
        {"w": W},
    )
    feed = {"s0": X, "xs": (RNG.standard_normal((5, 4, 8)) * 700).astype(np.float32)}
    assert broken(proto, feed)
    _, _, made = chain(proto, feed, error=1e-2)
    assert computed(made.model.proto, "MatMul", "Mul", "ReduceMean", "Tanh") == HALF
    assert [t.data_type for t in made.model.proto.graph.initializer if t.name == "w"] == [TensorProto.FLOAT16]


NESTED = """(int64 n, bool c, float[4,8] x) => (float[4,8] y) {
    g = Exp(scale)
    y = Loop (n, c, x) <body = b (int64 i, bool go, float[4,8] p) => (bool again, float[4,8] q) {
        again = Identity(go)
        odd = Mod(i, two)  flag = Cast<to=9>(odd)
        h = MatMul(p, w)
        q = If (flag) <
            then_branch = t () => (float[4,8] a) { s = Mul(h, h)  m = ReduceMean<axes=[-1]>(s)
                r = Sqrt(m)  f = Div(h, r)  a = Mul(f, g) },
            else_branch = e () => (float[4,8] z) { s = Mul(h, h)  k = Mul(s, tiny)  z = MatMul(k, w) }>
    }>
}"""


def test_an_if_nested_in_a_loop_reads_through_both_scopes() -> None:
    weights = {"w": W, "scale": np.float32(5.0), "tiny": np.float32(1e-3)}
    proto = model(NESTED, weights)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.int64(2), "two"))
    feed = {"n": np.array(4), "c": TRUE, "x": X * 250}
    assert broken(proto, feed)
    plan, _, made = chain(proto, feed, error=1e-2)
    assert computed(made.model.proto, "MatMul", "Mul", "Div", "Sqrt") == HALF
    assert set(plan.bodies) == {
        ("1:body:0",),
        ("1:body:0", "4:then_branch:0"),
        ("1:body:0", "4:else_branch:0"),
    }


def test_a_weight_shared_by_scopes_exists_once_in_each_type() -> None:
    proto = model(
        """(bool c, float[4,8] x) => (float[4,8] y) {
        h = MatMul(x, w)
        y = If (c) <then_branch = t () => (float[4,8] a) { a = MatMul(h, w) },
                    else_branch = e () => (float[4,8] b) { b = MatMul(x, w) }>
        }""",
        {"w": W},
    )
    _, _, made = chain(proto, *({"c": flag, "x": X} for flag in (TRUE, FALSE)))
    assert [t.data_type for t in made.model.proto.graph.initializer] == [TensorProto.FLOAT16]
    assert [
        t for scope in Model(made.model.proto).scopes() if scope.path for t in scope.graph.initializer
    ] == []


def test_constants_of_a_body_are_scaled_and_typed_there() -> None:
    proto = model(
        """(int64 n, bool c, float[4,8] x) => (float[4,8] y) {
        y = Loop (n, c, x) <body = b (int64 i, bool go, float[4,8] p) => (bool again, float[4,8] q)
            <float[8] big = {3e6, 3e6, 3e6, 3e6, 3e6, 3e6, 3e6, 3e6}> {
            again = Identity(go)
            small = Constant<value = float {2e-7}>()
            h = Mul(p, big)  q = Mul(h, small) }>
        }"""
    )
    feed = {"n": np.array(2), "c": TRUE, "x": X}
    assert broken(proto, feed)
    _, _, made = chain(proto, feed)
    assert computed(made.model.proto, "Mul", "Constant") == HALF
    body = next(node for node in made.model.proto.graph.node if node.op_type == "Loop").attribute[0].g
    assert [tensor.data_type for tensor in body.initializer] == [TensorProto.FLOAT16]


def test_a_sum_over_many_iterations_is_kept_in_fp32_and_its_summands_are_not() -> None:
    proto = model(
        """(int64 n, bool c, float[4,8] x, float[4,8] zero) => (float[4,8] y) {
        y = Loop (n, c, zero) <body = b (int64 i, bool go, float[4,8] p) => (bool again, float[4,8] q) {
            again = Identity(go)  h = MatMul(x, w)  t = Tanh(h)  q = Add(p, t) }>
        }""",
        {"w": W},
    )
    feed = {"n": np.array(3000), "c": TRUE, "x": X, "zero": X * 0}
    plan, _, made = chain(proto, feed)
    assert computed(made.model.proto, "MatMul", "Tanh") == HALF
    assert computed(made.model.proto, "Add") == FLOAT
    assert "a sum over 3000 iterations" in next(iter(plan.bodies["0:body:0",].fp32.values()))


def test_fix_reports_bodies_by_scope() -> None:
    proto = model(LOOP, {"w": W, "eps": np.float32(1e-6), "big": np.float32(90)})
    feed = {"n": np.array(3), "c": TRUE, "x": X * 300}
    outcome = onnx_fp16fix.fix(proto, feed, tensorrt="off")
    assert outcome.run.status == "ok"
    assert outcome.run.plan is not None
    assert outcome.run.plan.fp32_nodes == []
    found = [f for f in outcome.findings if f.kind == "overflow" and f.tensor == "s"]
    assert [(f.scope, f.status) for f in found] == [("0:body:0", "fixed")]
    assert "exactly" in found[0].message


def test_a_lock_file_repeats_the_plans_of_bodies(tmp_path: Path) -> None:
    proto = model(LOOP, {"w": W, "eps": np.float32(1e-6), "big": np.float32(90)})
    feed = {"n": np.array(3), "c": TRUE, "x": X * 300}
    outcome = onnx_fp16fix.fix(proto, feed, tensorrt="off")
    (tmp_path / "out.fp16fix.yaml").write_text(outcome.lock(), encoding="utf-8")
    again = onnx_fp16fix.apply(proto, tmp_path / "out.fp16fix.yaml", feed, verify=False, tensorrt="off")
    assert outcome.model is not None
    assert again.model is not None
    assert again.model.SerializeToString() == outcome.model.SerializeToString()
