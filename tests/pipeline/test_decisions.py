"""Near ties that FP16 decides otherwise: tensors of another size are no overflow."""

import numpy as np

import onnx_fp16fix
from onnx_text import model

TEXT = """(float[8] x) => (float[n] y) {{
    {made} more = Greater(a, x) less = Not(more) chosen = Not(less) h = Compress(x, chosen) y = Sqrt(h) }}"""
FACTOR = {"factor": np.full(8, 1 + 2.0**-13)}  # makes what is a little larger than x, but not in FP16


def run(made, **wishes):
    feed = {"x": np.arange(1, 9, dtype=np.float32)}
    return onnx_fp16fix.fix(model(TEXT.format(made=made), FACTOR), feed, rules=(), tensorrt="off", **wishes)


def test_what_decides_too_closely_goes_to_fp32():
    outcome = run("a = Mul(x, factor)")
    assert outcome.run.status == "ok"
    assert outcome.plan.fp32_nodes == ["a", "more"]
    whys = [entry.message for entry in outcome.findings if entry.status == "fixed"]
    assert whys[0].startswith("what selects the elements of 'h' decides otherwise in simulated FP16")


LONG = "b = Mul(x, factor) c = Abs(b) d = Abs(c) e = Abs(d) a = Abs(e)"


def test_what_rounds_long_before_is_found_by_measurement():
    outcome = run(LONG)
    assert outcome.run.status == "ok"
    assert set(outcome.plan.fp32_nodes) >= {"b", "c", "d", "e", "a", "more"}
    assert "y" not in outcome.plan.fp32_nodes


def test_what_must_be_rounded_before_is_told_and_is_no_overflow():
    outcome = run(LONG, force_fp16="b")
    (decision,) = [entry for entry in outcome.findings if entry.name == "fp16-decision"]
    assert (decision.tensor, decision.status) == ("h", "left")
    assert "another size in simulated FP16" in decision.message
    assert not [entry for entry in outcome.findings if "is not finite" in entry.message]


def test_what_a_rule_rewrites_is_not_said_to_stay_in_fp32():
    proto = model(
        "(float[8] x) => (float[8] y) { e = Exp(x) a = Add(e, one) y = Log(a) }", {"one": np.ones(())}
    )
    outcome = onnx_fp16fix.fix(proto, {"x": np.arange(8, dtype=np.float32) * 5}, tensorrt="off")
    assert outcome.plan.fp32_nodes == []
    told = [entry.message for entry in outcome.findings if entry.tensor in ("e", "a")]
    assert len(told) == 2
    assert all(message.endswith("is rewritten by ACT001") for message in told)


def test_every_fp32_node_is_told_with_its_reason():
    """Some are at risk themselves, others stay with their neighbours or because of a wish."""
    text = """(float[8] x) => (float[8] y, float[8] z) {
        a = Mul(x, big) b = Mul(a, a) c = Neg(b) d = Sub(c, a) s = Sigmoid(x) t = Tanh(s) y = Mul(d, tiny)
        z = Exp(t) }"""
    proto = model(text, {"big": np.float32(1e12), "tiny": np.float32(1e-25)})
    outcome = onnx_fp16fix.fix(
        proto, {"x": np.arange(1, 9, dtype=np.float32)}, rules=(), keep_fp32="[st]$", tensorrt="off"
    )
    told = [entry for entry in outcome.findings if "in FP32" in entry.message]
    named = {entry.node for entry in told if "stays in FP32" in entry.message}
    (wished,) = (
        entry for entry in told if entry.message == "2 nodes stay in FP32: s, t: keep_fp32 asks for '[st]$'"
    )
    assert wished.facts == {"nodes": 2}
    grouped = sum(entry.facts["nodes"] for entry in told if "nodes" in entry.facts)
    single = {entry.node for entry in told if "nodes" not in entry.facts}
    assert grouped + len(single) == len(outcome.plan.fp32_nodes) > 2
    assert named <= set(outcome.plan.fp32_nodes)
