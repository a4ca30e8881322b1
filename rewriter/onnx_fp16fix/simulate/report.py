"""What comparisons find, as plain values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Fp32Report", "SimulationReport", "TensorError"]


@dataclass(frozen=True, slots=True)
class TensorError:
    """How far one tensor is off, worst over samples.

    ``rel_l2``: ||a - b|| / ||b||, b the reference; of integers and booleans the share that differs; ``inf`` if shapes
    differ or ``nonfinite`` is not 0.
    ``max_abs``: largest difference of an element, ``inf`` likewise.
    ``run``: of a tensor inside a body, the number of the run of that body, in its sample, in which it first was not
    finite, or else was furthest off.
    ``nonfinite``: elements that are NaN or infinite, where the reference is finite or differs in kind.
    """

    name: str
    rel_l2: float
    max_abs: float
    nonfinite: int
    run: int | None = None

    @property
    def resized(self) -> bool:
        """Whether its shape differs, and nothing else can be said: other elements were selected."""
        return self.rel_l2 == math.inf and not self.nonfinite


@dataclass(frozen=True, slots=True)
class SimulationReport:
    """Simulated FP16 against FP32.

    ``tensors``: every computed float tensor that both models have by name, outputs included, in topological order;
    those inside bodies under the keys of range tables (``4:body:0::h``), worst over the runs of the body.
    ``worst`` is the tensor with the largest ``rel_l2``, ``first_lossy`` the first whose ``rel_l2`` passes the
    threshold asked for. ``harmless``: non-finite tensors whose readers give what the true values would give, see
    ``harm``; judged only where all tensors are compared. ``incomparable``: outputs without one finite reference value.
    ``strayed``: bodies that ran more or less often than in FP32 on some sample, with both numbers, FP32 first.
    """

    outputs: tuple[TensorError, ...]
    tensors: Mapping[str, TensorError]
    first_nonfinite: str | None
    worst: TensorError | None
    first_lossy: str | None = None
    harmless: frozenset[str] = frozenset()
    incomparable: frozenset[str] = frozenset()
    strayed: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def harmful(self) -> tuple[str, ...]:
        """Non-finite tensors that are not known to be harmless, in topological order."""
        return tuple(n for n, error in self.tensors.items() if error.nonfinite and n not in self.harmless)

    @property
    def output_rel_l2(self) -> float:
        """Largest error of an output."""
        return max((output.rel_l2 for output in self.outputs), default=0.0)


@dataclass(frozen=True, slots=True)
class Fp32Report:
    """FP32 against FP32, worst over outputs and samples.

    ``identical``: every output has the same bits (a NaN equals a NaN at the same place), integers and strings
    included. ``max_rel``: largest |a - b| / |b| of an element with b not 0.
    """

    max_abs: float
    max_rel: float
    rel_l2: float
    identical: bool
    outputs: tuple[TensorError, ...]
