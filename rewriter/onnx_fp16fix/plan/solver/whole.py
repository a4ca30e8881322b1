"""Small programs of one structure as a frame, before anything is known of their variables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_fp16fix.plan.solver.arrays import Arrays, Floats, Ints
from onnx_fp16fix.plan.solver.frames import Frame, Numbers

__all__ = ["Whole"]


class Whole:
    """Whole programs of one structure as a frame; ``fits``: whether that holds all they ask.

    Continuous variables that only add up in one row, so many units at one price and so many at a higher one, are a
    chain: it stands in the place of its first member, one variable whose price rises.
    """

    def __init__(self, programs: Sequence[Arrays]) -> None:
        first = programs[0]
        self._integer, self._count = first.integer, len(first.cost)
        parts = list(zip(*(program.parts() for program in programs), strict=True))
        self._lower, self._upper, self._cost, values, least, most = (
            np.concatenate(parts[place]).reshape(len(programs), -1).T.copy() for place in (0, 1, 3, 6, 7, 8)
        )
        above, below = np.isfinite(most[:, 0]), np.isfinite(least[:, 0])
        up, down = np.flatnonzero(above[first.rows]), np.flatnonzero(below[first.rows])
        self._row = np.concatenate(
            [(np.cumsum(above) - 1)[first.rows[up]], (np.cumsum(below) - 1 + above.sum())[first.rows[down]]]
        )
        self._column = first.columns[np.concatenate([up, down])]
        self._value = np.concatenate([values[up], -values[down]])
        self._members: list[Ints] = []
        chained = self._find_chains()
        kept = ~np.isin(self._column, [place for chain in self._members for place in chain[1:]])
        self._row, self._column, self._value = self._row[kept], self._column[kept], self._value[kept]
        continuous = np.bincount(self._row[~self._integer[self._column]], minlength=1)
        self.fits = bool(
            chained
            and continuous.max() <= 1
            and np.isfinite(self._lower).all()
            and np.isfinite(self._upper).all()
            and (self._cost >= 0).all()
        )
        self._set_out(np.concatenate([most[above], -least[below]]))

    def _find_chains(self) -> bool:
        """Whether all continuous variables that share a row make chains, as prices of lost bits do."""
        once = np.bincount(self._column, minlength=self._count) == 1
        inside = np.flatnonzero(~self._integer[self._column] & once[self._column])
        counts = np.bincount(self._row[inside], minlength=1)
        for row in np.flatnonzero(counts > 1):
            entries = inside[self._row[inside] == row]
            places = self._column[entries]
            order = np.argsort(self._cost[places].sum(axis=1), kind="stable")
            places = places[order]
            if (
                (self._value[entries] != self._value[entries[0]]).any()
                or (self._lower[places] != 0).any()
                or (np.diff(self._cost[places], axis=0) < 0).any()
            ):
                return False
            self._members.append(places)
        return True

    def _set_out(self, bound: Floats) -> None:
        programs = self._lower.shape[1]
        shape = (max(map(len, self._members), default=0), len(self._members), programs)
        lengths, prices = np.zeros(shape), np.ones(shape)
        heads = np.array([chain[0] for chain in self._members], np.int64)
        for number, chain in enumerate(self._members):
            lengths[: len(chain), number] = self._upper[chain]
            prices[: len(chain), number] = self._cost[chain]
        self.ends = np.concatenate([self._lower, -self._upper])
        self.ends[self._count + heads] = -lengths.sum(axis=0)
        for chain in self._members:  # out of the way
            self.ends[chain[1:]] = self.ends[self._count + chain[1:]] = 0
            self._cost[chain] = 0
        binary = self._integer & (self._lower == 0).all(axis=1) & (self._upper == 1).all(axis=1)
        self.frame = Frame(
            self._row, self._column, self._value[:, 0] > 0, self._integer, binary, np.any(self._cost > 0, axis=1),
            np.bincount(self._column, minlength=self._count), heads,
        )  # fmt: skip
        rows = self.frame.rows
        self.numbers = Numbers(
            np.arange(programs),
            np.abs(self._value[rows.order]),
            bound[rows.labels],
            self._cost,
            lengths,
            prices,
        )

    def spread(self, values: Floats) -> None:
        """Give members of chains their own of what the chain has."""
        for chain in self._members:
            left = values[chain[0]].copy()
            for place in chain:
                values[place] = np.minimum(left, self._upper[place])
                left -= values[place]
