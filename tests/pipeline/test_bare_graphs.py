"""Graphs of which parts lead nowhere: no nodes, no outputs, nodes that nobody reads."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnx_fp16fix
from onnx_fp16fix.errors import ModelError
from onnx_text import model

X = {"x": (np.random.default_rng(0).standard_normal((4, 8)) * 300).astype(np.float32)}


def bare(*nodes: onnx.NodeProto, outputs: str = "") -> onnx.ModelProto:
    x, *out = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 8]) for name in ("x", *outputs))
    graph = helper.make_graph(nodes, "g", [x], out)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("io", ["fp32", "fp16"])
def test_a_graph_without_nodes_is_handed_back(io: str) -> None:
    outcome = onnx_fp16fix.fix(bare(outputs="x"), X, tensorrt="off", io=io)  # type: ignore[arg-type]
    assert outcome.run.status == "ok"
    assert outcome.model is not None
    assert not outcome.model.graph.node


@pytest.mark.parametrize("nodes", [(), (helper.make_node("Relu", ["x"], ["y"]),)])
def test_a_graph_without_outputs_is_refused_in_our_words(nodes: tuple[onnx.NodeProto, ...]) -> None:
    proto = bare(*nodes)
    for command in (onnx_fp16fix.fix, onnx_fp16fix.bisect):
        with pytest.raises(ModelError, match="the graph has no outputs") as caught:
            command(proto, X)
        assert [problem.code for problem in caught.value.problems] == ["MODEL-OUTPUTS"]
    assert onnx_fp16fix.check(proto, X).run.status == "ok"


UNREAD = {
    "square": "y = Tanh(x) d = Mul(x, x) e = Sqrt(d)",
    "angle": "a = Mul(x, k) b = Relu(a) y = Mul(b, b) d = Sin(a) s = ReduceSum<keepdims = 0>(d)",
    "body": """y = If (yes) <
        then_branch = t () => (float[4,8] b) { b = Tanh(x) d = Mul(x, x) e = Exp(d) },
        else_branch = e () => (float[4,8] c) { c = Neg(x) }>""",
}


def unread(kind: str) -> onnx.ModelProto:
    head = "(float[4,8] x) => (float[4,8] y) <float k = {1000}, bool yes = {1}>"
    return model(f"{head} {{ {UNREAD[kind]} }}")


@pytest.mark.parametrize("kind", UNREAD)
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_what_nobody_reads_costs_nothing_and_stays(kind: str, precision: str) -> None:
    """Each of these needs FP32 or a Mul where its unread part counts: a square beyond FP16, a large angle, Exp."""
    proto = unread(kind)
    outcome = onnx_fp16fix.fix(proto, X, tensorrt="off", precision=precision)  # type: ignore[arg-type]
    assert outcome.run.status == "ok"
    assert outcome.plan is not None
    # a branch that never ran stays as it is
    assert not [name for name in outcome.plan.fp32_nodes if "else_branch" not in name]
    assert outcome.plan.inserted_muls == (precision != "bf16" and kind == "angle")  # its y is 1e11
    assert outcome.model is not None
    onnx.checker.check_model(outcome.model, full_check=True)
    kept = {node.output[0] for node in outcome.model.graph.node}
    assert {node.output[0] for node in proto.graph.node} <= kept


def test_unread_nodes_are_no_risk_but_wishes_about_them_count() -> None:
    proto = unread("angle")
    named = {finding.tensor for finding in onnx_fp16fix.check(proto, X, "pack:norm").findings}
    assert not named & {"d", "s"}
    outcome = onnx_fp16fix.fix(proto, X, tensorrt="off", keep_fp32="d", force_fp16="s")
    assert outcome.plan is not None
    assert "d" in outcome.plan.fp32_nodes
