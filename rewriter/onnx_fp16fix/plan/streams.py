"""Exponents of long streams, chosen before the program of what hangs on them is built.

A residual stream ties all its layers together: nothing can be cut before its exponents are known. They matter to few
others, so a coarse question has nearly the right answer. Every operand that may get a Mul is taken as a class of its
own, linked to the tensor that it reads: equal exponents, or the price of the Mul. What a class pays at each exponent
is known by itself (``scaling``), with FP32 of its nodes as the way out. The cheapest exponents on a tree of such links
are found exactly, from its leaves to its root and back. With those of the streams held, the program falls into pieces.
"""

from __future__ import annotations

from collections.abc import Set

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.plan.demands import Demands, find_linked
from onnx_fp16fix.plan.facts import SUMS
from onnx_fp16fix.plan.problem import Problem
from onnx_fp16fix.plan.region import add_tied, is_hub
from onnx_fp16fix.plan.scaling import Unknowns
from onnx_fp16fix.plan.variables import price_of_fp32

__all__ = ["held_streams"]

_Step = tuple[int, int, int, int, float]
"""A class, the one above it in the tree, the factors of both in their link, its price."""
Floats = npt.NDArray[np.float64]


def held_streams(problem: Problem) -> dict[int, int]:
    """Exponents to hold in the region of ``problem``, by identity of the tensor; empty where no stream runs."""
    keys = _streams(problem)
    if not keys:
        return {}
    nodes = (
        add_tied(problem.views, frozenset().union(*map(problem.facts.touching, keys)), set()) & problem.nodes
    )
    demands = find_linked(problem, nodes)
    tree = _Tree(demands, problem, nodes, [demands.exponent[key] for key in keys])
    values = tree.values()
    return {} if values is None else {key: values[demands.exponent[key]] for key in keys}


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


class _Tree:
    """Classes of exponents, what each pays at each value, and the dearest links between them that make no circle.

    ``links``: by class: another, the factors of this and that in the link, its price. ``prices``: by class, of the
    values in ``range``; inf where it may not be. ``wanted``: variables whose values are to be found.
    """

    def __init__(self, demands: Demands, problem: Problem, nodes: Set[int], wanted: list[int]) -> None:
        self.unknowns = unknowns = Unknowns(demands, demands.ties.classes(), problem)
        self.reach = problem.bound
        self.range = np.arange(-self.reach, self.reach + 1)
        self._where: dict[tuple[int, int], tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]] = {}
        self.links: dict[int, list[tuple[int, int, int, float]]] = {int(unknowns.of[v]): [] for v in wanted}
        own = self._link(demands)
        places = np.array(sorted(self.links), np.int64)
        prices = unknowns.priced(places) + unknowns.steps[places, None] * np.abs(self.range)
        escape = self._escapes(demands, problem, nodes)[places, None]
        prices[prices < np.inf] = np.minimum(prices, escape)[prices < np.inf]
        self.prices: dict[int, Floats] = dict(zip(places.tolist(), prices, strict=True))
        for place, factor, price in own:
            if place in self.prices:
                self.prices[place] += price * (factor * self.range != 0)

    def _link(self, demands: Demands) -> list[tuple[int, int, float]]:
        """Set ``links``; links to what is pinned, as prices of other values than 0: (class, factor, price)."""
        of, factor, pinned = self.unknowns.of, self.unknowns.factor, self.unknowns.pinned
        own, between = [], dict[tuple[int, int, int, int], float]()
        for variable, price in demands.charges.values():
            own.append((int(of[variable]), int(factor[variable]), price))
        for tensor, seen, price in demands.links:
            a, b = int(of[tensor]), int(of[seen])
            f, g = int(factor[tensor]), int(factor[seen])
            if pinned[a] or pinned[b]:
                if not (pinned[a] and pinned[b]):
                    own.append((b, g, price) if pinned[a] else (a, f, price))
            elif a != b:
                key = (a, f, b, g) if a < b else (b, g, a, f)
                between[key] = between.get(key, 0.0) + price
        above = list(range(len(pinned)))

        def root(place: int) -> int:
            while above[place] != place:
                above[place] = place = above[above[place]]
            return place

        for (a, f, b, g), price in sorted(between.items(), key=lambda link: -link[1]):
            one, other = root(a), root(b)
            if one != other:
                above[one] = other
                self.links.setdefault(a, []).append((b, f, g, price))
                self.links.setdefault(b, []).append((a, g, f, price))
        return own

    def _escapes(self, demands: Demands, problem: Problem, nodes: Set[int]) -> Floats:
        """What FP32 of all nodes that make tensors of a class costs, with a cast of each tensor."""
        prices, of = np.zeros(len(self.unknowns.pinned)), self.unknowns.of
        for view in (problem.views[index] for index in sorted(nodes)):
            for edge in view.edges.values():
                place = 0 if edge.reads else int(of[demands.exponent[edge.value.key]])
                if place in self.links:
                    cast = problem.prices.cast(edge.value.range.numel)
                    prices[place] += price_of_fp32(view, problem.prices) + cast
        return prices

    def values(self) -> list[int] | None:
        """The cheapest exponent of each variable of classes with prices; None where one of them may be nowhere."""
        if not all(np.isfinite(prices).any() for prices in self.prices.values()):
            return None
        chosen = np.zeros(len(self.unknowns.pinned), np.int64)
        seen = set[int]()
        for start in self.links:
            if start not in seen:
                self._solve(start, chosen, seen)
        values: list[int] = (chosen[self.unknowns.of] * self.unknowns.factor).tolist()
        return values

    def _solve(self, start: int, chosen: npt.NDArray[np.int64], seen: set[int]) -> None:
        """Choose for all that hangs together with ``start``."""
        order, stack = list[_Step](), [(start, -1, 1, 1, 0.0)]
        while stack:
            place, above, *_ = step = stack.pop()
            seen.add(place)
            order.append(step)
            stack += [(b, place, g, f, price) for b, f, g, price in self.links[place] if b != above]
        total = {place: self.prices[place].copy() for place, *_ in order}
        for place, above, factor, over, price in reversed(order[1:]):
            own = total[place]
            total[above] += np.minimum(own.min() + price, self._tied(own, factor, over))
        for place, above, factor, over, price in order:
            own = total[place]
            best = int(own.argmin()) - self.reach
            if above >= 0:
                value = int(chosen[above]) * over
                same = value // factor
                if (
                    value % factor == 0
                    and abs(same) <= self.reach
                    and own[same + self.reach] <= own.min() + price
                ):
                    best = same
            chosen[place] = best

    def _tied(self, prices: Floats, factor: int, over: int) -> Floats:
        """Prices by the value x of a class for which factor * own value is over * x."""
        if factor == over:
            return prices
        if (factor, over) not in self._where:
            value = self.range * over
            fits = (value % factor == 0) & (np.abs(value // factor) <= self.reach)
            self._where[factor, over] = fits, np.where(fits, value // factor + self.reach, 0)
        fits, where = self._where[factor, over]
        return np.where(fits, prices[where], np.inf)
