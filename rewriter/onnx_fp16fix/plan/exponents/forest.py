"""Values of unknowns that hang together in a forest, chosen together: each pays for its own value, two that are linked
for theirs. From the leaves to a root, the least that all below costs is known for each value; on the way back each
takes its best. Exact, in time linear in the unknowns (dynamic programming; min-sum elimination)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

__all__ = ["Link", "Sum", "Tie", "cheapest"]

Floats = npt.NDArray[np.float64]
"""Prices of the values from -reach to reach, inf of those that may not be."""


@dataclass(frozen=True, slots=True)
class Tie:
    """factor * below = over * above, or this price."""

    factor: int
    over: int
    price: float

    def turned(self) -> Tie:
        """The same with above and below exchanged."""
        return Tie(self.over, self.factor, self.price)

    def least(self, own: Floats) -> Floats:
        """By the value above: what the one below pays at best, with ``own`` prices and that of the link."""
        tied = own
        if self.factor != self.over:
            where, fits = _solved(self.over, 0, self.factor, len(own) // 2)
            tied = np.where(fits[:, 0], own[where[:, 0]], np.inf)
        least: Floats = np.minimum(own.min() + self.price, tied)
        return least

    def beside(self, own: Floats, above: int) -> Floats:
        """What the one below pays at each value, for a given value above."""
        paid: Floats = own + self.price * (self.factor * _range(len(own) // 2) != self.over * above)
        return paid


@dataclass(frozen=True, slots=True, eq=False)
class Sum:
    """factor * below + over * above + rest * third = 0, where ``prices`` are those of the third."""

    factor: int
    over: int
    rest: int
    prices: Floats

    def turned(self) -> Sum:
        """The same with above and below exchanged."""
        return Sum(self.over, self.factor, self.rest, self.prices)

    def least(self, own: Floats) -> Floats:
        """See ``Tie``."""
        where, fits = _solved(-self.over, -self.factor, self.rest, len(own) // 2)
        least: Floats = (np.where(fits, self.prices[where], np.inf) + own).min(axis=1)
        return least

    def beside(self, own: Floats, above: int) -> Floats:
        """See ``Tie``."""
        reach = len(own) // 2
        where, fits = _solved(-self.over, -self.factor, self.rest, reach)
        return own + np.where(fits[above + reach], self.prices[where[above + reach]], np.inf)


Link = Tie | Sum
_Step = tuple[int, int, Link | None]
"""An unknown, the one above it, and their link."""


def _range(reach: int) -> npt.NDArray[np.int64]:
    return np.arange(-reach, reach + 1)


@cache
def _solved(one: int, other: int, by: int, reach: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Places of (one * x + other * y) / by, by x and y (a single one where ``other`` is 0), and where it is a value."""
    across = _range(reach) if other else np.zeros(1, np.int64)
    total = one * _range(reach)[:, None] + other * across
    fits = (total % by == 0) & (np.abs(total // by) <= reach)
    return np.where(fits, total // by + reach, 0), fits


def cheapest(prices: Mapping[int, Floats], links: Iterable[tuple[int, int, Link]]) -> dict[int, int] | None:
    """The value of each unknown; None where there is no answer.

    ``links``: of two unknowns, the first above the second; those that would close a circle are left out.
    """
    around = _forest(prices, links)
    values = dict[int, int]()
    for start in prices:
        if start in values:
            continue
        order, stack = list[_Step](), list[_Step]([(start, start, None)])
        while stack:
            place, above, link = stack.pop()
            order.append((place, above, link))
            stack += [(below, place, each) for below, each in around[place] if below != above]
        total = {place: prices[place].copy() for place, _, _ in order}
        for place, above, link in reversed(order):
            if link is not None:
                total[above] += link.least(total[place])
        for place, above, link in order:
            own = total[place] if link is None else link.beside(total[place], values[above])
            best = int(own.argmin())
            if own[best] == np.inf:
                return None
            values[place] = best - len(own) // 2
    return values


def _forest(
    prices: Mapping[int, Floats], links: Iterable[tuple[int, int, Link]]
) -> dict[int, list[tuple[int, Link]]]:
    """Links by the unknown above, each both ways."""
    around: dict[int, list[tuple[int, Link]]] = {place: [] for place in prices}
    root_of = {place: place for place in prices}

    def root(place: int) -> int:
        while root_of[place] != place:
            root_of[place] = place = root_of[root_of[place]]
        return place

    for above, below, link in links:
        one, other = root(above), root(below)
        if one != other:
            root_of[one] = other
            around[above].append((below, link))
            around[below].append((above, link.turned()))
    return around
