"""Patterns with several results, and roots with operands the pattern does not name."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.reference
import pytest

from language._models import absmax, case, load_text, rewrite, rule_text, view
from onnx_fp16fix.errors import RuleFileError
from onnx_fp16fix.language import apply_rules

X = "float [4, 8]"


def outputs(model: onnx.ModelProto, **values: np.ndarray) -> list[np.ndarray]:
    return onnx.reference.ReferenceEvaluator(model).run(None, values)


PAIR = "a = x * f\n(Cos(a), Sin(a))"


@pytest.mark.parametrize(
    "text", ["Cos(x * f) + Sin(x * f)", "a = x * f\nSin(a) - Cos(a)", "a = f * x\nSin(a) * a - Exp(Cos(a))"]
)
def test_two_roots_are_replaced_together(text, tmp_path):
    replace = 'replace: [{with: "b = f * x * 2.0 / 2.0\\n(Cos(b), Sin(b))"}]'
    rule = load_text(rule_text(PAIR, replace, equal="real", inner="shared"), tmp_path)
    model = case(text, x=X, f=X)
    result, run = rewrite(model, rule)
    assert run.stats[0].applied == 1
    assert {op for node in result.graph.node if (op := node.op_type) in ("Cos", "Sin")} == {"Cos", "Sin"}
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal((4, 8)).astype(np.float32) for name in "xf"}
    np.testing.assert_allclose(outputs(result, **values)[0], outputs(model, **values)[0], rtol=1e-6)
    onnx.checker.check_model(result, full_check=True)


@pytest.mark.parametrize("text", ["Cos(x * f) + Sin(x * x)", "Cos(x * f) + Exp(x * f)", "Cos(x * f) + x"])
def test_both_roots_must_be_there(text, tmp_path):
    rule = load_text(rule_text(PAIR, "action: {name: rescale}", inner="shared"), tmp_path)
    given = {name: X for name in "xf" if name in text}
    assert apply_rules(view(case(text, **given)), rule, None).records == ()


def test_an_island_holds_both_roots(tmp_path):
    rule = load_text(rule_text(PAIR, "action: {name: fp32-island, max_nodes: 8}", equal="real"), tmp_path)
    run = apply_rules(view(case("a = x * f\nCos(a) + Sin(a)", x=X, f=X)), rule, None)
    assert len(run.requests[0].fp32_nodes) == 3


def test_a_replacement_has_as_many_results_as_the_pattern(tmp_path):
    with pytest.raises(RuleFileError, match="needs 2 results"):
        load_text(rule_text(PAIR, "replace: [{with: Cos(x * f)}]"), tmp_path)


@pytest.mark.parametrize(
    "text", ["(x * x + c) + z", "z + (c + x * x)", "c - (-(x * x)) + z", "x * x + z + c"]
)
def test_the_rest_of_a_sum_is_added_back(text, tmp_path):
    rule = load_text(rule_text("x * x + z", "replace: [{with: z + x * x}]", equal="real"), tmp_path)
    model = case(text, x=X, c=X, z=X)
    result, run = rewrite(model, rule)
    assert run.stats[0].applied == 1
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal((4, 8)).astype(np.float32) for name in "xcz"}
    np.testing.assert_allclose(
        outputs(result, **values)[0], outputs(model, **values)[0], rtol=1e-5, atol=1e-6
    )


def test_a_subtracted_rest_keeps_its_sign(tmp_path):
    rule = load_text(rule_text("x * x + z", "replace: [{with: z + x * x}]", equal="real"), tmp_path)
    result, run = rewrite(case("x * x - c + z", x=X, c=X, z=X), rule)
    assert run.stats[0].applied == 1
    values = {name: np.full((4, 8), value, np.float32) for name, value in (("x", 2), ("c", 10), ("z", 1))}
    assert np.all(outputs(result, **values)[0] == -5)


def test_guards_may_ask_about_a_value_both_roots_read(tmp_path):
    rule = load_text(rule_text(PAIR, "action: {name: rescale}", where='["absmax(a) > 1"]'), tmp_path)
    found = apply_rules(view(case("a = x * f\nCos(a) + Sin(a)", x=X, f=X)), rule, absmax(a=5.0))
    assert found.stats[0].applied == 1
