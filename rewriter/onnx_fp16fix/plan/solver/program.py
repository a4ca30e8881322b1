"""A small mixed-integer linear program: variables, rows, and HiGHS behind ``scipy.optimize.milp``."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.plan.solver.arrays import Arrays
from onnx_fp16fix.plan.solver.blocks import solve_apart
from onnx_fp16fix.plan.solver.tableau import Tableau

__all__ = ["Program"]

_GAP, _GAP_LARGE, _LARGE = 1e-3, 0.15, 6000
"""Large programs stop at a plan proven within 15 % of the best price (usually it is within 5 %): every plan is right,
only its price differs, and the last per cents take most of the time."""
_LEAST = 0.5
"""Seconds that each block has at least."""


class Program(Tableau):
    """Minimise cost . x subject to rows and bounds; built variable by variable, solved once."""

    def solve(self, time_limit: float | None = None) -> npt.NDArray[np.float64] | None:
        """Values of all variables, integers exact; None if no solution was found within ``time_limit`` seconds
        (None: 10, and one more per 40,000 variables).

        HiGHS is deterministic for a given program, short of the time limit.
        """
        found = self.solve_pieces(time_limit)
        return None if found is None else found[0]

    def solve_pieces(
        self, time_limit: float | None = None
    ) -> tuple[npt.NDArray[np.float64], list[float]] | None:
        """The same, and what each piece costs."""
        arrays, order, ends = self.pieces()
        found = _solve(arrays, time_limit, None if len(ends) < 2 else 0)
        if found is None:
            return None
        values = np.empty_like(found)
        values[order] = found
        costs = zip(np.split(arrays.cost, ends[:-1]), np.split(found, ends[:-1]), strict=True)
        return values, [float(np.dot(cost, own)) for cost, own in costs]


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
