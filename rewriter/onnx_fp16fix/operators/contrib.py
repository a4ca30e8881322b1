"""Ops of ONNX Runtime's own, as its optimizers fuse them; their operands are in ContribOperators.md of 1.31."""

from __future__ import annotations

from onnx_fp16fix.operators.linear import with_bias
from onnx_fp16fix.operators.normalization import affine
from onnx_fp16fix.operators.relation import (
    AttributeScale,
    NodeFacts,
    Operand,
    Relation,
    RelationOf,
    equal,
    inp,
    out,
    product,
)

__all__ = ["OPS"]

_HOMOGENEOUS = frozenset({b"Relu", b"LeakyRelu"})
"""Activations that pass a scale on."""


def _normalized_sum(node: NodeFacts, result: list[Operand], summands: list[Operand]) -> Relation:
    """Norm(sum of ``summands``): gamma and beta follow the first result, epsilon the summands."""
    if node.has(out(1)) or (node.has(out(2)) and out(2) not in summands):
        return Relation()  # mean and inverse deviation have scales of their own
    return Relation(
        (*equal(node, result), *equal(node, summands)),
        free=frozenset(summands[:1]),
        attributes=(AttributeScale("epsilon", summands[0], -2, default=1e-12),),
    )


def _skip_layer_norm(node: NodeFacts) -> Relation:
    return _normalized_sum(node, [out(), inp(2), inp(3)], [inp(0), inp(1), inp(4), out(3)])


def _skip_simplified(node: NodeFacts) -> Relation:
    return _normalized_sum(node, [out(), inp(2)], [inp(0), inp(1), inp(3), out(3)])


def _embed_layer_norm(node: NodeFacts) -> Relation:
    return _normalized_sum(node, [out(), inp(5), inp(6)], [inp(2), inp(3), inp(4), out(2)])


def _matmul(node: NodeFacts) -> Relation:
    return Relation((product(out(), inp(0), inp(1)),))


def _with_activation(node: NodeFacts) -> Relation:
    if node.attrs.get("activation", b"Relu") not in _HOMOGENEOUS:
        return Relation((((inp(0), 1), (inp(1), 1)),))
    added = equal(node, (out(), inp(3))) if node.op == "FusedConv" else ()
    return Relation((*with_bias(node).equations, *added))


def _attention(node: NodeFacts) -> Relation:
    """input x weights makes Q, K and V with their true scale; -inf in the mask that is added masks."""
    return Relation((((inp(0), 1), (inp(1), 1)),), saturating=frozenset({5}))


def _multi_head(node: NodeFacts) -> Relation:
    if (
        node.has(inp(3)) or node.has(inp(7)) or node.has(out(2))
    ):  # V is more than its operand, or leaves the node
        return Relation(saturating=frozenset({5}))
    return Relation(equal(node, (out(), inp(2))), saturating=frozenset({5}))


def _rotary(node: NodeFacts) -> Relation:
    return Relation((product(out(), inp(0)),))


def _pinned(node: NodeFacts) -> Relation:
    return Relation()


OPS: dict[str, RelationOf] = {
    **dict.fromkeys(("LayerNormalization", "SimplifiedLayerNormalization"), affine),
    **dict.fromkeys(("BiasGelu", "FastGelu", "QuickGelu", "Gelu"), _pinned),
    **dict.fromkeys(("FusedConv", "FusedGemm"), _with_activation),
    "SkipLayerNormalization": _skip_layer_norm,
    "SkipSimplifiedLayerNormalization": _skip_simplified,
    "EmbedLayerNormalization": _embed_layer_norm,
    "FusedMatMul": _matmul,
    "Attention": _attention,
    "MultiHeadAttention": _multi_head,
    "RotaryEmbedding": _rotary,
}
