"""Programs of one structure as arrays with a column for each, and what follows in them from bounds of variables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.plan.arrays import EQUAL, Arrays, Floats, Ints

__all__ = ["Bools", "Frame", "Numbers"]

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Numbers:
    """What differs between programs; the last axis is theirs.

    ``of``: their numbers; ``size``: absolute coefficients by entry; ``bound``: of each row; ``price``: of each
    variable; ``lengths`` and ``prices``: of each chain, so many units at such a price each, rising.
    """

    of: Ints
    size: Floats
    bound: Floats
    price: Floats
    lengths: Floats
    prices: Floats

    def take(self, chosen: Bools) -> Numbers:
        """Those of the chosen programs."""
        floats = self.size, self.bound, self.price, self.lengths, self.prices
        return Numbers(self.of[chosen], *(part[..., chosen] for part in floats))


class _Groups:
    """Entries with the same label; reduced in layers of one entry each, which is faster than ``ufunc.reduceat``."""

    def __init__(self, label: Ints) -> None:
        labels, group, count = np.unique(label, return_inverse=True, return_counts=True)
        order = np.argsort(-count, kind="stable")
        self.labels = labels[order]
        place = np.empty(len(labels), np.int64)
        place[order] = np.arange(len(labels))
        self.of = place[group]
        """Place of each entry's group in ``labels``."""
        entries = np.argsort(self.of, kind="stable")
        ends = np.cumsum(count[order])
        starts = ends - count[order]
        self._layers = [
            entries[starts[starts + layer < ends] + layer] for layer in range(count.max(initial=0))
        ]

    def reduce(self, combine: np.ufunc, values: Floats) -> Floats:
        """By group, in the order of ``labels``."""
        total: Floats = values.take(self._layers[0], axis=0)
        for layer in self._layers[1:]:
            part = total[: len(layer)]
            combine(part, values.take(layer, axis=0), out=part)
        return total


class Frame:
    """What programs of one structure share: their rows as sums of at most so much.

    ``ends`` of variables are their lower bounds, then their negated upper bounds: all that follows from other bounds
    raises them. Entry k of a row takes at least ``size[k] * ends[takes[k]]``, and what the others leave it is a limit
    to ``ends[gives[k]]``.

    Continuous variables that only add up in one row, so many units at one price and so many at a higher one, are a
    chain: it stands in the place of its first ``members``, one variable whose price rises.
    """

    def __init__(self, programs: Sequence[Arrays]) -> None:
        first = programs[0]
        self.integer, self.count = first.integer, len(first.cost)
        self.lower, self.upper, self.cost, values, least, most = (
            np.stack([part[place] for part in (program.parts() for program in programs)], axis=1)
            for place in (0, 1, 3, 6, 7, 8)
        )
        above, below = np.isfinite(most[:, 0]), np.isfinite(least[:, 0])
        up, down = np.flatnonzero(above[first.rows]), np.flatnonzero(below[first.rows])
        self.row = np.concatenate(
            [(np.cumsum(above) - 1)[first.rows[up]], (np.cumsum(below) - 1 + above.sum())[first.rows[down]]]
        )
        self.column = first.columns[np.concatenate([up, down])]
        self.value = np.concatenate([values[up], -values[down]])
        self.bound = np.concatenate([most[above], -least[below]])
        self.members: list[Ints] = []
        chained = self._find_chains()
        kept = ~np.isin(self.column, [place for chain in self.members for place in chain[1:]])
        self.row, self.column, self.value = self.row[kept], self.column[kept], self.value[kept]
        continuous = np.bincount(self.row[~self.integer[self.column]], minlength=1)
        self.fits = bool(
            chained
            and continuous.max() <= 1
            and np.isfinite(self.lower).all()
            and np.isfinite(self.upper).all()
            and (self.cost >= 0).all()
        )
        self._order()

    def _find_chains(self) -> bool:
        """Whether all continuous variables that share a row make chains, as prices of lost bits do."""
        once = np.bincount(self.column, minlength=self.count) == 1
        inside = np.flatnonzero(~self.integer[self.column] & once[self.column])
        counts = np.bincount(self.row[inside], minlength=1)
        for row in np.flatnonzero(counts > 1):
            entries = inside[self.row[inside] == row]
            places = self.column[entries]
            order = np.argsort(self.cost[places].sum(axis=1), kind="stable")
            places = places[order]
            if (
                (self.value[entries] != self.value[entries[0]]).any()
                or (self.lower[places] != 0).any()
                or (np.diff(self.cost[places], axis=0) < 0).any()
            ):
                return False
            self.members.append(places)
        return True

    def _order(self) -> None:
        longest = max(map(len, self.members), default=0)
        shape = (longest, len(self.members), self.lower.shape[1])
        self.lengths, self.prices = np.zeros(shape), np.ones(shape)
        self.heads = np.array([chain[0] for chain in self.members], np.int64)
        for number, chain in enumerate(self.members):
            self.lengths[: len(chain), number] = self.upper[chain]
            self.prices[: len(chain), number] = self.cost[chain]
        self.start = np.concatenate([self.lower, -self.upper])
        self.start[self.count + self.heads] = -self.lengths.sum(axis=0)
        for chain in self.members:  # out of the way
            self.start[chain[1:]] = self.start[self.count + chain[1:]] = 0
            self.cost[chain] = 0
        self.paid = np.flatnonzero((self.cost > 0).any(axis=1))
        positive = self.value[:, 0] > 0
        self.sign = np.where(positive, 1.0, -1.0)[:, None]
        self.takes = np.where(positive, self.column, self.column + self.count)
        self.gives = np.where(positive, self.column + self.count, self.column)
        self.sums, self.given = _Groups(self.row), _Groups(self.gives)
        self.bound = self.bound[self.sums.labels]
        self.rounded = self.integer[self.given.labels % self.count, None]

    def numbers(self) -> Numbers:
        """Of all programs."""
        every = np.arange(self.lower.shape[1])
        return Numbers(every, np.abs(self.value), self.bound, self.cost, self.lengths, self.prices)

    def least_price(self, numbers: Numbers, ends: Floats) -> Floats:
        """What each program costs at least."""
        total: Floats = (numbers.price[self.paid] * ends[self.paid]).sum(axis=0)
        left = ends[self.heads]
        for length, price in zip(numbers.lengths, numbers.prices, strict=True):
            units = np.minimum(left, length)
            total += (units * price).sum(axis=0)
            left = left - units
        return total

    def afford(self, numbers: Numbers, ends: Floats, spare: Floats) -> None:
        """Raise ends to what ``spare`` more than the least price allows."""
        paid, heads, count = self.paid, self.heads, self.count
        with np.errstate(divide="ignore", invalid="ignore"):
            most = ends[paid] + spare / numbers.price[paid]
        most = np.where(self.integer[paid, None], np.floor(most + EQUAL), most)
        ends[count + paid] = np.fmax(ends[count + paid], -most)
        left, length_left, reach = np.broadcast_to(spare, ends[heads].shape), ends[heads], ends[heads]
        for length, price in zip(numbers.lengths, numbers.prices, strict=True):
            used = np.minimum(length_left, length)
            units = np.minimum(length - used, left / price)
            reach, length_left, left = reach + units, length_left - used, left - units * price
        ends[count + heads] = np.maximum(ends[count + heads], -reach)

    def holds(self, numbers: Numbers, values: Floats) -> Bools:
        """Whether these values keep all rows."""
        sums = self.sums.reduce(np.add, self.sign * numbers.size * values[self.column])
        return np.asarray((sums <= numbers.bound + EQUAL).all(axis=0))
