"""Ops of ONNX Runtime's own in cases and patterns, inputs that are absent, attributes that are set."""

from __future__ import annotations

import numpy as np
import pytest

from language._models import case, load_text, record, rewrite, rule_text, run, view
from onnx_fp16fix.errors import RuleFileError
from onnx_fp16fix.language import apply_rules
from onnx_fp16fix.language.cases import run_cases
from onnx_fp16fix.proof import prove_rule

RESCALE = "action: {name: rescale}"
ATTENTION = "com.microsoft.MultiHeadAttention"
GIVEN = dict.fromkeys("qkv", "float [2, 4, 8]")


def applied(rule, model) -> int:
    return sum(entry.status == "applied" for entry in apply_rules(view(model), rule, None).records)


def test_types_of_other_ops_are_those_of_onnx_runtime():
    text = f"g = com.microsoft.BiasGelu(q, b)\nReduceMax({ATTENTION}(g, k, v, num_heads=2), axes=[-1])"
    model = case(text, b="float [8]", **GIVEN)
    sizes = [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim]
    assert sizes == [2, 4, 1]
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 17), ("com.microsoft", 1)]


def test_an_op_that_no_runtime_has_is_told():
    with pytest.raises(ValueError, match="Nonsense"):
        case("com.microsoft.Nonsense(q)", q="float [2]")


@pytest.mark.parametrize(
    ("inputs", "expected"), [("q, k, v, None, None, z", 1), ("q, k, v, b, None, z", 0), ("q, k, v", 0)]
)
def test_an_absent_input_is_written_as_none(inputs, expected, tmp_path):
    rule = load_text(rule_text(f"{ATTENTION}(q, k, v, None, None, z, num_heads=_)", RESCALE), tmp_path)
    model = case(f"{ATTENTION}({inputs}, num_heads=2)", b="float [24]", z="float [2, 2, 4, 4]", **GIVEN)
    assert applied(rule, model) == expected


def test_none_is_no_value(tmp_path):
    with pytest.raises(RuleFileError, match="None stands for an input that an op does not have"):
        load_text(rule_text("Exp(x) + None", RESCALE), tmp_path)


def test_an_input_may_be_left_out_of_a_replacement(tmp_path):
    action = 'replace: [{with: "Clip(x, None, 2 * value(c))"}]'
    rule = load_text(
        rule_text("op.Clip(x, None, c)", action, vars="{c: const scalar}", equal="real"), tmp_path
    )
    model = case("Clip(x, None, 3.0)", x="float [4]")
    after, _ = rewrite(model, rule)
    np.testing.assert_array_equal(run(after, x=np.float32([-9, 0, 5, 9])), [-9, 0, 5, 6])


@pytest.mark.parametrize("opset", [7, 13])
def test_set_changes_an_attribute(opset, tmp_path):
    match = "InstanceNormalization(x, g, b, epsilon=e)"
    rule = load_text(rule_text(match, "replace: [{set: {x: x * 0.25, e: e / 16}}]"), tmp_path)
    norm = "InstanceNormalization(x, g, b, epsilon=0.5)"
    model = case(norm, opset, x="float [1, 2, 8]", g="float [2]", b="float [2]")
    after, found = rewrite(model, rule)
    assert record(found).status == "applied"
    node = after.graph.node[-1]
    assert {entry.name: entry.f for entry in node.attribute} == {"epsilon": 0.03125}
    feeds = {"x": np.float32([[[*range(8)]] * 2]), "g": np.ones(2, np.float32), "b": np.zeros(2, np.float32)}
    np.testing.assert_array_equal(run(after, **feeds), run(model, **feeds))


def test_a_default_that_is_set_is_written(tmp_path):
    rule = load_text(
        rule_text("LeakyRelu(x, alpha=a)", "replace: [{set: {a: 2 * a}}]", equal="real"), tmp_path
    )
    after, _ = rewrite(case("LeakyRelu(x)", x="float [4]"), rule)
    assert after.graph.node[0].attribute[0].f == np.float32(0.02)


def test_nodes_with_other_attributes_share_no_copy(tmp_path):
    match = "Tanh(LeakyRelu(x, alpha=a) * c)"
    rule = load_text(
        rule_text(
            match, "replace: [{set: {a: value(c)}}]", equal="real", inner="shared", vars="{c: const scalar}"
        ),
        tmp_path,
    )
    after, _ = rewrite(case("h = LeakyRelu(x)\nTanh(h * 0.5) + Tanh(h * 0.25) + h", x="float [4]"), rule)
    slopes = [
        node.attribute[0].f for node in after.graph.node if node.op_type == "LeakyRelu" and node.attribute
    ]
    assert sorted(slopes) == [0.25, 0.5]


@pytest.mark.parametrize(
    ("match", "setting", "reason"),
    [
        ("Concat(x, y, axis=a)", "{a: a + 0.5}", "the new value of 'a' does not fit its type"),
        ("ReduceMean(x, axes=ax) * y", "{ax: 1}", "not a captured tensor, constant or attribute"),
    ],
)
def test_an_attribute_that_cannot_be_set_is_told(match, setting, reason, tmp_path):
    text = rule_text(match, f"replace: [{{set: {setting}}}]", equal="real")
    if "captured" in reason:
        with pytest.raises(RuleFileError, match=reason):
            load_text(text, tmp_path)
        return
    model = case("Concat(x, y, axis=0)", x="float [2, 4]", y="float [2, 4]")
    assert record(apply_rules(view(model), load_text(text, tmp_path), None)).reason == reason


def test_a_rule_about_another_domain_is_proven(tmp_path):
    text = rule_text(
        "com.microsoft.BiasGelu(x, b)", "replace: [{with: com.microsoft.Gelu(x + b)}]", equal="real"
    )
    text += """\
    tests:
      - hit: com.microsoft.BiasGelu(x, b) * 2.0
        given: {x: "float [2, 8] absmax=3", b: "float [8] absmax=1"}
      - miss: com.microsoft.FastGelu(x, b)
        given: {x: "float [2, 8] absmax=3", b: "float [8] absmax=1"}
        because: match
"""
    rule = load_text(text, tmp_path)[0]
    assert [result.message for result in run_cases(rule)] == ["", ""]
    proof = prove_rule(rule, "fast")
    assert proof.failures == []
    assert proof.checks["equality"]
