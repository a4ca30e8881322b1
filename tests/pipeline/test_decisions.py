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
