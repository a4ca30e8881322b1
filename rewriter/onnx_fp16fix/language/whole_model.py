"""Rules without a pattern: an action that looks at the whole model, once."""

from __future__ import annotations

from onnx_fp16fix.graph import GraphView
from onnx_fp16fix.language.registry import Call, ModelSite, find_action, is_for_model
from onnx_fp16fix.language.request import PlanRequest
from onnx_fp16fix.language.rule import Rule
from onnx_fp16fix.language.run import MatchRecord

__all__ = ["ask_for_model"]


def ask_for_model(rule: Rule, view: GraphView) -> tuple[PlanRequest, MatchRecord]:
    """What the rule's action asks for, and the record of it. Raises RuleFileError where the model is another one."""
    called = rule.variants[0].action
    assert called is not None
    action = find_action(called.name)
    assert is_for_model(action)  # the loader lets no other one do without a pattern
    site = ModelSite(rule.id, rule.place, view)
    request = action.request_model(site, Call(called.parameters, called.expressions))
    named = [(path, view.scopes[path].nodes[index]) for path, index in request.fp32_nodes]
    record = MatchRecord(
        rule=rule.id,
        name=rule.name,
        status="applied",
        scope=(),
        node=named[0][1].label,
        nodes=tuple(node.label for _, node in named),
        tensors=tuple(node.outputs[0].name for _, node in named),
        reason=request.reason,
        clause="action",
        equal=rule.equal,
        tol=rule.tol,
        action=action.name,
    )
    return request, record
