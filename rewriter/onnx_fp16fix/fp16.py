"""FP16 (IEEE 754 binary16) limits and exact conversions."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = [
    "EPS",
    "MAX",
    "MIN_NORMAL",
    "TINY",
    "ceil_log2",
    "floor_log2",
    "to_float16",
]

MAX: Final = 65504.0
"""Largest finite value; 65520 and above round to infinity."""
MIN_NORMAL: Final = 2.0**-14
"""Smallest normal magnitude: below it the relative precision falls by one bit per power of two."""
TINY: Final = 2.0**-24
"""Smallest subnormal magnitude; 2**-25 and below round to zero."""
EPS: Final = 2.0**-10
"""Distance from 1 to the next larger value; rounding is off by at most half of it."""


def to_float16(values: npt.NDArray[Any]) -> npt.NDArray[np.float16]:
    """Round to nearest even, subnormals kept, signs of zeros kept, out of range to infinity; never clamps."""
    values = np.asarray(values)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if values.dtype in (np.float32, np.float64) and (small := np.abs(values) < MIN_NORMAL).any():
            # numpy sets a flag for each value that loses bits there, which takes ten times as long as to round it
            values = values.copy()
            values[small] = np.rint(values[small] * 2.0**24) * TINY
        return values.astype(np.float16)


def ceil_log2(value: float) -> int:
    """Smallest integer k with value <= 2**k, exact for every positive finite float."""
    mantissa, exponent = math.frexp(value)
    return exponent - 1 if mantissa == 0.5 else exponent


def floor_log2(value: float) -> int:
    """Largest integer k with 2**k <= value, exact for every positive finite float."""
    return math.frexp(value)[1] - 1
