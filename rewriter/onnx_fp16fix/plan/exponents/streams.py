"""Exponents of long streams, chosen before the program of what hangs on them is built.

A residual stream ties all its layers together: nothing can be cut before its exponents are known. They matter to few
others, so a coarse question has nearly the right answer. Every operand that may get a Mul is taken as a class of its
own, linked to the tensor that it reads: equal exponents, or the price of the Mul. What a class pays at each exponent
is known by itself (``scaling``), with FP32 of its nodes as the way out. The cheapest exponents where such links make no
circle are found exactly (``forest``). With those of the streams held, the program falls into pieces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Set

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.plan.exponents.demands import Demands, find_linked
from onnx_fp16fix.plan.exponents.forest import Link, Sum, Tie, cheapest
from onnx_fp16fix.plan.exponents.scaling import Unknowns
from onnx_fp16fix.plan.known.facts import SUMS
from onnx_fp16fix.plan.known.region import add_tied, is_hub
from onnx_fp16fix.plan.pieces.problem import Problem
from onnx_fp16fix.plan.pieces.variables import price_of_fp32

__all__ = ["held_streams"]

Floats = npt.NDArray[np.float64]


def held_streams(problem: Problem) -> dict[int, int]:
    """Exponents to hold in the region of ``problem``, by identity of the tensor; empty where no stream runs."""
    keys = _streams(problem)
    if not keys:
        return {}
    near = frozenset[int]().union(*map(problem.facts.touching, keys))
    demands = find_linked(problem, add_tied(problem.views, near, set()) & problem.nodes)
    values = _Classes(demands, problem).values([demands.exponent[key] for key in keys])
    return {} if values is None else dict(zip(keys, values, strict=True))


def _streams(problem: Problem) -> list[int]:
    """Tensors that a sum adds to while others read them too, and what very many nodes read."""
    found = dict[int, bool]()
    for index in sorted(problem.nodes):
        view = problem.views[index]
        sums = view.op in SUMS and not view.node.domain
        for edge in view.edges.values():
            value = edge.value
            if (
                edge.reads
                and not value.constant
                and value.maker is not None
                and (is_hub(value) or (sums and len(value.readers) > 1))
                and value.key not in found
            ):
                found[value.key] = (
                    problem.encloses(value)
                    and problem.made_at(value).movable
                    and not problem.facts.scope.outside_uses(value.tensor)
                )
    return [key for key, free in found.items() if free]


class _Classes:
    """Classes of exponents around the streams, what each pays at each value, and the links between them."""

    def __init__(self, demands: Demands, problem: Problem) -> None:
        self.demands, self.problem = demands, problem
        self.unknowns = Unknowns(demands, demands.ties.classes(), problem)
        self.of, self.factor = self.unknowns.of.tolist(), self.unknowns.factor.tolist()
        self.pinned = self.unknowns.pinned.tolist()

    def values(self, wanted: list[int]) -> list[int] | None:
        """The cheapest exponents of these variables."""
        ties, own = self._ties()
        linked = {place for a, b, _ in ties for place in (a, b)} | {self.of[v] for v in wanted}
        sums = self._sums(linked)
        prices = self._priced(linked.union(*((a, b, rest) for a, b, rest, _ in sums)))
        values = np.arange(-self.problem.bound, self.problem.bound + 1)
        for place, factor, price in own:
            if place in prices:
                prices[place] += price * (factor * values != 0)
        links: list[tuple[int, int, Link]] = [*ties]
        links += [(a, b, Sum(*factors, prices[rest])) for a, b, rest, factors in sums]
        for _, _, rest, _ in sums:
            prices.pop(rest, None)
        chosen = cheapest(prices, links)
        return None if chosen is None else [chosen[self.of[v]] * self.factor[v] for v in wanted]

    def _ties(self) -> tuple[list[tuple[int, int, Tie]], list[tuple[int, int, float]]]:
        """Of classes, the dearest first; those to what is pinned as prices of other values than 0: (class, factor,
        price)."""
        own, between = [], dict[tuple[int, int, int, int], float]()
        for variable, price in self.demands.charges.values():
            own.append((self.of[variable], self.factor[variable], price))
        for tensor, seen, price in self.demands.links:
            a, b, f, g = self.of[tensor], self.of[seen], self.factor[tensor], self.factor[seen]
            if self.pinned[a] or self.pinned[b]:
                if not (self.pinned[a] and self.pinned[b]):
                    own.append((b, g, price) if self.pinned[a] else (a, f, price))
            elif a != b:
                key = (a, f, b, g) if a < b else (b, g, a, f)
                between[key] = between.get(key, 0.0) + price
        dearest = sorted(between.items(), key=lambda link: -link[1])
        return [(a, b, Tie(g, f, price)) for (a, f, b, g), price in dearest], own

    def _sums(self, linked: Set[int]) -> list[tuple[int, int, int, tuple[int, int, int]]]:
        """Of three classes whose weighted sum is zero, where the third is in nothing else: weights, the second's first.
        What makes a branch of a stream out of a constant is one."""
        equations = self.unknowns.classes.equations
        count = Counter(place for equation in equations for place in equation)
        found = []
        for equation in equations:
            alone = [place for place in equation if count[place] == 1 and place not in linked]
            if len(equation) == 3 and alone:
                a, b = (place for place in equation if place != alone[-1])
                found.append((a, b, alone[-1], (equation[b], equation[a], equation[alone[-1]])))
        return found

    def _priced(self, chosen: Set[int]) -> dict[int, Floats]:
        """Prices by class: lost bits and steps; FP32 of all nodes at the class where that is less."""
        places, unknowns = np.array(sorted(chosen), np.int64), self.unknowns
        steps = np.abs(np.arange(-self.problem.bound, self.problem.bound + 1))
        prices = unknowns.priced(places) + unknowns.steps[places, None] * steps
        escape = self._escapes(chosen)[places, None]
        prices[prices < np.inf] = np.minimum(prices, escape)[prices < np.inf]
        return dict(zip(places.tolist(), prices, strict=True))

    def _escapes(self, chosen: Set[int]) -> Floats:
        """What FP32 of all nodes at a class costs, with a cast for each."""
        prices, problem = np.zeros(len(self.pinned)), self.problem
        for index, variables in self.demands.operands.items():
            places = {self.of[v]: operand for operand, v in variables.items() if v}
            if not places.keys().isdisjoint(chosen):
                view = problem.views[index]
                fp32 = price_of_fp32(view, problem.prices)
                for place, operand in places.items():
                    prices[place] += fp32 + problem.prices.cast(view.numel(operand))
        return prices
