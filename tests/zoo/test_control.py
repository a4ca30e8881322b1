"""Trouble inside loops, branches, scans and local functions, as exporters write them: right afterwards, and FP16."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto

from onnx_fp16fix.model import infer_types, wrap_model
from onnx_fp16fix.model.model import Model

torch = pytest.importorskip("torch")
onnxscript = pytest.importorskip("onnxscript")

from torch_export import export as exported  # noqa: E402  needs torch
from zoo.control import CASES, ControlCase  # noqa: E402  needs torch
from zoo.judge import fixed_where_plain_fp16_fails  # noqa: E402


def export(case: ControlCase) -> tuple[onnx.ModelProto, list[dict[str, np.ndarray]]]:
    torch.manual_seed(0)
    module, samples = case.make()
    proto = exported(module, samples[0], case.dynamo)
    return proto, [{f"x{index}": value.numpy() for index, value in enumerate(sample)} for sample in samples]


def types_inside(proto: onnx.ModelProto) -> set[int]:
    """Float types that nodes of bodies make."""
    types = infer_types(wrap_model(proto))
    made = {
        types.get(scope.path, name).elem_type
        for scope in Model(proto).scopes()
        if scope.path
        for node in scope.graph.node
        for name in node.output
    }
    return made & {TensorProto.FLOAT, TensorProto.FLOAT16}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_is_right_in_fp16_inside_and_outside(case: ControlCase) -> None:
    proto, feeds = export(case)
    outcome = fixed_where_plain_fp16_fails(proto, feeds)
    assert outcome.model is not None
    assert outcome.plan is not None
    ops = {node.name: node.op_type for scope in Model(proto).scopes() for node in scope.graph.node}
    assert {ops[name.rpartition("::")[2]] for name in outcome.plan.fp32_nodes} <= case.fp32
    assert case.fp32 or types_inside(outcome.model) == {TensorProto.FLOAT16}


FUNCTIONS = """<ir_version: 8, opset_import: ["" : 17, "own" : 1]>
main (float[4,16] x, int64 n, bool c) => (float[4,16] y, float[4,16] z)
<float thousands = {3000.0}, float thousandths = {0.0003}> {
    big = Mul(x, thousands)
    a = own.norm(big)
    small = Mul(x, thousandths)
    b = own.norm(small)
    y = Add(a, b)
    z = Loop (n, c, big) <body = turn (int64 i, bool go, float[4,16] p) => (bool again, float[4,16] q) {
        again = Identity(go)  h = own.norm(p)  k = Mul(h, thousands)  q = Add(p, k) }>
}
<domain: "own", opset_import: ["" : 17]> norm (v) => (r) {
    s = Mul(v, v)  m = ReduceMean<axes = [-1]>(s)  d = Sqrt(m)  r = Div(v, d)
}"""


def test_callers_of_one_function_get_plans_of_their_own() -> None:
    """The same norm of thousands and of thousandths, and in a loop."""
    proto = onnx.parser.parse_model(FUNCTIONS)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4, 16)).astype(np.float32)
    feed = {"x": x, "n": np.array(3), "c": np.array(True)}
    outcome = fixed_where_plain_fp16_fails(proto, [feed])
    assert outcome.plan is not None
    assert outcome.plan.fp32_nodes == []
    lock = yaml.safe_load(outcome.lock())["plan"]
    squares = sorted(exponent for name, exponent in lock["exponents"].items() if name.startswith("s"))
    assert squares[0] < 0 < squares[-1]
    assert any(
        name.startswith("s") and exponent > 0 for name, exponent in lock["bodies"][0]["exponents"].items()
    )


opset = onnxscript.opset18
own = onnxscript.values.Opset("own", 1)


@onnxscript.script(own, default_opset=opset)
def energy(v):  # type: ignore[no-untyped-def]
    """Root mean square over the last axis."""
    return opset.Sqrt(opset.ReduceMean(v * v, opset.Constant(value_ints=[-1])))


@onnxscript.script(own, default_opset=opset)
def level(v, loud):  # type: ignore[no-untyped-def]
    """A function with an If of its own."""
    if loud:
        r = opset.Sqrt(opset.ReduceSum(v * v, opset.Constant(value_ints=[-1])))
    else:
        r = opset.ReduceMax(opset.Abs(v), opset.Constant(value_ints=[-1]))
    return r


@onnxscript.script(default_opset=opset)
def script(x: onnxscript.FLOAT[4, 16], loud: onnxscript.BOOL) -> onnxscript.FLOAT[4, 1]:
    """Calls it with two scales."""
    return level(x * 2000.0, loud) * 0.001 + energy(x * 0.0003) * 1000.0


def test_functions_and_branches_of_onnxscript() -> None:
    proto = script.to_model_proto()
    assert len(proto.functions) == 2
    x = np.random.default_rng(2).standard_normal((4, 16)).astype(np.float32)
    feeds = [{"x": x, "loud": np.array(flag)} for flag in (True, False)]
    outcome = fixed_where_plain_fp16_fails(proto, feeds)
    assert outcome.plan is not None
    assert outcome.plan.fp32_nodes == []
