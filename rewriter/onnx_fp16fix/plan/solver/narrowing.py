"""A frame without what is known: settled variables, rows that bounds imply, integers that equations tie to others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnx_fp16fix.plan.solver.arrays import EQUAL, Floats, Ints
from onnx_fp16fix.plan.solver.frames import Bools, Frame, Numbers

__all__ = ["Narrowed", "narrowed"]


@dataclass(frozen=True)
class Narrowed:
    """What is left of a frame: the variables ``columns``, with numbers and ends of their own."""

    frame: Frame
    numbers: Numbers
    ends: Floats
    columns: Ints
    _known: Floats
    _ties: _Ties

    def filled(self, values: Floats) -> Floats:
        """Values of all variables from those of ``columns``."""
        every = self._known
        every[self.columns] = values
        for place in self._ties.places():
            every[place] = self._ties.value(place, every)
        return every


def narrowed(frame: Frame, numbers: Numbers, ends: Floats) -> Narrowed | None:
    """What is left of the frame within these ends. None where that contradicts a row."""
    low, high = ends[: frame.count], -ends[frame.count :]
    settled = np.all(low == high, axis=1)[frame.column]
    asks = np.any(frame.most(numbers, ends) > numbers.bound + EQUAL, axis=1)[frame.rows.of]
    value = numbers.size * frame.sign
    taken = value * low[frame.column]
    taken[~settled] = 0
    bound = numbers.bound - frame.rows.reduce(np.add, taken)
    if len(np.unique(frame.rows.of[asks])) > len(np.unique(frame.rows.of[asks & ~settled])):
        return None
    kept = np.flatnonzero(asks & ~settled)
    rest = _Rows(frame.rows.of[kept], frame.column[kept], value[kept], bound)
    ties = _Ties(rest, frame)
    rest = ties.replaced(rest)
    columns, column = np.unique(rest.column, return_inverse=True)
    chained = np.isin(frame.heads, columns)
    inner = Frame(
        rest.row, column, rest.value[:, 0] > 0, frame.integer[columns], frame.binary[columns],
        frame.paid[columns], frame.degree[columns], np.searchsorted(columns, frame.heads[chained]),
    )  # fmt: skip
    own = Numbers(
        np.arange(len(numbers.of)), np.abs(rest.value[inner.rows.order]), rest.bound[inner.rows.labels],
        numbers.price[columns], numbers.lengths[:, chained], numbers.prices[:, chained],
    )  # fmt: skip
    # no row asks about the others any more: integers without a price are as near to 0 as may be
    near = frame.integer[:, None] & (numbers.price == 0)
    known = np.where(near, np.clip(0, low, high), low)
    ends = ties.tightened(ends)[np.concatenate([columns, frame.count + columns])]
    return Narrowed(inner, own, ends, columns, known, ties)


@dataclass(frozen=True)
class _Rows:
    """Entries with their signed coefficients, and the most that each row may come to."""

    row: Ints
    column: Ints
    value: Floats
    bound: Floats


class _Ties:
    """Each integer as ``sign`` times another plus ``shift``, or as itself."""

    def __init__(self, rows: _Rows, frame: Frame) -> None:
        self._count = frame.count
        self._root, self._sign = np.arange(frame.count), np.ones(frame.count)
        self._shift: dict[int, Floats] = {}
        """By place, of those that are not themselves."""
        self._degree = frame.degree
        self._find(rows, frame.integer & ~frame.binary & ~frame.paid)

    def places(self) -> list[int]:
        """Of those that are another."""
        return list(self._shift)

    def value(self, place: int, values: Floats) -> Floats:
        """What follows for one of them from the values of all others."""
        return np.asarray(self._sign[place] * values[self._root[place]] + self._shift[place])

    def _find(self, rows: _Rows, may: Bools) -> None:
        """Follow equations, which are two opposite rows, of two variables that ``may`` be tied."""
        order = np.lexsort((rows.column, rows.row))
        row, column, value = rows.row[order], rows.column[order], rows.value[order]
        simple = may[column] & np.all(np.abs(value) == 1, axis=1)
        first = np.flatnonzero(np.bincount(row)[row] == 2)[::2]
        seen: dict[tuple[int, int, float, float], int] = {}
        for one in first[simple[first] & simple[first + 1]].tolist():
            a, b = column[one : one + 2].tolist()
            x, y = value[one : one + 2, 0].tolist()
            seen[a, b, x, y] = row[one]
            other = seen.get((a, b, -x, -y))
            if other is not None:
                total = rows.bound[row[one]]
                if np.array_equal(total, -rows.bound[other]) and np.array_equal(total, np.rint(total)):
                    self._tie(a, x, b, y, total)

    def _tie(self, a: int, x: float, b: int, y: float, total: Floats) -> None:
        """x times variable a and y times b make so much, where x and y are 1 or -1."""
        for place, factor in ((a, x), (b, y)):
            if place in self._shift:
                total = total - factor * self._shift[place]
        x, y = x * self._sign[a], y * self._sign[b]
        a, b = int(self._root[a]), int(self._root[b])
        if a == b:
            return
        if (self._degree[a], -a) < (self._degree[b], -b):
            a, b, x, y = b, a, y, x
        for place in np.flatnonzero(self._root == b).tolist():  # b = y * total - x * y * a
            shift = self._sign[place] * y * total
            self._shift[place] = self._shift[place] + shift if place in self._shift else shift
            self._root[place], self._sign[place] = a, -x * y * self._sign[place]

    def replaced(self, rows: _Rows) -> _Rows:
        """Rows that ask about what others are tied to, where their coefficients keep one sign."""
        if not self._shift:
            return rows
        bound = rows.bound.copy()
        for entry in np.flatnonzero(np.isin(rows.column, self.places())).tolist():
            bound[rows.row[entry]] -= rows.value[entry] * self._shift[int(rows.column[entry])]
        signed = rows.value * self._sign[rows.column, None]
        key = rows.row * self._count + self._root[rows.column]
        _, first, of = np.unique(key, return_index=True, return_inverse=True)
        value = signed[first]
        for entry in np.setdiff1d(np.arange(len(key)), first).tolist():
            value[of[entry]] += signed[entry]
        left = np.any(value != 0, axis=1)
        row, column, value = rows.row[first[left]], self._root[rows.column[first[left]]], value[left]
        empty = np.setdiff1d(rows.row, row)
        one_sign = np.all(value > 0, axis=1) | np.all(value < 0, axis=1)
        if not one_sign.all() or (bound[empty] < -EQUAL).any():
            self._shift.clear()
            return rows
        return _Rows(row, column, value, bound)

    def tightened(self, ends: Floats) -> Floats:
        """Ends of what others are tied to, with what those of the others say."""
        ends = ends.copy()
        for place, shift in self._shift.items():
            root, above, below = self._root[place], ends[place] - shift, ends[self._count + place] + shift
            if self._sign[place] < 0:
                above, below = below, above
            np.maximum(ends[root], above, out=ends[root])
            np.maximum(ends[self._count + root], below, out=ends[self._count + root])
        return ends
