"""What ONNX Runtime's CPU provider says of a model, and what that means for the verdict."""

import numpy as np
import pytest

import onnx_fp16fix
from calibrate.small_models import model
from onnx_fp16fix.calibrate import open_data
from onnx_fp16fix.errors import ModelError, Problem
from onnx_fp16fix.model import load_model
from onnx_fp16fix.verify.backends import onnxruntime

PROTO = model("g (float[2] x) => (float[2] y) { y = Relu(x) }")


@pytest.fixture
def fails(monkeypatch):
    """Make sessions fail: those with optimizations on, or all."""

    def patch(everywhere):
        opened = onnxruntime.open_session

        def refuse(*args, optimize=False, **options):
            if optimize or everywhere:
                raise ModelError(Problem("MODEL-LOAD", "fusion left a dangling input"))
            return opened(*args, **options)

        monkeypatch.setattr(onnxruntime, "open_session", refuse)

    return patch


def run():
    loaded = load_model(PROTO)
    return onnxruntime.run_once(loaded, open_data([{"x": np.ones(2, np.float32)}], PROTO))


def test_a_fault_of_its_optimizer_is_no_failure_of_the_model(fails):
    fails(everywhere=False)
    result = run()
    assert (result.check.loads, result.check.runs, result.failures) == (True, True, ())
    assert "graph optimizations off" in result.not_checked[0]
    assert "dangling" in result.not_checked[0]


def test_a_model_that_does_not_run_as_written_fails(fails):
    fails(everywhere=True)
    result = run()
    assert (result.check.loads, result.not_checked) == (False, ())
    assert "dangling" in result.failures[0]


def test_a_kernel_that_overflows_where_nothing_else_does_is_told():
    """Scores of an Attention that hands them out are simulated as what it hands out alone."""
    text = "g ({0}[1,2,4,8] x) => ({0}[1,2,4,8] y) {{ y, k, v, s = Attention(x, x, x) }}"
    before, after = (model(text.format(kind), opset=23) for kind in ("float", "float16"))
    told = {}
    for size in (60, 600):
        x = (np.random.default_rng(0).standard_normal((1, 2, 4, 8)) * size).astype(np.float32)
        outcome = onnx_fp16fix.verify(before, after, {"x": x}, tensorrt="off")
        assert outcome.verification is not None
        told[size] = [text for text in outcome.verification.not_checked if text.startswith("onnxruntime")]
    assert told[60] == []
    (text,) = told[600]
    assert "make 'y' infinite or NaN" in text
