"""Planning: find what is at risk, optimise the region around it, and put the answer into words."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from onnx_fp16fix.calibrate.ranges import RangeTable
from onnx_fp16fix.graph import ScopeView
from onnx_fp16fix.half import FP16, FloatType
from onnx_fp16fix.model import ScopePath
from onnx_fp16fix.operators import flops
from onnx_fp16fix.plan.bodies import deciding, joined, long_sums, untyped
from onnx_fp16fix.plan.build import build_problem
from onnx_fp16fix.plan.exact import exact_nodes
from onnx_fp16fix.plan.explain import reason_for_fp32, reason_for_mul
from onnx_fp16fix.plan.facts import Facts, NodeView
from onnx_fp16fix.plan.local import solve_locally
from onnx_fp16fix.plan.need import Need, needs
from onnx_fp16fix.plan.plan import Plan
from onnx_fp16fix.plan.prices import Prices
from onnx_fp16fix.plan.problem import Problem
from onnx_fp16fix.plan.region import is_small, prone_to_fp32, region
from onnx_fp16fix.plan.risk import Risk, find_risks
from onnx_fp16fix.plan.room import find_rooms
from onnx_fp16fix.plan.scaling import scale_alone
from onnx_fp16fix.plan.seams import Answer, solve_in_pieces
from onnx_fp16fix.plan.solution import Solution
from onnx_fp16fix.plan.split import split
from onnx_fp16fix.plan.tolerate import overflow_tolerant
from onnx_fp16fix.plan.variables import largest_exponent

__all__ = ["make_plan"]


@dataclass(frozen=True, slots=True)
class _Settings:
    """What holds for every scope; see ``make_plan``."""

    only: Collection[str] | None
    prices: Prices
    time_limit: float | None
    max_fp32_flops: float | None


def make_plan(
    scope: ScopeView,
    ranges: RangeTable,
    *,
    margin: float = 2.0,
    fp32: Mapping[int, str] | None = None,
    bodies: Mapping[ScopePath, Mapping[int, str]] | None = None,
    only: Collection[str] | None = None,
    prices: Prices | None = None,
    time_limit: float | None = None,
    fp16: Collection[int] = (),
    fp16_bodies: Mapping[ScopePath, Collection[int]] | None = None,
    max_fp32_flops: float | None = None,
    half: FloatType = FP16,
) -> Plan:
    """Plan the main graph and the bodies of If, Loop and Scan inside it, in one program.

    ``margin``: factor between calibrated maxima and what FP16 must hold. ``fp32``: nodes to keep in FP32 with the
    reason (islands asked for by rules). ``only``: tensors whose risk counts (the rules' ``rescale``); None = all.
    ``bodies``: the same as ``fp32`` for the nodes of bodies. A node of ``fp32`` that has bodies keeps these in FP32
    as a whole. ``time_limit``: seconds for the solver; None lets it grow with the program. ``fp16``: nodes that are
    not to become FP32; where no plan does without, they do; ``fp16_bodies``: the same for the nodes of bodies.
    ``max_fp32_flops``: share of all FLOPs that FP32 is to have at most; a plan with more is better than none.
    ``half``: the 16-bit type, here called FP16 whichever it is. A graph without risk gives an empty plan apart from
    nodes that cannot run in FP16 at all. Nodes whose results nobody reads are left out of it.
    """
    settings = _Settings(only, prices or Prices(), time_limit, max_fp32_flops)
    if not scope.bodies and not scope.unread:
        return _plan_scope(Facts(scope, ranges, margin, half), fp32, settings, fp16)
    places = {(scope.path, node): why for node, why in (fp32 or {}).items()}
    places |= {(path, node): why for path, nodes in (bodies or {}).items() for node, why in nodes.items()}
    facts = joined(scope, ranges, margin, places, half)
    indices = facts.joint.indices
    wished = {indices[place]: why for place, why in places.items() if place in indices}
    forced = {**untyped(facts), **({**long_sums(facts), **deciding(facts)} if only is None else {}), **wished}
    asked = [(scope.path, node) for node in fp16]
    asked += [(path, node) for path, nodes in (fp16_bodies or {}).items() for node in nodes]
    chosen = {indices[place] for place in asked if place in indices}
    views = facts.views()
    return split(scope, facts, views, _plan_scope(facts, forced, settings, chosen))


def _plan_scope(
    facts: Facts,
    fp32: Mapping[int, str] | None,
    settings: _Settings,
    fp16: Collection[int] = (),
) -> Plan:
    only, max_fp32_flops = settings.only, settings.max_fp32_flops
    views = facts.views()
    need = needs(facts)
    exact = exact_nodes(facts)
    forced = {**exact, **(fp32 or {})} if only is None else dict(fp32 or {})
    risks = find_risks(facts, need, exact)
    seeds = {risk.node for risk in risks if only is None or risk.tensor in only} | set(forced)
    if only is None or seeds:  # what joins FP32 nodes may be cheaper in FP32 than behind casts
        seeds |= {view.node.index for view in views if not view.slots.fp16 and view.operands}
    nodes = region(views, seeds)
    whole = Problem(facts, views, need, nodes, forced, settings.prices, half=frozenset(fp16))
    whole.tolerant = overflow_tolerant(facts)
    solution = _solve_scaling(whole, settings)
    if solution is not None:
        return _read(whole, solution, risks, need)
    budgets = (None,) if max_fp32_flops is None else (max_fp32_flops, None)
    for budget in budgets:
        if (solution := _solve(whole, settings, budget)) is not None:
            return _read(whole, solution, risks, need)
    return _all_fp32(whole, risks)


def _solve_scaling(problem: Problem, settings: _Settings) -> Solution | None:
    """By exponents alone, where no other choice could be cheaper; in large regions by exponents alone almost
    everywhere."""
    problem.bound = largest_exponent(problem)
    problem.rooms = find_rooms(problem.facts, problem.bound)
    found = scale_alone(problem, settings.time_limit)
    if found is None:
        return None
    large, launch = not is_small(len(problem.nodes)), problem.prices.launch
    # a Mul at the border may be worth less inside; in a large region it has to be a heavy one to be looked at
    muls = sum(price for price in found.muls.values() if not large or price > 2 * launch)
    if not found.breached and found.price + muls <= launch:
        return found.solution
    if not large or settings.max_fp32_flops is not None:
        return None
    return solve_locally(problem, found, lambda part: _solve_part(part, settings))


def _solve_part(problem: Problem, settings: _Settings) -> Answer | None:
    """A part of a large region."""
    answers = (solve_in_pieces(choice, settings.time_limit) for choice in _choices(problem))
    return next((answer for answer in answers if answer is not None), None)


def _solve(problem: Problem, settings: _Settings, budget: float | None = None) -> Solution | None:
    """By the whole program over the nodes of ``problem``; None if no solution was found."""
    for choice in _choices(problem):
        built = build_problem(choice, max_fp32_flops=budget)
        values = built.program.solve(settings.time_limit)
        if values is not None:
            return Solution.of(built, values)
    return None


def _choices(problem: Problem) -> Iterator[Problem]:
    """With the choice of FP32 for nodes that scaling may not save, fewer choices being solved sooner; then for all."""
    problem.bound = largest_exponent(problem)
    nodes = problem.nodes
    for prone in (prone_to_fp32(problem.views, problem.need, nodes, problem.forced), nodes):
        yield replace(problem, prone=prone)


def _read(problem: Problem, solution: Solution, risks: tuple[Risk, ...], need: Need) -> Plan:
    scope, facts = problem.facts.scope, problem.facts
    tensors = {id(tensor): tensor for node in scope.nodes for tensor in (*node.inputs, *node.outputs)}
    exponents: dict[str, int] = {}
    entries: dict[str, int] = {}
    for key, value in solution.exponent.items():
        made = scope.producer(tensors[key]) is not None
        (exponents if made else entries)[facts.key(tensors[key])] = value
    results = {facts.key(tensors[key]): value for key, value in solution.result.items()}
    muls, operands = solution.shift, solution.constant
    kept = {
        view.node.index
        for view in problem.views
        if problem.is_fp32(view.node.index) and view.operands and not _only_holds_bodies(problem, view)
    }
    fp32 = solution.fp32 | kept
    reasons = {
        index: reason_for_fp32(problem, index, {**entries, **exponents}, operands, muls)
        for index in sorted(fp32)
    }
    total, share = _flops(problem, reasons)
    return Plan(
        exponents=exponents,
        entries=entries,
        operands=operands,
        muls=muls,
        results=results,
        fp32=reasons,
        muls_why={slot: reason_for_mul(problem, slot) for slot in muls},
        raised=frozenset(slot for slot in need.raised if slot[0] not in reasons),
        lost_bits=_lost_bits(problem, exponents),
        flops=total,
        fp32_flops_share=share,
        cost=solution.cost,
        risks=risks,
    )


def _lost_bits(problem: Problem, exponents: Mapping[str, int]) -> dict[str, int]:
    lost = {}
    for node in problem.facts.scope.nodes:
        for tensor in node.outputs:
            if tensor.is_empty():
                continue
            exponent = exponents.get(problem.facts.key(tensor), 0)
            typical = problem.facts.tensor_view(tensor).typical if exponent else None
            if typical is not None and exponent > typical:
                lost[problem.facts.key(tensor)] = exponent - typical
    return lost


def _only_holds_bodies(problem: Problem, view: NodeView) -> bool:
    """Whether the node computes in its bodies, whose plans say in what."""
    index = view.node.index
    return index in problem.facts.scope.bodies and index not in problem.forced


def _flops(problem: Problem, fp32: Collection[int]) -> tuple[float, float]:
    """FLOPs of one run of the scope, and the FP32 nodes' share of them."""
    counts = [flops(view) * problem.facts.runs(index) for index, view in enumerate(problem.views)]
    total = sum(counts)
    return total, sum(counts[index] for index in fp32) / total if total else 0.0


def _all_fp32(problem: Problem, risks: tuple[Risk, ...]) -> Plan:
    """The answer when no plan was found in time: the region in FP32, which is always right."""
    why = "no plan was found within the time limit: kept in FP32 to be safe"
    fp32 = dict.fromkeys(problem.nodes, why)
    fp32 |= {v.node.index: why for v in problem.views if problem.is_fp32(v.node.index) and v.operands}
    total, share = _flops(problem, fp32)
    return Plan(fp32=fp32, flops=total, fp32_flops_share=share, cost=float("inf"), risks=risks, optimal=False)
