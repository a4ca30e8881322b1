"""Exponents alone: the best plan in which no node is FP32 by choice and Muls stand at the graph's border only.

Most models need nothing else, and this is a small problem. Exponents that are tied become one unknown (``ties``); what
their tensors ask for becomes the interval of it in which nothing is lost. Where intervals and equations agree,
no choice of FP32 or of a Mul inside could be cheaper, since there is nothing left to pay for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.plan.exponents.demands import Bits, Demands, find_demands
from onnx_fp16fix.plan.exponents.ties import Classes
from onnx_fp16fix.plan.exponents.tighten import Rows, through
from onnx_fp16fix.plan.pieces.problem import Problem
from onnx_fp16fix.plan.pieces.solution import Solution
from onnx_fp16fix.plan.solver.program import Program

__all__ = ["Scaling", "scale_alone"]

_BREACH = 1e7
"""Price of a bit beyond what FP16 holds, so high that it is paid only where exponents have no answer."""
_DIGITS = 2
"""Decimal places of prices, where equal ones have to be told."""
Ints = npt.NDArray[np.int64]
Key = TypeVar("Key")
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scaling:
    """``price``: of lost bits and casts; ``muls``: of those at the border, by tensor; ``breached``: whether any tensor
    asks for more than exponents can give. ``solution.cost`` counts steps as well.

    ``paid``: tensors by identity, and nodes, where something is paid (Muls too) or asked for in vain; ``tied``: these
    and all whose exponents are tied to theirs.
    """

    solution: Solution
    price: float
    muls: dict[int, float]
    breached: bool
    paid: tuple[frozenset[int], frozenset[int]]
    tied: tuple[frozenset[int], frozenset[int]]


def scale_alone(problem: Problem, time_limit: float | None = None) -> Scaling | None:
    """The cheapest exponents for the region of ``problem``; None if the solver found none in time."""
    demands = find_demands(problem)
    unknowns = Unknowns(demands, demands.ties.classes(), problem)
    values = unknowns.solve(time_limit)
    return None if values is None else unknowns.scaling(values)


class Unknowns:
    """The classes of tied exponents, their intervals, and the program that chooses within them.

    Arrays ``low`` and ``high`` are by unknown; those of demands are by demand.
    """

    def __init__(self, demands: Demands, classes: Classes, problem: Problem) -> None:
        self.demands, self.classes, self.prices = demands, classes, problem.prices
        self.of = np.array(classes.of, np.int64)
        self.factor = np.array(classes.factor, np.int64)
        self.pinned = np.array(classes.pinned)
        self.reach = problem.bound
        self.low, self.high = self._bounds()
        self._list_hinges()
        steps = np.abs(self.factor) * demands.steps * problem.prices.step
        self.steps = np.bincount(self.of, steps, len(self.pinned))
        self.rows = Rows.of(classes.equations)

    def _bounds(self) -> tuple[Ints, Ints]:
        bounds = self.demands.bounds
        least, most = through(self.factor, bounds[:, 0], bounds[:, 1])
        low = np.full(len(self.pinned), -self.reach)
        high = np.full(len(self.pinned), self.reach)
        np.maximum.at(low, self.of, least)
        np.minimum.at(high, self.of, most)
        low[self.pinned] = high[self.pinned] = 0
        return low, high

    def _list_hinges(self) -> None:
        """Demands as prices max(0, slope * x - offset) * price of an unknown x."""
        least, most = self.demands.least, self.demands.most
        # each bit that may be lost, and each beyond them, changes the slope of the price
        starts, further, rises = _slopes(self.demands.bits)
        count = np.diff(starts)[most[:, 2]]
        place = np.arange(int(count.sum())) + np.repeat(starts[most[:, 2]] - np.cumsum(count) + count, count)
        self.variable = np.concatenate([least[:, 0], np.repeat(most[:, 0], count)])
        self.unknown = self.of[self.variable]
        self.slope = (
            np.concatenate([-least[:, 1], np.ones(len(place), np.int64)]) * self.factor[self.variable]
        )
        self.offset = np.concatenate([-least[:, 2], np.repeat(most[:, 1], count) + further[place]])
        self.price = np.concatenate([np.full(len(least), _BREACH), rises[place]])
        self.breach = self.price >= _BREACH / 2

    def solve(self, time_limit: float | None) -> Ints | None:
        """A value for each unknown; None if the solver found none in time."""
        low, high = self._cheapest()
        loose = self.rows.contradicted(low, high)
        values = self._program(low, high, loose, time_limit)
        if values is None and not loose.all():
            values = self._program(low, high, np.ones_like(loose), time_limit)
        return values

    def _cheapest(self) -> tuple[Ints, Ints]:
        """The interval of each unknown in which its own price is least."""
        low, high = self.within(np.ones(len(self.offset), bool))
        torn = np.flatnonzero(low > high)
        if torn.size:
            prices = self.priced(torn)
            best = prices <= prices.min(axis=1, keepdims=True)
            low[torn] = best.argmax(axis=1) - self.reach
            high[torn] = self.reach - best[:, ::-1].argmax(axis=1)
        return low, high

    def within(self, demands: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
        """The interval of each unknown in which nothing is paid for the chosen demands; empty where they disagree."""
        least = np.full(len(self.offset), -self.reach)
        most = np.full(len(self.offset), self.reach)
        down, up = (self.slope < 0) & demands, (self.slope > 0) & demands
        least[down] = -(self.offset[down] // -self.slope[down])
        most[up] = self.offset[up] // self.slope[up]
        low, high = self.low.copy(), self.high.copy()
        np.maximum.at(low, self.unknown, least)
        np.minimum.at(high, self.unknown, most)
        return low, high

    def priced(self, places: Ints) -> Floats:
        """Price of each value from -reach to reach of the given unknowns, steps left out; inf out of bounds.

        Each demand bends a line once, so the prices are running sums of running sums of these bends, however many
        demands there are.
        """
        position = np.full(len(self.low), -1)
        position[places] = np.arange(len(places))
        owner = position[self.unknown]
        up, down = (owner >= 0) & (self.slope > 0), (owner >= 0) & (self.slope < 0)
        prices = self._rising(owner, up, len(places)) + self._rising(owner, down, len(places))[:, ::-1]
        values = np.arange(-self.reach, self.reach + 1)
        outside = (values < self.low[places, None]) | (values > self.high[places, None])
        prices[outside] = np.inf
        return prices

    def _rising(self, owner: Ints, chosen: npt.NDArray[np.bool_], count: int) -> Floats:
        """What the chosen demands cost, by owner and by values in the direction in which they rise."""
        slope, offset, price = np.abs(self.slope[chosen]), self.offset[chosen], self.price[chosen]
        size = 2 * self.reach + 3
        first = np.clip(
            offset // slope + 1, -self.reach, self.reach + 1
        )  # the first value that costs anything
        at = owner[chosen] * size + first + self.reach
        paid = slope * first - offset
        bends = np.bincount(at, paid * price, count * size) + np.bincount(
            at + 1, (slope - paid) * price, count * size
        )
        total = bends.reshape(count, size).cumsum(axis=1).cumsum(axis=1)[:, :-2]
        # what rounding leaves of large prices must not make equal ones different
        prices: Floats = np.round(total, _DIGITS)
        return prices

    def _program(
        self, low: Ints, high: Ints, loose: npt.NDArray[np.bool_], time_limit: float | None
    ) -> Ints | None:
        """Choose within the intervals, those of ``loose`` unknowns widened at their price."""
        program = Program()
        columns = self._within(program, low, high, loose)
        places = np.flatnonzero(loose)
        for place, prices in zip(places, self.priced(places) if places.size else (), strict=True):
            columns[place] = self._widened(program, int(place), prices)
        rows = self.rows
        program.rows(rows.row(), columns[rows.unknown], rows.weight, 0, 0)
        for variable, price in self.demands.charges.values():
            place, factor = self.of[variable], float(self.factor[variable])
            if self.low[place] < self.high[place]:
                used = program.variable(0, 1, price, integer=True)
                bound = abs(factor) * self.reach
                program.row({int(columns[place]): factor, used: -bound}, upper=0)
                program.row({int(columns[place]): factor, used: bound}, lower=0)
        values = program.solve(time_limit)
        return None if values is None else np.rint(values[columns]).astype(np.int64)

    def _within(self, program: Program, low: Ints, high: Ints, loose: npt.NDArray[np.bool_]) -> Ints:
        """Columns of integers that pay for their distance from 0, but for those of ``loose`` unknowns."""
        both = ~loose & (low < 0) & (high > 0)  # the distance takes a column of its own, next to it
        columns: Ints = np.cumsum(np.where(both, 2, np.where(loose, 0, 1))) - both - 1
        own, far = columns[~loose], columns[both] + 1
        total = len(own) + len(far)
        lower, upper, cost = np.zeros(total), np.zeros(total), np.zeros(total)
        lower[own], upper[own] = low[~loose], high[~loose]
        cost[own] = np.where(both, 0.0, np.where(low >= 0, self.steps, -self.steps))[~loose]
        upper[far], cost[far] = np.maximum(-low, high)[both], self.steps[both]
        integer = np.zeros(total, bool)
        integer[own] = True
        program.variables(lower, upper, cost, integer)
        pairs = np.stack([far, far - 1, far, far - 1], axis=1).reshape(-1)
        weights = np.tile([1.0, -1.0, 1.0, 1.0], len(far))
        program.rows(np.repeat(np.arange(2 * len(far)), 2), pairs, weights, 0, np.inf)
        return columns

    def _widened(self, program: Program, place: int, prices: Floats) -> int:
        """An integer with a convex price: one more variable for each slope of it."""
        low, high = int(self.low[place]), int(self.high[place])
        values = np.arange(low, high + 1)
        total = prices[low + self.reach : high + self.reach + 1] + self.steps[place] * np.abs(values)
        column = program.variable(low, high, integer=True)
        if low == high:
            return column
        slopes = np.round(np.diff(total), _DIGITS)
        starts = np.flatnonzero(np.diff(slopes, prepend=np.nan))
        terms: dict[int, float] = {column: 1.0}
        for start, end in zip(starts, [*starts[1:], len(slopes)], strict=True):
            terms[program.variable(0, int(end - start), float(slopes[start]))] = -1.0
        program.row(terms, low, low)
        return column

    def scaling(self, values: Ints) -> Scaling:
        """The answer in terms of tensors and slots."""
        demands = self.demands
        chosen = (values[self.of] * self.factor).tolist()
        excess = np.maximum(self.slope * values[self.unknown] - self.offset, 0)
        price = float(excess @ self.price) + sum(demands.casts.values())
        muls = {key: each for key, (v, each) in demands.charges.items() if chosen[v]}
        paid = np.zeros(len(self.of), bool)
        paid[self.variable[excess > 0]] = True
        paid[[variable for variable, _ in demands.charges.values() if chosen[variable]]] = True
        paid[0] = False
        tied = np.zeros(len(values), bool)
        tied[self.of[paid]] = True

        def other(variables: Mapping[Key, int]) -> dict[Key, int]:
            return {key: chosen[v] for key, v in variables.items() if chosen[v]}

        return Scaling(
            Solution(
                exponent=other(demands.exponent),
                constant=other(demands.constant),
                result={key: -value for key, value in other(demands.results).items()},
                cost=price + sum(muls.values()) + float(np.abs(values) @ self.steps),
            ),
            price,
            muls,
            breached=bool((excess > 0)[self.breach].any()),
            paid=self._places(paid),
            tied=self._places(tied[self.of]),
        )

    def _places(self, variables: npt.NDArray[np.bool_]) -> tuple[frozenset[int], frozenset[int]]:
        demands, chosen = self.demands, variables.tolist()
        tensors = frozenset(key for key, v in demands.exponent.items() if chosen[v])
        nodes = frozenset(index for (index, _), v in demands.constant.items() if chosen[v])
        return tensors | demands.casts.keys(), nodes | demands.stuck


def _slopes(bits: Sequence[Bits]) -> tuple[Ints, Ints, Floats]:
    """Of prices that rise by bits lost: where the numbers of each begin (and the end of the last), how far beyond its
    bound each slope begins, and by how much it is steeper."""
    further, rises, starts = list[int](), list[float](), [0]
    for entry in bits:
        bound, paid = 0, 0.0
        for count, each in (*entry, (0, _BREACH)):
            further.append(bound)
            rises.append(each - paid)
            bound, paid = bound + int(count), each
        starts.append(len(rises))
    return np.array(starts, np.int64), np.array(further, np.int64), np.array(rises, np.float64)
