"""Equations between unknowns, and what intervals they leave to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Rows", "through"]

_ROUNDS = 50
"""Rounds of tightening intervals through equations; what is left over is found by the solver."""

Ints = npt.NDArray[np.int64]


def through(factor: Ints, least: Ints, most: Ints) -> tuple[Ints, Ints]:
    """Interval of x for which factor * x is within another one, factor not 0."""
    down, up = np.where(factor > 0, least, most), np.where(factor > 0, most, least)
    return -(-down // factor), up // factor


@dataclass(frozen=True)
class Rows:
    """Equations as arrays: the terms of all rows one after the other, with ``starts`` of rows."""

    unknown: Ints
    weight: Ints
    starts: Ints

    @staticmethod
    def of(equations: Sequence[Mapping[int, int]]) -> Rows:
        lengths = [len(equation) for equation in equations]
        return Rows(
            np.array([place for equation in equations for place in equation], np.int64),
            np.array([weight for equation in equations for weight in equation.values()], np.int64),
            np.cumsum([0, *lengths[:-1]]) if lengths else np.zeros(0, np.int64),
        )

    def row(self) -> Ints:
        """Number of the row of each term."""
        return np.repeat(np.arange(len(self.starts)), np.diff([*self.starts, len(self.unknown)]))

    def contradicted(self, low: Ints, high: Ints) -> npt.NDArray[np.bool_]:
        """Unknowns that hang together with intervals on which no answer exists (as far as tightening shows)."""
        bad = np.zeros(len(low), bool)
        if not self.starts.size:
            return bad
        low, high = low.copy(), high.copy()
        row = self.row()
        up = self.weight > 0
        for _ in range(_ROUNDS):
            least = self.weight * np.where(up, low[self.unknown], high[self.unknown])
            most = self.weight * np.where(up, high[self.unknown], low[self.unknown])
            room = least - np.add.reduceat(least, self.starts)[row]
            reach = most - np.add.reduceat(most, self.starts)[row]
            # weight * x lies within what the others leave: [reach, room]
            floor, ceil = through(self.weight, reach, room)
            before = int(low.sum() - high.sum())
            np.maximum.at(low, self.unknown, floor)
            np.minimum.at(high, self.unknown, ceil)
            bad |= low > high
            # an empty interval would spread nonsense
            low[bad], high[bad] = np.minimum(low, high)[bad], np.maximum(low, high)[bad]
            if int(low.sum() - high.sum()) == before:
                break
        return self._together(bad)

    def _together(self, bad: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """All unknowns that equations link to one of ``bad``."""
        if not bad.any():
            return bad
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        first = self.unknown[self.starts][self.row()]
        links = coo_array((np.ones(len(first)), (first, self.unknown)), shape=(len(bad), len(bad)))
        _, labels = connected_components(links, directed=False)
        return np.isin(labels, labels[bad])
