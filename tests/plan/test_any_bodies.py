"""Whatever the bodies: the plan keeps every FP32 bit, both models are valid, and nothing overflows at an output.

``FP16FIX_EXAMPLES=1000`` tries more graphs than the few of an ordinary run.
"""

from __future__ import annotations

import os
from unittest import mock

import numpy as np
import onnx
from hypothesis import HealthCheck, assume, example, given, note, settings
from hypothesis import strategies as st

from body_chain import emitted
from onnx_fp16fix.calibrate import calibrate, open_data
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.model import wrap_model
from onnx_fp16fix.plan import make_plan
from onnx_fp16fix.plan.known import region
from onnx_fp16fix.runtime import open_session
from onnx_fp16fix.simulate import compare_simulated
from plan.random_bodies import Held, build_held, feeds, held
from plan.random_graphs import Step
from plan.test_bit_identical import LARGEST, SMALLEST


@settings(
    derandomize=True,
    max_examples=int(os.environ.get("FP16FIX_EXAMPLES", "12")),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(case=held, whole=st.booleans())
@example(
    case=Held(
        "Loop",
        [Step("MatMul", scale=4)],
        [Step("RMS"), Step("Conv", scale=3)],
        [Step("Gram")],
        [Step("Sqrt")],
        [Step("Mul tensors", scale=2)],
        1,
    ),
    whole=True,
)
@example(
    case=Held(
        "If", [Step("Conv", scale=6)], [Step("MatMul", scale=2)], [Step("Tanh")], [Step("MatMul", scale=-6)]
    ),
    whole=False,
)
@example(
    case=Held("Scan", [], [Step("Gram", scale=3), Step("Divide")], [Step("Relu")], [], [Step("Conv", scale=5)], 2),
    whole=True,
)  # fmt: skip
def test_any_bodies(case: Held, whole: bool) -> None:
    proto = build_held(case)
    onnx.checker.check_model(proto, full_check=True)
    data = open_data(feeds(1), proto)
    scope = build_view(wrap_model(proto)).main
    ranges = calibrate(proto, data)
    entries = [ranges.get(name) for name in ranges]
    assume(not any(e.nonfinite or e.absmax > LARGEST or 0 < e.absmax < SMALLEST for e in entries))
    with mock.patch.object(region, "_WHOLE", 400 if whole else 0):
        plan = make_plan(scope, ranges)
    note(f"plan: {plan}")
    rescaled, made = emitted(scope, ranges, plan)
    typed = made.model.proto
    for result in (rescaled.model.proto, typed):
        onnx.checker.check_model(result, full_check=True)
        open_session(result, optimize=True)
        assert (result.graph.input, result.graph.output) == (proto.graph.input, proto.graph.output)
    for feed in [*feeds(1), *feeds(2)]:
        expected, actual = (open_session(m).run(feed) for m in (proto, rescaled.model.proto))
        for name, value in expected.items():
            np.testing.assert_array_equal(actual[name].view(np.uint32), value.view(np.uint32), err_msg=name)
    report = compare_simulated(proto, typed, data, exponents=rescaled.exponents)
    assert [output.name for output in report.outputs if output.nonfinite] == [], report.first_nonfinite
