"""How each ONNX op relates the scales of its operands; one family of ops per file, one table for all."""

from onnx_fp16fix.model import is_contrib
from onnx_fp16fix.operators import contrib, elementwise, linear, normalization, reduction, shape
from onnx_fp16fix.operators.cost import flops
from onnx_fp16fix.operators.kernels import TARGETS, has_kernel
from onnx_fp16fix.operators.relation import (
    AttributeScale,
    Equation,
    InnerBound,
    NodeFacts,
    Operand,
    Relation,
    RelationOf,
    inp,
    out,
)
from onnx_fp16fix.operators.types import FloatSlots, first_opset, float_slots, hands_on

__all__ = [
    "BY_OPERANDS",
    "OPS",
    "SCALED_ATTRIBUTES",
    "TARGETS",
    "AttributeScale",
    "Equation",
    "FloatSlots",
    "InnerBound",
    "NodeFacts",
    "Operand",
    "Relation",
    "RelationOf",
    "first_opset",
    "float_slots",
    "flops",
    "hands_on",
    "has_kernel",
    "inp",
    "out",
    "relation_of",
]

OPS: dict[str, RelationOf] = {
    **linear.OPS,
    **elementwise.OPS,
    **reduction.OPS,
    **shape.OPS,
    **normalization.OPS,
}
"""Ops of the default domain that are not in the table keep exponent 0 on every operand."""
SCALED_ATTRIBUTES = frozenset(
    """Attention BatchNormalization Clip EmbedLayerNormalization GroupNormalization InstanceNormalization
    LRN LayerNormalization RMSNormalization SimplifiedLayerNormalization SkipLayerNormalization
    SkipSimplifiedLayerNormalization ThresholdedRelu""".split()
)
"""Ops with attributes that take up exponents: the relations of all others name none."""
BY_OPERANDS = frozenset("Add Sub Sum Mean Max Min Where Conv ConvTranspose Gemm Einsum".split())
"""Ops of the default domain with relations that follow from which operands are there."""


def relation_of(domain: str, node: NodeFacts) -> Relation:
    """The relation of a node; other domains' ops are pinned, but for those of ONNX Runtime that it knows."""
    own = is_contrib(domain, node.op, node.opset)
    rule = contrib.OPS.get(node.op) if own else OPS.get(node.op) if not domain else None
    relation = rule(node) if rule is not None else Relation()
    assert not relation.attributes or node.op in SCALED_ATTRIBUTES, node.op
    return relation
