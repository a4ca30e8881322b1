"""The whole program where exponents alone do not do, and there only: what is around stays as they have it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence, Set
from dataclasses import replace

import numpy as np

from onnx_fp16fix.plan.exponents.scaling import Scaling
from onnx_fp16fix.plan.exponents.streams import held_streams
from onnx_fp16fix.plan.known.table import Table
from onnx_fp16fix.plan.pieces.problem import Problem
from onnx_fp16fix.plan.pieces.seams import Answer
from onnx_fp16fix.plan.pieces.solution import Solution

__all__ = ["find_parts", "solve_locally", "touching"]

_RIM = 2
"""Steps around what is paid for: makers and readers that may share an island, or take a Mul."""
_LONG = 400
"""Nodes of a part whose program is solved whole, however its streams run."""
_WIDE = 1500
"""Nodes whose exponents are tied to those in question are free as well, if they are no more than these."""


def solve_locally(
    problem: Problem,
    scaling: Scaling,
    parts: Sequence[frozenset[int]],
    solve: Callable[[Problem], Answer | None],
) -> Solution | None:
    """Exponents of ``scaling``, bettered in each part of the region where it pays or fails.

    ``problem``: of the region, without variables. ``parts``: as ``find_parts`` has them. ``solve`` solves the program
    over the nodes of a problem. None where a part has no solution.
    """
    found, price = scaling.solution, 0.0
    tensors, nodes = set[int](), set[int]()
    for part in parts:
        solved = _solve_part(replace(problem, nodes=part, fixed=found.exponent), solve, found)
        if solved is None:
            return None
        found.replace(part, solved.exponents, solved.results, solved.solution)
        price += solved.solution.cost
        tensors |= solved.exponents
        nodes |= part
    found.cost = price + _outside(scaling, tensors, nodes, problem.prices.step)
    return found


def _solve_part(region: Problem, solve: Callable[[Problem], Answer | None], found: Solution) -> Answer | None:
    """The answer for a part; exponents at which its streams were held are set in ``found``."""
    held = held_streams(region) if len(region.nodes) > _LONG else {}
    if held:
        answer = solve(replace(region, fixed={**region.fixed, **held}, held=frozenset(held)))
        if answer is not None:
            found.exponent = {key: value for key, value in (found.exponent | held).items() if value}
            return answer
    return solve(region)


def _outside(scaling: Scaling, tensors: Set[int], nodes: Set[int], step: float) -> float:
    """The price of what is left of ``scaling`` outside the given places."""
    found, muls = scaling.solution, scaling.muls
    steps = sum(
        abs(value)
        for key, value in found.exponent.items()
        if key not in tensors
        and (key not in muls or key in found.result)  # a Mul on a graph input has no steps
    )
    steps += sum(abs(value) for (index, _), value in found.constant.items() if index not in nodes)
    return step * steps + sum(price for key, price in muls.items() if key not in tensors)


def touching(problem: Problem, places: tuple[frozenset[int], frozenset[int]]) -> set[int]:
    """The nodes, and those of the region that make or read the tensors (by identity)."""
    tensors, nodes = places
    return set(problem.nodes & frozenset().union(*map(problem.facts.touching, tensors))) | nodes


def find_parts(problem: Problem, scaling: Scaling) -> list[frozenset[int]]:
    """Nodes around what is paid for, those that hang together as one."""
    beside = _Beside(problem.facts.table())

    def around(places: tuple[frozenset[int], frozenset[int]]) -> set[int]:
        return set(beside.around(touching(problem, places))) & problem.nodes

    left = around(scaling.tied)
    if len(left) > _WIDE:
        left = around(scaling.paid)
    return beside.parts(sorted(left))


class _Beside:
    """Which nodes make or read the same computed tensors, as a matrix of nodes by tensors."""

    def __init__(self, table: Table) -> None:
        from scipy.sparse import csr_array

        computed = ~table.constant
        ends = np.cumsum(np.bincount(table.node[computed], minlength=len(table.starts) - 1))
        columns = table.value[computed]
        shape = len(ends), len(table.values)
        self.uses = csr_array((np.ones(len(columns)), columns, np.concatenate([[0], ends])), shape=shape)
        self.users = self.uses.T.tocsr()

    def around(self, nodes: Collection[int]) -> list[int]:
        """The nodes with so many steps around them, and what stands between two of these: it would hold exponents fixed
        on both sides."""
        chosen = new = np.zeros(self.uses.shape[0], bool)
        chosen[list(nodes)] = True
        for _ in range(_RIM):
            reached = self.uses @ (self.users @ new.astype(np.float64)) > 0
            chosen, new = chosen | reached, reached & ~chosen
        outside = np.flatnonzero(~chosen)
        between = self.uses[np.flatnonzero(new)] @ self.users[:, outside]
        chosen[outside[np.bincount(between.indices, minlength=len(outside)) > 1]] = True
        found: list[int] = np.flatnonzero(chosen).tolist()
        return found

    def parts(self, nodes: list[int]) -> list[frozenset[int]]:
        """Those of the nodes that hang together, by the first of each."""
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import connected_components

        # nodes and tensors as one graph: many nodes at one tensor are many links, but not the square of that
        uses, count = self.uses[nodes], len(nodes)
        size = count + uses.shape[1]
        begins = np.concatenate([uses.indptr, np.full(size - count, uses.nnz)])
        graph = csr_array((uses.data, uses.indices + count, begins), shape=(size, size))
        _, part = connected_components(graph, directed=False)
        found: dict[int, list[int]] = {}
        for index, number in zip(nodes, part[:count].tolist(), strict=True):
            found.setdefault(number, []).append(index)
        return [frozenset(part) for part in found.values()]
