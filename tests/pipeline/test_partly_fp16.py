"""Models that are partly FP16 already, and constants of which one is enough."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import onnx_fp16fix
from onnx_text import model

X = np.linspace(-3, 3, 32, dtype=np.float32).reshape(4, 8)
WIDE = {"w": np.eye(8) * 1e6, "v": np.eye(8) * 1e-6}


def with_half(proto: onnx.ModelProto, **halves: object) -> onnx.ModelProto:
    for name, values in halves.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.float16), name))
    return proto


SANDWICH = """(float[4,8] x) => (float[4,8] y) {
    h = MatMul(x, w) r = Relu(h) q = MatMul(r, v) c = Cast<to = 10>(q) d = Mul(c, k) e = Cast<to = 1>(d)
    y = Sigmoid(e)
}"""
STORED = "(float[4,8] x) => (float[4,8] y) { f = Cast<to = 1>(k) h = MatMul(x, f) y = Relu(h) }"
ISLAND = """(float16[4,8] x) => (float16[4,8] y) {
    h = MatMul(x, k) f = Cast<to = 1>(h) q = Mul(f, f) m = ReduceMean<axes = [1]>(q) a = Add(m, eps) s = Sqrt(a)
    d = Div(f, s) y = Cast<to = 10>(d)
}"""
LIKE = "(float[4,8] x) => (float[4,8] y) { c = CastLike(x, k) d = Mul(c, k) e = CastLike(d, x) y = Relu(e) }"
BURSTING = """(float[4,8] x) => (float[4,8] y) {
    c = Cast<to = 10>(x) d = Mul(c, k) b = Cast<to = 1>(d) h = MatMul(b, w) e = Exp(h) l = Log(e) y = Add(l, x)
}"""
TWO_OUT = """(float[4,8] x) => (float[4,8] y, float16[4,8] z) {
    h = Relu(x) z = Cast<to = 10>(h) d = Mul(z, k) e = Cast<to = 1>(d) y = Relu(e)
}"""
CASES = {
    "sandwich": (SANDWICH, WIDE, 2.0),
    "stored": (STORED, {}, np.eye(8)),
    "island": (ISLAND, {"eps": np.float32(1e-5)}, np.eye(8) * 100),
    "like": (LIKE, {}, 2.0),
    "bursting": (BURSTING, {"w": np.eye(8) * 10}, 1.0),
    "two-out": (TWO_OUT, {}, 2.0),
}


@pytest.mark.parametrize("io", ["fp32", "fp16"])
@pytest.mark.parametrize("name", CASES)
def test_is_repaired_and_stays_valid(name: str, io: str) -> None:
    text, weights, half = CASES[name]
    proto = with_half(model(text, weights), k=half)
    kind = (
        np.float16 if proto.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16 else np.float32
    )
    outcome = onnx_fp16fix.fix(
        proto, {"x": (X * 100 if kind == np.float16 else X).astype(kind)}, tensorrt="off", io=io
    )  # type: ignore[arg-type]
    assert outcome.run.status == "ok"
    assert outcome.model is not None
    assert outcome.verification is not None
    assert outcome.verification.fp32 is not None
    assert outcome.verification.fp32.identical
    onnx.checker.check_model(outcome.model, full_check=True)
    before = {info.name: info.type.tensor_type.elem_type for info in proto.graph.output}
    after = {info.name: info.type.tensor_type.elem_type for info in outcome.model.graph.output}
    assert after == (before if io == "fp32" else dict.fromkeys(before, TensorProto.FLOAT16))


def test_equal_constants_are_stored_once() -> None:
    """Also those that are equal only after rounding; another shape, a graph input or a body's constant is another."""
    text = """(float[4,8] x) => (float[4,8] y, float[8] o) {
        a = Add(x, one) b = Mul(a, same) c = Add(b, near) d = Mul(c, row) o = Identity(kept) y = Add(d, kept)
    }"""
    ones = np.ones(8)
    weights = {"one": ones, "same": ones, "near": ones + 1e-7, "row": ones[None], "kept": ones}
    outcome = onnx_fp16fix.fix(model(text, weights), {"x": X}, tensorrt="off")
    assert outcome.run.status == "ok"
    assert outcome.model is not None
    names = [tensor.name for tensor in outcome.model.graph.initializer]
    assert names == ["one", "row"]
    assert sum("one" in node.input for node in outcome.model.graph.node) == 5
    assert onnx_fp16fix.fix(model(text, weights), {"x": X}, tensorrt="off", precision="fp32").model == model(
        text, weights
    )
