"""Places that no plan gets for free, whatever it does around them: a lower bound of what exact rescaling costs.

A few nodes taken for themselves ask less of exponents than the graph does: what is tied to them outside is free here,
and what they read may be FP32. Where even so no exponents will do, the whole program pays inside: for an FP32 node, a
Mul on an operand, or bits. Places that share no node pay one by one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.plan.demands import Collector, Demands
from onnx_fp16fix.plan.edges import Edge, TensorView
from onnx_fp16fix.plan.facts import NodeView
from onnx_fp16fix.plan.problem import Problem
from onnx_fp16fix.plan.scaling import Unknowns
from onnx_fp16fix.plan.variables import moved_by, price_of_fp32

__all__ = ["places_that_pay"]


def places_that_pay(problem: Problem, places: Sequence[Collection[int]]) -> list[bool]:
    """Whether each of the places pays ``prices.launch`` or more in any plan; they share no node.

    ``problem``: of the region, with its bound and rooms, without variables.
    """
    collector, stuck, owners = _Inside(problem), list[bool](), [np.zeros(1, np.int64)]
    for number, nodes in enumerate(places):
        before = len(collector.found.bounds)
        stuck.append(collector.add(nodes))
        owners.append(np.full(len(collector.found.bounds) - before, number))
    paying = np.array(stuck, bool)
    paying[np.concatenate(owners)[_torn(collector.found, problem, problem.prices.launch)]] = True
    return [bool(pays) for pays in paying]


def _torn(demands: Demands, problem: Problem, price: float) -> npt.NDArray[np.bool_]:
    """Variables of demands that hang together with some that no exponents answer for less than ``price``; as far as
    tightening shows."""
    unknowns = Unknowns(demands, demands.ties.classes(), problem)
    low, high = unknowns.within(unknowns.price >= price)
    found = (low > high) | unknowns.rows.contradicted(low, high)
    return found[unknowns.of] & (np.arange(len(unknowns.of)) > 0)


class _Inside(Collector):
    """Demands of some nodes, as if nothing were known of what is around them."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem, linked=False)
        self.inside: set[int] = set()

    def add(self, nodes: Collection[int]) -> bool:
        """Collect those of a place, whose variables are its own; whether it asks for what cannot move to move."""
        known, self.inside, self.values = set(self.found.stuck), set[int](), list[TensorView]()
        self.found.exponent, self.found.charges = {}, {}
        for index in sorted(self.problem.nodes & set(nodes)):
            if self._pays_for_fp32(self.problem.views[index]):
                self.inside.add(index)
        for index in sorted(self.inside):
            self._node(self.problem.views[index])
        for value in self.values:
            if value.maker in self.inside:
                self._tensor(value)
        return bool(self.found.stuck - known)

    def _pays_for_fp32(self, view: NodeView) -> bool:
        """Whether the node could not be FP32 for next to nothing because nodes around the place are."""
        problem = self.problem
        if (maker := moved_by(problem, view)) is not None:
            return maker in self.inside
        if price_of_fp32(view, problem.prices) >= problem.prices.launch:
            return True
        return any(
            edge.reads and not edge.either and edge.value.maker in self.inside for edge in view.edges.values()
        )

    def _encloses(self, value: TensorView) -> bool:
        return True

    def _read(self, index: int, edge: Edge) -> bool:
        return super()._read(index, edge) or (edge.either and edge.value.maker not in self.inside)

    def _typical(self, node: int, value: TensorView, variable: int) -> None:
        if not value.constant:  # the program knows of bits of summands that no sum keeps
            super()._typical(node, value, variable)
