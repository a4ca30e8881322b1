"""A mixed-integer linear program as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["EQUAL", "Arrays", "Floats", "Ints", "stacked"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

EQUAL = 1e-6
"""Differences that HiGHS takes for none."""


@dataclass(frozen=True)
class Arrays:
    """Minimise ``cost . x`` subject to ``row_lower <= A x <= row_upper`` and bounds.

    A has ``values`` at (``rows``, ``columns``), ordered by row.
    """

    lower: Floats
    upper: Floats
    integer: npt.NDArray[np.bool_]
    cost: Floats
    rows: Ints
    columns: Ints
    values: Floats
    row_lower: Floats
    row_upper: Floats

    def parts(self) -> tuple[npt.NDArray[Any], ...]:
        """All of them."""
        return (
            self.lower, self.upper, self.integer, self.cost,
            self.rows, self.columns, self.values, self.row_lower, self.row_upper,
        )  # fmt: skip

    def structure(self) -> tuple[bytes, ...]:
        """All but numbers: equal for programs that ``branching`` takes together."""
        return (
            self.rows.tobytes(),
            self.columns.tobytes(),
            self.integer.tobytes(),
            (self.values > 0).tobytes(),
            np.isfinite(self.row_lower).tobytes(),
            np.isfinite(self.row_upper).tobytes(),
        )


def stacked(blocks: Sequence[Arrays]) -> Arrays:
    """Blocks as one program."""
    if len(blocks) == 1:
        return blocks[0]
    columns = np.cumsum([0, *(len(block.cost) for block in blocks)]).tolist()
    rows = np.cumsum([0, *(len(block.row_lower) for block in blocks)]).tolist()
    shifted = [
        (*block.parts()[:4], block.rows + row, block.columns + column, *block.parts()[6:])
        for block, row, column in zip(blocks, rows, columns, strict=False)
    ]
    return Arrays(*(np.concatenate(parts) for parts in zip(*shifted, strict=True)))
