"""Reductions and pooling."""

from __future__ import annotations

from onnx_fp16fix.operators.relation import (
    PINNED,
    SAME,
    AttributeScale,
    InnerBound,
    NodeFacts,
    Relation,
    RelationOf,
    always,
    inp,
    out,
    power,
)

__all__ = ["OPS"]


def _lp_pool(node: NodeFacts) -> Relation:
    """(sum of |x|**p)**(1/p): FP32 holds 1/p exactly for powers of two only, else the scale comes back rounded."""
    order = int(node.attrs.get("p", 2))
    return SAME if order & (order - 1) == 0 else PINNED


def _mean(node: NodeFacts) -> Relation:
    """FP16 kernels keep the sum and the count inside a ReduceMean in FP16 (measured on an H200): both must fit."""
    outputs = node.numel(out())
    if not outputs:
        return SAME
    count = node.numel(inp(0)) / outputs
    total = InnerBound("the sum inside ReduceMean", node.absmax(out()) * count, inp(0))
    return Relation(
        SAME.equations, inner=(total, InnerBound("the count inside ReduceMean", count, inp(0), 0))
    )


def _sum_square(node: NodeFacts) -> Relation:
    return Relation((power(out(), inp(0), 2),))


def _cumsum(node: NodeFacts) -> Relation:
    """The running sum is kept in FP16: counting stops at 2048."""
    return Relation((((out(), 1), (inp(0), -1)),), precise=frozenset({0}))


def _index(node: NodeFacts) -> Relation:
    return Relation(free=frozenset({inp(0)}))


def _log_sum(node: NodeFacts) -> Relation:
    return Relation(sensitive=frozenset({0}))


def _lrn(node: NodeFacts) -> Relation:
    """x / (bias + alpha * mean(x**2))**beta: alpha takes the square of the scale."""
    equation = ((out(), 1), (inp(0), -1))
    return Relation((equation,), attributes=(AttributeScale("alpha", inp(0), 2, default=1e-4),))


OPS: dict[str, RelationOf] = {
    **dict.fromkeys(("ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2"), always(SAME)),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool"), always(SAME)),
    **dict.fromkeys(("LpPool", "GlobalLpPool"), _lp_pool),
    **dict.fromkeys(("ArgMax", "ArgMin", "Hardmax"), _index),
    "TopK": always(SAME),
    "ReduceMean": _mean,
    "ReduceSumSquare": _sum_square,
    "ReduceLogSum": _log_sum,
    "CumSum": _cumsum,
    "LRN": _lrn,
}
