"""What is solved for a region: exponents alone where that will do, else the whole program, in large regions only as
much of it as is needed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from onnx_fp16fix.plan.exponents.local import solve_locally
from onnx_fp16fix.plan.exponents.scaling import Scaling
from onnx_fp16fix.plan.known.region import is_small, prone_to_fp32
from onnx_fp16fix.plan.pieces.build import build_problem
from onnx_fp16fix.plan.pieces.problem import Problem
from onnx_fp16fix.plan.pieces.seams import Answer, solve_in_pieces
from onnx_fp16fix.plan.pieces.solution import Solution
from onnx_fp16fix.plan.pieces.variables import largest_exponent
from onnx_fp16fix.plan.prices import Prices

__all__ = ["Settings", "solved"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for every scope; see ``planner.make_plan``."""

    only: Collection[str] | None
    prices: Prices
    time_limit: float | None
    max_fp32_flops: float | None


def solved(
    problem: Problem,
    scaling: Scaling | None,
    parts: Callable[[], Sequence[frozenset[int]]],
    settings: Settings,
) -> Solution | None:
    """The cheapest answer over the region of ``problem``, of which exponents alone make ``scaling``; None if none was
    found in time. ``parts``: what of the region to solve where it is large (``local.find_parts``)."""
    if scaling is not None and _is_answer(problem, scaling):
        return scaling.solution
    if scaling is not None and not is_small(len(problem.nodes)) and settings.max_fp32_flops is None:
        local = solve_locally(problem, scaling, parts(), lambda part: _solve_part(part, settings))
        if local is not None:
            return local
    budgets = (None,) if settings.max_fp32_flops is None else (settings.max_fp32_flops, None)
    solutions = (_solve(problem, settings, budget) for budget in budgets)
    return next((solution for solution in solutions if solution is not None), None)


def _is_answer(problem: Problem, found: Scaling) -> bool:
    """Whether no other choice than that of exponents alone could be cheaper."""
    # a Mul at the border may be worth less inside; in a large region it has to be a heavy one to be looked at
    large, launch = not is_small(len(problem.nodes)), problem.prices.launch
    muls = sum(price for price in found.muls.values() if not large or price > 2 * launch)
    return not found.breached and found.price + muls <= launch


def _solve_part(problem: Problem, settings: Settings) -> Answer | None:
    """A part of a large region."""
    answers = (solve_in_pieces(choice, settings.time_limit) for choice in _choices(problem))
    return next((answer for answer in answers if answer is not None), None)


def _solve(problem: Problem, settings: Settings, budget: float | None = None) -> Solution | None:
    """By the whole program over the nodes of ``problem``; None if no solution was found."""
    for choice in _choices(problem):
        built = build_problem(choice, max_fp32_flops=budget)
        found = built.program.solve_pieces(settings.time_limit)
        if found is not None:
            return Solution.of(built, found[0], sum(found[1]))
    return None


def _choices(problem: Problem) -> Iterator[Problem]:
    """With the choice of FP32 for nodes that scaling may not save, fewer choices being solved sooner; then for all."""
    problem.bound = largest_exponent(problem)
    nodes = problem.nodes
    for prone in (prone_to_fp32(problem.facts.table(), problem.need, nodes, problem.forced), nodes):
        yield replace(problem, prone=prone)
