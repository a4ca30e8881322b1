"""Which nodes the optimisation looks at: those at risk, all that shares their scale, and a rim around them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from onnx_fp16fix.operators import Operand, Relation
from onnx_fp16fix.plan.facts import Facts, NodeView
from onnx_fp16fix.plan.need import Need

__all__ = ["is_small", "neighbours", "prone_to_fp32", "region"]

_RIM = 2
"""Steps beyond what shares a scale: neighbours that may join an FP32 island or share a shift of weights."""
_SPARE_BITS = 4
"""Bits of a tensor's small values that scaling may give up before FP32 becomes an alternative."""
_REACH = 24
"""Scales up to here are always at hand; tensors that ask for more (1e12 and up) may be better off in FP32."""
_WHOLE = 400
"""Graphs of up to this many nodes are optimised whole: the program is small anyway."""


def is_small(nodes: int) -> bool:
    """Whether a program over so many nodes is small however they hang together."""
    return nodes <= _WHOLE


def region(
    facts: Facts,
    views: Sequence[NodeView],
    relations: Sequence[Relation],
    seeds: Collection[int],
) -> frozenset[int]:
    """Indices of the nodes to optimise, given the nodes at risk. Linear in the edges it visits."""
    if not seeds:
        return frozenset()
    if is_small(len(views)):
        return frozenset(range(len(views)))
    chosen = set(seeds)
    for _ in range(_RIM):
        _add_tied(facts, views, relations, chosen)
        chosen |= {index for node in tuple(chosen) for index in neighbours(facts, views[node])}
    _add_tied(facts, views, relations, chosen)
    return frozenset(chosen)


def _add_tied(
    facts: Facts, views: Sequence[NodeView], relations: Sequence[Relation], chosen: set[int]
) -> None:
    """Follow exponents that no constant operand can absorb, from each chosen node outwards."""
    tied = {index: _tied_operands(facts, views[index], relations[index]) for index in chosen}
    stack = list(chosen)
    while stack:
        index = stack.pop()
        for other in neighbours(facts, views[index], tied[index]):
            if other not in chosen:
                chosen.add(other)
                tied[other] = _tied_operands(facts, views[other], relations[other])
                stack.append(other)


def _tied_operands(facts: Facts, view: NodeView, relation: Relation) -> frozenset[Operand]:
    """Operands whose exponents depend on each other: those in equations without a constant operand."""
    tied: set[Operand] = set()
    for equation in relation.equations:
        operands = [operand for operand, _ in equation]
        tensors = [view.tensor(operand) for operand in operands]
        variable = [t is not None and not facts.is_constant(t) for t in tensors]
        if len(operands) >= 2 and all(variable):
            tied.update(operands)
    return frozenset(tied)


def neighbours(facts: Facts, view: NodeView, operands: frozenset[Operand] | None = None) -> set[int]:
    """Nodes that make or read the given operands' tensors (all float operands if None)."""
    found: set[int] = set()
    for operand in view.operands if operands is None else operands:
        tensor = view.tensor(operand)
        if tensor is None or facts.is_constant(tensor):
            continue
        producer = facts.scope.producer(tensor)
        if producer is not None:
            found.add(producer.index)
        found.update(node.index for node, _ in facts.scope.consumers(tensor))
    return found


def prone_to_fp32(
    facts: Facts,
    views: Sequence[NodeView],
    relations: Sequence[Relation],
    need: Need,
    nodes: Collection[int],
    forced: Collection[int],
) -> frozenset[int]:
    """Nodes that scaling alone may not save, and their neighbours; for all others FP16 needs no alternative.

    That is: an operand of fixed scale out of range, a tensor whose small values matter, a tensor with more range
    than FP16 has.
    """
    prone: set[int] = set()
    for index in nodes:
        view, movable = views[index], relations[index].operands()
        if index in forced or not view.slots.fp16:
            prone.add(index)
            continue
        for operand in view.operands:
            tensor = view.tensor(operand)
            if tensor is None:
                continue
            lowest, typical = facts.lowest(tensor), facts.typical(tensor)
            reach = 0 if operand not in movable else _REACH
            out_of_range = lowest is not None and lowest > reach
            too_wide = lowest is not None and typical is not None and lowest > typical + _SPARE_BITS
            matters = need.highest(tensor) is not None or need.highest_guard(tensor) is not None
            if (
                out_of_range
                or too_wide
                or matters
                or (operand[0] == "in" and (index, operand[1]) in need.guards)
            ):
                prone.add(index)
                break
    return frozenset(prone.union(*(neighbours(facts, views[index]) for index in prone)) & set(nodes))
