"""The whole program where exponents alone do not do, and there only: what is around stays as they have it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence, Set
from dataclasses import replace

from onnx_fp16fix.plan.problem import Problem
from onnx_fp16fix.plan.region import neighbours
from onnx_fp16fix.plan.scaling import Scaling
from onnx_fp16fix.plan.seams import Answer
from onnx_fp16fix.plan.solution import Solution
from onnx_fp16fix.plan.streams import held_streams

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
    views = problem.views

    def around(places: tuple[frozenset[int], frozenset[int]]) -> set[int]:
        chosen = touching(problem, places)
        new = set(chosen)
        for _ in range(_RIM):
            new = set[int]().union(*(neighbours(views[index]) for index in new)) - chosen
            chosen |= new
        # what stands between two of them would hold exponents fixed on both sides
        beside = Counter(index for node in new for index in neighbours(views[node]) - chosen)
        chosen |= {index for index, count in beside.items() if count > 1}
        return chosen & problem.nodes

    left = around(scaling.tied)
    if len(left) > _WIDE:
        left = around(scaling.paid)
    found = []
    for start in sorted(left):
        part, stack = set[int](), [start]
        while stack:
            index = stack.pop()
            if index in left:
                left.remove(index)
                part.add(index)
                stack += neighbours(views[index])
        if part:
            found.append(frozenset(part))
    return found
