"""Ranges of constants, exact."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.calibrate.ranges import TensorRange

__all__ = ["constant_range"]

_BLOCK = 1 << 18
"""Elements of a constant looked at in one go: they stay in the cache between passes (a third of the time of 4 Mi), and
mapped weights pass through memory block by block."""


def constant_range(values: npt.NDArray[Any] | None) -> TensorRange:
    """The range of these values; ``mean_abs`` is the root mean square of those other than 0."""
    if values is None or values.dtype.kind != "f" or not values.size:
        return TensorRange(0.0, 0.0, shape=() if values is None else values.shape)
    low, high, smallest = math.inf, -math.inf, math.inf
    squares, nonzero, nonfinite = 0.0, 0, 0
    flat = np.asarray(values).reshape(-1)  # a mapped file is slow to slice
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        least, most = (
            float(np.minimum.reduce(block)),
            float(np.maximum.reduce(block)),
        )  # NaN if one element is
        if not math.isfinite(least) or not math.isfinite(most):
            finite = np.isfinite(block)
            nonfinite += int(block.size - np.count_nonzero(finite))
            block = block[finite]
            least, most = (float(block.min()), float(block.max())) if block.size else (0.0, 0.0)
        count = int(np.count_nonzero(block))
        if count:
            magnitudes = np.abs(block if count == block.size else block[block != 0])
            low, high = min(low, least), max(high, most)
            smallest = min(smallest, float(np.minimum.reduce(magnitudes)))
            exact = magnitudes.astype(np.float64)
            squares += float(np.add.reduce(exact * exact))
            nonzero += count
    rms = math.sqrt(squares / nonzero) if nonzero else 0.0
    if not nonzero:
        low = high = 0.0
    return TensorRange(low, high, smallest, rms, int(flat.size), nonfinite, values.shape)
