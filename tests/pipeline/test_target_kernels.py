"""``target="onnxruntime-cuda"`` in BF16: nothing is BF16 that its provider has no kernel of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import onnx_fp16fix
from onnx_fp16fix.half import BF16, FP16
from onnx_fp16fix.model import wrap_model
from onnx_fp16fix.model.infer import infer_types
from onnx_fp16fix.operators import TARGETS, float_slots, has_kernel
from onnx_text import model

CUDA = replace(BF16, target="onnxruntime-cuda")
X = np.linspace(0.5, 3, 32, dtype=np.float32).reshape(4, 8)
GRAPH = """(float[4,8] x) => (float[4,8] y) {
    h = MatMul(x, w)  e = Exp(h)  a = Add(e, one)  l = Log(a)  r = Reciprocal(a)  m = Mul(l, r)
    z = LeakyRelu(m)  t = Tanh(z)  g = Greater(t, half)  y = Where(g, t, m)
}"""
WEIGHTS = {"w": np.eye(8) * 0.5, "one": np.float32(1), "half": np.float32(0.5)}


def bf16_ops(proto: onnx.ModelProto) -> set[str]:
    """Ops that read or make BF16, Casts left out."""
    types = infer_types(wrap_model(proto)).scopes[()]
    types_of = {name: entry.elem_type for name, entry in types.items()}
    types_of |= {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    return {
        node.op_type
        for node in proto.graph.node
        if node.op_type != "Cast"
        and TensorProto.BFLOAT16 in {types_of.get(n) for n in (*node.input, *node.output)}
    }


def fixed(**options: object) -> onnx_fp16fix.Outcome:
    return onnx_fp16fix.fix(model(GRAPH, WEIGHTS), {"x": X}, precision="bf16", tensorrt="off", **options)  # type: ignore[arg-type]


def test_what_the_provider_has_no_kernel_of_stays_fp32() -> None:
    plain, made = fixed(), fixed(target="onnxruntime-cuda")
    assert {"Log", "Reciprocal", "LeakyRelu", "Greater"} <= bf16_ops(plain.model)
    assert {"MatMul", "Exp"} <= bf16_ops(made.model) <= TARGETS["onnxruntime-cuda", "bf16"].keys()
    assert made.run.status == "ok"
    reasons = [finding.message for finding in made.findings]
    assert any("onnxruntime-cuda has no BF16 kernel of Log in opset 17" in text for text in reasons)


def test_its_lock_gives_the_same_bytes(tmp_path) -> None:
    made = fixed(target="onnxruntime-cuda")
    lock = tmp_path / "lock.yaml"
    lock.write_text(made.lock())
    again = onnx_fp16fix.apply(model(GRAPH, WEIGHTS), lock)
    assert again.model.SerializeToString() == made.model.SerializeToString()


def test_fp16_is_as_without_the_target() -> None:
    options = {"data": {"x": X}, "tensorrt": "off"}
    plain, made = (
        onnx_fp16fix.fix(model(GRAPH, WEIGHTS), **options, **more)
        for more in ({}, {"target": "onnxruntime-cuda"})
    )
    assert plain.model == made.model


@pytest.mark.parametrize(
    ("op", "opset", "inputs", "runs"),
    [
        ("Conv", 22, 2, True),
        ("Conv", 21, 2, False),
        ("Pow", 13, 2, False),
        ("Pow", 15, 2, True),
        ("Pad", 18, 2, False),
    ],
)
def test_kernels_by_opset(op: str, opset: int, inputs: int, runs: bool) -> None:
    assert has_kernel(op, opset, CUDA) == runs
    assert float_slots("", op, opset, inputs, 1, CUDA).fp16 == runs
    assert has_kernel(op, opset, BF16)
    assert has_kernel(op, opset, FP16)
