"""A model that draws random numbers is proven as any other: every session here draws the same ones."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnx_fp16fix
from onnx_text import model

X = np.linspace(-300, 700, 256, dtype=np.float32).reshape(4, 64)
NOISY = {
    "like": "r = RandomNormalLike(x) a = Mul(r, x) y = Mul(a, a)",
    "twice": "r = RandomNormalLike(x) q = RandomUniformLike(x) d = Sub(r, q) a = Mul(d, x) y = Mul(a, a)",
    "dropout": "a = Dropout(x, half, yes) y = Mul(a, a)",
    "body": """y = If (yes) <
        then_branch = t () => (float[4,64] b) { r = RandomNormalLike(x) a = Mul(r, x) b = Mul(a, a) },
        else_branch = e () => (float[4,64] c) { c = Neg(x) }>""",
}


def noisy(kind: str) -> onnx.ModelProto:
    head = "(float[4,64] x) => (float[4,64] y) <float half = {0.5}, bool yes = {1}>"
    return model(f"{head} {{ {NOISY[kind]} }}")


@pytest.mark.parametrize("kind", NOISY)
def test_it_is_judged_by_what_fp16_does(kind: str) -> None:
    outcome = onnx_fp16fix.fix(noisy(kind), {"x": X}, tensorrt="off")
    assert outcome.run.status == "ok"
    assert outcome.verification is not None
    assert outcome.verification.fp32 is not None
    assert outcome.verification.fp32.identical
    assert any("draws random numbers" in text for text in outcome.warnings)
    assert outcome.model is not None
    assert b"seed" not in outcome.model.SerializeToString()


def test_two_nodes_draw_numbers_of_their_own() -> None:
    """The difference of equal noise would be zero."""
    outcome = onnx_fp16fix.check(noisy("twice"), {"x": X})
    assert any(finding.tensor == "y" and finding.kind == "overflow" for finding in outcome.findings)


def test_a_model_without_them_is_not_warned_about() -> None:
    proto = model("(float[4,64] x) => (float[4,64] y) <float half = {0.5}> { y = Dropout(x, half) }")
    assert not onnx_fp16fix.check(proto, {"x": X}).warnings
