"""How many elements of an array have each exponent.

``bincount`` waits for its own last addition where neighbours share a counter, as exponents mostly do. So the exponent
of a float32, which fits into one byte, is counted in pairs: half as many additions, spread over more counters.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["count_exponents"]

_SPAN = 1 << 19
"""Elements whose exponents are gathered, a byte each, before they are counted."""
_BLOCK = 1 << 17
_FEW = 1 << 15
"""Elements that are counted sooner than a table of pairs is filled and added up."""
_BIAS, _NOT_FINITE = 127, 255
_MANTISSA_BITS = np.uint32(23)

Array = npt.NDArray[Any]


def count_exponents(flat: Array, dtype: np.dtype[Any], smallest: float) -> dict[int, int]:
    """Finite non-zero elements by exponent e, 2**e <= magnitude < 2**(e + 1); all below 2**-126 at -127.

    ``flat``: contiguous, read as ``dtype`` (float32 or float64); ``smallest``: its smallest non-zero magnitude.
    """
    if dtype != np.float32:
        return _by_frexp(flat)
    counts = np.zeros(_NOT_FINITE + 1, np.int64)
    fields = np.empty(min(flat.size, _SPAN), np.uint8)
    shifted = np.empty(min(flat.size, _BLOCK), np.uint32)
    for start in range(0, flat.size, _SPAN):
        span = flat[start : start + _SPAN]
        for at in range(0, span.size, _BLOCK):
            bits = span[at : at + _BLOCK].astype(dtype, copy=False).view(np.uint32)
            np.right_shift(bits, _MANTISSA_BITS, out=shifted[: bits.size])
            fields[at : at + bits.size] = shifted[: bits.size]  # a byte drops the sign
        counts += _count_bytes(fields[: span.size])
    counts[_NOT_FINITE] = 0
    if smallest >= 2.0 ** (1 - _BIAS):
        counts[0] = 0  # zeros only
    elif counts[0]:
        counts[0] -= flat.size - np.count_nonzero(flat)
    return {int(field) - _BIAS: int(counts[field]) for field in np.flatnonzero(counts)}


def _count_bytes(values: npt.NDArray[np.uint8]) -> Array:
    """How often each of the 256 values occurs."""
    if values.size < _FEW:
        return np.bincount(values, minlength=256)
    even = values.size & ~1
    pairs = np.bincount(values[:even].view(np.uint16), minlength=1)
    table = np.zeros((256, 256), np.int64)
    table.reshape(-1)[: pairs.size] = pairs
    counts: Array = table.sum(0) + table.sum(1)
    if even < values.size:
        counts[values[even]] += 1
    return counts


def _by_frexp(flat: Array) -> dict[int, int]:
    """For the few models with float64 tensors."""
    counted: dict[int, int] = {}
    for start in range(0, flat.size, _SPAN):
        span = flat[start : start + _SPAN]
        _, exponents = np.frexp(span[np.isfinite(span) & (span != 0)])
        found, counts = np.unique(np.maximum(exponents.astype(np.int64) - 1, -127), return_counts=True)
        for exponent, count in zip(found.tolist(), counts.tolist(), strict=True):
            counted[exponent] = counted.get(exponent, 0) + count
    return dict(sorted(counted.items()))
