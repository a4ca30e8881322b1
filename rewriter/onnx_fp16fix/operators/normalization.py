"""Normalizations: the input's scale vanishes into epsilon, the output's into gamma and beta."""

from __future__ import annotations

from onnx_fp16fix.operators.relation import (
    AttributeScale,
    InnerBound,
    NodeFacts,
    Relation,
    RelationOf,
    equal,
    inp,
    out,
)

__all__ = ["OPS", "affine"]


def affine(node: NodeFacts) -> Relation:
    """(x - mean) / sqrt(var + eps) * gamma + beta; eps is an FP32 attribute and takes 4**-s."""
    if node.count("out") > 1:  # mean and inverse deviation have scales of their own
        return Relation()
    return Relation(
        equal(node, (out(), inp(1), inp(2))),
        free=frozenset({inp(0)}),
        attributes=(AttributeScale("epsilon", inp(0), -2, default=1e-5),),
    )


def _instance(node: NodeFacts) -> Relation:
    """As ``affine``; with more than one sample in the batch FP16 kernels keep the variance in FP16 (H200)."""
    relation = affine(node)
    shape = node.shape(inp(0))
    if shape and shape[0] == 1:
        return relation
    variance = InnerBound("the variance inside InstanceNormalization", node.absmax(inp(0)) ** 2, inp(0), 2)
    return Relation(relation.equations, relation.free, relation.attributes, (variance,))


def _batch(node: NodeFacts) -> Relation:
    """Statistics are operands: mean follows x, the variance its square; gamma and beta follow the output."""
    if node.count("out") > 1 or node.attrs.get("training_mode", 0):
        return Relation()
    equations = (
        *equal(node, (out(), inp(1), inp(2))),
        ((inp(3), 1), (inp(0), -1)),
        ((inp(4), 1), (inp(0), -2)),
    )
    return Relation(equations, attributes=(AttributeScale("epsilon", inp(0), -2, default=1e-5),))


def _unit(node: NodeFacts) -> Relation:
    return Relation(free=frozenset({inp(0)}))


OPS: dict[str, RelationOf] = {
    **dict.fromkeys(("LayerNormalization", "GroupNormalization", "RMSNormalization"), affine),
    "InstanceNormalization": _instance,
    "BatchNormalization": _batch,
    "LpNormalization": _unit,
}
