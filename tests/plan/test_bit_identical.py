"""Whatever the graph: the plan keeps every FP32 bit, types the model validly, and nothing overflows at an output."""

from __future__ import annotations

from dataclasses import dataclass
from unittest import mock

import numpy as np
import onnx
from hypothesis import HealthCheck, assume, example, given, note, settings
from hypothesis import strategies as st

from onnx_fp16fix.calibrate import Dataset, RangeTable, calibrate, open_data
from onnx_fp16fix.emit import Converted, Rescaled, convert, rescale
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.model import wrap_model
from onnx_fp16fix.plan import Plan, make_plan
from onnx_fp16fix.plan.known import region
from onnx_fp16fix.plan.known.facts import Facts
from onnx_fp16fix.runtime import open_session
from onnx_fp16fix.simulate import compare_simulated
from onnx_text import model
from plan.random_graphs import Step, build, extreme_graphs, feed, graphs

LARGEST, SMALLEST = 1e30, 1e-25
"""Beyond these FP32 itself overflows, or its products underflow: not all that FP32 holds is for FP16 to follow."""


@dataclass(frozen=True)
class Chain:
    """A model through all stages."""

    proto: onnx.ModelProto
    data: Dataset
    ranges: RangeTable
    plan: Plan
    rescaled: Rescaled
    converted: Converted


def run_chain(
    steps: list[Step], tap: int | None = None, *, whole: bool = True, any_size: bool = False
) -> Chain | None:
    """None where FP32 is at its ends, unless ``any_size``. ``whole``: optimise all nodes, as for small graphs, or a
    region."""
    proto = build(steps, tap)
    data = open_data([feed(1)], proto)
    scope = build_view(wrap_model(proto)).main
    ranges = calibrate(proto, data)
    entries = [ranges.get(name) for name in ranges]
    extreme = any(e.nonfinite or e.absmax > LARGEST or 0 < e.absmax < SMALLEST for e in entries)
    if extreme and not any_size:
        return None
    with mock.patch.object(region, "_WHOLE", 400 if whole else 0):
        plan = make_plan(scope, ranges)
    rescaled = rescale(scope, Facts(scope, ranges), plan)
    converted = convert(build_view(rescaled.model).main, rescaled.fp32_nodes, guards=rescaled.raised)
    return Chain(proto, data, ranges, plan, rescaled, converted)


def assert_identical(chain: Chain) -> None:
    for seed in (1, 2):  # the calibrated sample and another
        expected, actual = (
            open_session(m).run(feed(seed)) for m in (chain.proto, chain.rescaled.model.proto)
        )
        for name, value in expected.items():
            np.testing.assert_array_equal(actual[name].view(np.uint32), value.view(np.uint32), err_msg=name)


def assert_valid(chain: Chain) -> None:
    for proto in (chain.rescaled.model.proto, chain.converted.model.proto):
        onnx.checker.check_model(proto, full_check=True)
        open_session(proto, optimize=True)
        assert (proto.graph.input, proto.graph.output) == (chain.proto.graph.input, chain.proto.graph.output)


def assert_finite(chain: Chain) -> None:
    exponents, after = chain.rescaled.exponents, chain.converted.model.proto
    report = compare_simulated(chain.proto, after, chain.data, exponents=exponents)
    assert [output.name for output in report.outputs if output.nonfinite] == [], report.first_nonfinite


@settings(
    derandomize=True,
    max_examples=50,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(steps=graphs, tap=st.none() | st.integers(0, 7), whole=st.booleans())
@example(
    steps=[Step("MatMul", scale=6), Step("Relu"), Step("RMS"), Step("MatMul", scale=-4)], tap=None, whole=True
)
@example(
    steps=[Step("Conv", scale=5), Step("Sigmoid", first=0), Step("Mul tensors", second=1)], tap=0, whole=False
)
@example(
    steps=[Step("MatMul", scale=-4), Step("Gram"), Step("Softmax"), Step("Mul constant", scale=6)],
    tap=2,
    whole=True,
)
def test_any_graph(steps: list[Step], tap: int | None, whole: bool) -> None:
    chain = run_chain(steps, tap, whole=whole)
    assume(chain is not None)
    assert chain is not None
    note(f"plan: {chain.plan}")
    assert_identical(chain)
    assert_valid(chain)
    assert_finite(chain)


@settings(
    derandomize=True,
    max_examples=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(steps=extreme_graphs, tap=st.none() | st.integers(0, 7), whole=st.booleans())
@example(  # products of 1e-47 are zero in FP32, and would not be where they are stored scaled
    steps=[Step("MatMul", scale=-24), Step("Gram", scale=-22, second=2), Step("Concat", first=1, second=2)],
    tap=1,
    whole=True,
)
@example(
    steps=[
        Step("LayerNormalization", scale=-21.17, seed=31),
        Step("Abs", first=2),
        Step("Gram", first=1, seed=32),
    ],
    tap=2,
    whole=False,
)
@example(  # finite in FP32, with squares in the last norm that are not
    steps=[
        Step("Gram", scale=8.17, seed=44),
        Step("Max constant", first=2, scale=16.586, seed=75),
        Step("LayerNormalization", first=1, seed=76),
        Step("Mul constant", first=1, scale=10.542, seed=10),
        Step("Mul tensors", second=0),
        Step("LayerNormalization", scale=16.687, seed=98),
    ],
    tap=7,
    whole=False,
)
def test_near_the_ends_of_fp32_bits_are_kept_too(steps: list[Step], tap: int | None, whole: bool) -> None:
    chain = run_chain(steps, tap, whole=whole, any_size=True)
    assert chain is not None
    note(f"plan: {chain.plan}")
    assert_identical(chain)


def test_an_input_that_is_scaled_for_one_reader_keeps_its_bits_for_the_others() -> None:
    """Concat wants x at the scale of 1e13; LayerNormalization, which takes any, must not get zeros."""
    steps = [Step("LayerNormalization", scale=6, seed=51), Step("Gram"), Step("Concat", second=2)]
    chain = run_chain(steps, tap=0)
    assert chain is not None
    exponents, after = chain.rescaled.exponents, chain.converted.model.proto
    report = compare_simulated(chain.proto, after, chain.data, exponents=exponents)
    assert report.tensors["t0"].rel_l2 < 8 * 2.0**-11  # a handful of roundings inside one LayerNormalization


def test_tensors_at_the_rim_of_a_region_keep_their_scale() -> None:
    """All are a little below 2^-14, which no one minds, and one in the middle is beyond FP16: what is scaled for it
    is not to reach readers outside the region."""
    turn = np.eye(8, dtype=np.float32)[::-1]
    sizes = {12: 2.0**34, 15: 2.0**-34}
    nodes = "".join(f"t{i + 1} = MatMul(t{i}, w{i})" for i in range(30))
    proto = model(
        f"(float[4,8] t0) => (float[4,8] t30) {{ {nodes} }}",
        {f"w{i}": turn * np.float32(sizes.get(i, 1.0)) for i in range(30)},
    )
    x = np.linspace(1, 2, 32, dtype=np.float32).reshape(4, 8) * np.float32(2**-16)
    scope, data = build_view(wrap_model(proto)).main, open_data({"t0": x}, proto)
    ranges = calibrate(proto, data)
    with mock.patch.object(region, "_WHOLE", 0):
        plan = make_plan(scope, ranges)
    rescaled = rescale(scope, Facts(scope, ranges), plan)
    assert plan.exponents
    expected, actual = (open_session(m).run({"t0": x})["t30"] for m in (proto, rescaled.model.proto))
    np.testing.assert_array_equal(actual, expected)
