"""Plans that heed what users and their rules ask for, and what becomes of wishes that cannot go well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from onnx_fp16fix.document import Finding
from onnx_fp16fix.errors import Problem, UsageError
from onnx_fp16fix.operators import flops
from onnx_fp16fix.pipeline.prepare import Run
from onnx_fp16fix.pipeline.state import State
from onnx_fp16fix.plan import Plan, make_plan

__all__ = ["budget_findings", "planned", "settle"]


def planned(state: State, fp32: Mapping[int, str] | None = None) -> State:
    """The state with a plan of its own; ``fp32``: nodes to keep in FP32 beside those asked for."""
    plan = _plan(state, {**state.wished, **(fp32 or {})}, frozenset(state.half) - state.obeyed.keys())
    return replace(state, plan=_without(state, plan))


def settle(run: Run, state: State, *, force: bool) -> State:
    """Plan, with the nodes that users want in FP16 there.

    Where FP16 cannot hold what such a node reads or makes: raises UsageError (USAGE-CONTRADICTION) with the reason, or
    obeys with ``force`` and notes what is left at risk.
    """
    free = _plan(state, state.wished, frozenset())
    against = {index: free.fp32[index] for index in state.half if index in free.fp32}
    if not against:
        return replace(state, plan=free)
    bad, label = _impossible(state, against), state.half_type.label
    if bad and not force:
        hint = "leave it out, or obey at your own risk: force=True (--force)"
        raise UsageError(
            [
                Problem(
                    "USAGE-CONTRADICTION",
                    f"{state.half[index]}, but {state.scope.nodes[index].op} cannot run in {label}: {why}",
                    node=state.scope.nodes[index].label,
                    hint=hint,
                )
                for index, why in bad.items()
            ]
        )
    for index, why in bad.items():
        node = state.scope.nodes[index]
        run.document.findings.append(
            Finding(
                name=f"{state.half_type.name}-forced",
                kind="overflow",
                severity="error",
                status="left",
                message=f"{node.op} runs in {label} because {state.half[index]}; FP32 would be right: {why}",
                node=node.label,
                tensor=node.outputs[0].name,
            )
        )
    return planned(replace(state, obeyed=bad))


def budget_findings(state: State) -> list[Finding]:
    """What is left to do where more FLOPs stay in FP32 than the user wants."""
    share, most = state.plan.fp32_flops_share, state.max_fp32_flops
    if most is None or share <= most:
        return []
    message = f"{share:.1%} of the FLOPs stay in FP32, {most:.1%} were asked for: no plan with less is right"
    return [
        Finding(
            name="fp32-flops",
            kind="structure",
            status="left",
            message=message,
            facts={"share": share, "asked": most},
        )
    ]


def _plan(state: State, fp32: Mapping[int, str], half: frozenset[int]) -> Plan:
    return make_plan(
        state.scope,
        state.ranges,
        margin=state.margin,
        fp32={index: why for index, why in fp32.items() if index not in state.half},
        bodies=state.inside,
        fp16=half,
        max_fp32_flops=state.max_fp32_flops,
        half=state.half_type,
    )


def _impossible(state: State, against: Mapping[int, str]) -> dict[int, str]:
    """Those of the nodes that no plan has in FP16; all of them where only their combination is impossible."""
    together = _plan(state, state.wished, frozenset(state.half)).fp32
    if not any(index in together for index in against):
        return {}
    alone = {i: why for i, why in against.items() if i in _plan(state, state.wished, frozenset({i})).fp32}
    return alone or dict(against)


def _without(state: State, plan: Plan) -> Plan:
    """The plan with the nodes that are forced against it in FP16, whatever comes of that."""
    if not state.obeyed.keys() & plan.fp32.keys():
        return plan
    fp32 = {index: why for index, why in plan.fp32.items() if index not in state.obeyed}
    facts = state.facts
    less = sum(flops(facts.node_view(state.scope.nodes[index])) for index in plan.fp32.keys() - fp32.keys())
    share = plan.fp32_flops_share - less / plan.flops if plan.flops else 0.0
    return replace(plan, fp32=fp32, fp32_flops_share=share)
