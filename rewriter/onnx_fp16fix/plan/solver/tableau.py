"""Variables and rows of a program as they are asked for, and the arrays that they make.

Which rows the bounds of the variables imply, and how much an escape has to make up for, is found for all rows at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.plan.solver.arrays import Arrays, Floats, Ints

__all__ = ["BIT", "ESCAPE", "Rows", "Tableau", "ranges"]

BIT = -2
"""Column of a variable for lost bits: it has no number before it is known whether its row is there."""
ESCAPE = math.nan
"""Coefficient that makes a row hold where its variable is 1, whatever the others are."""


@dataclass(frozen=True)
class Rows:
    """Rows between bounds, with so many terms each. ``units``, ``prices``: of each column ``BIT``, in their order, how
    many bits may be lost, and the price of one; ``before``: number of the next variable when it was asked for.
    ``piece``: number of the piece that each row is of."""

    lengths: Ints
    columns: Ints
    values: Floats
    lower: Floats
    upper: Floats
    units: Floats
    prices: Floats
    before: Ints
    piece: Ints


@dataclass
class Tableau:
    """Variables with bounds and costs, and rows; those that the variables' bounds imply are left out."""

    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    integer: list[bool] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)
    _blocks: list[Rows] = field(default_factory=list)
    _lengths: list[int] = field(default_factory=list)
    """Of rows after those of the blocks; so are all below."""
    _columns: list[int] = field(default_factory=list)
    _values: list[float] = field(default_factory=list)
    _row_lower: list[float] = field(default_factory=list)
    _row_upper: list[float] = field(default_factory=list)
    _pieces: Ints | None = None
    """Of each variable."""
    _count: int = 1
    """Of pieces."""

    def variable(self, lower: float, upper: float, cost: float = 0.0, *, integer: bool = False) -> int:
        """Add a variable and return its number, which ``arrays`` keeps if no bits to lose were asked for before."""
        self.lower.append(lower)
        self.upper.append(upper)
        self.integer.append(integer)
        self.cost.append(cost)
        return len(self.cost) - 1

    def variables(self, lower: Floats, upper: Floats, cost: Floats, integer: npt.NDArray[np.bool_]) -> None:
        """Add many variables, numbered on from those there are."""
        self.lower += lower.tolist()
        self.upper += upper.tolist()
        self.cost += cost.tolist()
        self.integer += integer.tolist()

    def magnitude(self, of: int, most: float, price: float) -> None:
        """Add a variable that is the absolute value of another, where its price keeps it small."""
        size = self.variable(0, most, price)
        self._pair((size, of), (1.0, -1.0, 1.0, 1.0), (0, 0), (math.inf, math.inf))

    def switch(self, of: int, most: float, price: float) -> None:
        """Add a variable that is 1 unless another, which is within ``most`` of 0, is 0."""
        used = self.variable(0, 1, price, integer=True)
        self._pair((of, used), (1.0, -most, 1.0, most), (-math.inf, 0), (0, math.inf))

    def _pair(
        self,
        columns: tuple[int, int],
        values: tuple[float, ...],
        lower: tuple[float, float],
        upper: tuple[float, float],
    ) -> None:
        """Add two rows of the same two variables."""
        self._columns += columns
        self._columns += columns
        self._values += values
        self._lengths += (2, 2)
        self._row_lower += lower
        self._row_upper += upper

    def row(self, terms: Mapping[int, float], lower: float = -math.inf, upper: float = math.inf) -> None:
        """Add lower <= terms <= upper, from coefficients by variable."""
        self._columns += terms
        self._values += terms.values()
        self._lengths.append(len(terms))
        self._row_lower.append(lower)
        self._row_upper.append(upper)

    def rows(self, rows: Ints, columns: Ints, weights: npt.NDArray[Any], lower: float, upper: float) -> None:
        """Add many rows between the same bounds, from their terms in order of rows, numbered from 0."""
        lengths = np.bincount(rows).tolist()
        self._lengths += lengths
        self._columns += columns.tolist()
        self._values += weights.astype(np.float64).tolist()
        self._row_lower += [lower] * len(lengths)
        self._row_upper += [upper] * len(lengths)

    def add(self, rows: Rows, pieces: Ints, count: int) -> None:
        """Add many rows, once. ``pieces``: of each variable so far, numbers below ``count``; rows before these are of
        the piece of their first variable."""
        self._close()
        (before,) = self._blocks
        first = np.cumsum(before.lengths) - before.lengths
        self._blocks = [replace(before, piece=pieces[before.columns[first]]), rows]
        self._pieces, self._count = pieces, count

    def _close(self) -> None:
        """Make a block of the rows after the last one."""
        none, count = np.zeros(0), len(self._lengths)
        own = (self._columns, self._values, self._row_lower, self._row_upper)
        columns, values, lower, upper = (np.array(each, np.float64) for each in own)
        self._blocks.append(
            Rows(
                np.array(self._lengths, np.int64), columns.astype(np.int64), values, lower, upper,
                none, none, none.astype(np.int64), np.zeros(count, np.int64),
            )
        )  # fmt: skip
        for each in (self._lengths, *own):
            each.clear()

    def arrays(self) -> Arrays:
        """All that was asked for; once."""
        return self.pieces()[0]

    def pieces(self) -> tuple[Arrays, Ints, Ints]:
        """All that was asked for, piece by piece; once. With the numbers of the variables in their order there (those
        asked for before any bits to lose have theirs), and the end of each piece's."""
        self._close()
        names = [entry.name for entry in fields(Rows)]
        asked = Rows(*(np.concatenate([getattr(rows, name) for rows in self._blocks]) for name in names))
        count = len(asked.lengths)
        rows, columns, values = np.repeat(np.arange(count), asked.lengths), asked.columns, asked.values
        lower, upper = np.array(self.lower, np.float64), np.array(self.upper, np.float64)
        cost, integer = np.array(self.cost, np.float64), np.array(self.integer, np.bool_)
        piece = np.zeros(len(cost), np.int64) if self._pieces is None else self._pieces
        bits, escapes = columns == BIT, np.isnan(values)
        own = ~(bits | escapes)
        # least and most of each row without its escape and its bits
        of, weight = columns[own], values[own]
        low, high = weight * lower[of], weight * upper[of]
        short = asked.lower - np.bincount(rows[own], np.minimum(low, high), count)
        over = np.bincount(rows[own], np.maximum(low, high), count) - asked.upper
        kept = (short > 0) | (over > 0)
        values[escapes] = np.where(short > 0, short, -over)[rows[escapes]]
        there = kept[rows]
        paid = there[bits]
        places, every = asked.before[paid], np.arange(len(cost))
        columns[~bits] = (every + np.searchsorted(places, every, side="right"))[columns[~bits]]
        columns[bits & there] = places + np.arange(len(places))
        lower, upper = np.insert(lower, places, 0.0), np.insert(upper, places, asked.units[paid])
        cost, integer = np.insert(cost, places, asked.prices[paid]), np.insert(integer, places, False)
        piece = np.insert(piece, places, asked.piece[rows[bits & there]])
        terms = there & (values != 0)
        numbers = np.cumsum(kept) - 1
        made = Arrays(
            lower, upper, integer, cost,
            numbers[rows[terms]], columns[terms], values[terms], asked.lower[kept], asked.upper[kept],
        )  # fmt: skip
        if self._count == 1:
            return made, np.arange(len(cost)), np.array([len(cost)])
        order = np.argsort(piece, kind="stable")
        ends = np.cumsum(np.bincount(piece, minlength=self._count))
        return _sorted(made, order, np.argsort(asked.piece[kept], kind="stable")), order, ends


def _sorted(p: Arrays, variables: Ints, rows: Ints) -> Arrays:
    """The program with its variables and rows in these orders."""
    number = np.empty_like(variables)
    number[variables] = np.arange(len(variables))
    lengths = np.bincount(p.rows, minlength=len(rows))
    terms = ranges((np.cumsum(lengths) - lengths)[rows], lengths[rows])
    return Arrays(
        p.lower[variables], p.upper[variables], p.integer[variables], p.cost[variables],
        np.repeat(np.arange(len(rows)), lengths[rows]), number[p.columns[terms]], p.values[terms],
        p.row_lower[rows], p.row_upper[rows],
    )  # fmt: skip


def ranges(starts: Ints, lengths: Ints) -> Ints:
    """start, start + 1, ... of such a length for each, one after the other."""
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())
