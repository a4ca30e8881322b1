"""Masks of attention that an optimizer has fused: found by the rule, and right in FP16."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

import onnx_fp16fix
from language._models import case

FUSED = "com.microsoft.MultiHeadAttention(q, k, v, None, None, {mask}, num_heads=2)"
ROWS = dict.fromkeys("qkv", "float [2, 8, 16]")


def data(**more: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {name: rng.standard_normal((2, 8, 16)).astype(np.float32) * 4 for name in "qkv"} | more


@pytest.mark.parametrize(
    ("mask", "given", "feeds"),
    [
        ("Where(m, 0.0, -3.4028234663852886e38)", "bool [1, 1, 8, 8]", np.tril(np.ones((1, 1, 8, 8), bool))),
        ("Unsqueeze((1.0 - m) * -1e9, axes=[1])", "float [2, 8, 8]", np.tril(np.ones((2, 8, 8), np.float32))),
    ],
)
def test_the_mask_of_a_fused_attention_is_raised(mask, given, feeds):
    model = case(FUSED.format(mask=mask), m=given, **ROWS)
    outcome = onnx_fp16fix.apply(model, "pack:mask", data(m=feeds), tensorrt="off")
    assert {f.rule for f in outcome.run.findings if f.status == "fixed"} == {"MASK010"}
    assert outcome.verification.passed
    weights = [numpy_helper.to_array(tensor) for tensor in outcome.model.graph.initializer]
    assert min(values.min() for values in weights if values.dtype.kind == "f") == -(2.0**15)


def test_a_mask_with_a_row_of_its_own_is_left_to_the_data():
    model = case(FUSED.format(mask="Where(m, 0.0, -3.4e38)"), m="bool [1, 1, 8, 8]", **ROWS)
    nobody = np.tril(np.ones((1, 1, 8, 8), bool))
    nobody[..., 5, :] = False
    outcome = onnx_fp16fix.fix(model, data(m=nobody), tensorrt="off")
    assert outcome.verification.passed
