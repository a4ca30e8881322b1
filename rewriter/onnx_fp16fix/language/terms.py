"""What a pattern is matched against: values of the graph, and values that exist only in one reading of a node.

``ReduceL2(x)`` reads as ``ReduceSum(x ** 2) ** (1/2)``, but no tensor holds the sum of squares. Such a value is a term
without a tensor. Every term keeps its *uses* (node index, input slot), so that an edit can change exactly the inputs
the pattern saw. None of these is changed once it is made; they are not declared frozen because that costs time.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy.typing as npt
import onnx_graphsurgeon as gs

__all__ = ["Parts", "Reading", "Term", "Use", "Weight", "whole"]

Use = tuple[int, int]
"""Node index in its scope, input slot."""
Weight = int | Fraction
"""Exponent of a factor or multiple of a summand, exact; an int wherever it is whole, because ints compare fast."""


@dataclass(slots=True, eq=False)
class Term:
    """A value: a tensor, or a constant or a reading that no tensor holds."""

    tensor: gs.Tensor | None = None
    uses: tuple[Use, ...] = ()
    value: npt.NDArray[Any] | None = None
    parts: Parts | None = None
    reading: Reading | None = None


@dataclass(slots=True, eq=False)
class Parts:
    """A value as a combination (see ``pattern.Combination``); ``nodes`` are those that compute it."""

    kind: str
    items: tuple[tuple[Term, Weight], ...]
    nodes: tuple[int, ...] = ()


@dataclass(slots=True, eq=False)
class Reading:
    """A value as the result of one op: defaults filled in, axes normalised, moved attributes back in place.

    ``output``: which of the outputs it is.
    """

    op: str
    domain: str
    args: tuple[Term | None, ...]
    attributes: dict[str, Any]
    nodes: tuple[int, ...] = ()
    direct: bool = True
    output: int = 0

    def after(self, passed: tuple[int, ...]) -> Reading:
        """The same beyond nodes that do nothing."""
        if not passed:
            return self
        nodes = (*self.nodes, *passed)
        return Reading(self.op, self.domain, self.args, self.attributes, nodes, self.direct, self.output)


def whole(weight: Weight) -> Weight:
    """The same weight, as an int if it is one."""
    return weight.numerator if weight.denominator == 1 else weight
