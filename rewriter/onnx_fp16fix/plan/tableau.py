"""Variables and rows of a program as they are asked for, and the arrays that they make.

Which rows the bounds of the variables imply, and how much an escape has to make up for, is found for all rows at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.plan.arrays import Arrays, Floats, Ints

__all__ = ["Tableau", "Terms", "combine"]

Terms = dict[int, float]
"""A linear expression: coefficient by variable; the key ``Tableau.ONE`` carries the constant."""

_BITS = -2
"""Column of a variable for lost bits: it has no number before it is known that its row is there."""
_ESCAPE = math.nan
"""Coefficient that makes a row hold where its variable is 1, whatever the others are."""


@dataclass
class Tableau:
    """Variables with bounds and costs, and rows between bounds; those that the variables' bounds imply are left out."""

    ONE = -1
    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    integer: list[bool] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)
    _lengths: list[int] = field(default_factory=list)
    """Terms of each row."""
    _columns: list[int] = field(default_factory=list)
    _values: list[float] = field(default_factory=list)
    _row_lower: list[float] = field(default_factory=list)
    _row_upper: list[float] = field(default_factory=list)
    _bits: list[tuple[float, float, int]] = field(default_factory=list)
    """Of each column ``_BITS``, in their order: how many, the price of one, and the variables there were before."""
    _arrays: Arrays | None = None

    def variable(self, lower: float, upper: float, cost: float = 0.0, *, integer: bool = False) -> int:
        """Add a variable and return its number, which ``arrays`` keeps if no bits to lose were asked for before."""
        self.lower.append(lower)
        self.upper.append(upper)
        self.integer.append(integer)
        self.cost.append(cost)
        return len(self.cost) - 1

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
        values: tuple[float, float, float, float],
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

    def row(self, terms: Terms, lower: float = -math.inf, upper: float = math.inf) -> None:
        """Add lower <= terms <= upper."""
        constant = terms.get(self.ONE)
        if constant is not None:
            terms = {variable: value for variable, value in terms.items() if variable != self.ONE}
            lower, upper = lower - constant, upper - constant
        self._columns += terms
        self._values += terms.values()
        self._lengths.append(len(terms))
        self._row_lower.append(lower)
        self._row_upper.append(upper)

    def at_least(self, terms: Terms, lowest: float, escape: Terms) -> None:
        """Add terms >= lowest, unless ``escape``, which is 0 or 1, is 1."""
        if self.ONE not in escape:
            self.row(terms, lower=lowest)
            if escape:
                self._append(escape, _ESCAPE)

    def at_most(
        self, terms: Terms, highest: float, escape: Terms, lost: Sequence[tuple[float, float]] = ()
    ) -> None:
        """Add terms <= highest + bits lost, unless ``escape``, which is 0 or 1, is 1.

        ``lost``: so many bits at such a price each, rising.
        """
        if self.ONE not in escape:
            self.row(terms, upper=highest)
            if escape:
                self._append(escape, _ESCAPE)
            if lost:
                self._append((_BITS,) * len(lost), -1.0)
                before = len(self.cost)
                self._bits += [(units, price, before) for units, price in lost]

    def _append(self, columns: dict[int, float] | tuple[int, ...], value: float) -> None:
        """Add terms to the last row."""
        self._columns += columns
        self._values += (value,) * len(columns)
        self._lengths[-1] += len(columns)

    def variables(self, lower: Floats, upper: Floats, cost: Floats, integer: npt.NDArray[np.bool_]) -> None:
        """Add many variables, numbered on from those there are."""
        self.lower += lower.tolist()
        self.upper += upper.tolist()
        self.cost += cost.tolist()
        self.integer += integer.tolist()

    def rows(self, rows: Ints, columns: Ints, weights: npt.NDArray[Any], lower: float, upper: float) -> None:
        """Add many rows between the same bounds, from their terms in order of rows, numbered from 0."""
        lengths = np.bincount(rows).tolist()
        self._lengths += lengths
        self._columns += columns.tolist()
        self._values += weights.astype(np.float64).tolist()
        self._row_lower += [lower] * len(lengths)
        self._row_upper += [upper] * len(lengths)

    def arrays(self) -> Arrays:
        """All that was asked for until the first call."""
        if self._arrays is None:
            self._arrays = self._written()
        return self._arrays

    def _written(self) -> Arrays:
        count = len(self._lengths)
        rows = np.repeat(np.arange(count), self._lengths)
        columns, values = np.asarray(self._columns, np.int64), np.asarray(self._values, np.float64)
        row_lower, row_upper = (
            np.asarray(self._row_lower, np.float64),
            np.asarray(self._row_upper, np.float64),
        )
        lower, upper = np.asarray(self.lower, np.float64), np.asarray(self.upper, np.float64)
        cost, integer = np.asarray(self.cost, np.float64), np.asarray(self.integer, np.bool_)
        bits, escapes = columns == _BITS, np.isnan(values)
        own = ~(bits | escapes)
        # least and most of each row without its escape and its bits
        of, weight = columns[own], values[own]
        low, high = weight * lower[of], weight * upper[of]
        least = np.bincount(rows[own], np.minimum(low, high), count)
        most = np.bincount(rows[own], np.maximum(low, high), count)
        short, over = row_lower - least, most - row_upper
        kept = (short > 0) | (over > 0)
        values[escapes] = np.where(short > 0, short, -over)[rows[escapes]]
        if self._bits:
            units, prices, before = np.asarray(self._bits, np.float64)[kept[rows[bits]]].T
            places = before.astype(np.int64)
            every = np.arange(len(cost))
            numbers = every + np.searchsorted(places, every, side="right")
            columns[~bits] = numbers[columns[~bits]]
            columns[bits & kept[rows]] = places + np.arange(len(places))
            lower, upper = np.insert(lower, places, 0.0), np.insert(upper, places, units)
            cost, integer = np.insert(cost, places, prices), np.insert(integer, places, False)
        terms = kept[rows] & (values != 0)
        numbered = np.cumsum(kept) - 1
        return Arrays(
            lower, upper, integer, cost,
            numbered[rows[terms]], columns[terms], values[terms], row_lower[kept], row_upper[kept],
        )  # fmt: skip


def combine(parts: Iterable[tuple[Terms, float]]) -> Terms:
    """Weighted sum of expressions."""
    total: Terms = {}
    for terms, weight in parts:
        for variable, value in terms.items():
            total[variable] = total.get(variable, 0.0) + weight * value
    return total
