"""Every row of the table of traps that graphsurgeon's own pattern matcher falls into."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from language._models import (
    RMS,
    absmax,
    case,
    graph_model,
    load_text,
    patched,
    record,
    rewrite,
    rule_text,
    view,
)
from onnx_fp16fix.language import apply_rules
from onnx_fp16fix.model import Model, apply_patches

VARS = "{eps: const scalar, ax: axes}"
HALVE = "replace: [{set: {x: x * 0.5, eps: value(eps) * 0.25}}]"


@pytest.fixture
def rms(tmp_path):
    return load_text(rule_text(RMS, HALVE, vars=VARS), tmp_path)


def find(rule, model) -> int:
    return sum(entry.status == "applied" for entry in apply_rules(view(model), rule, None).records)


def rms_nodes(x: str = "x", eps: str = "eps", y: str = "y", **names: str):
    """Nodes of an RMS norm, unnamed unless names are given."""
    return [
        helper.make_node("Mul", [x, x], ["sq"], name=names.get("sq", "")),
        helper.make_node("ReduceMean", ["sq"], ["mean"], axes=[-1], keepdims=1, name=names.get("mean", "")),
        helper.make_node("Add", ["mean", eps], ["added"], name=names.get("added", "")),
        helper.make_node("Sqrt", ["added"], ["root"], name=names.get("root", "")),
        helper.make_node("Div", [x, "root"], [y], name=names.get("div", "")),
    ]


EPS = np.float32(1e-6)


def test_a_fan_out_that_reconverges_is_one_match(tmp_path):
    rule = load_text(rule_text("h = MatMul(a, b)\nh * Sigmoid(h)", "action: {name: rescale}"), tmp_path)
    assert find(rule, case("h = MatMul(a, b)\nSigmoid(h) * h", a="float [2, 2]", b="float [2, 2]")) == 1


def test_unnamed_nodes_on_the_wrong_tensor_do_not_match(rms):
    nodes = rms_nodes()
    nodes[-1].input[0] = "z"
    assert find(rms, graph_model(nodes, {"x": [4, 8], "z": [4, 8]}, {"y": [4, 8]}, eps=EPS)) == 0


def test_an_op_of_another_domain_is_another_op(tmp_path):
    standard = load_text(rule_text("Exp(Relu(x))", "action: {name: rescale}"), tmp_path)
    own = load_text(rule_text("Exp(my.dom.Relu(x))", "action: {name: rescale}"), tmp_path, "own.yaml")
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], domain="my.dom"),
        helper.make_node("Exp", ["r"], ["y"]),
    ]
    model = graph_model(nodes, {"x": [4]}, {"y": [4]})
    model.opset_import.append(helper.make_opsetid("my.dom", 1))
    assert (find(standard, model), find(own, model)) == (0, 1)


def test_another_consumer_of_an_inner_value_prevents_the_match(rms):
    nodes = [*rms_nodes(), helper.make_node("Exp", ["mean"], ["other"])]
    assert find(rms, graph_model(nodes, {"x": [4, 8]}, {"y": [4, 8], "other": [4, 1]}, eps=EPS)) == 0


def test_an_inner_value_that_is_a_graph_output_prevents_the_match(rms):
    assert find(rms, graph_model(rms_nodes(), {"x": [4, 8]}, {"y": [4, 8], "mean": [4, 1]}, eps=EPS)) == 0


def branch(name: str, nodes, output: str) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(output, 1, None)])


def if_model(then, other, before=(), **weights) -> onnx.ModelProto:
    node = helper.make_node("If", ["flag"], ["out"], then_branch=then, else_branch=other)
    model = graph_model([*before, node], {"x": [4, 8]}, {"out": [4, 8]}, **weights)
    model.graph.input.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    return model


def test_an_inner_value_used_in_an_if_body_prevents_the_match(rms):
    uses = branch("then", [helper.make_node("Add", ["mean", "y"], ["t"])], "t")
    plain = branch("else", [helper.make_node("Identity", ["y"], ["e"])], "e")
    assert find(rms, if_model(uses, plain, rms_nodes(), eps=EPS)) == 0
    plain_too = branch("then", [helper.make_node("Identity", ["y"], ["t"])], "t")
    assert find(rms, if_model(plain_too, plain, rms_nodes(), eps=EPS)) == 1


def test_a_pattern_inside_an_if_body_is_rewritten_there(rms):
    body = branch("then", rms_nodes(y="t"), "t")
    other = branch("else", [helper.make_node("Identity", ["x"], ["e"])], "e")
    model = if_model(body, other, eps=EPS)
    found = apply_rules(view(model), rms, None)
    assert record(found).scope == ("0:then_branch:0",)
    result = patched(model, found)
    then = next(a.g for a in result.graph.node[0].attribute if a.name == "then_branch")
    assert [node.op_type for node in then.node] == ["Mul", "Mul", "ReduceMean", "Add", "Sqrt", "Div"]
    before = next(a.g for a in model.graph.node[0].attribute if a.name == "then_branch")
    assert len(before.node) == 5  # the input model is as it was


def test_a_pattern_inside_a_local_function_is_rewritten_there(rms):
    constant = helper.make_node("Constant", [], ["eps"], value=numpy_helper.from_array(EPS))
    opset = [helper.make_opsetid("", 17)]
    function = helper.make_function("local", "Norm", ["x"], ["y"], [constant, *rms_nodes()], opset)
    call = helper.make_node("Norm", ["x"], ["y"], domain="local")
    model = graph_model([call], {"x": [4, 8]}, {"y": [4, 8]})
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.functions.append(function)
    found = apply_rules(view(model), rms, None)
    assert record(found).scope == ("function:0",)
    result = apply_patches(Model(model), found.patches).proto
    onnx.checker.check_model(result)
    assert [node.op_type for node in result.functions[0].node].count("Mul") == 2


def test_commuted_operands_and_an_epsilon_from_a_constant_node_match(rms):
    nodes = rms_nodes()
    nodes[2].input[:] = ["eps", "mean"]
    nodes.insert(0, helper.make_node("Constant", [], ["eps"], value_float=1e-6))
    model = graph_model(nodes, {"x": [4, 8]}, {"y": [4, 8]})
    result, _ = rewrite(model, rms)
    assert not [node for node in result.graph.node if "eps" in node.output]  # nothing reads the old epsilon


def test_an_overridable_initializer_is_no_constant(rms):
    model = graph_model(rms_nodes(), {"x": [4, 8], "eps": []}, {"y": [4, 8]}, eps=EPS)
    assert find(rms, model) == 0


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_epsilon_of_any_rank_is_compared_and_keeps_its_rank(shape, tmp_path):
    pattern = RMS.replace("+ eps", "+ 1e-6")
    rule = load_text(rule_text(pattern, "action: {name: rescale}", vars="{ax: axes}"), tmp_path)
    right = graph_model(rms_nodes(), {"x": [4, 8]}, {"y": [4, 8]}, eps=np.full(shape, 1e-6, np.float32))
    wrong = graph_model(rms_nodes(), {"x": [4, 8]}, {"y": [4, 8]}, eps=np.full(shape, 1e-5, np.float32))
    assert (find(rule, right), find(rule, wrong)) == (1, 0)
    halve = load_text(rule_text(RMS, HALVE, vars=VARS), tmp_path, "halve.yaml")
    result, _ = rewrite(right, halve)
    assert [tuple(t.dims) for t in result.graph.initializer if np.all(numpy_helper.to_array(t) < 1e-6)] == [
        shape
    ]


def test_an_epsilon_per_channel_is_no_scalar(rms):
    model = graph_model(rms_nodes(), {"x": [4, 8]}, {"y": [4, 8]}, eps=np.full(8, 1e-6, np.float32))
    assert find(rms, model) == 0


def test_two_graph_outputs_on_one_tensor_are_kept(rms):
    nodes = [*rms_nodes(), helper.make_node("Identity", ["y"], ["z"])]
    result, _ = rewrite(graph_model(nodes, {"x": [4, 8]}, {"y": [4, 8], "z": [4, 8]}, eps=EPS), rms)
    assert [entry.name for entry in result.graph.output] == ["y", "z"]


def test_absent_inputs_are_not_equal_to_each_other(tmp_path):
    rule = load_text(rule_text("Clip(x, low, x)", "action: {name: rescale}"), tmp_path)
    nodes = [helper.make_node("Clip", ["x", "", ""], ["y"])]
    assert find(rule, graph_model(nodes, {"x": [4]}, {"y": [4]})) == 0


def test_duplicate_node_names_are_told_apart(rms):
    nodes = rms_nodes(**dict.fromkeys(("sq", "mean", "added", "root", "div"), "same"))
    result, _ = rewrite(graph_model(nodes, {"x": [4, 8]}, {"y": [4, 8]}, eps=EPS), rms)
    assert len(result.graph.node) == 6


def test_equal_names_in_sibling_bodies_are_told_apart(rms):
    both = [branch(side, rms_nodes(y="same"), "same") for side in ("then", "else")]
    model = if_model(both[0], both[1], eps=EPS)
    assert find(rms, model) == 2


def test_ranges_of_the_main_graph_say_nothing_about_a_body(tmp_path):
    rule = load_text(rule_text("Exp(z)", "action: {name: rescale}", where='["absmax(z) > 5"]'), tmp_path)
    inner = [helper.make_node("Neg", ["x"], ["z"]), helper.make_node("Exp", ["z"], ["t"])]
    other = branch("else", [helper.make_node("Identity", ["x"], ["e"])], "e")
    found = apply_rules(view(if_model(branch("then", inner, "t"), other)), rule, absmax(z=100.0))
    assert record(found).missing == ("absmax(z) unknown (no calibration for 'z')",)


def test_a_square_that_is_divided_is_not_its_root_with_a_rest(rms):
    squares = case("s = x * x\ns / Sqrt(ReduceMean(s, axes=[-1], keepdims=1) + 1e-6)", x="float [4, 8]")
    assert find(rms, squares) == 0  # halving x in s would halve it twice in the quotient


def test_a_value_read_as_two_names_is_not_set(tmp_path):
    action = "replace: [{set: {a: a * 0.5}}]"
    rule = load_text(rule_text("Exp(a + c) * Tanh(b + c)", action, vars="{c: const scalar}"), tmp_path)
    once = case("h = x + 2.0\nExp(h) * Tanh(h)", x="float [8]")
    found = apply_rules(view(once), rule, None)
    assert record(found).reason == "a value to set is read under another name too"
    twice = case("Exp(x + 2.0) * Tanh(x + 2.0)", x="float [8]")
    assert find(rule, twice) == 1


@pytest.mark.parametrize("links", [["Mul", "Div"], ["Mul", "Reshape"]])
def test_a_long_chain_of_factors_is_no_deep_recursion(links, tmp_path):
    nodes, constants = [], {"two": np.float32(2), "dims": np.array([4, 8])}
    for index in range(2000):
        op = links[index % 2]
        inputs = [f"v{index}", "dims" if op == "Reshape" else "two"]
        nodes.append(helper.make_node(op, inputs, [f"v{index + 1}"]))
    nodes += [
        helper.make_node("Exp", ["v2000"], ["y"]),
        helper.make_node("ReduceMean", ["v0"], ["mean"], axes=[-1]),
        helper.make_node("Exp", ["mean"], ["z"]),
    ]
    model = graph_model(nodes, {"v0": [4, 8]}, {"y": [4, 8], "z": [4, 1]}, **constants)
    rule = load_text(
        rule_text("Exp(ReduceMean(x, axes=ax, keepdims=1))", "action: {name: rescale}", vars="{ax: axes}"),
        tmp_path,
    )
    assert find(rule, model) == 1


@pytest.mark.parametrize(
    ("match", "text", "expected"),
    [
        ("Concat(a, b, axis=-1)", "Concat(a, b, axis=2)", 1),
        ("Concat(a, b, axis=2)", "Concat(a, b, axis=-1)", 1),
        ("Concat(a, b, axis=-1)", "Concat(a, b, axis=1)", 0),
        ("LayerNormalization(a, b)", "LayerNormalization(a, b, axis=2)", 1),
        ("LayerNormalization(a, b)", "LayerNormalization(a, b, axis=1)", 0),
        ("Unsqueeze(a, axes=[-1])", "Unsqueeze(a, axes=[3])", 1),
        ("Unsqueeze(a, axes=[3])", "Unsqueeze(a, axes=[-1])", 1),
        ("Unsqueeze(a, axes=[2])", "Unsqueeze(a, axes=[-1])", 0),
        ("Transpose(a, perm=[0, 2, 1])", "Transpose(a, perm=[0, 2, 1])", 1),
        ("Transpose(a, perm=[0, 2, 1])", "Transpose(a, perm=[2, 1, 0])", 0),
        ("Transpose(a, perm=[0, 2, 1])", "Transpose(a, perm=[0, 1, 2])", 0),
        ("AveragePool(a, kernel_shape=[2])", "AveragePool(a, kernel_shape=[2])", 1),
        ("LayerNormalization(a, b, epsilon=1e-6)", "LayerNormalization(a, b, epsilon=1e-6)", 1),
        ("LayerNormalization(a, b, epsilon=1e-6)", "LayerNormalization(a, b, epsilon=2e-6)", 0),
    ],
)
def test_attributes_are_compared_by_what_they_mean(match, text, expected, tmp_path):
    rule = load_text(rule_text(match, "action: {name: rescale}"), tmp_path)
    given = {"a": "float [4, 4, 4]", "b": "float [4, 4, 4]"} if "b" in text else {"a": "float [4, 4, 4]"}
    assert find(rule, case(text, **given)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s + (Cast(m, to=1) * 0.0 + Cast(Not(m), to=1) * -1e9)", 1),
        ("s + (-1e9 * Cast(Not(m), to=1) + 0.0 * Cast(Identity(m), to=1))", 1),
        ("s + (Cast(m, to=1) * -1e9 + Cast(Not(m), to=1) * 0.0)", 0),  # the other way round
        ("s + (Cast(m, to=1) * 0.0 + Cast(Not(n), to=1) * -1e9)", 0),
        ("s + (Cast(m, to=1) * 0.0 + Cast(m, to=1) * -1e9)", 0),
        ("s + (Cast(m, to=1) * 0.0 + Cast(Not(m), to=1) * -inf)", 0),  # NaN, and no choice
        ("s + (Cast(i, to=1) * 0.0 + Cast(Not(Cast(i, to=9)), to=1) * -1e9)", 0),
    ],
)
def test_a_choice_may_be_a_sum_of_products(text, expected, tmp_path):
    rule = load_text(
        rule_text(
            "s + Where(m, 0, c)", "replace: [{set: {c: -100}}]", vars="{c: const scalar}", equal="lossy"
        ),
        tmp_path,
    )
    given = {
        "m": "bool [4]",
        "n": "bool [4]",
        "s": "float [4]",
        "i": "int64 [4]",
        "minus": "float [1] all=-inf",
    }
    given = {name: words for name, words in given.items() if name in text.replace("-inf", "minus")}
    found = apply_rules(view(case(text.replace("-inf", "minus"), **given)), rule, None, allow=("lossy",))
    assert [entry.status for entry in found.records] == ["applied"] * expected
