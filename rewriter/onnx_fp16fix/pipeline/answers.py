"""What the model that is written does about each risk of the one that was given: the plan may have changed since it
was made first, and rules may have rewritten the node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from onnx_fp16fix.document import Finding
from onnx_fp16fix.graph import GraphView
from onnx_fp16fix.model import ScopePath
from onnx_fp16fix.pipeline.findings import plan_findings, plan_remedy
from onnx_fp16fix.pipeline.follow import node_names
from onnx_fp16fix.pipeline.places import place_of
from onnx_fp16fix.pipeline.state import State
from onnx_fp16fix.plan import Plan, Risk

__all__ = ["planned_findings"]


def planned_findings(before: State, planned: State, after: State, done: Sequence[Finding]) -> list[Finding]:
    """Risks of the model as it was before rules rewrote it, and bounds that are held since, with what the model that is
    written does about them. ``done``: what rules did."""
    half = after.half_type
    if planned.model is before.model:
        remedy = _final_remedy(planned.view, after, done)
        return plan_findings(planned.view, planned.plan, "fixed", half, remedy)
    held = Plan(risks=tuple(risk for risk in planned.plan.risks if "bound" in risk.facts))
    return [
        *plan_findings(before.view, before.plan, "fixed", half, _final_remedy(before.view, after, done)),
        *plan_findings(planned.view, held, "fixed", half, _final_remedy(planned.view, after, done)),
    ]


def _final_remedy(view: GraphView, state: State, done: Iterable[Finding]) -> Callable[[ScopePath, Risk], str]:
    """Words for a risk of a node of ``view``, of which ``state`` is what became; ``done``: what rules did."""
    plans = dict(state.plan.scopes())
    if state.view is view:
        return lambda path, risk: plan_remedy(view.scopes[path], plans, risk, state.half_type)
    names = node_names(view)
    places = {name: place for place, name in node_names(state.view).items()}
    rules = {
        (finding.scope, node): finding.rule
        for finding in done
        if finding.status == "fixed" and finding.edit is not None
        for node in finding.edit.removed
    }

    def remedy(path: ScopePath, risk: Risk) -> str:
        node = view.scopes[path].nodes[risk.node]
        place = places.get(names[path, risk.node])
        same = None if place is None else state.node(place)
        tensors = () if same is None else (*same.inputs, *same.outputs)
        if (
            place is None
            or same is None
            or same.op != node.op
            or not any(risk.tensor == tensor.name for tensor in tensors)
        ):
            rule = rules.get((place_of(view.scopes[path]), node.label))
            return f"{node.op} is rewritten by {rule or 'a rule'}"
        return plan_remedy(state.view.scopes[place[0]], plans, replace(risk, node=place[1]), state.half_type)

    return remedy
