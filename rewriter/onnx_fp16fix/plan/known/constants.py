"""Ranges of constants, exact."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from onnx_fp16fix.calibrate.ranges import TensorRange
from onnx_fp16fix.graph.nodes import ConstantTensor

__all__ = ["constant_range", "small_ranges"]

_BLOCK = 1 << 18
"""Elements of a constant looked at in one go: they stay in the cache between passes (a third of the time of 4 Mi), and
mapped weights pass through memory block by block."""
_SMALL = 1 << 14
"""Elements of constants that are looked at together."""
_ZERO = bytes(4)


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


def small_ranges(tensors: Iterable[ConstantTensor]) -> dict[int, TensorRange]:
    """``constant_range`` of small FP32 constants by identity, of many at once: for a few numbers the calls into numpy
    take longer than what they do. Those in other types and places, and with elements that are not finite or zeros
    among others, are left out."""
    found: dict[int, TensorRange] = {}
    block, size = dict[int, tuple[bytes, tuple[int, ...]]](), 0
    for tensor in tensors:
        proto = tensor.proto
        if proto.data_type != TensorProto.FLOAT:
            continue
        stored = proto.raw_data
        if 0 < len(stored) <= 4 * _SMALL:
            block[id(tensor)] = stored, tuple(proto.dims[:])
            size += len(stored)
            if size > _BLOCK:
                found |= _together(block)
                block, size = {}, 0
    return found | _together(block) if block else found


def _together(block: dict[int, tuple[bytes, tuple[int, ...]]]) -> dict[int, TensorRange]:
    # a zero in front of the numbers of each, from which numpy groups the terms of a sum as in a sum of them alone
    values = np.frombuffer(b"".join(part for stored, _ in block.values() for part in (_ZERO, stored)), "<f4")
    sizes = np.array([len(stored) // 4 for stored, _ in block.values()])
    ends = np.cumsum(sizes + 1)
    heads = ends - sizes - 1
    parts = np.stack([heads + 1, ends], axis=1).reshape(-1)[:-1]  # every other part is a zero alone
    low, high = np.minimum.reduceat(values, parts)[::2], np.maximum.reduceat(values, parts)[::2]
    exact = np.abs(values).astype(np.float64)
    smallest = np.minimum.reduceat(exact, parts)[::2]
    with np.errstate(over="ignore", invalid="ignore"):
        means = np.sqrt(np.add.reduceat(np.multiply(exact, exact, out=exact), heads) / sizes)
    zero = (low == 0) & (high == 0)
    known = np.isfinite(low) & np.isfinite(high) & ((smallest > 0) | zero)
    low[zero], high[zero], smallest[zero] = 0, 0, np.inf  # -0.0 is none
    columns = (column.tolist() for column in (known, low, high, smallest, means, sizes))
    return {
        key: TensorRange(least, most, lowest, mean, size, 0, shape)
        for (key, (_, shape)), told, least, most, lowest, mean, size in zip(
            block.items(), *columns, strict=True
        )
        if told
    }
