"""A small mixed-integer linear program: variables, rows, and HiGHS behind ``scipy.optimize.milp``."""

from __future__ import annotations

import ctypes
import math
import os
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.plan.arrays import Arrays, stacked
from onnx_fp16fix.plan.blocks import solve_apart

__all__ = ["Program", "Terms", "combine", "solve_each"]

_GAP, _GAP_LARGE, _LARGE = 1e-3, 0.15, 6000
"""Large programs stop at a plan proven within 15 % of the best price (usually it is within 5 %): every plan is right,
only its price differs, and the last per cents take most of the time."""
_LEAST = 0.5
"""Seconds that each block has at least."""

Terms = dict[int, float]
"""A linear expression: coefficient by variable; the key ``Program.ONE`` carries the constant."""


@dataclass
class Program:
    """Minimise cost . x subject to rows and bounds; built variable by variable, solved once."""

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

    def variable(self, lower: float, upper: float, cost: float = 0.0, *, integer: bool = False) -> int:
        """Add a variable and return its number."""
        self.lower.append(lower)
        self.upper.append(upper)
        self.integer.append(integer)
        self.cost.append(cost)
        return len(self.cost) - 1

    def chain(self, lengths: Sequence[tuple[float, float]]) -> range:
        """Add a variable for each length, of so many units at such a price each."""
        start, count = len(self.cost), len(lengths)
        self.lower += (0.0,) * count
        self.upper += [units for units, _ in lengths]
        self.integer += (False,) * count
        self.cost += [price for _, price in lengths]
        return range(start, start + count)

    def magnitude(self, of: int, most: float, price: float) -> None:
        """Add a variable that is the absolute value of another, where its price keeps it small."""
        size = self.variable(0, most, price)
        if self.upper[of] > 0:
            self.add((size, of), (1.0, -1.0), 0, math.inf)
        if self.lower[of] < 0:
            self.add((size, of), (1.0, 1.0), 0, math.inf)

    def switch(self, of: int, most: float, price: float) -> None:
        """Add a variable that is 1 unless another, which is within ``most`` of 0, is 0."""
        used = self.variable(0, 1, price, integer=True)
        if most > 0:
            self.add((of, used), (1.0, -most), -math.inf, 0)
            self.add((of, used), (1.0, most), 0, math.inf)

    def least(self, terms: Terms, weight: float = 1.0) -> float:
        """Smallest value that weight * terms can take within the variables' bounds."""
        total, lower, upper = 0.0, self.lower, self.upper
        for variable, value in terms.items():
            factor = weight * value
            if variable < 0:
                total += factor
            else:
                total += factor * (lower[variable] if factor > 0 else upper[variable])
        return total

    def row(self, terms: Terms, lower: float = -math.inf, upper: float = math.inf) -> None:
        """Add lower <= terms <= upper; rows that the variables' bounds imply are left out."""
        constant = terms.get(self.ONE)
        if constant is not None:
            terms = {variable: value for variable, value in terms.items() if variable != self.ONE}
            lower, upper = lower - constant, upper - constant
        smallest = largest = 0.0
        lowers, uppers = self.lower, self.upper
        for variable, value in terms.items():
            if value > 0:
                smallest += value * lowers[variable]
                largest += value * uppers[variable]
            else:
                smallest += value * uppers[variable]
                largest += value * lowers[variable]
        if smallest < lower or largest > upper:
            self.add(terms, terms.values(), lower, upper)

    def add(self, columns: Collection[int], values: Iterable[float], lower: float, upper: float) -> None:
        """Add a row as it is, from its variables and their coefficients."""
        self._columns += columns
        self._values += values
        self._lengths.append(len(columns))
        self._row_lower.append(lower)
        self._row_upper.append(upper)

    def variables(
        self,
        lower: npt.NDArray[np.float64],
        upper: npt.NDArray[np.float64],
        cost: npt.NDArray[np.float64],
        integer: npt.NDArray[np.bool_],
    ) -> None:
        """Add many variables, numbered on from those there are."""
        self.lower += lower.tolist()
        self.upper += upper.tolist()
        self.cost += cost.tolist()
        self.integer += integer.tolist()

    def rows(
        self,
        rows: npt.NDArray[np.int64],
        columns: npt.NDArray[np.int64],
        weights: npt.NDArray[Any],
        lower: float,
        upper: float,
    ) -> None:
        """Add many rows between the same bounds, from their terms in order of rows, numbered from 0."""
        if not rows.size:
            return
        least, most = np.asarray(self.lower)[columns], np.asarray(self.upper)[columns]
        smallest = np.bincount(rows, weights * np.where(weights > 0, least, most))
        largest = np.bincount(rows, weights * np.where(weights > 0, most, least))
        kept = (smallest < lower) | (largest > upper)  # the others are implied
        terms = kept[rows]
        self._lengths += np.bincount(rows)[kept].tolist()
        self._columns += columns[terms].tolist()
        self._values += weights[terms].astype(np.float64).tolist()
        self._row_lower += [lower] * int(kept.sum())
        self._row_upper += [upper] * int(kept.sum())

    def solve(self, time_limit: float | None = None) -> npt.NDArray[np.float64] | None:
        """Values of all variables, integers exact; None if no solution was found within ``time_limit`` seconds
        (None: 10, and one more per 40,000 variables).

        HiGHS is deterministic for a given program, short of the time limit.
        """
        return _solve(self.arrays(), time_limit)

    def arrays(self) -> Arrays:
        """The program as arrays."""
        values = np.asarray(self._values, np.float64)
        filled = values != 0
        return Arrays(
            np.asarray(self.lower, np.float64),
            np.asarray(self.upper, np.float64),
            np.asarray(self.integer, np.bool_),
            np.asarray(self.cost, np.float64),
            np.repeat(np.arange(len(self._lengths)), self._lengths)[filled],
            np.asarray(self._columns, np.int64)[filled],
            values[filled],
            np.asarray(self._row_lower, np.float64),
            np.asarray(self._row_upper, np.float64),
        )


def solve_each(
    programs: Sequence[Program], time_limit: float | None = None
) -> list[npt.NDArray[np.float64]] | None:
    """Values of the variables of each program, all within one time limit; None where one has no solution."""
    if len(programs) == 1:
        values = programs[0].solve(time_limit)
        return None if values is None else [values]
    values = _solve(stacked([program.arrays() for program in programs]), time_limit, small=0)
    ends = np.cumsum([len(program.cost) for program in programs])
    return None if values is None else np.split(values, ends[:-1])


def _solve(
    program: Arrays, time_limit: float | None, small: int | None = None
) -> npt.NDArray[np.float64] | None:
    seconds = 10 + len(program.cost) / 40_000 if time_limit is None else time_limit
    ends = time.monotonic() + seconds
    return solve_apart(
        program, lambda part, share: _highs(part, max(_LEAST, share * (ends - time.monotonic()))), small
    )


def _highs(program: Arrays, seconds: float) -> npt.NDArray[np.float64] | None:
    """Solved as a whole."""
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    shape = (len(program.row_lower), len(program.cost))
    matrix = csr_array((program.values, (program.rows, program.columns)), shape=shape)
    with _silent_stdout():
        result = milp(
            program.cost,
            integrality=program.integer.astype(np.uint8),
            bounds=Bounds(program.lower, program.upper),
            constraints=LinearConstraint(matrix, program.row_lower, program.row_upper),
            options={
                "time_limit": seconds,
                "mip_rel_gap": _GAP if len(program.cost) <= _LARGE else _GAP_LARGE,
            },
        )
    if result.x is None:
        return None
    values: npt.NDArray[np.float64] = np.where(program.integer, np.rint(result.x), result.x)
    return values


@contextmanager
def _silent_stdout() -> Iterator[None]:
    """HiGHS prints some lines past its own switch, and stdout belongs to the JSON document."""
    sys.stdout.flush()
    with open(os.devnull, "wb") as sink:
        saved = os.dup(1)
        try:
            os.dup2(sink.fileno(), 1)
            yield
        finally:
            _flush_c()  # into a pipe C holds lines back, and they would come out after all
            os.dup2(saved, 1)
            os.close(saved)


def _flush_c() -> None:
    with suppress(OSError, TypeError, AttributeError):  # where the C library is not the process itself
        ctypes.CDLL(None).fflush(None)


def combine(parts: Iterable[tuple[Terms, float]]) -> Terms:
    """Weighted sum of expressions."""
    total: Terms = {}
    for terms, weight in parts:
        for variable, value in terms.items():
            total[variable] = total.get(variable, 0.0) + weight * value
    return total
