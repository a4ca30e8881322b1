"""A rule leaves alone what it has written: in the main graph, in bodies at any depth, in local functions."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from language._models import load_text, patched, rule_text, view
from onnx_fp16fix.language import apply_rules

MATCH = "Exp(x * c)"
WITH = "replace: [{with: Exp(x * (value(c) / 2)) * Exp(x * (value(c) / 2))}]"
SET = "replace: [{set: {c: value(c) / 2}}]"
VARS = "{x: tensor, c: const scalar}"


def branched(depth: int) -> str:
    """The formula in the branches of Ifs inside each other."""
    inner = "h{n} = Mul(x, half) b{n} = Exp(h{n})"
    if depth:
        inner = branched(depth - 1) + " b{n} = Neg(z{m})"
    then, other = (
        f"{side} () => (float[4] b{depth}{side}) {{ "
        + inner.replace("{n}", f"{depth}{side}").replace("{m}", str(depth - 1))
        + " }"
        for side in "te"
    )
    return f"z{depth} = If <then_branch = {then}, else_branch = {other}> (c)"


HEAD = '<ir_version: 10, opset_import: ["" : 17, "own" : 1]>\n'
FORMULA = "h = Mul(s, half) t = Exp(h)"
TEXTS = {
    "main graph": f"g (float[4] s) => (float[4] t) {{ {FORMULA} }}",
    "If": f"g (float[4] x, bool c) => (float[4] z0) {{ {branched(0)} }}",
    "If in If": f"g (float[4] x, bool c) => (float[4] z1) {{ {branched(1)} }}",
    "Loop": f"g (float[4] x, int64 n, bool c) => (float[4] y) {{ y = Loop <body = b (int64 i, bool k, float[4] s) "
    f"=> (bool l, float[4] t) {{ l = Identity(k) {FORMULA} }}> (n, c, x) }}",
    "Scan": f"g (float[4,4] x) => (float[4,4] y) {{ y = Scan <num_scan_inputs = 1, body = b (float[4] s) "
    f"=> (float[4] t) {{ {FORMULA} }}> (x) }}",
    "function": "g (float[4] x) => (float[4] z) { y = own.f(x) z = own.f(y) }\n"
    '<domain: "own", opset_import: ["" : 17]>\n'
    f"f (s) => (t) {{ half = Constant <value_float = 0.5> () {FORMULA} }}",
}
HITS = {"If": 2, "If in If": 4}


def model(place: str) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(HEAD + TEXTS[place])
    if place != "function":
        proto.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "half"))
    return proto


@pytest.mark.parametrize("action", [WITH, SET], ids=["with", "set"])
@pytest.mark.parametrize("place", TEXTS)
def test_a_second_application_changes_nothing(place, action, tmp_path):
    rule = load_text(rule_text(MATCH, action, equal="real", vars=VARS), tmp_path)
    first = apply_rules(view(model(place)), rule, None)
    assert first.stats[0].applied == HITS.get(place, 1)
    changed = patched(model(place), first)
    onnx.checker.check_model(changed)
    again = apply_rules(view(changed), rule, None)
    assert again.patches == ()
    assert {record.clause for record in again.records} == {"again"}


@pytest.mark.parametrize("place", TEXTS)
def test_the_loser_of_two_rules_is_recorded_as_shadowed(place, tmp_path):
    first = rule_text(MATCH, WITH, equal="real", vars=VARS)
    second = first.replace("TEST001", "TEST002").replace("test-rule", "another").split("rules:\n")[1]
    found = apply_rules(view(model(place)), load_text(first + second, tmp_path), None)
    hits = HITS.get(place, 1)
    assert [(stats.applied, stats.shadowed) for stats in found.stats] == [(hits, 0), (0, hits)]
    reasons = {record.reason for record in found.records if record.status == "shadowed"}
    assert reasons == {"shadowed by TEST001, which changes the same nodes"}
