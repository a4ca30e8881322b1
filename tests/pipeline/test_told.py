"""What findings say was done about a tensor is what was done."""

from __future__ import annotations

import numpy as np
import pytest

import onnx_fp16fix
from onnx_fp16fix.errors import UsageError
from onnx_text import model

X = np.linspace(-300, 700, 12, dtype=np.float32).reshape(4, 3)


def told(text: str, feed: dict[str, np.ndarray]) -> dict[tuple[str | None, str | None], str]:
    """Messages of risks by node and tensor."""
    outcome = onnx_fp16fix.fix(model(text, {}), feed, tensorrt="off")
    assert outcome.run.status == "ok"
    return {(f.node, f.tensor): f.message for f in outcome.findings if f.kind != "structure"}


def test_a_graph_input_beyond_fp16_is_multiplied_not_left_to_overflow() -> None:
    messages = told(
        """(float[2,3,3] x) => (float[2,3] y) {
            d = Einsum<equation="bii->bi">(x) n = ReduceL2<axes=[1]>(d) y = Div(d, n)
        }""",
        {"x": np.arange(1, 19, dtype=np.float32).reshape(2, 3, 3) * 1e9},
    )
    assert "multiplied by 2**-" in messages["d", "x"]


def test_what_a_body_reads_from_outside_is_stored_as_it_is_outside() -> None:
    messages = told(
        """(float[4,3] x, bool c) => (float[4,3] y) {
            z = Mul(x, x)
            y = If (c) <then_branch = t () => (float[4,3] r) { r = Sqrt(z) },
                        else_branch = e () => (float[4,3] q) { q = Sqrt(z) }>
        }""",
        {"x": X, "c": np.array(True)},
    )
    assert "stored times 2**-" in messages["z", "z"]
    assert messages["r", "z"].split(": ")[1] == messages["z", "z"].split(": ")[1]


def test_a_reason_is_told_once() -> None:
    messages = told(
        """(float[4,3] x) => (float[4,3] y) <float[1] k = {1000.5}> { a = Mul(x, k) y = Sin(a) }""", {"x": X}
    )
    assert messages["y", "y"].count("an angle of up to") == 1
    assert messages["y", "y"].endswith("Sin stays in FP32")


def test_an_opset_that_nothing_runs_is_refused() -> None:
    proto = model("(float[4,3] x) => (float[4,3] y) { y = Mul(x, x) }", opset=6)
    with pytest.raises(UsageError, match="begins with opset 7, and this model has opset 6"):
        onnx_fp16fix.fix(proto, {"x": X}, tensorrt="off")
