"""Programs of one structure as arrays with a column for each, and what follows in them from bounds of variables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.plan.solver.arrays import EQUAL, Floats, Ints

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


class _Layers:
    """Entries with the same label, in layers of one entry of each: reduced faster than by ``ufunc.reduceat``."""

    def __init__(self, label: Ints) -> None:
        labels, group, count = np.unique(label, return_inverse=True, return_counts=True)
        falling = np.argsort(-count, kind="stable")
        self.labels = labels[falling]
        place = np.empty(len(labels), np.int64)
        place[falling] = np.arange(len(labels))
        group = place[group]
        by_group = np.argsort(group, kind="stable")
        ends = np.cumsum(count[falling])
        layer = np.empty(len(label), np.int64)
        layer[by_group] = np.arange(len(label)) - np.repeat(ends - count[falling], count[falling])
        self.order = np.lexsort((group, layer))
        """Entries in the order that all else goes by."""
        self.of = group[self.order]
        """Place in ``labels`` of each entry's label."""
        sizes = np.bincount(layer)
        self._layers = [
            (int(size), slice(int(end - size), int(end)))
            for size, end in zip(sizes, np.cumsum(sizes), strict=True)
        ]

    def reduce(self, combine: np.ufunc, values: Floats) -> Floats:
        """By label, in the order of ``labels``."""
        total: Floats = values[: len(self.labels)].copy()
        for size, layer in self._layers[1:]:
            part = total[:size]
            combine(part, values[layer], out=part)
        return total

    def leave(self, total: Floats, values: Floats) -> None:
        """Put what the total of its label leaves to all others in the place of each value."""
        for size, layer in self._layers:
            part = values[layer]
            np.subtract(total[:size], part, out=part)


class Frame:
    """What programs of one structure share: their rows as sums of at most so much.

    ``ends`` of variables are their lower bounds, then their negated upper bounds: all that follows from other bounds
    raises them. Entry k of a row takes at least ``size[k] * ends[takes[k]]``, and what the others leave it is a limit
    to ``ends[gives[k]]``.

    ``heads`` are chains: variables whose price rises. ``degree``: entries of each variable, before any were left out.
    """

    def __init__(
        self, row: Ints, column: Ints, positive: Bools, integer: Bools, binary: Bools, paid: Bools,
        degree: Ints, heads: Ints,
    ) -> None:  # fmt: skip
        self.integer, self.binary, self.degree, self.heads = integer, binary, degree, heads
        self.count = len(integer)
        self.rows = _Layers(row)
        self.column, positive = column[self.rows.order], positive[self.rows.order]
        self.paid, self._paid = paid, np.flatnonzero(paid)
        self.sign = np.where(positive, 1.0, -1.0)[:, None]
        self._takes = np.where(positive, self.column, self.column + self.count)
        self._gives = np.where(positive, self.column + self.count, self.column)
        self._given = _Layers(self._gives)
        self._whole = integer[self._given.labels % self.count, None]

    def least_price(self, numbers: Numbers, ends: Floats) -> Floats:
        """What each program costs at least."""
        total: Floats = (numbers.price[self._paid] * ends[self._paid]).sum(axis=0)
        left = ends[self.heads]
        for length, price in zip(numbers.lengths, numbers.prices, strict=True):
            units = np.minimum(left, length)
            total += (units * price).sum(axis=0)
            left -= units
        return total

    def afford(self, numbers: Numbers, ends: Floats, spare: Floats) -> None:
        """Raise ends to what ``spare`` more than the least price allows."""
        paid, heads, count = self._paid, self.heads, self.count
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

    def raised(self, numbers: Numbers, ends: Floats) -> tuple[Bools, Bools]:
        """Raise ends to what rows ask for: which programs may still hold, and for which of them ends were raised."""
        count, labels = self.count, self._given.labels
        taken = ends.take(self._takes, axis=0)
        taken *= numbers.size
        excess = self.rows.reduce(np.add, taken)
        excess -= numbers.bound
        self.rows.leave(excess, taken)
        taken /= numbers.size
        reached = self._given.reduce(np.maximum, taken.take(self._given.order, axis=0))
        reached = np.where(self._whole, np.ceil(reached - EQUAL), reached)
        before = ends[labels]
        ends[labels] = np.maximum(before, reached)
        alive = np.all(excess <= EQUAL, axis=0) & np.all(ends[:count] + ends[count:] <= EQUAL, axis=0)
        return alive, (reached > before + EQUAL).any(axis=0) & alive

    def holds(self, numbers: Numbers, values: Floats) -> Bools:
        """Whether these values keep all rows."""
        sums = self.rows.reduce(np.add, self.sign * numbers.size * values[self.column])
        return np.asarray((sums <= numbers.bound + EQUAL).all(axis=0))

    def most(self, numbers: Numbers, ends: Floats) -> Floats:
        """What each row may come to."""
        return self.rows.reduce(np.add, -numbers.size * ends.take(self._gives, axis=0))
