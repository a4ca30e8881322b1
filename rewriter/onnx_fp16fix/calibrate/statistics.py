"""The numbers of one array, taken in numpy block by block.

Magnitudes are compared as unsigned integers: without its sign bit the pattern of an IEEE number grows with its
magnitude, and minus one it puts zero last, so that one minimum finds the smallest non-zero magnitude. Each pass runs
over a block that stays, with its copy, in a processor's caches, and is left out where the extremes of the block answer
its question. Reading the same numbers with Abs, Where, Cast and Reduce nodes inside the graph takes several times that
and a temporary each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.calibrate.exponents import count_exponents
from onnx_fp16fix.calibrate.ranges import TensorRange, exact, mean

__all__ = ["measure_array"]

_BLOCK = 1 << 18
"""Elements looked at together: a call of numpy costs as much as thousands of elements: smaller ones are slower."""
_ROW = 1 << 12
_NORMAL, _SUBNORMAL = 2.0**-14, 2.0**-24
_UNSIGNED: Final[Mapping[Any, Any]] = {np.dtype(np.float32): np.uint32, np.dtype(np.float64): np.uint64}

Array = npt.NDArray[Any]


@dataclass(slots=True)
class _Tally:
    """Sums and extremes of the blocks seen so far, as in ``TensorRange``; ``total`` is the exact sum."""

    minimum: float = math.inf
    maximum: float = -math.inf
    smallest: float = math.inf
    total: int = 0
    count: int = 0
    nan: int = 0
    below_normal: int = 0
    below_subnormal: int = 0
    beyond_2048: int = 0
    integers: int = 0


def measure_array(values: Array, *, histogram: bool = False, sample: int = -1) -> TensorRange:
    """Exact statistics of a float array; NaN and Inf are counted and left out.

    The sum behind ``mean_abs`` is that of float32 sums of blocks, right to about six digits. ``histogram`` costs
    about twice the rest. ``sample``: the number of the sample that holds the array, -1 if unknown.
    Types other than float32 and float64 are read as float32.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    dtype = flat.dtype if flat.dtype in _UNSIGNED else np.dtype(np.float32)
    tally = _Tally()
    copy = np.empty(min(flat.size, _BLOCK), dtype)
    for at in range(0, flat.size, _BLOCK):
        block = flat[at : at + _BLOCK].astype(dtype, copy=False)
        _count_block(block, copy[: block.size], tally, below=not histogram)
    counts = None
    if histogram:
        counts = count_exponents(flat, dtype, tally.smallest)
        tally.below_normal = sum(count for exponent, count in counts.items() if exponent < -14)
        tally.below_subnormal = sum(count for exponent, count in counts.items() if exponent < -24)
    return TensorRange(
        tally.minimum,
        tally.maximum,
        tally.smallest,
        mean(tally.total, tally.count),
        tally.count,
        flat.size - tally.count,
        values.shape,
        nan=tally.nan,
        below_normal=tally.below_normal,
        below_subnormal=tally.below_subnormal,
        beyond_2048=tally.beyond_2048,
        integers=tally.integers,
        minimum_sample=sample if tally.count else -1,
        maximum_sample=sample if tally.count else -1,
        nonfinite_sample=sample if tally.count < flat.size else -1,
        histogram=counts,
        exact_sum=tally.total,
    )


def _count_block(block: Array, copy: Array, tally: _Tally, *, below: bool) -> None:
    """Add a block to the tally. ``copy``: an array of its size to write in; ``below``: count small magnitudes."""
    # numpy's min and max propagate NaN, and an Inf is an extreme: two numbers show that all others are finite.
    minimum, maximum = float(block.min()), float(block.max())
    if not math.isfinite(minimum) or not math.isfinite(maximum):
        tally.nan += int(np.count_nonzero(np.isnan(block)))
        block = block[np.isfinite(block)]
        if not block.size:
            return
        copy, minimum, maximum = copy[: block.size], float(block.min()), float(block.max())
    tally.count += block.size
    tally.minimum, tally.maximum = min(tally.minimum, minimum), max(tally.maximum, maximum)
    if minimum == maximum == 0:
        return
    magnitudes = block if minimum >= 0 else np.abs(block, out=copy)
    tally.total += exact(_sum(magnitudes))
    if max(maximum, -minimum) > 2048:
        _count_beyond_2048(magnitudes, tally)
    _count_small(magnitudes, minimum, copy, tally, below=below)


def _count_beyond_2048(magnitudes: Array, tally: _Tally) -> None:
    beyond = magnitudes > 2048
    count = int(np.count_nonzero(beyond))
    if count * 16 > magnitudes.size:  # picking many out takes longer than looking at all
        whole = beyond & (np.trunc(magnitudes) == magnitudes)
    else:
        large = magnitudes[beyond]
        whole = np.trunc(large) == large
    tally.beyond_2048 += count
    tally.integers += int(np.count_nonzero(whole))


def _count_small(magnitudes: Array, minimum: float, copy: Array, tally: _Tally, *, below: bool) -> None:
    """Smallest magnitude of a block that is not all zero, and how many lie below 2**-14 and 2**-24."""
    unsigned = _UNSIGNED[magnitudes.dtype]
    bits, offset = magnitudes.view(unsigned), 0
    if minimum > 0:
        smallest = minimum
    else:
        least = bits.min() if minimum < 0 else 0
        if least == 0:  # zeros: their patterns minus one, 0 - 1 and that of -0.0, are beyond all finite ones
            bits, offset = np.subtract(bits, unsigned(1), out=copy.view(unsigned)), 1
            least = bits.min()
        smallest = float(np.array(least + unsigned(offset)).view(magnitudes.dtype))
    tally.smallest = min(tally.smallest, smallest)
    if below and smallest < _NORMAL:
        tally.below_normal += _count_below(bits, _NORMAL, magnitudes.dtype, offset)
        if smallest < _SUBNORMAL:
            tally.below_subnormal += _count_below(bits, _SUBNORMAL, magnitudes.dtype, offset)


def _count_below(bits: Array, limit: float, dtype: Any, offset: int) -> int:
    pattern = np.array(limit, dtype).view(bits.dtype) - bits.dtype.type(offset)
    return int(np.count_nonzero(bits < pattern))


def _sum(magnitudes: Array) -> float:
    # Rows of float32 sums: einsum is faster than sum(), and a short row keeps its error small.
    rows, whole = magnitudes.size // _ROW, magnitudes.size // _ROW * _ROW
    with np.errstate(over="ignore"):
        total = float(magnitudes[whole:].sum(dtype=np.float64))
        if rows:
            sums = np.einsum("ij->i", magnitudes[:whole].reshape(rows, _ROW))
            total += float(sums.sum(dtype=np.float64))
        if not math.isfinite(total):
            total = float(magnitudes.sum(dtype=np.float64))
    return min(total, float(np.finfo(np.float64).max))
