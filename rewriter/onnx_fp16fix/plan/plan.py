"""The planner's answer: one exponent per tensor and operand, one precision per node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from onnx_fp16fix.model import ScopePath
from onnx_fp16fix.plan.known.edges import Slot
from onnx_fp16fix.plan.known.risk import Risk

__all__ = ["Place", "Plan", "Slot"]

Place = tuple[ScopePath, int]
"""A node: its scope and its index there."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to store and how in one scope; true value = stored value * 2**exponent.

    ``exponents``: per tensor name, exponents other than 0. ``operands``: exponents of constant operands other than 0,
    by slot. ``entries``: graph inputs that one Mul by ``2**-s`` scales for all their readers. ``muls``: explicit
    multiplications by ``2**-d`` of an operand, by slot (d is added to the tensor's exponent).
    ``results``: the same for a tensor whose name stands for another exponent: 0 where it leaves the graph or a body
    that stays as it is reads it, that of the border where it is the output of a body.
    ``fp32``: nodes that compute in FP32, with the reason; ``muls_why``: the reason of each Mul. ``bodies``: the plans
    of all bodies inside, by scope; they read outer tensors as the scopes around them store those.
    """

    exponents: Mapping[str, int] = field(default_factory=dict)
    entries: Mapping[str, int] = field(default_factory=dict)
    operands: Mapping[Slot, int] = field(default_factory=dict)
    muls: Mapping[Slot, int] = field(default_factory=dict)
    results: Mapping[str, int] = field(default_factory=dict)
    raised: frozenset[Slot] = frozenset()
    """Constants that guard a denominator: in FP16 at least its smallest value, never zero."""
    fp32: Mapping[int, str] = field(default_factory=dict)
    muls_why: Mapping[Slot, str] = field(default_factory=dict)
    lost_bits: Mapping[str, int] = field(default_factory=dict)
    bodies: Mapping[ScopePath, Plan] = field(default_factory=dict)
    float_borders: Mapping[str, str] = field(default_factory=dict)
    """Inputs and outputs of a body that cross its border in FP32, with the reason; all others do in FP16."""
    whole: bool = False
    """Whether a body stays as it is, in FP32 and at exponent 0."""
    flops: float = 0.0
    """Of one run, bodies included."""
    fp32_flops_share: float = 0.0
    cost: float = 0.0
    """Price in bytes (``Prices``) of all that exact rescaling could not get for free, bodies included."""
    risks: tuple[Risk, ...] = ()
    """What plain FP16 would get wrong: all of it answered by this plan, unless it was made for some nodes only."""
    optimal: bool = True

    def is_empty(self) -> bool:
        """Whether the model can be typed as it is."""
        edits = (self.exponents, self.entries, self.operands, self.muls, self.results, self.fp32)
        return not any(edits) and all(body.is_empty() for body in self.bodies.values())

    def all_fp32(self) -> dict[Place, str]:
        """FP32 nodes of all scopes, with the reason."""
        return {(path, index): why for path, plan in self.scopes() for index, why in plan.fp32.items()}

    def costly_nodes(self) -> frozenset[Place]:
        """Nodes at which exact rescaling still pays: FP32, or behind an explicit Mul."""
        return frozenset(
            (path, index)
            for path, plan in self.scopes()
            for index in {*plan.fp32, *(index for index, _ in plan.muls)}
        )

    def inserted_muls(self) -> int:
        """Explicit Muls in this scope, alike ones not counted as one."""
        return len(self.muls) + len(self.entries) + len(self.results)

    def scopes(self, path: ScopePath = ()) -> Iterator[tuple[ScopePath, Plan]]:
        """This plan, for the scope at ``path``, and those of all bodies inside."""
        yield path, self
        yield from self.bodies.items()
