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


@pytest.mark.parametrize(
    ("gain", "precision", "steep"),
    [(60, "fp16", True), (20, "fp16", False), (20, "bf16", True), (2, "bf16", False)],
)
def test_a_softmax_of_values_that_are_far_apart_is_told(gain: int, precision: str, steep: bool) -> None:
    """700 * 60 = 42000, where FP16 has steps of 32; masked scores of -1e9 are not among those that compete."""
    proto = model(
        f"""(float[4,3] x) => (float[4,3] y) <float k = {{{gain}}}, float far = {{-1e9}}, float zero = {{0}}> {{
            s = Mul(x, k) m = Less(x, zero) w = Where(m, far, s) y = Softmax<axis = -1>(w)
        }}"""
    )
    outcome = onnx_fp16fix.fix(proto, {"x": X}, tensorrt="off", precision=precision)  # type: ignore[arg-type]
    found = [finding for finding in outcome.findings if finding.name == f"{precision}-steep-softmax"]
    assert [finding.node for finding in found] == ["y"] * steep
    assert all(finding.status == "skipped" and "of up to" in finding.message for finding in found)
    if precision == "fp16":
        checked = onnx_fp16fix.check(proto, {"x": X})
        assert any(finding.name == "fp16-steep-softmax" for finding in checked.findings) == steep
