"""Bounds known by analysis: whatever the data, no kernel leaves them; and they complete what was measured."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from calibrate.small_models import model
from onnx_fp16fix.calibrate.bounds import Bound, complete, known_bounds
from onnx_fp16fix.calibrate.ranges import RangeTable, TensorRange
from onnx_fp16fix.runtime import open_session

GRAPHS = {
    **{op: f"y = {op}(x)" for op in
       "Softmax Sigmoid HardSigmoid Tanh Erf Sin Cos Softsign Sign LogSoftmax Atan Exp Softplus Relu Abs".split()},
    **{op: f"y = {op}(x)" for op in "Elu HardSwish Mish ThresholdedRelu".split()},
    "ReduceL1": "y = ReduceL1(x)", "ReduceL2": "y = ReduceL2(x)", "ReduceSumSquare": "y = ReduceSumSquare(x)",
    "Sqrt": "a = Abs(x) y = Sqrt(a)",
    "Acosh": "a = Abs(x) b = Add(a, one) y = Acosh(b)",
    "Clip": "y = Clip(x, low, high)",
    "Clip to one side": "y = Clip(x, low)",
    "Square": "y = Mul(x, x)",
    "Mul": "s = Tanh(x) y = Mul(s, low)",
    "Add": "s = Tanh(x) t = Sigmoid(x) y = Add(s, t)",
    "Sum": "s = Tanh(x) y = Sum(s, s, high)",
    "Sub": "s = Tanh(x) t = Sigmoid(x) y = Sub(s, t)",
    "Div": "s = Tanh(x) t = Sigmoid(x) u = Sub(low, t) y = Div(s, u)",
    "Exp of what is bounded": "s = Tanh(x) t = Mul(s, low) y = Exp(t)",
    "Pow": "s = Tanh(x) t = Mul(s, low) y = Pow(t, two)",
    "Pow, odd": "s = Tanh(x) t = Mul(s, low) y = Pow(t, three)",
    "Pow, a root": "s = Sigmoid(x) y = Pow(s, high)",
    "Neg": "s = Sigmoid(x) y = Neg(s)",
    "Max": "s = Tanh(x) y = Max(s, high)",
    "Min": "s = Tanh(x) y = Min(s, low)",
    "Where": "c = Less(x, one) s = Tanh(x) t = Sigmoid(x) y = Where(c, s, t)",
    "Concat": "s = Tanh(x) y = Concat<axis = 0>(s, s)",
    "ReduceMean": "s = Sigmoid(x) y = ReduceMean(s)",
    "ReduceMax": "s = Sigmoid(x) y = ReduceMax(s)",
    "Transpose": "s = Tanh(x) y = Transpose(s)",
    "Split": "s = Tanh(x) y, z = Split<axis = 0>(s, sizes)",
    "Cast": "c = Less(x, one) y = Cast<to = 1>(c)",
    "LpNormalization": "y = LpNormalization(x)",
    "LayerNormalization": "y = LayerNormalization(x, gamma, beta)",
    "LayerNormalization of rows": "y = LayerNormalization<axis = 0>(x, wide)",
    "InstanceNormalization": "u = Unsqueeze(x, axes) y = InstanceNormalization(u, scale, scale)",
    "AveragePool": "s = Sigmoid(x) u = Unsqueeze(s, axes) y = AveragePool<kernel_shape = [2], pads = [1, 1], "
    "count_include_pad = 1>(u)",
    "MaxPool": "s = Tanh(x) u = Unsqueeze(s, axes) y = MaxPool<kernel_shape = [2]>(u)",
}  # fmt: skip
LATE = {
    "Gelu": "y = Gelu(x)",
    "RMSNormalization": "y = RMSNormalization(x, gamma)",
}
GRAPHS.update(LATE)
CONSTANTS = """float low = {-2}, float high = {0.5}, float one = {1}, float two = {2}, float three = {3},
    int64[2] sizes = {1, 2}, int64[1] axes = {0},
    float[4] gamma = {1, -3, 0.5, 2}, float[4] beta = {0, 1, -1, 0.5}, float[3] scale = {2, -1, 0.25},
    float[3, 4] wide = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}"""


def graph(body, opset=18):
    text = f"g (float[3, 4] x) => (float[m] y) <{CONSTANTS}> {{ {body} }}"
    proto = model(text, opset=opset)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return proto


FINITE = arrays.arrays(np.float32, (3, 4), elements=st.floats(-1e4, 1e4, width=32)).map(
    lambda x: np.where(np.abs(x) < 1e-15, np.float32(0), x)  # squares that lose bits as subnormals
)


@pytest.mark.parametrize("name", GRAPHS)
def test_no_kernel_leaves_its_bound(name):
    proto = graph(GRAPHS[name], 23 if name in LATE else 18)
    bound, session = known_bounds(proto)["y"], open_session(proto)

    @settings(max_examples=60, deadline=None)
    @given(FINITE)
    def check(x):
        y = session.run({"x": x})["y"].astype(np.float64)
        slack = 1e-5 * max(1.0, float(np.abs(y[np.isfinite(y)]).max(initial=0)))
        assert np.nanmin(y) >= bound.low - slack
        assert np.nanmax(y) <= bound.high + slack

    check()


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("Softmax", 0, 1), ("Relu", 0, math.inf), ("Clip", -2, 0.5), ("Clip to one side", -2, math.inf),
        ("Mul", -2, 2), ("Sub", -2, 1), ("Div", -0.5, 0.5),
        ("Exp of what is bounded", math.exp(-2), math.exp(2)),
        ("Pow", 0, 4), ("Pow, odd", -8, 8), ("Pow, a root", 0, 1),
        ("Max", 0.5, 1), ("LogSoftmax", -math.inf, 0),
        ("LayerNormalization", -1 - 3 * math.sqrt(3), 1 + 3 * math.sqrt(3)),
        ("LayerNormalization of rows", -math.sqrt(11), math.sqrt(11)),
    ],
)  # fmt: skip
def test_bounds_are_as_tight_as_they_can_be(name, low, high):
    bound = known_bounds(graph(GRAPHS[name]))["y"]
    assert (bound.low, bound.high) == (pytest.approx(low), pytest.approx(high))


def test_nothing_is_known_without_a_reason():
    assert "y" not in known_bounds(graph("y = Add(x, low)"))
    assert "y" not in known_bounds(graph("s = Tanh(x) y = Div(one, s)"))
    unknown = model("g (float[n, k] x, float[k] s) => (float[n, k] y) { y = LayerNormalization(x, s) }")
    assert known_bounds(unknown) == {}


@given(st.floats(-10, 10), st.floats(0, 20), st.floats(-10, 10), st.floats(0, 20))
def test_a_range_is_never_narrower_than_measured(low, width, bound_low, bound_width):
    measured = TensorRange(low, low + width, count=3, nonfinite=1)
    bound = Bound(bound_low, bound_low + bound_width, (2,))
    entry = complete(RangeTable({"y": measured}, 1), {"y": bound}).get("y")
    assert entry.minimum == min(low, bound.low)
    assert entry.maximum == max(low + width, bound.high)
    assert (entry.count, entry.nonfinite) == (3, 1)


def test_bounds_serve_where_nothing_was_measured():
    table = complete(RangeTable({}, 0), {"y": Bound(0, 1, (2, 3)), "open": Bound(0, math.inf)})
    assert list(table) == ["y"]
    entry = table.get("y")
    assert (entry.minimum, entry.maximum, entry.count, entry.shape) == (0, 1, 0, (2, 3))


def test_an_open_end_leaves_what_was_measured():
    table = RangeTable({"y": TensorRange(0.5, 2.0, count=2)}, 1)
    assert complete(table, {"y": Bound(0, math.inf)}).get("y").maximum == 2.0
