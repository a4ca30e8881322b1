"""Rows written family by family, each with a key that says where it stands among all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.plan.solver.arrays import Floats, Ints
from onnx_fp16fix.plan.solver.tableau import BIT, ESCAPE, Rows, ranges

__all__ = ["ABSENT", "Exponents", "Mask", "Sheet"]

ABSENT = -1
"""Column of no term."""
Mask = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Exponents:
    """Exponents of operands or tensors, each ``variable + shift + fixed`` (``ABSENT``: no such variable); ``keys``: of
    rows about it; ``escape``: the precision that takes it out of what FP16 asks."""

    keys: Ints
    variable: Ints
    shift: Ints
    fixed: Floats
    escape: Ints

    def at(self, chosen: Mask | Sequence[int]) -> Exponents:
        """Some of them."""
        where = np.asarray(chosen, np.bool_ if isinstance(chosen, np.ndarray) else np.int64)
        return Exponents(
            self.keys[where], self.variable[where], self.shift[where], self.fixed[where], self.escape[where]
        )

    def terms(self, weight: float | Floats = 1.0) -> list[tuple[Ints, float | Floats]]:
        """Of a row, but for ``fixed``."""
        return [(self.variable, weight), (self.shift, weight)]


class Sheet:
    """Collects families of rows; those of equal keys stay in the order in which they were added."""

    def __init__(self) -> None:
        self._keys: list[Ints] = []
        self._lengths: list[Ints] = []
        self._columns: list[Ints] = []
        self._values: list[Floats] = []
        self._bounds: list[Floats] = []
        self._bits: list[Ints] = []
        self._lost: list[Floats] = []

    def between(self, of: Exponents, place: int, lower: float | Ints, upper: float | Ints) -> None:
        """lower <= exponent <= upper; ``place`` is added to the keys."""
        self.add(of.keys + place, of.terms(), lower - of.fixed, upper - of.fixed)

    def at_least(self, of: Exponents, place: int, lowest: Floats, weight: float | Floats = 1.0) -> None:
        """weight * exponent >= lowest, unless it escapes."""
        terms = [*of.terms(weight), (np.maximum(of.escape, ABSENT), ESCAPE)]
        self.add(of.keys + place, terms, lowest - weight * of.fixed, math.inf)

    def at_most(self, of: Exponents, place: int, highest: Floats, lost: Floats | None = None) -> None:
        """exponent <= highest + bits lost, unless it escapes; see ``add``."""
        terms = [*of.terms(), (np.maximum(of.escape, ABSENT), ESCAPE)]
        self.add(of.keys + place, terms, -math.inf, highest - of.fixed, lost)

    def add(
        self,
        keys: Ints,
        terms: Sequence[tuple[Ints, float | Floats]],
        lower: float | Floats,
        upper: float | Floats,
        lost: Floats | None = None,
    ) -> None:
        """Add rows of like terms: a column and a value for each row, or for all.

        ``lost``: [rows, steps, 2]: bits that may be lost beyond ``upper``, and the price of one, rising.
        """
        count = len(keys)
        if not count:
            return
        steps = 0 if lost is None else lost.shape[1]
        columns: Ints = np.full((count, len(terms) + steps), BIT, np.int64)
        values = np.full(columns.shape, -1.0)
        for place, (column, value) in enumerate(terms):
            columns[:, place], values[:, place] = column, value
        there = columns != ABSENT
        self._append(keys, there.sum(axis=1), columns[there], values[there], lower, upper)
        self._bits.append(np.full(count, steps, np.int64))
        if lost is not None:
            self._lost.append(lost.reshape(-1, 2))

    def add_sums(self, keys: Ints, of: Ints, columns: Ints, values: Floats, sums: Floats) -> None:
        """Add equations of any terms, ``of`` these rows; equal columns of a row are one, where the first is."""
        at, first, group = np.unique(
            of * (columns.max(initial=0) + 1) + columns, return_index=True, return_inverse=True
        )
        if len(at) < len(of):
            order = np.argsort(first)
            of, columns = of[first[order]], columns[first[order]]
            values = np.bincount(group, values).astype(np.float64)[order]
        lengths: Ints = np.bincount(of, minlength=len(keys)).astype(np.int64)
        self._append(keys, lengths, columns, values, sums, sums)
        self._bits.append(np.zeros(len(keys), np.int64))

    def _append(
        self,
        keys: Ints,
        lengths: Ints,
        columns: Ints,
        values: Floats,
        lower: float | Floats,
        upper: float | Floats,
    ) -> None:
        bounds = np.empty((len(keys), 2))
        bounds[:, 0], bounds[:, 1] = lower, upper
        self._keys.append(keys)
        self._lengths.append(lengths)
        self._columns.append(columns)
        self._values.append(values)
        self._bounds.append(bounds)

    def rows(self, casts: Ints, start: int, ends: Ints) -> Rows:
        """All rows in order, of pieces whose keys end at ``ends``. ``casts``: keys, rising, of casts, for each of which
        there are two variables, numbered from ``start``."""
        keys, lengths = np.concatenate(self._keys), np.concatenate(self._lengths)
        steps, bounds = np.concatenate(self._bits), np.concatenate(self._bounds)
        lost = np.concatenate([*self._lost, np.zeros((0, 2))])
        order = np.argsort(keys, kind="stable")
        terms = ranges((np.cumsum(lengths) - lengths)[order], lengths[order])
        bits = ranges((np.cumsum(steps) - steps)[order], steps[order])
        return Rows(
            lengths=lengths[order],
            columns=np.concatenate(self._columns)[terms],
            values=np.concatenate(self._values)[terms],
            lower=bounds[order, 0],
            upper=bounds[order, 1],
            units=lost[bits, 0],
            prices=lost[bits, 1],
            before=start + 2 * np.searchsorted(casts, np.repeat(keys[order], steps[order])),
            piece=np.searchsorted(ends, keys[order], side="right"),
        )
