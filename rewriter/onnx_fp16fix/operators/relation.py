"""What an op says about the power-of-two scales of the tensors it reads and writes.

A stored tensor is its true value times 2**-s. A ``Relation`` lists linear equations between the exponents s of a
node's operands under which the node, unchanged but for scaled attributes, computes the scaled result from scaled
operands, bit for bit (multiplying by powers of two commutes with rounding, short of overflow and underflow).
Float operands in no equation, and not ``free``, are pinned to exponent 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, Protocol

import numpy.typing as npt

__all__ = [
    "PINNED",
    "SAME",
    "AttributeScale",
    "Equation",
    "InnerBound",
    "NodeFacts",
    "Operand",
    "Relation",
    "RelationOf",
    "always",
    "equal",
    "inp",
    "out",
    "power",
    "product",
]

Operand = tuple[Literal["in", "out"], int]
"""A slot of the node: ``("in", 0)`` is its first input."""

Equation = tuple[tuple[Operand, int], ...]
"""Integer coefficients of exponents whose weighted sum is zero."""


@dataclass(frozen=True, slots=True)
class AttributeScale:
    """A float attribute that becomes ``value * 2**(coefficient * s)``, s the exponent of ``operand``."""

    name: str
    operand: Operand
    coefficient: int
    default: float | None = None
    """Value meant when the attribute is absent; None: an absent attribute stays absent."""


@dataclass(frozen=True, slots=True)
class InnerBound:
    """A value inside the kernel that FP16 arithmetic must hold: ``magnitude * 2**-(coefficient * s)``."""

    what: str
    magnitude: float
    operand: Operand
    coefficient: int = 1


@dataclass(frozen=True, slots=True)
class Relation:
    """See the module docstring. ``saturating`` inputs may overflow to infinity without harm; ``sensitive`` ones
    need their small values to stay accurate (denominators, logarithms); ``precise`` ones need all integers or
    angles exact, and so FP32, when they are large."""

    equations: tuple[Equation, ...] = ()
    free: frozenset[Operand] = frozenset()
    attributes: tuple[AttributeScale, ...] = ()
    inner: tuple[InnerBound, ...] = ()
    saturating: frozenset[int] = frozenset()
    sensitive: frozenset[int] = frozenset()
    precise: frozenset[int] = frozenset()
    movable: frozenset[Operand] = field(init=False, repr=False, compare=False)
    """Operands whose exponent need not be 0."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "movable", _named(self.free, self.equations))


@lru_cache(maxsize=4096)
def _named(free: frozenset[Operand], equations: tuple[Equation, ...]) -> frozenset[Operand]:
    return free.union(operand for equation in equations for operand, _ in equation)


class NodeFacts(Protocol):
    """What a relation may ask about a node."""

    @property
    def op(self) -> str:
        """Operator name."""

    @property
    def opset(self) -> int:
        """Version of the node's operator set."""

    @property
    def attrs(self) -> dict[str, Any]:
        """Attribute values by name."""

    def has(self, operand: Operand) -> bool:
        """Whether the slot is filled."""

    def count(self, kind: Literal["in", "out"]) -> int:
        """Number of slots, trailing absent ones not counted."""

    def constant(self, slot: int) -> npt.NDArray[Any] | None:
        """Values of a constant input."""

    def absmax(self, operand: Operand) -> float:
        """Largest magnitude over the calibration data; 0 if unknown."""

    def numel(self, operand: Operand) -> int:
        """Elements; 0 if unknown."""

    def shape(self, operand: Operand) -> tuple[int, ...]:
        """Shape in the calibration run, empty if unknown."""


RelationOf = Callable[[NodeFacts], Relation]

PINNED = Relation()
"""Every operand keeps exponent 0."""


def always(relation: Relation) -> RelationOf:
    """The same one for each node."""
    return lambda _: relation


def inp(slot: int) -> Operand:
    """Input operand."""
    return ("in", slot)


def out(slot: int = 0) -> Operand:
    """Output operand."""
    return ("out", slot)


def equal(node: NodeFacts, operands: Iterable[Operand]) -> tuple[Equation, ...]:
    """All present operands share one exponent."""
    present = [operand for operand in operands if node.has(operand)]
    return tuple(((present[0], 1), (operand, -1)) for operand in present[1:])


def product(result: Operand, *factors: Operand) -> Equation:
    """The exponent of ``result`` is the sum of those of ``factors``."""
    return ((result, 1), *((factor, -1) for factor in factors))


def power(result: Operand, base: Operand, numerator: int, denominator: int = 1) -> Equation:
    """``result = base ** (numerator / denominator)``."""
    return ((result, denominator), (base, -numerator))


SAME = Relation((product(out(), inp(0)),))
"""The result has the exponent of the first operand."""
