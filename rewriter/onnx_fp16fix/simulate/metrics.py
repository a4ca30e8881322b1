"""Distances between two arrays, in pieces, so that large tensors need no large copies.

Two speeds with one meaning: float32 sums where every sum is far from the ends of float32 and all is finite, float64
where not; and many small tensors in one go, since a call of numpy costs as much as a thousand elements.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.fp16 import MIN_NORMAL

__all__ = ["Distance", "distance", "distances", "same_bits"]

Array = npt.NDArray[Any]

_CHUNK = 1 << 14  # elements: float64 copies that stay in the processor's nearest caches
_FAST_CHUNK = 1 << 16  # one float32 copy does, and longer vectors cost fewer calls
_SMALL = 1 << 12  # elements of a tensor that is measured together with others
_SAFE = 1e-25  # squares below it may have lost digits in float32


class Distance(NamedTuple):
    """See ``report.TensorError`` and ``report.Fp32Report`` for the meaning of the numbers."""

    rel_l2: float
    max_abs: float
    max_rel: float
    nonfinite: int

    def worse(self, other: Distance | None) -> Distance:
        """The larger of each number."""
        if other is None or all(map(operator.ge, self, other)):
            return self
        return Distance(
            max(self.rel_l2, other.rel_l2),
            max(self.max_abs, other.max_abs),
            max(self.max_rel, other.max_rel),
            max(self.nonfinite, other.nonfinite),
        )


_INCOMPARABLE = Distance(math.inf, math.inf, math.inf, 0)


def distance(values: Array, reference: Array, exponent: int = 0, *, relative: bool = False) -> Distance:
    """How far ``values * 2**exponent`` is from ``reference`` (both numeric, of one shape).

    For integers and booleans ``rel_l2`` is the share of elements that differ.

    Elements that are the same infinity, or NaN on both sides, count as equal. A reference that is zero everywhere
    measures the error in units of 2**-14, the smallest normal FP16 number. ``relative`` asks for ``max_rel``, which
    costs as much as all the rest and is 0 otherwise.
    """
    if values.shape != reference.shape:
        return _INCOMPARABLE
    if not np.issubdtype(reference.dtype, np.inexact):
        return _label_distance(values, reference)
    if not relative and values.dtype == reference.dtype == np.float32:
        fast = _fast_distance(values.reshape(-1), reference.reshape(-1), np.float32(2.0) ** exponent)
        if fast is not None:
            return fast
    error = norm = max_abs = max_rel = 0.0
    bad = 0
    for a, b in _pieces(values, reference, exponent):
        difference, wrong = _difference(a, b)
        bad += int(np.count_nonzero(wrong))
        magnitude = np.abs(difference)
        # Not @: its threads spin on vectors this short and cost twenty times the work.
        error += float(np.einsum("i,i", difference, difference))
        norm += float(np.einsum("i,i", b, b))
        max_abs = max(max_abs, float(magnitude.max(initial=0.0)))
        if relative:
            ratio = np.divide(magnitude, np.abs(b), out=np.zeros_like(b), where=b != 0)
            max_rel = max(max_rel, float(ratio.max()))
    if bad:
        return Distance(math.inf, math.inf, math.inf, bad)
    return Distance(_ratio(error, norm, values.size), max_abs, max_rel, 0)


def _label_distance(values: Array, reference: Array) -> Distance:
    """Integers and booleans (labels, indices) are right or wrong: the share of elements that differ."""
    wrong = np.count_nonzero(values != reference)
    share = wrong / reference.size if wrong else 0.0
    return Distance(share, float(bool(wrong)), share, 0)


def _ratio(error: float, norm: float, size: int) -> float:
    return math.sqrt(error / (norm or size * MIN_NORMAL**2)) if error else 0.0


def _fast_distance(a: Array, b: Array, factor: np.float32) -> Distance | None:
    """The distance in float32, or None where its sums might be wrong or something is not finite."""
    if not np.isfinite(factor):
        return None
    error = norm = max_abs = 0.0
    buffer = np.empty(min(a.size, _FAST_CHUNK), np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for start in range(0, a.size, _FAST_CHUNK):
            x, y = a[start : start + _FAST_CHUNK], b[start : start + _FAST_CHUNK]
            difference = buffer[: x.size]
            if factor != 1:
                x = np.multiply(x, factor, out=difference)
            np.subtract(x, y, out=difference)
            error += float(np.einsum("i,i", difference, difference))
            norm += float(np.einsum("i,i", y, y))
            max_abs = max(max_abs, float(difference.max()), -float(difference.min()))
    if not math.isfinite(error + norm) or norm < _SAFE or (max_abs and error < _SAFE):
        return None
    return Distance(_ratio(error, norm, a.size), max_abs, 0.0, 0)


def distances(
    values: Mapping[str, Array],
    references: Mapping[str, Array],
    names: Sequence[str],
    exponents: Mapping[str, int],
) -> dict[str, Distance]:
    """``distance`` of each named tensor, with its exponent (0 if it has none)."""
    small = [
        name
        for name in names
        if 0 < references[name].size <= _SMALL and _alike(values[name], references[name])
    ]
    together = _together(values, references, small, exponents) if len(small) > 1 else {}
    return {
        name: together.get(name) or distance(values[name], references[name], exponents.get(name, 0))
        for name in names
    }


def _alike(a: Array, b: Array) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype == np.float32


def _together(
    values: Mapping[str, Array],
    references: Mapping[str, Array],
    names: Sequence[str],
    exponents: Mapping[str, int],
) -> dict[str, Distance]:
    """Distances of tensors laid end to end, none of them empty."""
    sizes = np.array([references[name].size for name in names])
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1]))
    a, b = (
        np.concatenate([source[name].reshape(-1) for name in names]).astype(np.float64)
        for source in (values, references)
    )
    scales = [exponents.get(name, 0) for name in names]
    if any(scales):
        a = np.ldexp(a, np.repeat(scales, sizes))
    difference, wrong = _difference(a, b)
    bad = np.add.reduceat(wrong, starts, dtype=np.int64).tolist()
    errors = np.add.reduceat(difference * difference, starts).tolist()
    norms = np.add.reduceat(b * b, starts).tolist()
    largest = np.maximum.reduceat(np.abs(difference), starts).tolist()
    rows = zip(names, bad, errors, norms, largest, sizes.tolist(), strict=True)
    return {
        name: Distance(math.inf, math.inf, math.inf, count)
        if count
        else Distance(_ratio(error, norm, size), max_abs, 0.0, 0)
        for name, count, error, norm, max_abs, size in rows
    }


def _pieces(values: Array, reference: Array, exponent: int) -> Iterator[tuple[Array, Array]]:
    flat_a, flat_b = values.reshape(-1), reference.reshape(-1)
    for start in range(0, flat_a.size, _CHUNK):
        a = flat_a[start : start + _CHUNK].astype(np.float64)
        b = flat_b[start : start + _CHUNK].astype(np.float64)
        yield np.ldexp(a, exponent) if exponent else a, b


def _difference(a: Array, b: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
    """``a - b``, 0 where either is not finite, and the places where they are not so alike.

    Zeroes such places in ``b``, so that norms stay finite.
    """
    with np.errstate(invalid="ignore"):
        difference = a - b
        # One sum tells whether anything is not finite: far cheaper than looking at every element.
        finite = math.isfinite(float(difference.sum()))
    if finite:
        return difference, np.zeros(a.shape, np.bool_)
    off = ~np.isfinite(a) | ~np.isfinite(b)
    alike = (a == b) | (np.isnan(a) & np.isnan(b))
    difference[off] = 0.0
    b[off] = 0.0
    return difference, off & ~alike


def same_bits(values: Array, reference: Array) -> bool:
    """Equal type, shape and bits; a NaN equals any NaN at its place."""
    if values.dtype != reference.dtype or values.shape != reference.shape:
        return False
    if not np.issubdtype(values.dtype, np.floating):
        return bool(np.array_equal(values, reference))
    bits = np.dtype(f"u{values.dtype.itemsize}")
    a, b = np.ascontiguousarray(values), np.ascontiguousarray(reference)
    equal = a.reshape(-1).view(bits) == b.reshape(-1).view(bits)
    return bool(equal.all()) or bool((equal | (np.isnan(a) & np.isnan(b)).reshape(-1)).all())
