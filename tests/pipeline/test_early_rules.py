"""Rules that are tried before there is a whole plan."""

from __future__ import annotations

from unittest import mock

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_fp16fix
from onnx_fp16fix.outcome import Outcome
from onnx_fp16fix.pipeline import planning
from onnx_fp16fix.plan import Draft

WIDTH = 8


def softplus(blocks: int, *, gated: bool = False) -> onnx.ModelProto:
    """Softplus of up to 14 * 8, spelled so that its exponential overflows; ``gated``: then a SiLU of 1e6, which only a
    Mul saves."""
    nodes, last = [], "x"
    for n in range(blocks):
        nodes += [
            helper.make_node("MatMul", [last, "gain"], [f"m{n}"]),
            helper.make_node("Exp", [f"m{n}"], [f"e{n}"]),
            helper.make_node("Add", [f"e{n}", "one"], [f"a{n}"]),
            helper.make_node("Log", [f"a{n}"], [f"l{n}"]),
            helper.make_node("Tanh", [f"l{n}"], [f"t{n}"]),
        ]
        last = f"t{n}"
    if gated:
        nodes += [
            helper.make_node("Mul", [last, "large"], ["big"]),
            helper.make_node("Sigmoid", ["big"], ["gate"]),
            helper.make_node("Mul", ["big", "gate"], ["silu"]),
            helper.make_node("Mul", ["silu", "small"], ["back"]),
        ]
        last = "back"
    values = {"gain": np.eye(WIDTH) * 14, "one": 1.0, "large": 1e6, "small": 1e-6}
    constants = [numpy_helper.from_array(np.float32(value), name) for name, value in values.items()]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, WIDTH]) for name in ("x", last))
    graph = helper.make_graph(nodes, "softplus", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def fixed(proto: onnx.ModelProto, *, early: bool = True, **options: object) -> tuple[Outcome, list[bool]]:
    """What ``fix`` makes of the model, and of each draft, whether it was made whole; ``early``: whether any may be
    open when rules are tried."""
    data = {"x": np.random.default_rng(1).uniform(-1, 1, (4, WIDTH)).astype(np.float32)}
    drafts, draft_plan = list[Draft](), planning.draft_plan

    def drafted(*arguments: object, **named: object) -> Draft:
        drafts.append(draft_plan(*arguments, **named))  # type: ignore[arg-type]
        drafts[-1].open &= early
        return drafts[-1]

    with mock.patch.object(planning, "draft_plan", drafted):
        outcome = onnx_fp16fix.fix(proto, data, verify=False, **options)  # type: ignore[arg-type]
    return outcome, ["_plan" in vars(draft) for draft in drafts]


def test_a_program_that_rules_make_needless_is_not_solved() -> None:
    proto = softplus(4)
    outcome, whole = fixed(proto)
    assert whole == [False]
    assert outcome.run.plan is not None
    assert not outcome.run.plan.fp32_nodes
    assert [(rule.id, rule.applied) for rule in outcome.run.rules if rule.applied] == [("ACT001", 4)]
    assert {finding.status for finding in outcome.findings} == {"fixed"}
    eager = fixed(proto, early=False)[0]
    assert outcome.model == eager.model
    assert outcome.findings == eager.findings


def test_bodies_are_planned_early_too() -> None:
    inner = softplus(3).graph
    past = "outer"
    del inner.input[:]
    inner.node[0].input[0] = past
    other = helper.make_graph([helper.make_node("Neg", [past], ["n"])], "other", [], [inner.output[0]])
    other.output[0].name = "n"
    nodes = [
        helper.make_node("Identity", ["x"], [past]),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Less", ["sum", "far"], ["c"]),
        helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=other),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, WIDTH]) for name in "xy")
    far = numpy_helper.from_array(np.float32(1e4), "far")
    graph = helper.make_graph(nodes, "bodies", [x], [y], [far])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    outcome, whole = fixed(proto)
    assert whole == [False]
    assert [(rule.id, rule.applied) for rule in outcome.run.rules if rule.applied] == [("ACT001", 3)]
    eager = fixed(proto, early=False)[0]
    assert outcome.model == eager.model
    assert outcome.findings == eager.findings


def test_it_is_solved_where_the_plan_after_the_rules_may_cost_more() -> None:
    """One place where any plan pays is no proof that it pays more than the Mul that is left."""
    proto = softplus(1, gated=True)
    outcome, whole = fixed(proto)
    assert whole == [True]
    eager = fixed(proto, early=False)[0]
    assert outcome.model == eager.model
    assert outcome.findings == eager.findings
    assert outcome.run.plan == eager.run.plan


def test_it_is_solved_where_no_rule_helps() -> None:
    proto = softplus(2)
    outcome, whole = fixed(proto, allow=["exact"])
    assert whole == [True]
    assert outcome.run.plan is not None
    assert len(outcome.run.plan.fp32_nodes) >= 2


@pytest.mark.parametrize("wish", [{"keep_fp32": "m0"}, {"max_fp32_flops": 0.5}, {"force_fp16": "m0"}])
def test_wishes_are_planned_for_at_once(wish: dict[str, object]) -> None:
    proto = softplus(2)
    for node in proto.graph.node:
        node.name = node.output[0]
    assert fixed(proto, **wish)[1] == []
