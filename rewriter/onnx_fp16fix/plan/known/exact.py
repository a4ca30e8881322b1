"""What must be exact: angles, positions, counts and indices that FP16's 11 bits (BF16's 8) cannot hold.

No exponent helps there. The operand, and the cheap arithmetic that builds it, stay in FP32: back to constants, graph
inputs and integers, or to the first layer that computes features (which is as inexact in FP16 anyway).
"""

from __future__ import annotations

from collections.abc import Set

import onnx_graphsurgeon as gs
from onnx import TensorProto

from onnx_fp16fix.graph import ViewNode
from onnx_fp16fix.half import FloatType
from onnx_fp16fix.operators import inp, out
from onnx_fp16fix.plan.known.facts import BORDER, Facts, NodeView

__all__ = ["close", "exact_nodes", "summands"]

_CHEAP = frozenset(
    """Add Sub Mul Div Neg Abs Min Max Clip Floor Ceil Round Mod Pow Exp Reciprocal Cast Identity Where Concat Split
    Reshape Transpose Squeeze Unsqueeze Flatten Expand Tile Slice Gather GatherND GatherElements CumSum ReduceSum Range
    ConstantOfShape Constant Dropout""".split()
)
"""Element-wise and shape ops: cheap in FP32, and all that index arithmetic is made of."""
_PRODUCTS = frozenset({"MatMul", "Einsum", "Gemm"})
_SOURCES = frozenset({"Range", "Cast"})
"""Ops that make floats of integers."""
_INDEXING = frozenset({"Floor", "Ceil", "Round", "Mod"})
_EXACT = _INDEXING | {"Sin", "Cos", "Tan", "CumSum", "GridSample", "Cast"}
"""Ops with an operand that may have to be exact."""
_ANGLE = 2.0**-7
"""Distance of neighbours at the largest angle (FP16: 8; BF16: 1); beyond, sine and cosine lose their third digit."""


def exact_nodes(facts: Facts) -> dict[int, str]:
    """Indices of nodes that must run in FP32 to stay exact, each with the reason."""
    integers = _integer_derived(facts)
    forced: dict[int, str] = {}
    for view in facts.views():
        node, reason = view.node, _reason(view, integers)
        if reason is None:
            continue
        if node.op != "Cast":
            forced[node.index] = reason
        for tensor in _exact_operands(view):
            close(tensor, facts, forced, f"{reason} in '{node.label}'", integers)
    return forced


def _exact_operands(view: NodeView) -> list[gs.Tensor]:
    slots = view.relation.precise or frozenset({0})
    return [view.node.inputs[slot] for slot in sorted(slots) if view.has(inp(slot))]


def _reason(view: NodeView, integers: set[int]) -> str | None:
    node, facts, half = view.node, view.facts, view.facts.half
    if node.op not in _EXACT or not view.has(inp(0)):
        return None
    absmax = view.absmax(inp(0))
    if node.op in ("Sin", "Cos", "Tan"):
        return (
            f"an angle of up to {absmax:.4g} needs more than {_bits(half)}"
            if absmax > _ANGLE / half.eps
            else None
        )
    if node.op == "CumSum":
        long = max(view.shape(inp(0)), default=0) > summands(half) or view.absmax(out()) > half.integers
        return f"a running sum loses its increments in {half.label}" if long else None
    if node.op == "GridSample":
        return (
            f"sampling positions need more than {_bits(half)}"
            if max(view.shape(inp(0))[2:], default=0) > 1
            else None
        )
    indexing = node.op in _INDEXING or (node.op == "Cast" and not _is_float_cast(node))
    if indexing and (
        absmax > half.integers or (id(node.inputs[0]) in integers and not facts.is_constant(node.inputs[0]))
    ):
        return "integer arithmetic must stay exact" if absmax > 1 else None
    return None


def summands(half: FloatType) -> int:
    """Elements a running sum may add before its rounding errors show: 64 in FP16, 8 in BF16."""
    return int(half.integers) >> 5


def _bits(half: FloatType) -> str:
    return f"{half.label}'s {half.bits} bits"


def _is_float_cast(node: ViewNode) -> bool:
    return node.attrs.get("to") in (
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.DOUBLE,
        TensorProto.BFLOAT16,
    )


def _integer_derived(facts: Facts) -> set[int]:
    """Tensors made from integers and constants by cheap arithmetic alone: positions, sizes, indices."""
    derived: set[int] = set()
    for node in facts.scope.nodes:
        if node.op not in _SOURCES and not (derived and any(id(t) in derived for t in node.inputs)):
            continue
        floats = [
            t for t in node.inputs if not t.is_empty() and facts.is_float(t) and not facts.is_constant(t)
        ]
        source = node.op == "Range" or (node.op == "Cast" and not floats)
        follows = bool(floats) and node.op in _CHEAP | _PRODUCTS and all(id(t) in derived for t in floats)
        if (source or follows) and not node.domain:
            derived.update(id(tensor) for tensor in node.outputs)
    return derived


def close(
    tensor: gs.Tensor,
    facts: Facts,
    forced: dict[int, str],
    reason: str,
    integers: Set[int] = frozenset(),
    more: Set[str] = frozenset(),
) -> None:
    """Add the cheap arithmetic that builds the tensor to ``forced``. ``integers``: tensors of which products are built
    exactly too; ``more``: ops that count as cheap here."""
    stack = [tensor]
    while stack:
        node = facts.scope.producer(stack.pop())
        if node is None or node.index in forced or node.domain not in ("", BORDER):
            continue
        passes = (
            node.domain == BORDER
            or node.op in _CHEAP
            or node.op in more
            or (node.op in _PRODUCTS and id(node.outputs[0]) in integers)
        )
        if not passes or facts.is_constant(node.outputs[0]):
            continue
        forced[node.index] = f"feeds what must be exact: {reason}"
        stack += [operand for operand in node.inputs if not operand.is_empty() and facts.is_float(operand)]
