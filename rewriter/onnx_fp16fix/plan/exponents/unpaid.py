"""Places that no plan gets for free, whatever it does around them: a lower bound of what exact rescaling costs.

A few nodes taken for themselves ask less of exponents than the graph does: what is tied to them outside is free here,
and what they read may be FP32. Where even so no exponents will do, the whole program pays inside: for an FP32 node, a
Mul on an operand, or bits. Places that share no node pay one by one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence, Set

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.plan.exponents.demands import Demands, find_apart
from onnx_fp16fix.plan.exponents.scaling import Unknowns
from onnx_fp16fix.plan.known.facts import NodeView
from onnx_fp16fix.plan.pieces.problem import Problem
from onnx_fp16fix.plan.pieces.variables import moved_by, price_of_fp32

__all__ = ["places_that_pay"]


def places_that_pay(problem: Problem, places: Sequence[Collection[int]]) -> list[bool]:
    """Whether each of the places pays ``prices.launch`` or more in any plan; they share no node.

    ``problem``: of the region, with its bound and rooms, without variables.
    """
    inside = [_paying(problem, frozenset(nodes)) for nodes in places]
    demands, owner = find_apart(problem, inside)
    torn = set(owner[_torn(demands, problem, problem.prices.launch)].tolist())
    return [n in torn or not demands.stuck.isdisjoint(nodes) for n, nodes in enumerate(inside)]


def _torn(demands: Demands, problem: Problem, price: float) -> npt.NDArray[np.bool_]:
    """Variables of demands that hang together with some that no exponents answer for less than ``price``; as far as
    tightening shows."""
    unknowns = Unknowns(demands, demands.ties.classes(), problem)
    low, high = unknowns.within(unknowns.price >= price)
    found = (low > high) | unknowns.rows.contradicted(low, high)
    return found[unknowns.of] & (np.arange(len(unknowns.of)) > 0)


def _paying(problem: Problem, place: Set[int]) -> frozenset[int]:
    """Those nodes of the place that could not be FP32 for next to nothing because nodes around it are."""
    inside = set[int]()
    for index in sorted(problem.nodes & place):
        if _pays_for_fp32(problem, problem.views[index], inside):
            inside.add(index)
    return frozenset(inside)


def _pays_for_fp32(problem: Problem, view: NodeView, inside: Set[int]) -> bool:
    if (maker := moved_by(problem, view)) is not None:
        return maker in inside
    if price_of_fp32(view, problem.prices) >= problem.prices.launch:
        return True
    return any(edge.reads and not edge.either and edge.value.maker in inside for edge in view.edges.values())
