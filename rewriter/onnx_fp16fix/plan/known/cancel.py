"""Cancellation: differences of nearly equal values, which FP16 turns into rounding noise at any scale.

E[x**2] - E[x]**2 is the usual case. No exponent helps: the rounding error of the operands is relative to them, not to
the difference. What helps is FP32 from the last tensor that both operands derive from (its own rounding error is
common to both and cancels as well) up to the difference.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnx_fp16fix.graph import ScopeView, ViewNode
from onnx_fp16fix.operators import inp, out
from onnx_fp16fix.plan.known.facts import Facts

__all__ = ["Cancellation", "find_cancellations"]

_RATIO = 4.0
"""Operands this much larger than the difference on average: the difference loses two bits more than they do."""
_DEPTH = 16
"""Nodes looked at on the way back to the common ancestor; beyond, an island would no longer be small."""


@dataclass(frozen=True, slots=True)
class Cancellation:
    """A difference, the mean ratio of operand to result, and the nodes between it and the common ancestor."""

    node: int
    ratio: float
    island: frozenset[int]


def find_cancellations(facts: Facts) -> list[Cancellation]:
    """All differences that cancel on the calibration data, worst first."""
    found = []
    for node in facts.scope.nodes:
        view = facts.node_view(node)
        if node.op not in ("Sub", "Add") or node.domain or not (view.has(inp(0)) and view.has(inp(1))):
            continue
        result = facts.range(node.outputs[0]).mean_abs if view.has(out()) else 0.0
        operands = min(facts.range(tensor).mean_abs for tensor in node.inputs)
        if result <= 0 or operands < _RATIO * result:
            continue
        found.append(Cancellation(node.index, operands / result, _island(facts.scope, node)))
    return sorted(found, key=lambda entry: (-entry.ratio, entry.node))


def _island(scope: ScopeView, node: ViewNode) -> frozenset[int]:
    left, right = (_ancestors(scope, tensor) for tensor in node.inputs[:2])
    common = left.keys() & right.keys()
    if not common:
        return frozenset({node.index})
    # the nearest common ancestor comes last in node order: everything after it belongs to one side alone
    fork = max(common, key=lambda key: left[key])
    after = left[fork]
    inside = {index for index in {*left.values(), *right.values()} if index > after}
    return frozenset(index for index in inside if _leads_from(scope, index, fork)) | {node.index}


def _ancestors(scope: ScopeView, tensor: gs.Tensor) -> dict[int, int]:
    """Tensors that ``tensor`` derives from (itself included), by identity, with the index of the node that makes
    each (-1 for inputs and constants)."""
    found: dict[int, int] = {}
    stack = [tensor]
    while stack and len(found) < 4 * _DEPTH:
        current = stack.pop()
        if id(current) in found or current.is_empty() or scope.is_constant(current):
            continue
        producer = scope.producer(current)
        found[id(current)] = -1 if producer is None else producer.index
        if producer is not None:
            stack += list(producer.inputs)
    return found


def _leads_from(scope: ScopeView, index: int, fork: int) -> bool:
    """Whether the node reads the fork, directly or through others."""
    stack, seen = list(scope.nodes[index].inputs), set[int]()
    while stack and len(seen) < 4 * _DEPTH:
        tensor = stack.pop()
        if id(tensor) == fork:
            return True
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        producer = scope.producer(tensor)
        if producer is not None:
            stack += list(producer.inputs)
    return False
