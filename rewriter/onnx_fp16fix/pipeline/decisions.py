"""What a plan decides and pays: its section of the document, and as findings each inserted Mul with its reason and
each tensor that gives up bits, and what enters or leaves a body in FP32."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from functools import partial

from onnx_fp16fix.calibrate.ranges import tensor_key
from onnx_fp16fix.document import Finding, PlanEntry
from onnx_fp16fix.graph import GraphView, ScopeView, ViewNode
from onnx_fp16fix.half import FloatType
from onnx_fp16fix.pipeline.places import place_of
from onnx_fp16fix.plan import Plan

__all__ = ["decision_findings", "plan_entry"]

_NAMED = 8
"""Nodes that a message names."""


def plan_entry(view: GraphView, plan: Plan, inserted_muls: int, casts: int = 0) -> PlanEntry:
    """The document's section about a plan, bodies included (their nodes named by scope, as tensors are in ranges);
    Muls and Casts are those of the models made from it."""
    return PlanEntry(
        rescaled_tensors=sum(len(part.exponents) + len(part.entries) for _, part in plan.scopes()),
        inserted_muls=inserted_muls,
        fp32_nodes=[
            tensor_key(path, view.scopes[path].nodes[index].label)
            for path, part in plan.scopes()
            for index in part.fp32
        ],
        fp32_flops_share=plan.fp32_flops_share,
        casts=casts,
    )


def decision_findings(
    view: GraphView, plan: Plan, half: FloatType, known: Iterable[Finding] = ()
) -> list[Finding]:
    """One finding per Mul, per tensor whose typical values become subnormal, per reason for FP32 at the border of a
    body, and per reason for nodes that stay in FP32. ``known``: what has been said of such nodes."""
    said = {(finding.scope, finding.node) for finding in known if "stays in FP32" in finding.message}
    return [
        finding
        for path, part in plan.scopes()
        for finding in _scope_findings(view.scopes[path], part, half, said)
    ]


def _scope_findings(
    scope: ScopeView, plan: Plan, half: FloatType, said: Set[tuple[str, str | None]]
) -> list[Finding]:
    findings, where = [], place_of(scope)
    groups: dict[str, list[ViewNode]] = {}
    tell = partial(Finding, severity="info", status="fixed", scope=where)
    for index, why in plan.fp32.items():
        if (where, scope.nodes[index].label) not in said:
            groups.setdefault(why, []).append(scope.nodes[index])
    findings += [_kept(nodes, why, where, half) for why, nodes in groups.items()]
    for (index, position), shift in sorted(plan.muls.items()):
        node = scope.nodes[index]
        why = plan.muls_why[index, position]
        findings.append(
            tell(
                name=f"{half.name}-rescaled-operand",
                kind="structure",
                message=f"a Mul by 2**{-shift} goes before {node.op}: {why}",
                node=node.label,
                tensor=node.inputs[position].name,
                facts={"exponent": -shift},
            )
        )
    for name, bits in plan.lost_bits.items():
        findings.append(
            tell(
                name=f"{half.name}-lost-bits",
                kind="precision",
                message=f"'{name}' is stored so small that its typical values give up {bits} of {half.bits} bits",
                tensor=name,
                facts={"bits": bits},
            )
        )
    kept: dict[str, list[str]] = {}
    for name, why in () if plan.whole else plan.float_borders.items():
        kept.setdefault(why, []).append(name)
    for why, names in kept.items():
        findings.append(
            tell(
                name=f"{half.name}-fp32-border",
                kind="structure",
                message=f"FP32 enters or leaves the body as {', '.join(map(repr, names))}: {why}",
                tensor=names[0],
            )
        )
    return findings


def _kept(nodes: Sequence[ViewNode], why: str, where: str, half: FloatType) -> Finding:
    """Nodes that stay in FP32 for one reason."""
    what = f"{nodes[0].op} stays"
    if len(nodes) > 1:
        more = f" and {len(nodes) - _NAMED} more" if len(nodes) > _NAMED else ""
        what = f"{len(nodes)} nodes stay"
        why = f"{', '.join(node.label for node in nodes[:_NAMED])}{more}: {why}"
    return Finding(
        name=f"{half.name}-kept-fp32",
        kind="structure",
        severity="info",
        status="fixed",
        message=f"{what} in FP32: {why}",
        scope=where,
        node=nodes[0].label,
        facts={"nodes": len(nodes)},
    )
