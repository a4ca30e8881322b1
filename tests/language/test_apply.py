"""Edits: what is written, what stays, who wins where rules overlap."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from language._models import RMS, absmax, case, load_text, patched, record, rewrite, rule_text, run, view
from onnx_fp16fix.language import apply_rules

VARS = "{eps: const scalar, ax: axes}"
X = "float [4, 64]"
SPELLINGS = [
    "x / Sqrt(ReduceMean(x ** 2, axes=[-1], keepdims=1) + 1e-3)",
    "x * Reciprocal(Sqrt(1e-3 + ReduceMean(x * x, axes=[-1], keepdims=1)))",
    "(x * w) * (1.0 / Sqrt(ReduceMean(x * x, axes=[-1], keepdims=1) + 1e-3))",
    "x / Sqrt(ReduceSum(x * x, axes=[-1], keepdims=1) * 0.015625 + 1e-3)",
    "x / Sqrt(Unsqueeze(ReduceMean(x ** 2, axes=[-1], keepdims=0), axes=[-1]) + 1e-3)",
]


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(7).standard_normal(shape).astype(np.float32) * 30


@pytest.mark.parametrize("text", SPELLINGS)
@pytest.mark.parametrize("opset", [13, 18])
def test_set_keeps_every_bit_of_every_spelling(text, opset, tmp_path):
    action = "replace: [{set: {x: x * 2 ** -4, eps: value(eps) * 2 ** -8}}]"
    rule = load_text(rule_text(RMS, action, vars=VARS), tmp_path)
    given = {"x": X, "w": "float [64]"} if "w" in text else {"x": X}
    model = case(text, opset, **given)
    result, found = rewrite(model, rule)
    feeds = {"x": random(4, 64), "w": random(64)}
    np.testing.assert_array_equal(run(result, **feeds), run(model, **feeds))
    assert len(result.graph.node) == len(model.graph.node) + 1
    assert record(found).added == (found.patches[0].inserted[min(found.patches[0].inserted)][0].name,)


@pytest.mark.parametrize("text", SPELLINGS)
@pytest.mark.parametrize("opset", [13, 18])
def test_with_gives_the_same_function_and_multiplies_the_rest_back(text, opset, tmp_path):
    action = """replace:
      - with: |
          z = x * 0.5
          z / Sqrt(ReduceMean(z ** 2, axes=ax, keepdims=1) + value(eps) * 0.25)"""
    rule = load_text(rule_text(RMS, action, vars=VARS, equal="real"), tmp_path)
    given = {"x": X, "w": "float [64]"} if "w" in text else {"x": X}
    model = case(text, opset, **given)
    result, _ = rewrite(model, rule)
    feeds = {"x": random(4, 64), "w": random(64)}
    np.testing.assert_allclose(run(result, **feeds), run(model, **feeds), rtol=1e-6)
    assert [o.name for o in result.graph.output] == [o.name for o in model.graph.output]
    ops = sorted(node.op_type for node in result.graph.node if node.op_type != "Constant")
    assert ops == sorted(
        ["Mul", "Mul", "ReduceMean", "Add", "Sqrt", "Div", *(["Mul"] if "w" in text else [])]
    )


def test_new_nodes_say_which_rule_made_them_and_names_are_derived(tmp_path):
    action = "replace: [{set: {x: x * 0.5, eps: value(eps) * 0.25}}]"
    rule = load_text(rule_text(RMS, action, vars=VARS), tmp_path)
    model = case(SPELLINGS[0], x=X)
    result, _ = rewrite(model, rule)
    output = model.graph.output[0].name
    made = next(node for node in result.graph.node if node.op_type == "Mul")
    assert made.name == made.output[0] == f"{output}/fp16fix/TEST001/Mul"
    assert {entry.key: entry.value for entry in made.metadata_props} == {"fp16fix.rule": "TEST001"}


def test_changed_values_get_new_names_because_ranges_go_by_name(tmp_path):
    action = "replace: [{set: {q: q * 0.25, c: value(c) * 4}}]"
    keys = {"vars": "{c: const scalar}", "where": '["absmax(p) > 65504"]'}
    rule = load_text(rule_text("p = MatMul(q, k)\np * c", action, **keys), tmp_path)
    model = case("p = MatMul(q, k)\np * 0.125", q="float [4, 4]", k="float [4, 4]")
    ranges = absmax(p=1e5)
    once, _ = rewrite(model, rule, ranges)
    twice, found = rewrite(once, rule, ranges)
    assert "p" not in {name for node in once.graph.node for name in node.output}
    assert twice == once
    assert record(found).status == "skipped"


def shared_mask() -> onnx.ModelProto:
    return case(
        """m = (1.0 - mask) * -1e9
        a = Softmax(s + m, axis=-1)
        b = Softmax(t + m, axis=-1)
        a + b""".replace("        ", ""),
        s="float [2, 8]",
        t="float [2, 8]",
        mask="float [1, 8]",
    )


def test_matches_that_share_a_value_share_one_copy_and_the_old_one_goes(tmp_path):
    action = "replace: [{set: {c: -16384}}]"
    keys = {"vars": "{c: const scalar}", "inner": "shared", "where": '["value(c) < -65504"]'}
    rule = load_text(rule_text("Softmax(s + (1 - m) * c, axis=a)", action, **keys), tmp_path)
    model = shared_mask()
    result, found = rewrite(model, rule)
    assert [entry.status for entry in found.records] == ["applied", "applied"]
    assert sorted(n.op_type for n in result.graph.node) == sorted(n.op_type for n in model.graph.node)
    values = sorted(float(numpy_helper.to_array(t)) for t in result.graph.initializer)
    assert values == [-16384.0, 1.0]
    assert [len(entry.changed) for entry in found.records] == [3, 3]  # the product, the sum, the Softmax
    again, found = rewrite(result, rule)
    assert again == result
    assert {entry.clause for entry in found.records} == {"where[0]"}


def test_a_shared_value_stays_for_the_others(tmp_path):
    action = "replace: [{set: {c: -16384}}]"
    rule = load_text(
        rule_text("Softmax(s + (1 - m) * c, axis=a)", action, vars="{c: const scalar}", inner="shared"),
        tmp_path,
    )
    model = case(
        "m = (1.0 - mask) * -1e9\na = Softmax(s + m, axis=-1)\na + Exp(m)",
        s="float [2, 8]",
        mask="float [1, 8]",
    )
    result, _ = rewrite(model, rule)
    assert [n.op_type for n in result.graph.node].count("Mul") == 2
    assert sorted(float(numpy_helper.to_array(t)) for t in result.graph.initializer) == [-1e9, -16384.0, 1.0]


TWO_RULES = """
schema: fp16fix/1
rules:
  - id: TEST001
    name: small
    summary: Takes the exponential
    equal: exact
    match: Exp(x)
    replace: [{with: Exp(x * 1.0)}]
    AFTER
  - id: TEST002
    name: large
    summary: Takes the logarithm too
    equal: exact
    match: Log(Exp(x))
    replace: [{with: Identity(x)}]
"""


def test_the_larger_pattern_wins_and_the_loser_is_recorded(tmp_path):
    rules = load_text(TWO_RULES.replace("AFTER", "after: []"), tmp_path)
    result, found = rewrite(case("Log(Exp(x))", x=X), rules)
    assert [node.op_type for node in result.graph.node] == ["Identity"]
    status = {entry.rule: entry for entry in found.records}
    assert status["TEST002"].status == "applied"
    assert status["TEST001"].status == "shadowed"
    assert status["TEST001"].reason == "shadowed by TEST002, which changes the same nodes"


def test_after_decides_before_size(tmp_path):
    text = TWO_RULES.replace("    AFTER\n", "").replace(
        "match: Log(Exp(x))", "match: Log(Exp(x))\n    after: TEST001"
    )
    _, found = rewrite(case("Log(Exp(x))", x=X), load_text(text, tmp_path))
    assert {entry.rule: entry.status for entry in found.records} == {
        "TEST001": "applied",
        "TEST002": "shadowed",
    }


def test_only_nodes_passes_over_other_matches_without_a_word(tmp_path):
    rule = load_text(rule_text("Exp(x)", "action: {name: rescale}"), tmp_path)
    model = case("Exp(x) + Exp(y)", x=X, y=X)
    found = apply_rules(view(model), rule, None, only_nodes={((), 1)})
    assert record(found).node == model.graph.node[1].name


def test_a_missing_fact_skips_the_rule_and_is_named(tmp_path):
    rule = load_text(rule_text("Exp(x)", "action: {name: rescale}", where='["vmax(x) > 11"]'), tmp_path)
    entry = record(apply_rules(view(case("Exp(x)", x=X)), rule, None))
    assert entry.status == "skipped"
    assert entry.clause == "where[0]"
    assert entry.reason == "where[0] is unknown: vmax(x) unknown (no calibration for 'x')"


def test_the_margin_widens_measured_ranges(tmp_path):
    rule = load_text(rule_text("Exp(x)", "action: {name: rescale}", where='["vmax(x) > 11"]'), tmp_path)
    graph = view(case("Exp(x)", x=X))
    assert record(apply_rules(graph, rule, absmax(x=6.0))).status == "skipped"
    assert record(apply_rules(graph, rule, absmax(x=6.0), margin=2)).status == "applied"


def test_targets_and_opset_keep_a_rule_away(tmp_path):
    rule = load_text(
        rule_text("Exp(x)", "action: {name: rescale}", targets="[tensorrt]", opset="'>=18'"), tmp_path
    )
    for opset, targets, expected in ((18, ["tensorrt"], 1), (18, [], 0), (17, ["tensorrt"], 0)):
        found = apply_rules(view(case("Exp(x)", opset, x=X)), rule, None, targets=targets)
        assert len(found.records) == expected


def test_a_replacement_of_another_shape_is_refused(tmp_path):
    rule = load_text(rule_text("Exp(x)", "replace: [{with: 'ReduceMax(x, axes=[0], keepdims=1)'}]"), tmp_path)
    model = case("Exp(x)", x=X)
    result, found = rewrite(model, rule)
    assert result == model
    assert record(found).reason == "the replacement would have another shape"


def test_shapes_in_vars_narrow_a_rule_and_name_its_sizes(tmp_path):
    keys = {"vars": "{x: 'tensor [..., D]'}", "where": '["D == 64"]'}
    rule = load_text(rule_text("Exp(x)", "action: {name: rescale}", **keys), tmp_path)
    assert record(apply_rules(view(case("Exp(x)", x=X)), rule, None)).status == "applied"
    assert record(apply_rules(view(case("Exp(x)", x="float [4, 63]")), rule, None)).clause == "where[0]"
    assert record(apply_rules(view(case("Exp(x)", x="float [4, n]")), rule, None)).clause == "where[0]"
    assert record(apply_rules(view(case("Exp(x)", x="float []")), rule, None)).clause == "vars.x"


def test_ops_take_the_form_of_the_opset(tmp_path):
    template = (
        "replace: [{with: 'Unsqueeze(ReduceMax(Clip(x, min=1.0, max=2.0), axes=[0], keepdims=0), axes=[0])'}]"
    )
    rule = load_text(rule_text("ReduceMin(x, axes=[0], keepdims=1)", template), tmp_path)
    slots = {}
    for opset in (10, 12, 13, 18):
        result, _ = rewrite(case("ReduceMin(x, axes=[0], keepdims=1)", opset, x="float [4, 64]"), rule)
        slots[opset] = [len(node.input) for node in result.graph.node]
    assert slots == {10: [1, 1, 1], 12: [3, 1, 1], 13: [3, 1, 2], 18: [3, 2, 2]}


def test_statistics_count_tries_and_outcomes(tmp_path):
    rule = load_text(rule_text("Exp(Log(x))", "action: {name: rescale}", where='["vmax(x) > 11"]'), tmp_path)
    found = apply_rules(view(case("Exp(Log(x)) + Exp(x)", x=X)), rule, absmax(x=50.0))
    stats = found.stats[0]
    assert (stats.tried, stats.matched, stats.applied, stats.skipped) == (
        1,
        1,
        1,
        0,
    )  # an Exp of an input is not tried
    assert len(found.requests) == 1


def test_matching_does_not_change_the_model(tmp_path):
    rule = load_text(rule_text(RMS, "replace: [{set: {x: x * 0.5}}]", vars=VARS), tmp_path)
    model = case(SPELLINGS[0], x=X)
    before = model.SerializeToString(deterministic=True)
    patched(model, apply_rules(view(model), rule, None))
    assert model.SerializeToString(deterministic=True) == before


def test_no_match_leaves_the_model_as_it_is(tmp_path):
    rule = load_text(rule_text(RMS, "replace: [{set: {x: x * 0.5}}]", vars=VARS), tmp_path)
    found = apply_rules(view(case("Exp(x)", x=X)), rule, None)
    assert (found.patches, found.requests, found.records) == ((), (), ())


def test_steps_grow_linearly_with_the_model(tmp_path):
    rule = load_text(rule_text(RMS, "replace: [{set: {x: x * 0.5}}]", vars=VARS), tmp_path)
    tried = []
    for length in (50, 100):
        steps = "\n".join(f"t{i + 1} = t{i} * y + z" for i in range(length))
        model = case(f"t0 = Exp(x)\n{steps}\nt{length}", x=X, y=X, z=X)
        tried.append(apply_rules(view(model), rule, None).stats[0].tried)
    assert tried == [0, 0]  # without a reduction in the model there is nothing to try


def test_a_node_copied_for_one_rule_is_left_alone_by_another(tmp_path):
    text = """
    schema: fp16fix/1
    rules:
      - id: TEST001
        name: mask
        summary: Changes the mask constant
        equal: context
        assumes: [a test]
        inner: shared
        match: Softmax(s + (1 - m) * c, axis=a)
        vars: {c: const scalar}
        replace: [{set: {c: -16384}}]
      - id: TEST002
        name: exponential
        summary: Reads the same mask
        equal: exact
        inner: shared
        match: Exp((1 - m) * c)
        vars: {c: const scalar}
        replace: [{set: {m: m * 1.0}}]
    """
    model = case(
        "m = (1.0 - mask) * -1e9\na = Softmax(s + m, axis=-1)\na + Exp(m)",
        s="float [2, 8]",
        mask="float [1, 8]",
    )
    _, found = rewrite(model, load_text(text, tmp_path))
    assert [(entry.rule, entry.status) for entry in found.records] == [
        ("TEST001", "applied"),
        ("TEST002", "shadowed"),
    ]


def test_the_last_line_may_name_the_result_so_that_guards_can_ask_about_it(tmp_path):
    rules = load_text(
        rule_text("y = Exp(x)\ny", "replace: [{with: Exp(x)}]", where='["absmax(y) > 10"]'), tmp_path
    )
    model = case("y = Exp(x)\nNeg(y)", x="float [4]")
    assert record(apply_rules(view(model), rules, absmax(y=20))).status == "applied"
    assert record(apply_rules(view(model), rules, absmax(y=5))).clause == "where[0]"


def test_values_are_set_after_what_they_are_computed_from(tmp_path):
    """Both operands are scaled; the second is made after the first is read."""
    pattern = "m = u * v\nn = r * t\nm / (n + m)"
    names = "u: tensor, v: tensor, r: tensor, t: tensor"
    body = "replace: [{set: {u: u * 0.5, r: r * 0.5}}]"
    rules = load_text(rule_text(pattern, body, vars=f"{{{names}}}"), tmp_path)
    model = case("a = Relu(x)\nb = a * x\nc = Exp(x)\nd = c * x\nb / (d + b)", x="float [4]")
    after, _ = rewrite(model, rules)
    assert [node.op_type for node in after.graph.node].count("Mul") == 4
    onnx.checker.check_model(after, full_check=True)


def test_what_only_the_match_read_goes_with_it(tmp_path):
    """An Identity that the match looked through, and the arithmetic behind a constant that is set anew."""
    rules = load_text(
        rule_text("Exp(x) * c", "replace: [{set: {x: x * 0.5, c: 2.0}}]", vars="{c: const scalar}"), tmp_path
    )
    result, _ = rewrite(
        case("Exp(Identity(a + b)) * Sqrt(Reciprocal(0.0625))", a="float [4]", b="float [4]"), rules
    )
    assert [node.op_type for node in result.graph.node] == ["Add", "Mul", "Exp", "Mul"]
    assert [float(numpy_helper.to_array(tensor)) for tensor in result.graph.initializer] == [0.5, 2.0]
