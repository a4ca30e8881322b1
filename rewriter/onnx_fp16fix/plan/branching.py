"""Small programs of one structure, solved together: branch and bound on arrays with a column for each of them.

Layers of a network ask the same question with numbers of their own. What follows from the bounds of some variables for
those of others (Savelsbergh 1994, "Preprocessing and probing techniques for mixed integer programming problems") is
worked out for all of them at once, which costs little more than for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.plan.arrays import Arrays, Floats, Ints

__all__ = ["solve_alike"]

_EQUAL = 1e-6
_ROUNDS = 40
"""Rounds in which bounds follow from each other; usually they are done after a few."""
_CASES, _EACH, _CALL = 60, 150, 3
"""Cases looked at in all, and besides for each program; a look at few programs counts as one at so many more."""
_TRIAL = 8
"""Programs that go first: where all of these take too long, so would the others."""
_TOGETHER = 256
"""Programs at a time: their numbers stay in the cache."""

Bools = npt.NDArray[np.bool_]


def solve_alike(programs: Sequence[Arrays]) -> Floats | None:
    """Values of the variables of each program, a row each; NaN where another solver has to do, None if for all.

    ``programs`` have one ``structure``.
    """
    found = np.full((len(programs), len(programs[0].cost)), np.nan)
    starts = [0, *range(_TRIAL, len(programs), _TOGETHER)]
    for start, end in pairwise([*starts, len(programs)]):
        frame = _Frame(programs[start:end])
        if not frame.fits:
            return None
        found[start:end] = _Search(frame).values()
        if np.isnan(found[start:end]).any(axis=1).all():
            break
    return found


@dataclass(frozen=True)
class _Numbers:
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

    def take(self, chosen: Bools) -> _Numbers:
        """Those of the chosen programs."""
        floats = self.size, self.bound, self.price, self.lengths, self.prices
        return _Numbers(self.of[chosen], *(part[..., chosen] for part in floats))


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


class _Frame:
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

    def numbers(self) -> _Numbers:
        """Of all programs."""
        every = np.arange(self.lower.shape[1])
        return _Numbers(every, np.abs(self.value), self.bound, self.cost, self.lengths, self.prices)

    def least_price(self, numbers: _Numbers, ends: Floats) -> Floats:
        """What each program costs at least."""
        total: Floats = (numbers.price[self.paid] * ends[self.paid]).sum(axis=0)
        left = ends[self.heads]
        for length, price in zip(numbers.lengths, numbers.prices, strict=True):
            units = np.minimum(left, length)
            total += (units * price).sum(axis=0)
            left = left - units
        return total

    def afford(self, numbers: _Numbers, ends: Floats, spare: Floats) -> None:
        """Raise ends to what ``spare`` more than the least price allows."""
        paid, heads, count = self.paid, self.heads, self.count
        with np.errstate(divide="ignore", invalid="ignore"):
            most = ends[paid] + spare / numbers.price[paid]
        most = np.where(self.integer[paid, None], np.floor(most + _EQUAL), most)
        ends[count + paid] = np.fmax(ends[count + paid], -most)
        left, length_left, reach = np.broadcast_to(spare, ends[heads].shape), ends[heads], ends[heads]
        for length, price in zip(numbers.lengths, numbers.prices, strict=True):
            used = np.minimum(length_left, length)
            units = np.minimum(length - used, left / price)
            reach, length_left, left = reach + units, length_left - used, left - units * price
        ends[count + heads] = np.maximum(ends[count + heads], -reach)

    def holds(self, numbers: _Numbers, values: Floats) -> Bools:
        """Whether these values keep all rows."""
        sums = self.sums.reduce(np.add, self.sign * numbers.size * values[self.column])
        return np.asarray((sums <= numbers.bound + _EQUAL).all(axis=0))


class _Search:
    """The best values of each program of ``frame`` so far, and which programs have cases left open."""

    def __init__(self, frame: _Frame) -> None:
        self.frame = frame
        count = frame.lower.shape[1]
        self.best = np.full(count, np.inf)
        self.found = np.full((frame.count, count), np.nan)
        self.open = np.zeros(count, bool)
        self.left = _CASES + _EACH * count
        binary = (frame.lower == 0).all(axis=1) & (frame.upper == 1).all(axis=1)
        self.binary = frame.integer & binary
        self.degree = np.bincount(frame.column, minlength=frame.count)

    def values(self) -> Floats:
        """By program; NaN where some case is open, or none has an answer."""
        self._search(self.frame.numbers(), self.frame.start.copy())
        found = self.found
        for chain in self.frame.members:
            left = found[chain[0]].copy()
            for place in chain:
                found[place] = np.minimum(left, self.frame.upper[place])
                left -= found[place]
        found[:, self.open] = np.nan
        values: Floats = found.T
        return values

    def _search(self, numbers: _Numbers, ends: Floats) -> None:
        """All cases within the ends, which it may change."""
        frame, count = self.frame, self.frame.count
        self.left -= _CALL + len(numbers.of)
        if self.left < 0:
            self.open[numbers.of] = True
            return
        numbers, ends = self._follow(numbers, ends)
        if not len(numbers.of):
            return
        free = (ends[:count] + ends[count:] < -0.5) & frame.integer[:, None]
        places = np.flatnonzero(free.any(axis=1))
        least = frame.least_price(numbers, ends)
        if not places.size:
            self._keep(numbers, ends[:count], least)
        elif self.binary[places].any():
            self._choose(numbers, ends, least, places[self.binary[places]])
        else:
            self._split(numbers, ends, least, places)

    def _choose(self, numbers: _Numbers, ends: Floats, least: Floats, places: Ints) -> None:
        """The dearer half of these choices not made, or one of them, from the cheapest on."""
        price = numbers.price[places].sum(axis=1)
        dear = places[np.argsort(price, kind="stable")][len(places) // 2 :]
        other, without = self.frame.count, ends.copy()
        without[other + dear] = 0
        self._search(numbers, without)
        for place in dear:
            more = numbers.price[place] * (1 - ends[place])  # some may have it already
            chosen = (ends[other + place] < -0.5) & self._better(numbers, least + more)
            if chosen.any():
                case = ends[:, chosen]
                case[place] = 1
                self._search(numbers.take(chosen), case)
            ends[other + place] = np.maximum(0, ends[other + place])

    def _split(self, numbers: _Numbers, ends: Floats, least: Floats, places: Ints) -> None:
        """All of these integers as near to 0 as may be; then one of them there, or below that, or above."""
        place, other = int(places[np.argmax(self.degree[places])]), self.frame.count
        if len(places) > 1:
            case = ends.copy()
            case[places] = np.clip(0, ends[places], -ends[other + places])
            case[other + places] = -case[places]
            self._search(numbers, case)
        other += place
        low, high = ends[place], -ends[other]
        middle = np.clip(0, low, high)
        for start, end in ((middle, middle), (low, middle - 1), (middle + 1, high)):
            chosen = (start <= end) & self._better(numbers, least)
            if chosen.any():
                case = ends[:, chosen]
                case[place], case[other] = start[chosen], -end[chosen]
                self._search(numbers.take(chosen), case)

    def _better(self, numbers: _Numbers, price: Floats) -> Bools:
        """Where this is less than the best so far."""
        best = self.best[numbers.of]
        return np.asarray(price < best - _EQUAL * np.fmax(1, np.nan_to_num(best, posinf=0)))

    def _keep(self, numbers: _Numbers, values: Floats, price: Floats) -> None:
        held = self.frame.holds(numbers, values)
        self.open[numbers.of[~held]] = True  # bounds were still moving
        better = held & self._better(numbers, price)
        self.best[numbers.of[better]] = price[better]
        self.found[:, numbers.of[better]] = values[:, better]

    def _follow(self, numbers: _Numbers, ends: Floats) -> tuple[_Numbers, Floats]:
        """Programs that may have a better answer within the ends, with all that follows from these."""
        frame, count = self.frame, self.frame.count
        least = frame.least_price(numbers, ends)
        alive = self._better(numbers, least)
        frame.afford(numbers, ends, self.best[numbers.of] - least)
        for _ in range(_ROUNDS):
            if not alive.all():
                numbers, ends = numbers.take(alive), ends[:, alive]
            taken = ends.take(frame.takes, axis=0) * numbers.size
            excess = frame.sums.reduce(np.add, taken) - numbers.bound
            reached = excess.take(frame.sums.of, axis=0)
            reached -= taken
            reached /= numbers.size
            reached = frame.given.reduce(np.maximum, reached)
            reached = np.where(frame.rounded, np.ceil(reached - _EQUAL), reached)
            before = ends[frame.given.labels]
            ends[frame.given.labels] = np.maximum(before, reached)
            alive = np.all(excess <= _EQUAL, axis=0) & np.all(ends[:count] + ends[count:] <= _EQUAL, axis=0)
            if not (reached > before + _EQUAL)[:, alive].any():
                break
        return numbers.take(alive), ends[:, alive]
