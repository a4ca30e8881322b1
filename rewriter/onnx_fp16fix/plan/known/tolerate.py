"""Harmless overflow: tensors that may become infinite because all that reads them ends in a saturating function.

tanh(inf) = 1 is what tanh of the true value gives in FP16. The infinity may pass through steps that keep it an
infinity of the same sign on its way there: a product with a constant, a sum with something finite. It may not meet
another infinity, a zero, or a division.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

import numpy as np

from onnx_fp16fix.graph import ViewNode
from onnx_fp16fix.plan.known.edges import TensorView
from onnx_fp16fix.plan.known.facts import SUMS, Facts

__all__ = ["overflow_tolerant", "passes_overflow"]

_MOVES = frozenset(
    "Identity Reshape Transpose Squeeze Unsqueeze Flatten Expand Slice Gather Neg Tile Trilu Pad".split()
)
_CHOICES = frozenset({"Concat", "Max", "Min"})
_PASSING = _MOVES | SUMS | _CHOICES | {"Mul", "Div", "Where"}


def overflow_tolerant(facts: Facts) -> frozenset[int]:
    """Identities of the tolerant tensors."""
    candidates = _candidates(facts)
    optimistic = _reverse_pass(facts, candidates, frozenset())
    # of two operands of a sum only one may be infinite: inf - inf is nothing
    meeting = {
        view.node.index
        for view in facts.views()
        if view.op in SUMS and sum(value.key in optimistic for value in view.floats[:-1]) > 1
    }
    if not meeting:
        return optimistic
    return _reverse_pass(facts, [value for value in candidates if value.key in optimistic], meeting)


def _candidates(facts: Facts) -> list[TensorView]:
    """Tensors of which no reader rules it out by itself, those made last first."""
    table, views = facts.table(), facts.views()
    if not table.saturating.any():
        return []
    passing = np.array([view.op in _PASSING and not view.node.domain for view in views])
    ruled_out, read = np.zeros(len(table.values), bool), np.zeros(len(table.values), bool)
    read[table.value[table.reads]] = True
    ruled_out[table.value[table.reads & ~table.saturating & ~passing[table.node]]] = True
    found = [table.values[number] for number in np.flatnonzero(read & ~ruled_out).tolist()]
    made = [value for value in found if value.maker is not None]
    return sorted(made, key=lambda value: -(value.maker or 0))


def _reverse_pass(facts: Facts, candidates: Sequence[TensorView], blocked: Set[int]) -> frozenset[int]:
    scope, views = facts.scope, facts.views()
    tolerant: set[int] = set()
    for value in candidates:
        if scope.outside_uses(value.tensor):
            continue
        for index, slot in value.readers:
            if slot in views[index].relation.saturating:
                continue
            if index in blocked or not passes_overflow(facts, views[index].node, slot, tolerant):
                break
        else:
            tolerant.add(value.key)
    return frozenset(tolerant)


def passes_overflow(facts: Facts, node: ViewNode, slot: int, tolerant: Set[int]) -> bool:
    """Whether an infinity in this slot leaves the node as one, of the sign that the true value has, into a tolerant
    tensor."""
    if node.domain or id(node.outputs[0]) not in tolerant:
        return False
    others = [tensor for index, tensor in enumerate(node.inputs) if index != slot]
    if node.op in _MOVES:
        return slot == 0
    if node.op == "Mul" or (node.op == "Div" and slot == 0):
        return all(map(facts.is_nonzero, others))
    if node.op == "Where":
        return slot > 0
    return node.op in SUMS or node.op in _CHOICES
