"""Small programs of one structure, solved together: branch and bound on arrays with a column for each of them.

Layers of a network ask the same question with numbers of their own. What follows from the bounds of some variables for
those of others (Savelsbergh 1994, "Preprocessing and probing techniques for mixed integer programming problems") is
worked out for all of them at once, which costs little more than for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from onnx_fp16fix.plan.solver.arrays import EQUAL, Arrays, Floats, Ints
from onnx_fp16fix.plan.solver.frames import Bools, Frame, Numbers
from onnx_fp16fix.plan.solver.narrowing import narrowed
from onnx_fp16fix.plan.solver.whole import Whole

__all__ = ["solve_alike"]

_ROUNDS = 40
"""Rounds in which bounds follow from each other; usually they are done after a few."""
_CASES, _EACH, _CALL = 60, 150, 3
"""Cases looked at in all, and besides for each program; a look at few programs counts as one at so many more."""
_TOGETHER = 1024
"""Programs at a time; where all of these take too long, so would the others."""
_MOST = 1e100
"""A price beyond all others."""
_SETTLED, _SHARE = 2000, 0.25
"""Coefficients of settled variables that are worth leaving out, and their share of all."""


def solve_alike(programs: Sequence[Arrays]) -> Floats | None:
    """Values of the variables of each program, a row each; NaN where another solver has to do, None if for all.

    ``programs`` have one ``structure``.
    """
    found = np.full((len(programs), len(programs[0].cost)), np.nan)
    for start, end in pairwise([*range(0, len(programs), _TOGETHER), len(programs)]):
        whole = Whole(programs[start:end])
        if not whole.fits:
            return None
        count = end - start
        search = _Search(whole.frame, np.full(count, np.inf), _CASES + _EACH * count)
        search.find(whole.numbers, whole.ends)
        search.found[:, search.open] = np.nan
        whole.spread(search.found)
        found[start:end] = search.found.T
        if np.isnan(found[start:end]).any(axis=1).all():
            break
    return found


class _Search:
    """The best values of each program of ``frame`` so far, NaN where none is better than ``best``; and which programs
    have cases left open when so many cases were ``left`` to look at."""

    def __init__(self, frame: Frame, best: Floats, left: int, share: float = 0.0) -> None:
        self.frame, self.best, self.left, self.share = frame, best, left, share
        self.found = np.full((frame.count, len(best)), np.nan)
        self.open = np.zeros(len(best), bool)

    def find(self, numbers: Numbers, ends: Floats) -> None:
        """Look at all cases within the ends, which it may change."""
        self.left -= _CALL + len(numbers.of)
        if self.left < 0:
            self.open[numbers.of] = True
            return
        numbers, ends = self._follow(numbers, ends)
        if len(numbers.of):
            self._branch(numbers, ends)

    def _narrowed(self, numbers: Numbers, ends: Floats, least: Floats) -> bool:
        """Whether enough is settled that what is left was looked at by itself."""
        frame = self.frame
        settled = np.all(ends[: frame.count] == -ends[frame.count :], axis=1)[frame.column]
        if settled.size * len(numbers.of) < _SETTLED or settled.mean() < self.share:
            return False
        rest = narrowed(frame, numbers, ends)
        if rest is None:
            return False
        price = least - rest.frame.least_price(rest.numbers, rest.ends)
        best = self.best[numbers.of] - price
        inner = _Search(rest.frame, best.copy(), self.left, _SHARE)
        inner._branch(rest.numbers, rest.ends)
        better = inner.best < best
        self.found[:, numbers.of[better]] = rest.filled(inner.found)[:, better]
        self.best[numbers.of[better]] = (inner.best + price)[better]
        self.open[numbers.of] |= inner.open
        self.left = inner.left
        return True

    def _branch(self, numbers: Numbers, ends: Floats) -> None:
        """All cases within ends from which nothing follows any more."""
        frame, count = self.frame, self.frame.count
        free = (ends[:count] + ends[count:] < -0.5) & frame.integer[:, None]
        places = np.flatnonzero(free.any(axis=1))
        least = frame.least_price(numbers, ends)
        if not places.size:
            self._keep(numbers, ends[:count], least)
        elif self._narrowed(numbers, ends, least):
            return
        elif frame.binary[places].any():
            self._choose(numbers, ends, least, places[frame.binary[places]])
        else:
            self._split(numbers, ends, least, places)

    def _choose(self, numbers: Numbers, ends: Floats, least: Floats, places: Ints) -> None:
        """The dearer half of these choices not made, or one of them, from the cheapest on."""
        price = numbers.price[places].sum(axis=1)
        dear = places[np.argsort(price, kind="stable")][len(places) // 2 :]
        other, without = self.frame.count, ends.copy()
        without[other + dear] = 0
        self.find(numbers, without)
        for place in dear:
            more = numbers.price[place] * (1 - ends[place])  # some may have it already
            chosen = (ends[other + place] < -0.5) & self._better(numbers, least + more)
            if chosen.any():
                case = ends[:, chosen]
                case[place] = 1
                self.find(numbers.take(chosen), case)
            ends[other + place] = np.maximum(0, ends[other + place])

    def _split(self, numbers: Numbers, ends: Floats, least: Floats, places: Ints) -> None:
        """All of these integers as near to 0 as may be; then one of them there, or below that, or above."""
        place, other = int(places[np.argmax(self.frame.degree[places])]), self.frame.count
        if len(places) > 1:
            case = ends.copy()
            case[places] = np.clip(0, ends[places], -ends[other + places])
            case[other + places] = -case[places]
            self.find(numbers, case)
        other += place
        low, high = ends[place], -ends[other]
        middle = np.clip(0, low, high)
        for start, end in ((middle, middle), (low, middle - 1), (middle + 1, high)):
            chosen = (start <= end) & self._better(numbers, least)
            if chosen.any():
                case = ends[:, chosen]
                case[place], case[other] = start[chosen], -end[chosen]
                self.find(numbers.take(chosen), case)

    def _better(self, numbers: Numbers, price: Floats) -> Bools:
        """Where this is less than the best so far."""
        best = self.best[numbers.of]
        return np.asarray(price < best - EQUAL * np.minimum(np.maximum(1, best), _MOST))

    def _keep(self, numbers: Numbers, values: Floats, price: Floats) -> None:
        held = self.frame.holds(numbers, values)
        self.open[numbers.of[~held]] = True  # bounds were still moving
        better = held & self._better(numbers, price)
        self.best[numbers.of[better]] = price[better]
        self.found[:, numbers.of[better]] = values[:, better]

    def _follow(self, numbers: Numbers, ends: Floats) -> tuple[Numbers, Floats]:
        """Programs that may have a better answer within the ends, with all that follows from these."""
        frame = self.frame
        least = frame.least_price(numbers, ends)
        alive = self._better(numbers, least)
        spare = self.best[numbers.of] - least
        if spare.min() < _MOST:
            frame.afford(numbers, ends, spare)
        for _ in range(_ROUNDS):
            if not alive.all():
                numbers, ends = numbers.take(alive), ends[:, alive]
            alive, moved = frame.raised(numbers, ends)
            if not moved.any():
                break
        return numbers.take(alive), ends[:, alive]
