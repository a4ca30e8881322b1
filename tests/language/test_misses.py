"""Rules that change nothing say how close they came."""

from __future__ import annotations

import pytest

from language._models import RMS, absmax, case, load_text, rule_text, view
from onnx_fp16fix.language import apply_rules

X = "float [4, 64]"
VARS = "{x: tensor, eps: const scalar, ax: axes}"


def miss(text, folder, match=RMS, ranges=None, given=None, **keys):
    keys = {"vars": VARS, **keys} if "eps" in match else keys
    rule = load_text(rule_text(match, "replace: [{set: {x: x * 0.5}}]", **keys), folder)
    found = apply_rules(view(case(text, **(given or {"x": X}))), rule, ranges, explain_misses=True)
    assert len(found.misses) == 1
    return found.misses[0]


@pytest.mark.parametrize(
    ("text", "clause", "reason"),
    [
        ("x / Sqrt(ReduceMax(x ** 2, axes=[1]) + 1e-6)", "match", "expected ReduceMean"),
        ("x / Sqrt(ReduceMean(x ** 3, axes=[1]) + 1e-6)", "match", "expected 'x' ** 2"),
        ("x / Sqrt(ReduceMean(x ** 2, axes=[1], keepdims=0) + 1e-6)", "match", "keepdims=0, expected 1"),
        ("x / Sqrt(ReduceMean(x ** 2, axes=[1]) + x)", "vars.eps", "a constant with one element"),
        ("x / Sqrt(ReduceMean(Exp(x) ** 2, axes=[1]) + 1e-6)", "match", "elsewhere"),
        ("m = ReduceMean(x ** 2, axes=[1])\nx / Sqrt(m + 1e-6) + m", "inner", "'m' is read outside"),
    ],
)
def test_the_part_that_differs_is_named(text, clause, reason, tmp_path):
    given = {"x": "float [64, 64]"} if "keepdims=0" in text else {"x": X}
    found = miss(text, tmp_path, given=given)
    assert found.clause == clause
    assert reason in found.reason
    assert 0 < found.fitted <= found.size
    assert found.node


def test_the_closest_of_several_places_is_shown(tmp_path):
    text = "y = Exp(x) / x\nx / Sqrt(ReduceMax(x ** 2, axes=[1]) + 1e-6) + y"
    found = miss(text, tmp_path)
    assert "ReduceMax" in found.reason


def test_a_guard_that_said_no_shows_the_fact(tmp_path):
    text = "x / Sqrt(ReduceMean(x ** 2, axes=[1]) + 1e-6)"
    found = miss(text, tmp_path, ranges=absmax(x=20.0), where='["absmax(x) > 1", "absmax(x) > 300"]')
    assert found.clause == "where[1]"
    assert "absmax(x) = 20" in found.reason
    assert found.fitted == found.size


def test_opset_and_a_model_without_the_op_are_reasons_too(tmp_path):
    assert miss("Exp(x)", tmp_path, match="Exp(x)", opset='">=18"').clause == "opset"
    assert "no Log" in miss("Exp(x)", tmp_path, match="Log(x)").reason


def test_a_rule_that_applies_has_no_miss(tmp_path):
    rule = load_text(rule_text("Exp(x)", "replace: [{set: {x: x * 0.5}}]"), tmp_path)
    assert apply_rules(view(case("Exp(x)", x=X)), rule, None, explain_misses=True).misses == ()


def test_a_class_that_is_not_allowed_is_said_where_it_would_apply(tmp_path):
    rule = load_text(rule_text("Exp(x)", "replace: [{set: {x: x * 0.5}}]", equal="lossy"), tmp_path)
    model = view(case("Exp(x)", x=X))
    found = apply_rules(model, rule, None)
    assert (found.patches, found.records[0].clause) == ((), "equal")
    assert apply_rules(model, rule, None, allow=("lossy",)).stats[0].applied == 1
