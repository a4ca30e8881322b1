"""Harmless overflow: tensors that may become infinite because all that reads them ends in a saturating function.

tanh(inf) = 1 is what tanh of the true value gives in FP16. The infinity may pass through steps that keep it an
infinity of the same sign on its way there: a product with a constant, a sum with something finite. It may not meet
another infinity, a zero, or a division.
"""

from __future__ import annotations

from collections.abc import Set

import onnx_graphsurgeon as gs

from onnx_fp16fix.graph import ViewNode
from onnx_fp16fix.plan.facts import SUMS, Facts

__all__ = ["overflow_tolerant", "passes_overflow"]

_MOVES = frozenset(
    "Identity Reshape Transpose Squeeze Unsqueeze Flatten Expand Slice Gather Neg Tile Trilu Pad".split()
)
_CHOICES = frozenset({"Concat", "Max", "Min"})


def overflow_tolerant(facts: Facts) -> frozenset[int]:
    """Identities of the tolerant tensors."""
    optimistic = _reverse_pass(facts, frozenset())
    # of two operands of a sum only one may be infinite: inf - inf is nothing
    meeting = {
        node.index
        for node in facts.scope.nodes
        if node.op in SUMS and sum(id(tensor) in optimistic for tensor in node.inputs) > 1
    }
    return _reverse_pass(facts, frozenset(meeting)) if meeting else optimistic


def _reverse_pass(facts: Facts, blocked: frozenset[int]) -> frozenset[int]:
    scope, views = facts.scope, facts.views()
    tolerant: set[int] = set()
    for view in reversed(views):
        for value in view.outputs:
            if value is None or not value.readers or scope.outside_uses(value.tensor):
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
        return all(_is_nonzero_constant(facts, other) for other in others)
    if node.op == "Where":
        return slot > 0
    return node.op in SUMS | _CHOICES


def _is_nonzero_constant(facts: Facts, tensor: gs.Tensor) -> bool:
    if not facts.is_constant(tensor):
        return False
    values = facts.scope.constant(tensor)
    return values is not None and bool(values.all())
