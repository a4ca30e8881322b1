"""Ops that are linear in each operand: products, convolutions, matrix products, recurrent input weights."""

from __future__ import annotations

from onnx_fp16fix.operators.relation import (
    AttributeScale,
    Equation,
    NodeFacts,
    Operand,
    Relation,
    RelationOf,
    always,
    equal,
    inp,
    out,
    product,
)

__all__ = ["OPS", "with_bias"]


_BILINEAR = always(Relation((product(out(), inp(0), inp(1)),)))


def with_bias(node: NodeFacts) -> Relation:
    equations: list[Equation] = [product(out(), inp(0), inp(1))]
    if node.has(inp(2)):
        equations.append(((out(), 1), (inp(2), -1)))
    return Relation(tuple(equations))


def _deform_conv(node: NodeFacts) -> Relation:
    """Where to sample (input 2) and how much of it to take (input 4) keep their true values."""
    equations: list[Equation] = [product(out(), inp(0), inp(1))]
    if node.has(inp(3)):
        equations.append(((out(), 1), (inp(3), -1)))
    return Relation(tuple(equations))


def _einsum(node: NodeFacts) -> Relation:
    return Relation((product(out(), *(inp(slot) for slot in range(node.count("in")))),))


def _recurrent(node: NodeFacts) -> Relation:
    """X only enters as X W^T, so W takes the opposite exponent; gates and states stay unscaled."""
    return Relation((((inp(0), 1), (inp(1), 1)),), saturating=frozenset())


def _quantize(node: NodeFacts) -> Relation:
    return Relation(equal(node, (inp(0), inp(1))))


def _dequantize(node: NodeFacts) -> Relation:
    return Relation(equal(node, (inp(1), out())))


def _attention(node: NodeFacts) -> Relation:
    """Q K^T is multiplied by the FP32 attribute ``scale``, which takes up the exponents of Q and K."""
    equations: list[Equation] = [((out(), 1), (inp(2), -1))]
    scaled: list[Operand] = [inp(0), inp(1)]
    if "scale" not in node.attrs or node.count("in") > 3 or node.count("out") > 1:
        return Relation(tuple(equations) if node.count("in") <= 4 and node.count("out") == 1 else ())
    # ONNX multiplies Q and K by sqrt(scale) each, so only the sum of both exponents matters
    return Relation(
        tuple(equations),
        free=frozenset(scaled),
        attributes=(AttributeScale("scale", inp(0), 1), AttributeScale("scale", inp(1), 1)),
    )


OPS: dict[str, RelationOf] = {
    "Mul": _BILINEAR,
    "MatMul": _BILINEAR,
    "Conv": with_bias,
    "ConvTranspose": with_bias,
    "DeformConv": _deform_conv,
    "Gemm": with_bias,
    "Einsum": _einsum,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "Attention": _attention,
}
