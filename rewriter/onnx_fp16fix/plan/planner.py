"""Planning: find what is at risk, optimise the region around it, and put the answer into words."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt

from onnx_fp16fix.calibrate.ranges import RangeTable
from onnx_fp16fix.graph import ScopeView
from onnx_fp16fix.half import FP16, FloatType
from onnx_fp16fix.model import ScopePath
from onnx_fp16fix.operators import flops
from onnx_fp16fix.plan.bodies import executions, kept_whole, long_sums
from onnx_fp16fix.plan.build import build_problem
from onnx_fp16fix.plan.exact import exact_nodes
from onnx_fp16fix.plan.explain import reason_for_fp32, reason_for_mul
from onnx_fp16fix.plan.facts import Facts, NodeView
from onnx_fp16fix.plan.need import Need, needs
from onnx_fp16fix.plan.plan import Plan, Slot
from onnx_fp16fix.plan.prices import Prices
from onnx_fp16fix.plan.problem import Problem, operands_of
from onnx_fp16fix.plan.region import region
from onnx_fp16fix.plan.risk import Risk, find_risks

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
    max_fp32_flops: float | None = None,
    half: FloatType = FP16,
) -> Plan:
    """Plan the main graph and the bodies of If, Loop and Scan inside it.

    ``margin``: factor between calibrated maxima and what FP16 must hold. ``fp32``: nodes to keep in FP32 with the
    reason (islands asked for by rules). ``only``: tensors whose risk counts (the rules' ``rescale``); None = all.
    ``bodies``: the same as ``fp32`` for the nodes of bodies. A node of ``fp32`` that has bodies keeps these in FP32
    as a whole. ``time_limit``: seconds for the solver, per scope; None lets it grow with the program. ``fp16``: nodes
    that are not to become FP32; where no plan does without, they do. ``max_fp32_flops``: share of the FLOPs of each
    scope that FP32 is to have at most; a plan with more is better than none. ``half``: the 16-bit type, here called
    FP16 whichever it is. A graph without risk gives an empty plan
    apart from nodes that cannot run in FP16 at all.
    """
    facts = Facts(scope, ranges, margin, half)
    settings = _Settings(only, prices or Prices(), time_limit, max_fp32_flops)
    plan = _plan_scope(facts, fp32, settings, fp16)
    if not scope.bodies:
        return plan
    plans: dict[ScopePath, Plan] = {}
    runs: dict[ScopePath, float] = {}
    whole: dict[tuple[ScopePath, int], str] = {(scope.path, node): why for node, why in (fp32 or {}).items()}
    for body in scope.inside():
        inner = Facts(body, ranges, margin, half)
        wished = (bodies or {}).get(body.path, {})
        whole |= {(body.path, node): why for node, why in wished.items()}
        kept = kept_whole(inner, whole)
        forced = {**long_sums(inner), **wished} if only is None else wished
        if kept is None:
            plans[body.path] = _plan_scope(inner, forced, settings)
        else:
            whole |= {(body.path, node.index): kept for node in body.nodes}
            plans[body.path] = _whole_fp32(inner, kept)
        runs[body.path] = executions(inner) / max(1, ranges.samples)
    return _together(plan, plans, runs)


def _together(plan: Plan, bodies: Mapping[ScopePath, Plan], runs: Mapping[ScopePath, float]) -> Plan:
    parts = [(plan, 1.0), *((body, runs[path]) for path, body in bodies.items())]
    flops = sum(part.flops * times for part, times in parts)
    fp32_flops = sum(part.flops * part.fp32_flops_share * times for part, times in parts)
    return replace(
        plan,
        bodies=bodies,
        flops=flops,
        fp32_flops_share=fp32_flops / flops if flops else 0.0,
        cost=sum(part.cost * max(1.0, times) for part, times in parts),
        optimal=all(part.optimal for part, _ in parts),
    )


def _plan_scope(
    facts: Facts,
    fp32: Mapping[int, str] | None,
    settings: _Settings,
    fp16: Collection[int] = (),
) -> Plan:
    scope, only, max_fp32_flops = facts.scope, settings.only, settings.max_fp32_flops
    views = [facts.node_view(node) for node in scope.nodes]
    relations = [facts.relation(view) for view in views]
    need = needs(facts)
    exact = exact_nodes(facts)
    forced = {**exact, **(fp32 or {})} if only is None else dict(fp32 or {})
    risks = find_risks(facts, views, relations, need, exact)
    seeds = {risk.node for risk in risks if only is None or risk.tensor in only} | set(forced)
    seeds |= (
        {view.node.index for view in views if not view.slots.fp16 and operands_of(view)} if seeds else set()
    )
    nodes = region(facts, views, relations, seeds)
    # where scaling alone has no answer somewhere every node of the region may choose FP32; a budget goes last
    budgets = (None,) if max_fp32_flops is None else (max_fp32_flops, None)
    for budget, all_prone in product(budgets, (False, True)):
        problem = build_problem(
            facts, views, relations, need, nodes, forced, settings.prices,
            all_prone=all_prone, half=frozenset(fp16), max_fp32_flops=budget,
        )  # fmt: skip
        values = problem.program.solve(settings.time_limit)
        if values is not None:
            return _read(problem, values, risks, need)
    return _all_fp32(problem, risks)


def _read(problem: Problem, values: npt.NDArray[np.float64], risks: tuple[Risk, ...], need: Need) -> Plan:
    def chosen(variables: Mapping[Slot, int]) -> dict[Slot, int]:
        return {slot: int(values[variable]) for slot, variable in variables.items() if values[variable]}

    scope = problem.facts.scope
    tensors = {id(tensor): tensor for node in scope.nodes for tensor in (*node.inputs, *node.outputs)}
    exponents: dict[str, int] = {}
    entries: dict[str, int] = {}
    for key, variable in problem.exponent.items():
        if values[variable]:
            made = scope.producer(tensors[key]) is not None
            (exponents if made else entries)[tensors[key].name] = int(values[variable])
    results = {
        tensors[key].name: int(values[variable])
        for key, variable in problem.result.items()
        if values[variable]
    }
    muls, operands = chosen(problem.shift), chosen(problem.constant)
    fp32 = [index for index, variable in problem.fp32.items() if values[variable]]
    fp32 += [index for index in problem.follows if any(values[v] for v in problem.precision(index))]
    fp32 += [
        view.node.index
        for view in problem.views
        if problem.is_fp32(view.node.index) and operands_of(view) and not _only_holds_bodies(problem, view)
    ]
    reasons = {
        index: reason_for_fp32(problem, index, {**entries, **exponents}, operands, muls)
        for index in sorted(fp32)
    }
    total, share = _flops(problem.views, reasons)
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
        cost=float(np.dot(problem.program.cost, values)),
        risks=risks,
    )


def _lost_bits(problem: Problem, exponents: Mapping[str, int]) -> dict[str, int]:
    lost = {}
    for node in problem.facts.scope.nodes:
        for tensor in node.outputs:
            exponent = exponents.get(tensor.name, 0)
            typical = problem.facts.typical(tensor) if exponent else None
            if typical is not None and exponent > typical:
                lost[tensor.name] = exponent - typical
    return lost


def _only_holds_bodies(problem: Problem, view: NodeView) -> bool:
    """Whether the node computes in its bodies, whose plans say in what."""
    index = view.node.index
    return index in problem.facts.scope.bodies and index not in problem.forced


def _flops(views: Sequence[NodeView], fp32: Collection[int]) -> tuple[float, float]:
    """FLOPs of one run of the scope, bodies left out, and the FP32 nodes' share of them."""
    counts = [flops(view) for view in views]
    total = sum(counts)
    return total, sum(counts[index] for index in fp32) / total if total else 0.0


def _whole_fp32(facts: Facts, why: str) -> Plan:
    """The plan of a body that stays as it is."""
    views = [facts.node_view(node) for node in facts.scope.nodes]
    fp32 = {view.node.index: why for view in views if operands_of(view)}
    total, share = _flops(views, fp32)
    return Plan(fp32=fp32, flops=total, fp32_flops_share=share)


def _all_fp32(problem: Problem, risks: tuple[Risk, ...]) -> Plan:
    """The answer when no plan was found in time: the region in FP32, which is always right."""
    why = "no plan was found within the time limit: kept in FP32 to be safe"
    fp32 = dict.fromkeys(problem.nodes, why)
    fp32 |= {v.node.index: why for v in problem.views if problem.is_fp32(v.node.index) and operands_of(v)}
    total, share = _flops(problem.views, fp32)
    return Plan(fp32=fp32, flops=total, fp32_flops_share=share, cost=float("inf"), risks=risks, optimal=False)
