"""Which nodes the optimisation looks at: those at risk, all that shares their scale, and a rim around them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from onnx_fp16fix.plan.edges import Edge, TensorView
from onnx_fp16fix.plan.facts import NodeView
from onnx_fp16fix.plan.need import Need

__all__ = ["add_tied", "is_hub", "is_small", "neighbours", "prone_to_fp32", "region"]

_RIM = 2
"""Steps beyond what shares a scale: neighbours that may join an FP32 island or share a shift of weights."""
_SPARE_BITS = 4
"""Bits of a tensor's small values that scaling may give up before FP32 becomes an alternative."""
_REACH = 24
"""Scales up to here are always at hand; tensors that ask for more (1e12 and up) may be better off in FP32."""
_MANY = 8
"""Nodes that meet at a tensor of a block."""
_WHOLE = 400
"""Graphs of up to this many nodes are optimised whole: the program is small anyway."""


def is_small(nodes: int) -> bool:
    """Whether a program over so many nodes is small however they hang together."""
    return nodes <= _WHOLE


def is_hub(value: TensorView) -> bool:
    """Whether so many nodes meet at the tensor that it holds together what has little to do with each other: positions,
    masks, what an encoder made."""
    return len(value.nodes) > _MANY


def region(views: Sequence[NodeView], seeds: Collection[int]) -> frozenset[int]:
    """Indices of the nodes to optimise, given the nodes at risk. Linear in the edges it visits."""
    if not seeds:
        return frozenset()
    if is_small(len(views)):
        return frozenset(range(len(views)))
    chosen, new = set[int](), set(seeds)
    for _ in range(_RIM):
        reached = add_tied(views, new, chosen)
        new = set[int]().union(*(neighbours(views[index]) for index in reached)) - chosen
    add_tied(views, new, chosen)
    return frozenset(chosen)


def add_tied(views: Sequence[NodeView], new: Collection[int], chosen: set[int]) -> set[int]:
    """Add the ``new`` nodes to the chosen ones, and follow exponents that no constant operand can absorb, from each of
    them outwards; all nodes added."""
    added, stack = set(new), list(new)
    chosen |= added
    while stack:
        for edge in _tied_operands(views[stack.pop()]):
            fresh = edge.value.nodes - chosen
            if fresh:
                chosen |= fresh
                added |= fresh
                stack += fresh
    return added


def _tied_operands(view: NodeView) -> list[Edge]:
    """Operands whose exponents depend on each other: those in equations without a constant operand."""
    tied, edges = list[Edge](), view.edges
    for equation in view.relation.equations:
        variable = []
        for operand, _ in equation:
            edge = edges.get(operand)
            if edge is None or edge.value.constant:
                break
            variable.append(edge)
        else:
            if len(variable) > 1:
                tied += variable
    return tied


def neighbours(view: NodeView) -> set[int]:
    """Nodes that make or read the node's float operands."""
    return set().union(*(edge.value.nodes for edge in view.edges.values()))


def prone_to_fp32(
    views: Sequence[NodeView], need: Need, nodes: Collection[int], forced: Collection[int]
) -> frozenset[int]:
    """Nodes that scaling alone may not save, and their neighbours; for all others FP16 needs no alternative.

    That is: an operand of fixed scale out of range, a tensor whose small values matter, a tensor with more range
    than FP16 has.
    """
    prone: set[int] = set()
    for index in nodes:
        view = views[index]
        if index in forced or not view.slots.fp16:
            prone.add(index)
            continue
        for edge in view.edges.values():
            lowest, typical = edge.value.lowest, edge.value.typical
            out_of_range = lowest is not None and lowest > (_REACH if edge.movable else 0)
            too_wide = lowest is not None and typical is not None and lowest > typical + _SPARE_BITS
            if (
                out_of_range
                or too_wide
                or need.matters(edge.value.key)
                or (edge.reads and (index, edge.slot) in need.guards)
            ):
                prone.add(index)
                break
    return frozenset(prone.union(*(neighbours(views[index]) for index in prone)) & set(nodes))
