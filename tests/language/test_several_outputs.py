"""Ops with several outputs: named in patterns, replacements and cases; what else a matched node makes is kept."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

from language._models import case, graph_model, load_text, parse, record, rewrite, rule_text, run, view
from onnx_fp16fix.errors import RuleFileError
from onnx_fp16fix.language import apply_rules
from onnx_fp16fix.language.cases import run_cases
from onnx_fp16fix.proof.graph_text import graph_text
from onnx_fp16fix.proof.text import suite_text

HALVES = "a, b = Split(x, axis=-1)\na * Sigmoid(b)"
RESCALE = "action: {name: rescale}"


def applied(rule, model) -> int:
    return sum(entry.status == "applied" for entry in apply_rules(view(model), rule, None).records)


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a, b = {split}\na * Sigmoid(b)", 1),
        ("a, b = {split}\nSigmoid(b) * a", 1),
        ("a, b = {split}\nb * Sigmoid(a)", 0),
        ("a, _ = {split}\na * Sigmoid(a)", 0),
        ("a, _ = {split}\n_, d = {again}\na * Sigmoid(d)", 0),  # halves of two nodes
    ],
)
def test_a_pattern_tells_the_outputs_of_one_node_apart(text, expected, opset, tmp_path):
    rule = load_text(rule_text(HALVES, RESCALE), tmp_path)
    more = ", num_outputs=2" if opset == 18 else ""
    text = text.format(split=f"Split(x, axis=-1{more})", again=f"Split(y, axis=2{more})")
    assert applied(rule, case(text, opset, x="float [2, 4, 8]", y="float [2, 4, 8]")) == expected


@pytest.mark.parametrize(("sizes", "expected"), [("[4, 4]", 1), ("[6, 2]", 0)])
@pytest.mark.parametrize("opset", [11, 17])
def test_equal_parts_need_not_be_written(sizes, expected, opset, tmp_path):
    rule = load_text(rule_text(HALVES, RESCALE), tmp_path)
    text = (
        f"a, b = Split(x, axis=-1, split={sizes})\nReduceSum(a, axes=[2]) * ReduceSum(Sigmoid(b), axes=[2])"
    )
    pattern = "a, b = Split(x, axis=-1)\nReduceSum(a, axes=[2]) * ReduceSum(Sigmoid(b), axes=[2])"
    rule = load_text(rule_text(pattern, RESCALE), tmp_path)
    assert applied(rule, case(text, opset, x="float [2, 4, 8]")) == expected


def test_three_parts_are_not_two(tmp_path):
    rule = load_text(rule_text(HALVES, RESCALE), tmp_path)
    assert applied(rule, case("a, b, c = Split(x, axis=-1)\na * Sigmoid(b) + c", x="float [2, 9]")) == 0


def test_an_op_with_several_outputs_is_written_once(tmp_path):
    replacement = (
        "replace:\n      - with: |\n          u, v = Split(x, axis=1)\n          u * (1 / (1 + Exp(-v)))"
    )
    rule = load_text(
        rule_text("a, b = Split(x, axis=-1)\na * Sigmoid(b)", replacement, equal="real"), tmp_path
    )
    model = case("a, b = Split(x, axis=-1)\na * Sigmoid(b)", x="float [4, 8]")
    after, _ = rewrite(model, rule)
    assert [node.op_type for node in after.graph.node].count("Split") == 1
    x = random(4, 8)
    np.testing.assert_allclose(run(after, x=x), run(model, x=x), rtol=1e-6)


def test_both_outputs_may_be_results(tmp_path):
    match = "y, _, r = LayerNormalization(x, *rest, axis=a, epsilon=e)\n(y, r)"
    replacement = """replace:
      - with: |
          n, _, q = LayerNormalization(x * 0.25, *rest, axis=a, epsilon=e / 16)
          (n, q * 0.25)"""
    rule = load_text(rule_text(match, replacement), tmp_path)
    model = case("y, _, r = LayerNormalization(x, g, axis=-1)\ny * r", x="float [2, 8]", g="float [8]")
    after, found = rewrite(model, rule)
    assert record(found).status == "applied"
    feeds = {"x": random(2, 8), "g": random(8)}
    np.testing.assert_array_equal(run(after, **feeds), run(model, **feeds))
    plain = case("LayerNormalization(x, g, axis=-1)", x="float [2, 8]", g="float [8]")
    assert applied(rule, plain) == 0


def norm_with_statistics() -> onnx.ModelProto:
    nodes = [
        helper.make_node("LayerNormalization", ["x", "g"], ["y", "mean", "deviation"], "norm", axis=-1),
        helper.make_node("Relu", ["mean"], ["relu"], "relu"),
    ]
    return graph_model(nodes, {"x": [2, 8], "g": [8]}, {"y": [2, 8], "relu": [2, 1], "deviation": [2, 1]})


@pytest.mark.parametrize(
    "mending",
    ['with: "LayerNormalization(x * 0.25, g, epsilon=e / 16)"', "set: {x: x * 2.0}"],
)
def test_what_else_the_last_node_makes_is_kept(mending, tmp_path):
    match = "LayerNormalization(x, g, epsilon=e)"
    exclusive = load_text(rule_text(match, f"replace: [{{{mending}}}]"), tmp_path)
    model = norm_with_statistics()
    assert applied(exclusive, model) == 0
    rule = load_text(rule_text(match, f"replace: [{{{mending}}}]", inner="shared"), tmp_path)
    after, _ = rewrite(model, rule)
    feeds = {"x": random(2, 8) * 4, "g": random(8)}

    def outputs(proto):
        import onnxruntime

        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, feeds)

    for one, other in zip(outputs(model), outputs(after), strict=True):
        np.testing.assert_allclose(other, one, atol=1e-4)
    again, found = rewrite(after, rule)
    assert again == after, found.records


def test_a_further_output_nothing_reads_goes_with_its_node(tmp_path):
    rule = load_text(
        rule_text(
            "LayerNormalization(x, g, epsilon=e)",
            "replace: [{with: Relu(x) * g}]",
            equal="real",
            inner="shared",
        ),
        tmp_path,
    )
    model = norm_with_statistics()
    del model.graph.node[1], model.graph.output[1:]
    after, _ = rewrite(model, rule)
    assert [node.op_type for node in after.graph.node] == ["Relu", "Mul"]


@pytest.mark.parametrize(
    ("match", "message"),
    [
        ("a, b = Relu(x)\na + b", "Relu does not have 2 outputs"),
        ("a, b = x + y\na + b", "several names can only be given to the outputs of an op"),
        ("_, _ = TopK(x, k)\nx + k", "only a plain name, or several, can stand left of '='"),
        ("a, b = Sqrt(x)\na + b", "Sqrt does not have 2 outputs"),
        ("a, b = TopK(x, k)\nExp(a)", "'b' is named but never used in the pattern"),
    ],
)
def test_what_is_wrong_is_said(match, message, tmp_path):
    with pytest.raises(RuleFileError) as error:
        load_text(rule_text(match, RESCALE), tmp_path)
    assert message in str(error.value)


def test_cases_may_name_several_outputs(tmp_path):
    text = (
        rule_text("v, i = TopK(x, k)\nv * Cast(i, to=1)", RESCALE, vars="{k: const scalar}")
        + """\
    tests:
      - hit: |
          v, i = TopK(x, k=2)
          v * Cast(i, to=1)
        given: {x: "float [4, 8]"}
      - hit: |
          v, i = TopK(x, k)
          Cast(i, to=1) * v
        given: {x: "float [4, 8]", k: "int64 [1] all=3"}
"""
    )
    rule = load_text(text, tmp_path)[0]
    assert [result.message for result in run_cases(rule)] == ["", ""]


def test_several_outputs_are_written_as_they_are_read():
    text = "v, i = TopK(x, k=2)\n_, b = Split(v, axis=-1)\nb * Cast(i, to=1)"
    assert suite_text(parse(text)) == text
    model = case("v, i = TopK(x, k=2)\nv * Cast(i, to=1)", x="float [4, 8]")
    assert graph_text(model) == "v, i = TopK(x, 2)\nv * Cast(i, to=1)"
