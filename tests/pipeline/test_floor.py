"""Models for which FP16 is too coarse whatever is done about its range."""

from __future__ import annotations

import numpy as np

import onnx_fp16fix
from onnx_fp16fix.pipeline.floor import to_bits
from onnx_text import model

# a sine of angles around 1e4, computed from features: FP16 holds the features to about 4
TEXT = "(float[16,8] x) => (float[16,8] y) { h = MatMul(x, w) r = Relu(h) y = Sin(r) }"
FEED = {"x": np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)}


def proto():
    return model(TEXT, {"w": np.random.default_rng(1).standard_normal((8, 8)) * 3e3})


def test_eleven_bits_are_those_of_float16_within_its_range() -> None:
    values = np.random.default_rng(2).standard_normal(10_000).astype(np.float32)
    assert np.array_equal(to_bits(values, 11), values.astype(np.float16).astype(np.float32))


def test_eleven_bits_have_no_range_of_their_own() -> None:
    values = np.float32([1e30, -1e-30, 0.0, 65504.0, 2.0**-40])
    assert np.allclose(to_bits(values, 11), values, rtol=2.0**-11, atol=0)


def test_fp32s_own_maximum_stays_finite() -> None:
    largest = np.finfo(np.float32).max
    values = np.float32([-largest, largest, np.inf, np.nan])
    assert np.array_equal(to_bits(values, 11), values, equal_nan=True)


def test_a_model_too_coarse_for_fp16_is_written_with_a_finding() -> None:
    outcome = onnx_fp16fix.fix(proto(), FEED, tensorrt="off")
    assert outcome.run.status == "findings"
    assert outcome.run.exit_code == 1
    (left,) = (finding for finding in outcome.findings if finding.status == "left")
    assert left.name == "fp16-too-coarse"
    assert 0.25 * left.facts["error"] <= left.facts["floor"]


def test_a_tolerance_the_user_gives_is_meant() -> None:
    outcome = onnx_fp16fix.fix(proto(), FEED, tensorrt="off", tolerance=1e-2)
    assert outcome.run.status == "rejected"
