"""What calibration knows of each tensor: a few exact numbers that merge over samples.

All statistics are extremes, integer counts or a sum kept as an exact integer, so merging is associative to the last
bit: however the samples are grouped, the table is the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnx_fp16fix.wording import spelled

__all__ = ["SUM_SCALE", "LimitedRange", "RangeTable", "TensorRange", "tensor_key"]

SUM_SCALE = 1074
"""Exact sums are integers in units of 2**-1074, the smallest float64: every float64 is one of them."""


def tensor_key(path: Sequence[str], name: str) -> str:
    """Key of a tensor in a table: its name in the main graph, else ``path::name``.

    ``path`` is the scope's ``ScopePath``: ``("4:body:0",)`` is the body of node 4, so its tensor ``h`` has the key
    ``4:body:0::h``; one in a nested body ``4:body:0/2:then_branch:0::h``; in a local function ``function:0::h``.
    """
    return f"{'/'.join(path)}::{name}" if path else name


@dataclass(frozen=True, slots=True)
class TensorRange:
    """Statistics of one float tensor over all samples seen; non-finite elements are counted, not measured.

    ``smallest`` is the smallest non-zero magnitude (``inf`` if every element is zero); ``mean_abs`` the mean
    magnitude over the ``count`` finite elements; ``shape`` the largest shape by number of elements. Without any finite
    element ``minimum`` is ``inf`` and ``maximum`` ``-inf``, so that merging is neutral.

    ``nan`` of the ``nonfinite`` elements are NaN. ``below_normal`` and ``below_subnormal`` count non-zero magnitudes
    below 2**-14 and 2**-24. ``beyond_2048`` counts finite magnitudes above 2048, where FP16 starts to skip integers,
    and ``integers`` those of them that are whole. ``minimum_sample``, ``maximum_sample`` and ``nonfinite_sample`` are
    the first samples (from 0) that hold an extreme or a non-finite element; -1 if unknown. ``histogram[e]`` counts
    finite non-zero elements with 2**e <= magnitude < 2**(e + 1) (all below 2**-126 at -127); None if not asked for.
    ``exact_sum`` is the sum of magnitudes in units of 2**-1074, None where ``mean_abs * count`` stands for it.
    ``calmest`` is the smallest of the largest magnitudes of samples that are not all zero; ``inf`` if unknown.
    """

    minimum: float
    maximum: float
    smallest: float = math.inf
    mean_abs: float = 0.0
    count: int = 0
    nonfinite: int = 0
    shape: tuple[int, ...] = ()
    nan: int = 0
    below_normal: int = 0
    below_subnormal: int = 0
    beyond_2048: int = 0
    integers: int = 0
    minimum_sample: int = -1
    maximum_sample: int = -1
    nonfinite_sample: int = -1
    histogram: Mapping[int, int] | None = None
    exact_sum: int | None = None
    calmest: float = math.inf

    @property
    def absmax(self) -> float:
        """Largest finite magnitude; 0 if there is none."""
        if self.minimum > self.maximum:
            return 0.0
        return max(abs(self.minimum), abs(self.maximum))

    def reach(self) -> str:
        """The largest magnitude as the verb of a sentence about the tensor."""
        return f"reaches {self.absmax:.4g}"

    @property
    def numel(self) -> int:
        """Elements of ``shape``."""
        return math.prod(self.shape)

    @property
    def absmax_sample(self) -> int:
        """The sample that holds the largest magnitude; -1 if unknown."""
        return self.maximum_sample if self.maximum >= -self.minimum else self.minimum_sample

    def summed(self) -> int:
        """Sum of the magnitudes in units of 2**-1074."""
        return exact(self.mean_abs) * self.count if self.exact_sum is None else self.exact_sum

    def shifted(self, samples: int) -> TensorRange:
        """The same, with ``samples`` other samples before its own."""
        if not samples:
            return self
        minimum, maximum, nonfinite = (
            index + samples if index >= 0 else index
            for index in (self.minimum_sample, self.maximum_sample, self.nonfinite_sample)
        )
        return replace(self, minimum_sample=minimum, maximum_sample=maximum, nonfinite_sample=nonfinite)

    def merge(self, other: TensorRange) -> TensorRange:
        """Statistics of both sets of samples together; exactly associative."""
        count = self.count + other.count
        total = self.summed() + other.summed()
        return TensorRange(
            minimum=min(self.minimum, other.minimum),
            maximum=max(self.maximum, other.maximum),
            smallest=min(self.smallest, other.smallest),
            mean_abs=mean(total, count),
            count=count,
            nonfinite=self.nonfinite + other.nonfinite,
            shape=max(self.shape, other.shape, key=lambda shape: (math.prod(shape), shape)),
            nan=self.nan + other.nan,
            below_normal=self.below_normal + other.below_normal,
            below_subnormal=self.below_subnormal + other.below_subnormal,
            beyond_2048=self.beyond_2048 + other.beyond_2048,
            integers=self.integers + other.integers,
            minimum_sample=_first((self.minimum, self.minimum_sample), (other.minimum, other.minimum_sample)),
            maximum_sample=_first(
                (-self.maximum, self.maximum_sample), (-other.maximum, other.maximum_sample)
            ),
            nonfinite_sample=_first((0, self.nonfinite_sample), (0, other.nonfinite_sample)),
            histogram=_added(self, other),
            exact_sum=total,
            calmest=min(self.calmest, other.calmest),
        )


def exact(value: float) -> int:
    """A finite float64 in units of 2**-1074."""
    numerator, denominator = value.as_integer_ratio()
    return (numerator << SUM_SCALE) // denominator


def mean(total: int, count: int) -> float:
    """Correctly rounded mean of a sum in units of 2**-1074."""
    return total / (count << SUM_SCALE) if count else 0.0


def _first(one: tuple[float, int], other: tuple[float, int]) -> int:
    """Sample of the smaller value; of two equal ones the first sample that is known."""
    if one[1] < 0 or other[1] < 0:
        return max(one[1], other[1])
    return min(one, other)[1]


def _added(one: TensorRange, other: TensorRange) -> Mapping[int, int] | None:
    """Histograms together; without one there is none, unless nothing was there to count."""
    if one.histogram is None or other.histogram is None:
        kept = other if one.histogram is None else one
        missing = one if one.histogram is None else other
        return kept.histogram if not missing.count else None
    exponents = sorted({*one.histogram, *other.histogram})
    return {
        exponent: one.histogram.get(exponent, 0) + other.histogram.get(exponent, 0) for exponent in exponents
    }


@dataclass(frozen=True, slots=True)
class LimitedRange(TensorRange):
    """What a user says that a tensor holds, in place of what was measured."""

    def reach(self) -> str:
        """Not as if it had been seen."""
        return f"is to hold {self.absmax:.4g} ({spelled('limits')})"


@dataclass(frozen=True, slots=True)
class RangeTable:
    """Ranges by tensor key (see ``tensor_key``), the number of samples, and whether the feeds were random.

    ``constants`` holds initializers and Constant nodes by the same keys, apart: they do not depend on samples.
    ``source`` says where the samples came from; ``complete`` is false for what an interrupted run had seen.
    """

    tensors: Mapping[str, TensorRange]
    samples: int
    random: bool = False
    constants: Mapping[str, TensorRange] = field(default_factory=dict)
    source: str = ""
    complete: bool = True

    def get(self, name: str) -> TensorRange | None:
        """The range of a computed tensor, or None where it was not measured: unknown is not safe."""
        return self.tensors.get(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def first_nonfinite(self) -> str | None:
        """Key of the first tensor, in the order of computation, that held a NaN or an Inf."""
        return next((key for key, entry in self.tensors.items() if entry.nonfinite), None)

    def has_histograms(self) -> bool:
        """Whether exponents were counted."""
        return any(entry.histogram is not None for entry in self.tensors.values())

    def and_sample(self, found: Mapping[str, TensorRange], random: bool) -> RangeTable:
        """This table and one sample more, of which ``found`` says that it is number ``self.samples``."""
        merged = dict(self.tensors)
        for name, entry in found.items():
            entry = replace(entry, calmest=entry.absmax or math.inf)
            merged[name] = merged[name].merge(entry) if name in merged else entry
        return replace(self, tensors=merged, samples=self.samples + 1, random=self.random or random)

    def merge(self, other: RangeTable) -> RangeTable:
        """Both tables over all samples of both, those of ``other`` numbered after this one's."""
        merged = dict(self.tensors)
        for name, entry in other.tensors.items():
            moved = entry.shifted(self.samples)
            merged[name] = merged[name].merge(moved) if name in merged else moved
        return RangeTable(
            merged,
            self.samples + other.samples,
            self.random or other.random,
            {**other.constants, **self.constants},
            self.source or other.source,
            self.complete and other.complete,
        )
