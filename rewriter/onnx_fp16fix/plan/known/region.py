"""Which nodes the optimisation looks at: those at risk, all that shares their scale, and a rim around them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from onnx_fp16fix.plan.known.edges import TensorView
from onnx_fp16fix.plan.known.facts import NodeView
from onnx_fp16fix.plan.known.need import Need
from onnx_fp16fix.plan.known.table import UNKNOWN, Bools, Table, tied_operands

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


def region(table: Table, seeds: Collection[int]) -> frozenset[int]:
    """Indices of the nodes to optimise, given the nodes at risk."""
    nodes = len(table.starts) - 1
    if not seeds:
        return frozenset()
    if is_small(nodes):
        return frozenset(range(nodes))
    ties = _Ties(table)
    chosen = np.zeros(nodes, bool)
    chosen[list(seeds)] = True
    for _ in range(_RIM):
        chosen = _beside(table, ties.closed(chosen))
    return frozenset(np.flatnonzero(ties.closed(chosen)).tolist())


class _Ties:
    """Nodes and computed tensors as one graph: from a node to tensors tied there, from a tensor to all its nodes."""

    def __init__(self, table: Table) -> None:
        self.nodes = len(table.starts) - 1
        computed = ~table.constant
        node, value, tied = table.node[computed], table.value[computed], table.tied[computed]
        size = self.nodes + len(table.values)
        start = np.concatenate([node[tied], value + self.nodes])
        order = np.argsort(start, kind="stable")
        self._end = np.concatenate([value[tied] + self.nodes, node])[order]
        self._begins = np.concatenate([[0], np.cumsum(np.bincount(start, minlength=size))])

    def closed(self, chosen: Bools) -> Bools:
        """The chosen nodes, and all that no constant operand keeps from their exponents."""
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import breadth_first_order

        first, size = np.flatnonzero(chosen), len(self._begins)
        ends = np.concatenate([self._end, first])  # one more place leads to all that are chosen
        begins = np.append(self._begins, len(ends))
        graph = csr_array((np.ones(len(ends)), ends, begins), shape=(size, size))
        reached = breadth_first_order(graph, size - 1, return_predecessors=False)
        found: Bools = chosen.copy()
        found[reached[reached < self.nodes]] = True
        return found


def _beside(table: Table, chosen: Bools) -> Bools:
    """The chosen nodes, and those that make or read the same computed tensors."""
    found: Bools = chosen.copy()
    touched = np.zeros(len(table.values), bool)
    touched[table.value[chosen[table.node] & ~table.constant]] = True
    found[table.node[touched[table.value]]] = True
    return found


def add_tied(views: Sequence[NodeView], new: Collection[int], chosen: set[int]) -> set[int]:
    """Add the ``new`` nodes to the chosen ones, and follow exponents that no constant operand can absorb, from each of
    them outwards; all nodes added."""
    added, stack = set(new), list(new)
    chosen |= added
    while stack:
        for value in tied_operands(views[stack.pop()]).values():
            fresh = value.nodes - chosen
            if fresh:
                chosen |= fresh
                added |= fresh
                stack += fresh
    return added


def neighbours(view: NodeView) -> set[int]:
    """Nodes that make or read the node's float operands."""
    return set().union(*(edge.value.nodes for edge in view.edges.values()))


def prone_to_fp32(
    table: Table, need: Need, nodes: Collection[int], forced: Collection[int]
) -> frozenset[int]:
    """Nodes that scaling alone may not save, and their neighbours; for all others FP16 needs no alternative.

    That is: an operand of fixed scale out of range, a tensor whose small values matter, a tensor with more range
    than FP16 has.
    """
    inside = np.zeros(len(table.starts) - 1, bool)
    inside[list(nodes)] = True
    lowest, typical = table.sizes.lowest[table.value], table.sizes.typical[table.value]
    wide = (lowest > np.where(table.movable, _REACH, 0)) | (
        (typical != UNKNOWN) & (lowest > typical + _SPARE_BITS)
    )
    doubtful = (wide & (lowest != UNKNOWN)) | table.among(need.limited)[table.value]
    guards = table.read_in(need.guards)
    doubtful[guards[guards < len(doubtful)]] = True
    prone = ~table.fp16
    prone[[index for index in forced if index in nodes]] = True
    prone[table.node[doubtful]] = True
    return frozenset(np.flatnonzero(_beside(table, prone & inside) & inside).tolist())
