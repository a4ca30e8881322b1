"""Where rows of a program come from: the operands of its nodes and the tensors between them, as arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.operators import inp
from onnx_fp16fix.plan.known.edges import TensorView
from onnx_fp16fix.plan.pieces.problem import ALWAYS, NEVER, Problem
from onnx_fp16fix.plan.pieces.sheet import ABSENT, Exponents
from onnx_fp16fix.plan.solver.arrays import Ints

__all__ = ["Operands", "Tensors"]


class Operands:
    """The float operands of all nodes, node by node. ``node``: the place of each one's node, which has so many of them
    (``counts``) from ``starts`` on; ``precision`` is the node's, ``read`` that
    in which it reads the operand, ``made`` that in which what is read was made."""

    def __init__(self, nodes: Sequence[tuple[Problem, int]]) -> None:
        self.views = [problem.views[index] for problem, index in nodes]
        self.edges = [edge for view in self.views for edge in view.edges.values()]
        self.values = [edge.value for edge in self.edges]
        self.counts = np.array([len(view.edges) for view in self.views], np.int64)
        self.starts = np.cumsum(self.counts) - self.counts
        self.node = np.repeat(np.arange(len(nodes)), self.counts)
        owners = [nodes[place] for place in self.node.tolist()]
        self.slots = [(index, edge.slot) for (_, index), edge in zip(owners, self.edges, strict=True)]
        self.problems = [problem for problem, _ in owners]
        self.reads, self.movable, half, either = (
            np.array([getattr(edge, name) for edge in self.edges], bool)
            for name in ("reads", "movable", "half", "either")
        )
        self.constant = self.reads & np.array([value.constant for value in self.values], bool)
        self.precision = np.array([problem.precision(index) for problem, index in nodes], np.int64)
        self.made = np.array(
            [
                problem.made(edge.value) if edge.reads else NEVER
                for problem, edge in zip(self.problems, self.edges, strict=True)
            ],
            np.int64,
        )
        self.read = np.where(either, self.made, np.where(half, self.precision[self.node], ALWAYS))

    def exponents(self, keys: Ints) -> Exponents:
        """As the nodes see them; they escape where they are read as FP32."""
        pairs = list(zip(self.problems, self.slots, self.edges, strict=True))
        variable = [
            problem.constant.get(slot, ABSENT)
            if edge.reads and edge.value.constant
            else problem.exponent.get(edge.value.key, ABSENT)
            for problem, slot, edge in pairs
        ]
        shift = [problem.shift.get(slot, ABSENT) if edge.reads else ABSENT for problem, slot, edge in pairs]
        fixed = [problem.fixed.get(edge.value.key, 0) for problem, _, edge in pairs]
        return _exponents(keys, variable, shift, np.where(self.constant, 0, fixed), self.read)


class Tensors:
    """Computed tensors, each of a problem."""

    def __init__(self, tensors: Sequence[tuple[Problem, TensorView]]) -> None:
        self.problems = [problem for problem, _ in tensors]
        self.values = [value for _, value in tensors]

    def exponents(self, keys: Ints) -> Exponents:
        """As they are stored; they escape where they are made in FP32."""
        pairs = list(zip(self.problems, self.values, strict=True))
        variable = [problem.exponent.get(value.key, ABSENT) for problem, value in pairs]
        fixed = [problem.fixed.get(value.key, 0) for problem, value in pairs]
        made = [problem.made(value) for problem, value in pairs]
        return _exponents(keys, variable, [ABSENT] * len(pairs), np.array(fixed), np.array(made, np.int64))

    def readers(self, operands: Operands) -> tuple[Ints, Ints]:
        """The place of a tensor and the precision in which a node reads it, tensor by tensor and node by node.
        ``operands``: of all nodes of the problems."""
        number = {
            (id(problem), value.key): place
            for place, (problem, value) in enumerate(zip(self.problems, self.values, strict=True))
        }
        at = np.flatnonzero(operands.reads & ~operands.constant).tolist()
        found = [
            (number[id(operands.problems[place]), operands.values[place].key], *operands.slots[place])
            for place in at
        ]
        precisions = operands.read[at].tolist()
        for place, (problem, value) in enumerate(zip(self.problems, self.values, strict=True)):
            if not value.nodes <= problem.nodes:
                outside = [slot for slot in value.readers if slot[0] not in problem.nodes]
                found += [(place, *slot) for slot in outside]
                precisions += [
                    problem.read(index, problem.views[index].edges[inp(s)]) for index, s in outside
                ]
        tensor, node, slot = np.array(found, np.int64).reshape(-1, 3).T
        order = np.lexsort((slot, node, tensor))
        return tensor[order], np.array(precisions, np.int64)[order]


def _exponents(
    keys: Ints, variable: Sequence[int], shift: Sequence[int], fixed: npt.NDArray[np.int64], escape: Ints
) -> Exponents:
    variables = np.array(variable, np.int64)
    given = np.where(variables >= 0, 0, fixed).astype(np.float64)
    return Exponents(keys, variables, np.array(shift, np.int64), given, escape)
