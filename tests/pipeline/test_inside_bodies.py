"""Wishes, budgets, refinement and sidecars reach into the bodies of If, Loop and Scan."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import onnx_fp16fix
from body_chain import FALSE, TRUE, W, X, computed
from onnx_fp16fix.errors import UsageError
from onnx_text import model

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT
LOOP = """(int64 n, bool c, float[4,8] x) => (float[4,8] y) {
    [outside] a = MatMul(x, w)
    [turn] y = Loop (n, c, a) <body = b (int64 i, bool go, float[4,8] p) => (bool again, float[4,8] q) {
        again = Identity(go)  [inner] h = MatMul(p, w)  [squash] q = Tanh(h) }>
}"""
FEED = {"n": np.array(3), "c": TRUE, "x": X}


def fixed(proto: onnx.ModelProto, *feeds: dict[str, np.ndarray], **options: object) -> onnx_fp16fix.Outcome:
    return onnx_fp16fix.fix(proto, list(feeds) or [FEED], tensorrt="off", **options)  # type: ignore[arg-type]


def loop() -> onnx.ModelProto:
    return model(LOOP, {"w": W})


@pytest.mark.parametrize("pattern", ["inner", "1:body:0::inner"])
def test_a_node_of_a_body_is_kept_in_fp32(pattern: str) -> None:
    outcome = fixed(loop(), keep_fp32=pattern)
    assert outcome.plan is not None
    assert outcome.plan.fp32_nodes[0] == "1:body:0::inner"
    assert "outside" not in outcome.plan.fp32_nodes
    assert computed(outcome.model, "MatMul") == {FLOAT}
    assert outcome.run.status == "ok"


def test_op_types_mean_nodes_everywhere() -> None:
    outcome = fixed(loop(), keep_fp32_ops="MatMul")
    assert outcome.plan is not None
    assert {"outside", "1:body:0::inner"} <= set(outcome.plan.fp32_nodes)


def test_a_loop_kept_in_fp32_is_kept_whole() -> None:
    outcome = fixed(loop(), keep_fp32="turn")
    assert computed(outcome.model, "MatMul", "Tanh") == {FLOAT}


BURSTING = """(bool c, float[4,8] x) => (float[4,8] y) {
    y = If (c) <then_branch = t () => (float[4,8] a) { h = Mul(x, ten)  [burst] e = Exp(h)  [back] a = Log(e) },
                else_branch = f () => (float[4,8] b) { b = Tanh(x) }>
}"""
BURST = {"x": np.linspace(-3, 3, 32, dtype=np.float32).reshape(4, 8)}
BOTH = [{**BURST, "c": TRUE}, {**BURST, "c": FALSE}]


def test_a_branch_that_never_ran_is_told_with_what_would_make_it_run() -> None:
    proto = model(BURSTING, {"ten": np.float32(1)})
    said = "the else branch of If 'y' ran on no sample: one in which 'c' is false would show its ranges"
    outcome = fixed(proto, BOTH[0])
    assert f"{said}; it stays in FP32" in outcome.run.warnings
    assert any(said in finding.message for finding in outcome.findings)
    assert not any("ran on no sample" in text for text in fixed(proto, *BOTH).run.warnings)


def test_a_loop_that_never_turned_is_told_too() -> None:
    outcome = fixed(loop(), {**FEED, "n": np.array(0)})
    (told,) = (text for text in outcome.run.warnings if "Loop 'turn' ran on no sample" in text)
    assert "makes it run" in told


def test_what_must_overflow_in_a_body_is_refused_or_obeyed() -> None:
    proto = model(BURSTING, {"ten": np.float32(10)})
    assert fixed(proto, *BOTH).run.status == "ok"
    with pytest.raises(UsageError, match="Exp cannot run in FP16: its output 'e' reaches 1"):
        fixed(proto, *BOTH, force_fp16="burst")
    outcome = fixed(proto, *BOTH, force_fp16="burst", force=True)
    assert computed(outcome.model, "Exp") == {HALF}
    left = [finding for finding in outcome.findings if finding.status == "left" and finding.node == "burst"]
    assert {finding.scope for finding in left} == {"0:then_branch:0"}
    assert any(finding.name == "fp16-forced" for finding in left)
    assert outcome.run.exit_code == 1


def test_a_limit_on_a_tensor_of_a_body() -> None:
    plain, wider = fixed(loop()), fixed(loop(), limits={"h": 1e7})
    assert plain.plan is not None
    assert wider.plan is not None
    assert plain.plan.rescaled_tensors == 0
    assert any(f.tensor == "h" and "is to hold 1e+07" in f.message for f in wider.findings)


def test_the_budget_is_one_for_all_scopes() -> None:
    """A third of the FLOPs is outside the loop body, which runs twice."""
    feed = {**FEED, "n": np.array(2)}
    kept = fixed(loop(), feed, keep_fp32="outside", max_fp32_flops=0.4)
    assert kept.plan is not None
    assert kept.plan.fp32_flops_share == pytest.approx(1 / 3)
    assert kept.run.status == "ok"
    with pytest.raises(UsageError, match=r"66\.7% of the FLOPs"):
        fixed(loop(), feed, keep_fp32="inner", max_fp32_flops=0.4)


def test_cancellation_inside_a_body_gets_an_island_there() -> None:
    proto = model(
        """(int64 n, bool c, float[4,8] x) => (float[4,8] y) {
        y = Loop (n, c, x) <body = b (int64 i, bool go, float[4,8] p) => (bool again, float[4,8] q) {
            again = Identity(go)
            g = MatMul(p, w)
            s = Add(g, far)  m = ReduceMean<axes=[-1]>(s)  d = Sub(s, m)
            q = Tanh(d) }>
        }""",
        {"w": W, "far": np.float32(800)},
    )
    outcome = fixed(proto)
    assert outcome.run.status == "ok"
    assert outcome.plan is not None
    kept = set(outcome.plan.fp32_nodes)
    assert {"0:body:0::d", "0:body:0::s"} <= kept
    assert "0:body:0::g" not in kept
    assert computed(outcome.model, "MatMul") == {HALF}


def test_a_state_that_adds_up_rounding_is_carried_in_fp32() -> None:
    """A mean that moves by a thousandth per step: FP16 cannot hold the step."""
    proto = model(
        """(int64 n, bool c, float[4,8] x, float[4,8] start) => (float[4,8] y) {
        y = Loop (n, c, start) <body = b (int64 i, bool go, float[4,8] p) => (bool again, float[4,8] q) {
            again = Identity(go)
            h = MatMul(x, w)  t = Tanh(h)  k = Mul(t, little)  o = Mul(p, much)  q = Add(k, o) }>
        }""",
        {"w": W, "little": np.float32(0.001), "much": np.float32(0.999)},
    )
    outcome = fixed(proto, {"n": np.array(400), "c": TRUE, "x": X, "start": X * 0 + 1})
    assert outcome.run.status == "ok"
    assert computed(outcome.model, "MatMul", "Tanh") == {HALF}
    assert computed(outcome.model, "Add") == {FLOAT}
    (border,) = (finding for finding in outcome.findings if finding.name == "fp16-fp32-border")
    assert (border.scope, border.tensor) == ("0:body:0", "p")


def test_sidecars_name_the_layers_inside_bodies() -> None:
    proto = model(BURSTING, {"ten": np.float32(10)})
    proto.graph.node[0].attribute[1].g.node[0].name = "burst"  # a second one of that name
    outcome = fixed(proto, *BOTH, precision="fp32")
    assert outcome.model is not None
    branch = outcome.model.graph.node[0].attribute[0].g
    names = {node.name for node in branch.node if node.op_type in ("Exp", "Log")}
    assert names == {"e/fp16fix/Exp", "back"}
    arguments = outcome.sidecars[".trtexec.txt"]
    assert all(f"{name}:fp32" in arguments for name in names)
    assert set(json.loads(outcome.sidecars[".float16.json"])["node_block_list"]) == names
