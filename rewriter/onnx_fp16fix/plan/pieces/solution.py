"""What a solved program says, in terms of tensors, slots and nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.plan.pieces.problem import Problem
from onnx_fp16fix.plan.plan import Slot

__all__ = ["Solution"]

Key = TypeVar("Key")


@dataclass
class Solution:
    """Exponents of tensors by identity, of constant operands by slot; Muls by slot, ``result`` for what leaves the
    graph; nodes that are FP32 by choice. Only exponents other than 0."""

    exponent: dict[int, int] = field(default_factory=dict)
    constant: dict[Slot, int] = field(default_factory=dict)
    shift: dict[Slot, int] = field(default_factory=dict)
    result: dict[int, int] = field(default_factory=dict)
    fp32: set[int] = field(default_factory=set)
    cost: float = 0.0

    @staticmethod
    def of(problem: Problem, values: npt.NDArray[np.float64], cost: float) -> Solution:
        """``values``: of the variables of the problem's program; ``cost``: of those that are its own."""

        def other(variables: Mapping[Key, int]) -> dict[Key, int]:
            return {key: int(values[variable]) for key, variable in variables.items() if values[variable]}

        fp32 = {index for index, variable in problem.fp32.items() if values[variable]}
        precisions = {index: problem.precision(index) for index in problem.follows}
        fp32 |= {index for index, variable in precisions.items() if variable >= 0 and values[variable]}
        return Solution(
            other(problem.exponent),
            other(problem.constant),
            other(problem.shift),
            other(problem.result),
            fp32,
            cost,
        )

    def add(self, other: Solution) -> None:
        """Take over all that ``other`` says, of other nodes."""
        self.exponent |= other.exponent
        self.constant |= other.constant
        self.shift |= other.shift
        self.result |= other.result
        self.fp32 |= other.fp32
        self.cost += other.cost

    def replace(
        self, nodes: Set[int], exponents: Iterable[int], results: Iterable[int], part: Solution
    ) -> None:
        """Take over what ``part`` says of some of the nodes; it had these tensors' exponents and results to choose."""
        for own, keys, new in (
            (self.exponent, exponents, part.exponent),
            (self.result, results, part.result),
        ):
            for key in keys:
                own.pop(key, None)
            own.update(new)
        self.constant = {slot: value for slot, value in self.constant.items() if slot[0] not in nodes}
        self.constant |= part.constant
        self.shift |= part.shift
        self.fp32 |= part.fp32
