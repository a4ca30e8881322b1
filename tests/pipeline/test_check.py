"""What ``check`` reports, by kind, and what it says of repairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnx_fp16fix
from calibrate.small_models import model
from onnx_fp16fix.document import CheckEntry, Finding
from onnx_fp16fix.outcome import Outcome

X = np.float32([[1, -2, 3, 4]])
IO = "(float[n,4] x) => (float[n,4] y)"


def graph(body: str, **constants: object) -> onnx.ModelProto:
    proto = model(f"g {IO} {{ {body} }}")
    for name, value in constants.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    return proto


def check(proto: onnx.ModelProto, x: Any = X, **options: Any) -> Outcome:
    data = x if isinstance(x, list) else {"x": np.float32(x)}
    return onnx_fp16fix.check(proto, data, **options)


def entry(outcome: Outcome) -> CheckEntry:
    assert outcome.run.check is not None
    return outcome.run.check


def of(outcome: Outcome, tensor: str) -> Finding:
    return next(finding for finding in outcome.findings if finding.tensor == tensor)


def test_a_safe_model_has_nothing_to_say() -> None:
    outcome = check(graph("y = Tanh(x)"))
    assert (outcome.run.status, outcome.findings, outcome.run.summary) == ("ok", [], {})
    naive = entry(outcome).naive
    assert naive is not None
    assert naive.outputs[0].rel_l2 < 1e-3


SQUARE = "a = Mul(x, x)  m = ReduceMean <axes = [-1]> (a)  r = Sqrt(m)  y = Div(x, r)"


def test_an_overflow_comes_with_facts_sample_and_repair() -> None:
    outcome = check(graph(SQUARE), [{"x": X}, {"x": 500 * X}])
    finding = of(outcome, "a")
    assert (finding.kind, finding.severity, finding.status) == ("overflow", "error", "available")
    assert finding.facts["absmax"] == 4_000_000
    assert finding.facts["sample"] == 1
    assert finding.facts["nonfinite"] == 4
    assert finding.repaired_by[0] == "plan"
    check_entry = entry(outcome)
    assert check_entry.naive is not None
    assert check_entry.naive.first_nonfinite == "a"
    assert check_entry.first_inaccurate == "a"
    assert outcome.run.exit_code == 1


def test_the_worst_comes_first_and_outputs_before_their_causes() -> None:
    outcome = check(graph(SQUARE), 500 * X)
    assert outcome.findings[0].tensor == "y"
    assert outcome.findings[0].name == "fp16-output"
    sizes = [f.facts["absmax"] for f in outcome.findings if f.kind == "overflow" and "absmax" in f.facts]
    assert sizes == sorted(sizes, reverse=True)


def test_an_overflow_that_flows_on_and_the_rules_around_it_are_one_cause() -> None:
    outcome = check(graph(SQUARE), 500 * X)
    named = {f.node: f.cause for f in outcome.findings if f.name != "fp16-output" and f.severity != "info"}
    assert len(named) >= 2
    assert set(named.values()) == {"a"}


def test_overflows_apart_are_causes_apart() -> None:
    apart = "a = Mul(x, x)  s = Sqrt(a)  t = Tanh(s)  b = Mul(t, big)  y = Mul(b, small)"
    causes = {
        f.cause for f in check(graph(apart, big=1e6, small=1e-6), 500 * X).findings if f.kind == "overflow"
    }
    assert causes == {"a", "big"}


def test_bf16_judges_weights_by_its_own_limits_and_runs_the_rules_it_is_given() -> None:
    outcome = check(graph("y = Add(x, w)", w=[[1, 1e5, 3.4e38, 1e-40]]), as_type="bf16")
    (weight,) = entry(outcome).weights.worst
    assert (weight.beyond, weight.below_normal, weight.vanishing) == (1, 1, 0)
    (told,) = [
        finding.message
        for finding in outcome.findings
        if finding.kind == "overflow" and finding.tensor == "w"
    ]
    assert "the constant 'w' reaches 3.4e+38; BF16 ends at" in told
    assert check(graph(SQUARE), as_type="bf16").run.rules == []
    assert check(graph(SQUARE), rules="pack:norm", as_type="bf16").run.rules != []


def test_a_rule_that_repairs_the_node_is_named() -> None:
    norm = "s = Pow(x, two)  m = ReduceMean <axes = [-1]> (s)  e = Add(m, eps)  r = Sqrt(e)  y = Div(x, r)"
    proto = graph(norm, two=2.0, eps=1e-6)
    finding = of(check(proto, 1000 * X), "s")
    assert any(rule.startswith("NORM") for rule in finding.repaired_by), finding.repaired_by


def test_harmless_overflow_is_told_from_harmful() -> None:
    outcome = check(graph("b = Mul(x, c)  y = Tanh(b)", c=30000.0))
    finding = of(outcome, "b")
    assert (finding.severity, finding.status) == ("info", "skipped")
    assert "harmless" in finding.message
    assert entry(outcome).harmless_overflows == 1
    assert outcome.run.status == "ok"
    harmful = check(graph("b = Mul(x, c)  y = Div(b, c)", c=30000.0))
    assert of(harmful, "b").status == "available"
    assert entry(harmful).harmless_overflows == 0
    assert harmful.run.status == "findings"


def test_a_division_by_a_vanished_eps_names_its_cause() -> None:
    proto = graph("z = Sub(x, x)  e = Add(z, eps)  r = Sqrt(e)  q = Div(z, r)  y = Add(q, x)", eps=1e-10)
    outcome = check(proto)
    finding = of(outcome, "q")
    assert finding.kind == "nan"
    assert finding.message.startswith("'q' is not finite in plain FP16: it follows from '")
    assert finding.repaired_by == ["plan"]


def test_lost_accuracy_is_a_finding_of_its_own() -> None:
    outcome = check(graph("a = Add(x, c)  y = Sub(a, c)", c=3000.0))
    finding = next(f for f in outcome.findings if f.name == "fp16-precision")
    assert (finding.kind, finding.tensor, finding.severity) == ("precision", "y", "warning")
    assert finding.facts["ratio"] > 4


def test_nan_in_fp32_already_is_said_with_its_sample() -> None:
    outcome = check(graph("l = Log(x)  y = Relu(l)"), [{"x": abs(X)}, {"x": X}])
    finding = next(f for f in outcome.findings if f.name == "fp32-nonfinite")
    assert (finding.tensor, finding.facts["sample"]) == ("l", 1)


def test_weights_are_counted() -> None:
    weight = np.float32([[1e5, 1, 1e-6, 1e-9]])
    weights = entry(check(graph("y = Mul(x, w)", w=weight))).weights
    assert (weights.constants, weights.elements) == (1, 4)
    assert (weights.beyond, weights.below_normal, weights.vanishing) == (1, 2, 1)
    assert [(w.name, w.node, w.absmax) for w in weights.worst] == [("w", "y", pytest.approx(1e5))]


def test_an_infinite_weight_is_infinite_in_fp16_too() -> None:
    outcome = check(graph("m = Max(x, w)  y = Tanh(m)", w=-np.inf))
    assert entry(outcome).weights.beyond == 0
    assert outcome.run.status == "ok"


def test_a_weight_beyond_fp16_that_only_fp32_reads_is_in_good_hands() -> None:
    proto = graph(
        "r = Range(zero, limit, step)  s = ReduceSum(r)  y = Mul(x, s)", zero=0.0, limit=70000.0, step=35000.0
    )
    finding = of(check(proto), "limit")
    assert (finding.kind, finding.status, finding.repaired_by) == ("weights", "available", ["plan"])


def test_weights_that_lose_bits_are_told_without_alarm() -> None:
    weight = np.float32([[1, 1e-6, 1e-7, 2e-8]])
    outcome = check(graph("y = Add(x, w)", w=weight))
    finding = next(f for f in outcome.findings if f.kind == "weights")
    assert (finding.severity, finding.status, finding.tensor) == ("info", "skipped", "w")
    assert finding.message == "3 of 4 elements of 'w' lose bits below 6.1e-05; of them vanish: 1"
    assert outcome.run.status == "ok"


def test_bodies_are_looked_into() -> None:
    body = """then_branch = t () => (float[n,4] p) { q = Mul(x, x)  p = Sqrt(q) },
              else_branch = e () => (float[n,4] r) { r = Neg(x) }"""
    proto = model(f"g (float[n,4] x, bool c) => (float[n,4] y) {{ y = If (c) <{body}> }}")
    outcome = onnx_fp16fix.check(proto, {"x": 300 * X, "c": np.array(True)})
    finding = of(outcome, "q")
    assert (finding.severity, finding.status, finding.scope) == ("error", "available", "0:then_branch:0")
    assert finding.facts["absmax"] == 1_440_000


def loop(body: str, x: object, runs: int = 3, **constants: object) -> Outcome:
    """``body`` makes ``q`` (float[4]) from ``p``, and so on round the loop; ``y`` is the last ``q``."""
    proto = model(f"""g (int64 n, bool c, float[4] x) => (float[4] y) {{
        y = Loop (n, c, x) <body = b (int64 i, bool go, float[4] p) => (bool again, float[4] q) {{
            again = Identity(go)  {body} }}> }}""")
    for name, value in constants.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    return onnx_fp16fix.check(proto, {"n": np.array(runs), "c": np.array(True), "x": np.float32(x)})


INSIDE = "0:body:0"


def test_what_overflows_in_a_later_run_says_in_which() -> None:
    outcome = loop("q = Mul(p, w)", [1, 2, 3, 4], runs=4, w=20.0)
    finding = of(outcome, "q")
    assert (finding.kind, finding.scope, finding.facts["run"]) == ("overflow", INSIDE, 3)
    assert entry(outcome).naive.first_nonfinite == f"{INSIDE}::q"
    assert entry(outcome).first_inaccurate == f"{INSIDE}::q"


def test_a_nan_made_inside_names_its_cause_there() -> None:
    body = "z = Sub(p, p)  e = Add(z, eps)  r = Sqrt(e)  d = Div(z, r)  q = Add(d, p)"
    outcome = loop(body, [1, 2, 3, 4], eps=1e-10)
    finding = of(outcome, "d")
    assert (finding.kind, finding.scope, finding.status) == ("nan", INSIDE, "available")
    assert "it follows from '" in finding.message
    assert [f.tensor for f in outcome.findings if f.name == "fp16-nonfinite"] == ["d"]


def test_accuracy_lost_inside_is_a_finding_there() -> None:
    outcome = loop("a = Add(p, w)  q = Sub(a, w)", [1.1, 2.2, 3.3, 4.4], w=1000.0)
    finding = next(f for f in outcome.findings if f.name == "fp16-precision")
    assert (finding.tensor, finding.scope, finding.repaired_by) == ("q", INSIDE, ["fix"])


def test_nan_in_fp32_already_is_found_inside_too() -> None:
    outcome = loop("l = Log(p)  q = Sub(l, w)", [9, 9, 9, 9], w=3.0)
    finding = next(f for f in outcome.findings if f.name == "fp32-nonfinite")
    assert (finding.scope, finding.tensor, finding.node) == (INSIDE, "l", "l")


def test_weights_inside_are_counted_with_their_place() -> None:
    outcome = loop("big = Constant <value_float = 100000.0> ()  k = Mul(p, big)  q = Tanh(k)", [1, 0, 0, 0])
    weights = entry(outcome).weights
    assert (weights.constants, weights.beyond) == (1, 1)
    assert (weights.worst[0].name, weights.worst[0].scope) == ("big", INSIDE)


def test_a_rule_that_repairs_a_body_is_named_there() -> None:
    norm = "s = Pow(p, two)  m = ReduceMean <axes = [-1]> (s)  e = Add(m, eps)  r = Sqrt(e)  q = Div(p, r)"
    finding = of(loop(norm, [100, 200, -300, 300], two=2.0, eps=0.5), "s")
    assert finding.scope == INSIDE
    assert any(rule.startswith("NORM") for rule in finding.repaired_by), finding.repaired_by


def test_a_loop_that_ends_elsewhere_is_a_finding() -> None:
    proto = model("""g (int64 n, bool c, float[1] x) => (float[1] y) {
        y = Loop (n, c, x) <body = b (int64 i, bool go, float[1] p) => (bool again, float[1] q) {
            q = Add(p, one)  top = ReduceMax <keepdims = 0> (q)  again = Less(top, bound) }> }""")
    for name, value in (("one", 1.0), ("bound", 2050.0)):
        proto.graph.initializer.append(numpy_helper.from_array(np.float32(value), name))
    outcome = onnx_fp16fix.check(proto, {"n": np.array(50), "c": np.array(True), "x": np.float32([2045])})
    finding = next(f for f in outcome.findings if f.name == "fp16-control-flow")
    assert (finding.scope, finding.facts) == (INSIDE, {"runs_fp32": 5, "runs_fp16": 50})


def test_without_simulation_ranges_and_weights_remain() -> None:
    outcome = check(graph(SQUARE), 500 * X, simulate=False)
    assert entry(outcome).naive is None
    assert of(outcome, "a").kind == "overflow"
    assert "nonfinite" not in of(outcome, "a").facts
    assert outcome.run.exit_code == 1


def test_the_summary_counts_kinds() -> None:
    summary = check(graph(SQUARE), 500 * X).run.summary
    assert summary["overflow"] >= 1
    assert set(summary) <= {"overflow", "underflow", "precision", "nan", "weights", "structure"}


def test_an_overflow_that_did_no_harm_on_these_data_is_only_a_warning() -> None:
    body = "b = Mul(x, c)  i = Less(x, z)  y = Where(i, x, b)"
    outcome = check(graph(body, c=30000.0, z=9.0))
    finding = of(outcome, "b")
    assert (finding.severity, finding.status) == ("warning", "available")
    assert finding.facts["harmless_on_data"] is True


def test_a_name_that_an_alternative_does_not_bind_is_no_missing_fact() -> None:
    """Of Max(x, -10) the rule about bounds knows no upper one; that is no finding."""
    outcome = check(graph("y = Max(x, low)", low=-10.0))
    assert [finding.message for finding in outcome.findings] == []
    assert outcome.run.status == "ok"
