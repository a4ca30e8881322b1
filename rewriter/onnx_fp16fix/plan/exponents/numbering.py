"""Variables of a region of which only the exponents are open: one per tensor and constant operand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnx_fp16fix.plan.exponents.intervals import Intervals
from onnx_fp16fix.plan.known.table import Bools, Ints, spans
from onnx_fp16fix.plan.pieces.problem import Problem
from onnx_fp16fix.plan.pieces.shifts import may_shift

__all__ = ["Numbering"]


class Numbering:
    """Float operands of nodes of ``problem``, in the order of these, and their variables, each made where the first
    operand needs it; 0 is what cannot move.

    ``home``: places of nodes, where each is taken for itself, as if nothing were known of what is around it.
    ``linked``: whether operands that may get a Mul have a variable of their own.

    By operand: ``at``: its number in the table; ``place``: of its node in ``nodes``; ``node``, ``value``, ``reads``,
    ``movable`` and ``constant`` as there; ``read``: whether it is read as FP32; ``seen``: its variable, and ``stored``
    that of its tensor. By tensor: ``made``: whether it is made in FP32; ``constants``; ``mismatched``: whether it is
    read in another type than it is made in. By variable: ``bounds`` (least, most); ``steps``: whether each step has a
    price; ``owner``: number of its place. ``begins``: of each node its first operand; ``heads``: operands that are the
    first of their tensor, in order, and ``free``: whether the exponent of that is; ``ahead``: those that are the first
    of their node with a variable of their own. ``kept``: nodes in FP32.
    """

    def __init__(
        self,
        problem: Problem,
        nodes: list[int],
        home: Mapping[int, int] | None = None,
        *,
        linked: bool = False,
    ) -> None:
        self.problem, self.nodes, self.linked, self.apart = problem, nodes, linked, home is not None
        self.facts, self.table, self.prices = problem.facts, problem.facts.table(), problem.prices
        table, size = self.table, len(self.table.starts) - 1
        own = np.array(nodes, np.int64)
        self.kept = ~table.fp16
        self.kept[[index for index in problem.forced if index < size]] = True
        self.homes = np.full(size + 1, -1)
        self.homes[own] = [home[index] for index in nodes] if home is not None else 0
        count, self.at = spans(table.starts, own)
        self.begins = np.cumsum(count) - count
        self.place = np.repeat(np.arange(len(nodes)), count)
        self.node, self.value = table.node[self.at], table.value[self.at]
        self.reads, self.movable = table.reads[self.at], table.movable[self.at]
        self.constant = table.constant[self.at]
        self.constants = np.array([value.constant for value in table.values], bool)
        self.made = (table.maker < 0) | self.kept[table.maker] | ~table.made_half
        read = np.where(table.either, self.made[table.value], self.kept[table.node] | ~table.half)
        self.intervals = Intervals(problem)
        self.mismatched = np.zeros(len(table.values), bool)
        self.mismatched[table.value[table.reads & (read != self.made[table.value])]] = True
        self.read = read[self.at]
        if self.apart:
            beside = self.homes[table.maker[self.value]] != self.homes[self.node]
            self.read |= table.either[self.at] & beside
        self._variables()

    def _variables(self) -> None:
        """Number variables as operands ask for them."""
        table, values = self.table, len(self.table.values)
        own = self.constant & self.reads  # whose exponent is the reader's
        shared = np.flatnonzero(~own)
        code = self.homes[self.node[shared]] * values + self.value[shared]
        _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
        heads, number = shared[first], self.value[shared[first]]
        free = np.ones(len(number), bool) if self.apart else self._enclosed()[number]
        fixed = np.zeros(values, np.int64)
        for key, exponent in self.problem.fixed.items():
            fixed[table.number[key]] = exponent
        made = free | (fixed[number] != 0)
        new, link = own & self.movable, np.zeros(len(own), bool)
        alone = np.flatnonzero(new)
        new[heads[made]] = True
        linked = self._linkable(own) if self.linked else shared[:0]
        _, first, seen = np.unique(
            self.place[linked] * values + self.value[linked], return_index=True, return_inverse=True
        )
        ahead = linked[first]
        link[ahead] = True
        numbers = np.stack([new, link], axis=1).reshape(-1).cumsum().reshape(-1, 2)
        self.stored = np.zeros(len(own), np.int64)
        self.stored[alone] = numbers[alone, 0]
        self.stored[shared] = np.where(made, numbers[heads, 0], 0)[inverse]
        self.seen = self.stored.copy()
        self.seen[linked] = numbers[ahead, 1][seen]
        order = np.argsort(heads)
        self.heads, self.free, self.ahead = heads[order], free[order], ahead
        self._bounds(int(numbers[-1, 1]) + 1 if len(numbers) else 1, alone, fixed)

    def _bounds(self, size: int, alone: Ints, fixed: Ints) -> None:
        intervals, table = self.intervals, self.table
        self.bounds, self.steps = np.zeros((size, 2), np.int64), np.zeros(size, bool)
        self.owner = np.zeros(size, np.int64)
        for places, variables in ((alone, self.stored[alone]), (self.ahead, self.seen[self.ahead])):
            self.bounds[variables] = intervals.operands[self.at[places]]
            self.owner[variables] = self.homes[self.node[places]]
        self.steps[self.stored[alone]] = True
        number, variables = self.value[self.heads], self.stored[self.heads]
        self.owner[variables] = self.homes[self.node[self.heads]]
        least, most = intervals.tensors[number].T
        given = table.maker[number] < 0
        self.bounds[variables, 0] = np.where(given, least - most, least)
        self.bounds[variables, 1] = np.where(given, most - least, most)
        self.steps[variables] = self.free & ~given
        held = ~self.free
        self.bounds[variables[held]] = fixed[number[held], None]
        self.bounds[0], self.steps[0], self.owner[0] = 0, False, 0
        least, most = intervals.slots[self.at].T
        np.maximum.at(self.bounds[:, 0], self.seen, least)
        np.minimum.at(self.bounds[:, 1], self.seen, most)

    def _enclosed(self) -> Bools:
        """``Problem.encloses`` for each tensor."""
        table, inside = self.table, np.zeros(len(self.table.starts) - 1, bool)
        inside[list(self.problem.nodes)] = True
        found = ~table.among(self.problem.held)
        found[table.value[~inside[table.node]]] = False
        return found

    def _linkable(self, own: Bools) -> Ints:
        found: Ints = np.flatnonzero(may_shift(self.table, self.problem.region)[self.at] & ~own)
        return found
