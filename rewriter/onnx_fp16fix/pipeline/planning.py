"""Plans that heed what users and their rules ask for, and what becomes of wishes that cannot go well."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace

from onnx_fp16fix.calibrate import RangeTable
from onnx_fp16fix.document import Finding
from onnx_fp16fix.errors import Problem, UsageError
from onnx_fp16fix.operators import flops
from onnx_fp16fix.pipeline.headroom import roomy, spacious
from onnx_fp16fix.pipeline.prepare import Run
from onnx_fp16fix.pipeline.state import State, by_scope
from onnx_fp16fix.plan import Place, Plan, draft_plan, make_plan
from onnx_fp16fix.plan.known.bodies import executions
from onnx_fp16fix.wording import spelled

__all__ = ["budget_findings", "planned", "settle", "with_headroom", "with_spare"]


def planned(state: State, *, headroom: bool = True) -> State:
    """The state with a plan of its own; ``headroom``: for near bounds as well, see ``with_headroom``."""
    half = frozenset(state.half) - state.obeyed.keys()
    plan = _roomy(state, state.wished) if headroom else _plan(state, state.wished, half)
    return replace(state, plan=_without(state, plan), draft=None)


def settle(run: Run, state: State, *, force: bool) -> State:
    """Plan, with the nodes that users want in FP16 there.

    Where FP16 cannot hold what such a node reads or makes: raises UsageError (USAGE-CONTRADICTION) with the reason, or
    obeys with ``force`` and notes what is left at risk. Where nobody wishes anything and exponents alone do not do, the
    plan is left a draft.
    """
    if not state.wished and not state.half and state.max_fp32_flops is None:
        draft = draft_plan(state.scope, state.ranges, margin=state.margin, half=state.half_type)
        if draft.open:
            return replace(state, plan=draft.outline(), draft=draft)
        return replace(state, plan=draft.plan())
    free = _plan(state, state.wished, frozenset())
    if not force and (problem := _over_budget(state, free)) is not None:
        raise UsageError(problem)
    kept = free.all_fp32()
    against = {place: kept[place] for place in state.half if place in kept}
    if not against:
        return replace(state, plan=free)
    bad, label = _impossible(state, against), state.half_type.label
    if bad and not force:
        hint = f"leave it out, or obey at your own risk: {spelled('force', True)}"
        raise UsageError(
            [
                Problem(
                    "USAGE-CONTRADICTION",
                    f"{state.half[place]}, but {state.node(place).op} cannot run in {label}: {why}",
                    node=state.node(place).label,
                    hint=hint,
                )
                for place, why in bad.items()
            ]
        )
    for place, why in bad.items():
        node = state.node(place)
        run.document.findings.append(
            Finding(
                name=f"{state.half_type.name}-forced",
                kind="overflow",
                severity="error",
                status="left",
                message=f"{node.op} runs in {label} because {state.half[place]}; FP32 would be right: {why}",
                scope="/".join(place[0]),
                node=node.label,
                tensor=node.outputs[0].name,
            )
        )
    run.forced |= bool(bad)
    return planned(replace(state, obeyed=bad), headroom=False)


def with_headroom(state: State) -> State:
    """The state with a plan that holds near bounds as well, where that costs nothing."""
    if state.obeyed:
        return planned(state)
    return replace(state, plan=_roomy(state, state.wished, state.plan))


def with_spare(state: State) -> State:
    """The state with a plan that holds larger values of what is scaled anyway; the same one where that costs more than
    a bit of a small tensor."""
    half = frozenset(state.half) - state.obeyed.keys()

    def again(ranges: RangeTable) -> Plan:
        return _plan(replace(state, ranges=ranges), state.wished, half)

    given = {info.name for info in state.model.proto.graph.input}
    plan = spacious(state.plan, state.ranges, again, given, state.margin, state.half_type)
    return state if plan is state.plan or state.obeyed else replace(state, plan=plan)


def _over_budget(state: State, plan: Plan) -> Problem | None:
    """Two wishes against each other: what is to stay in FP32 is more than what may."""
    most, shares = state.max_fp32_flops, dict[str, float]()
    for place, why in state.wished.items() if most is not None and plan.flops else ():
        shares[why] = shares.get(why, 0.0) + _work(state, place) / plan.flops
    total = sum(shares.values())
    if most is None or total <= most:
        return None
    asked = " and ".join(f"{why} ({share:.1%} of the FLOPs)" for why, share in shares.items() if share)
    found = f"{asked}, but {spelled('max_fp32_flops')} allows {most:.1%} in FP32"
    hint = f"allow {math.ceil(1000 * total) / 10:g}%, or keep less; {spelled('force', True)} obeys the first"
    return Problem("USAGE-CONTRADICTION", found, hint=hint)


def budget_findings(state: State, keep: Collection[Place] = ()) -> list[Finding]:
    """What is left to do where more FLOPs stay in FP32 than the user wants; ``keep``: nodes the user keeps there."""
    share, most = state.plan.fp32_flops_share, state.max_fp32_flops
    if most is None or share <= most:
        return []
    own = sum(_work(state, place) for place in keep) / state.plan.flops if state.plan.flops else 0.0
    why = f"{own:.1%} are of nodes to keep there" if own > most else "no plan with less is right"
    message = f"{share:.1%} of the FLOPs stay in FP32, {most:.1%} were asked for: {why}"
    return [
        Finding(
            name="fp32-flops",
            kind="structure",
            status="left",
            message=message,
            facts={"share": share, "asked": most},
        )
    ]


def _roomy(state: State, fp32: Mapping[Place, str], plan: Plan | None = None) -> Plan:
    """The plan (made here if it is not given), with headroom where that costs nothing."""
    half = frozenset(state.half) - state.obeyed.keys()
    return roomy(
        plan or _plan(state, fp32, half),
        state.ranges,
        lambda names: state.analysis.bounds(state.view, names),
        lambda ranges: _plan(replace(state, ranges=ranges), fp32, half),
        state.margin,
        state.half_type,
    )


def _plan(state: State, fp32: Mapping[Place, str], half: frozenset[Place]) -> Plan:
    main, bodies = by_scope({place: why for place, why in fp32.items() if place not in state.half})
    main_half, bodies_half = by_scope(dict.fromkeys(half, ""))
    return make_plan(
        state.scope,
        state.ranges,
        margin=state.margin,
        fp32=main,
        bodies=bodies,
        fp16=main_half,
        fp16_bodies=bodies_half,
        max_fp32_flops=state.max_fp32_flops,
        half=state.half_type,
    )


def _impossible(state: State, against: Mapping[Place, str]) -> dict[Place, str]:
    """Those of the nodes that no plan has in FP16; all of them where only their combination is impossible."""
    together = _plan(state, state.wished, frozenset(state.half)).all_fp32()
    if not any(place in together for place in against):
        return {}
    alone = {
        place: why
        for place, why in against.items()
        if place in _plan(state, state.wished, frozenset({place})).all_fp32()
    }
    return alone or dict(against)


def _without(state: State, plan: Plan) -> Plan:
    """The plan with the nodes that are forced against it in FP16, whatever comes of that."""
    forced = state.obeyed.keys() & plan.all_fp32().keys()
    if not forced:
        return plan
    less = sum(_work(state, place) for place in forced)
    changed = {path: _less(part, {i for at, i in forced if at == path}) for path, part in plan.scopes()}
    share = plan.fp32_flops_share - less / plan.flops if plan.flops else 0.0
    bodies = {path: changed[path] for path in plan.bodies}
    return replace(plan, fp32=changed[()].fp32, bodies=bodies, fp32_flops_share=share)


def _work(state: State, place: Place) -> float:
    """FLOPs of a node per sample."""
    path, index = place
    facts = replace(state.facts, scope=state.view.scopes[path])
    times = executions(facts) / max(1, state.ranges.samples) if path else 1.0
    return flops(facts.node_view(facts.scope.nodes[index])) * times


def _less(plan: Plan, forced: Collection[int]) -> Plan:
    return replace(plan, fp32={index: why for index, why in plan.fp32.items() if index not in forced})
