"""Comparisons: what is reported for overflow, rescaled tensors, masks, and bits."""

import math

import numpy as np
import pytest

from calibrate.small_models import long_chain, model
from onnx_fp16fix.calibrate import open_data
from onnx_fp16fix.errors import ModelError
from onnx_fp16fix.simulate import compare, compare_fp32, compare_simulated
from onnx_fp16fix.simulate.metrics import distance, distances

SQUARE = model("g (float[2] x) => (float[2] y) { h = Mul(x, x)  y = Sqrt(h) }")
SCALED = model("""g (float[2] x) => (float[2] y) <float d = {0.0625}, float u = {16.0}>
    { s = Mul(x, d)  h = Mul(s, s)  r = Sqrt(h)  y = Mul(r, u) }""")


def data(proto, *arrays):
    return open_data([{"x": np.asarray(array, np.float32)} for array in arrays], proto)


def test_overflow_is_found_where_it_begins():
    report = compare_simulated(SQUARE, SQUARE, data(SQUARE, [3, 4], [300, 4]), assume_fp16=True)
    assert report.first_nonfinite == "h"
    assert list(report.tensors) == ["h", "y"]
    assert (report.tensors["h"].nonfinite, report.tensors["h"].rel_l2) == (1, math.inf)
    assert report.outputs[0].name == "y"
    assert report.worst == report.tensors["h"]


def test_harmless_overflow_leaves_the_outputs_right():
    proto = model("g (float[2] x) => (float[2] y) { h = Mul(x, x)  y = Tanh(h) }")
    report = compare_simulated(proto, proto, data(proto, [300, 0.5]), assume_fp16=True)
    assert report.first_nonfinite == "h"
    assert report.outputs[0].nonfinite == 0
    assert report.output_rel_l2 < 1e-3


def test_rescaled_tensors_are_compared_by_their_true_value():
    feeds = data(SQUARE, [300, 4])
    right = compare_simulated(SQUARE, SCALED, feeds, assume_fp16=True, exponents={"h": 8})
    assert right.first_nonfinite is None
    assert right.output_rel_l2 == 0.0
    assert right.tensors["h"].rel_l2 < 2**-11
    assert compare_simulated(SQUARE, SCALED, feeds, assume_fp16=True).tensors["h"].rel_l2 > 0.9


def test_infinities_of_the_model_itself_are_no_error():
    proto = model("g (float[2] x) => (float[2] y) { h = Log(x)  y = Exp(h) }")
    report = compare_simulated(proto, proto, data(proto, [0, 1]), assume_fp16=True)
    assert report.tensors["h"].nonfinite == 0
    assert report.first_nonfinite is None


def test_groups_give_the_same_report(monkeypatch):
    proto = long_chain(30)
    feeds = open_data(None, proto, samples=2)
    whole = compare_simulated(proto, proto, feeds, assume_fp16=True)
    monkeypatch.setattr(compare, "GROUP_BYTES", 300)
    assert compare_simulated(proto, proto, feeds, assume_fp16=True) == whole
    # 30 roundings, each off by at most half a unit in the last place, and a network that hardly amplifies.
    assert 0 < whole.output_rel_l2 < 30 * 2**-11


def test_a_typed_model_is_taken_as_it_is():
    typed = model("""g (float[2] x) => (float[2] y)
        { c = Cast<to: int = 10>(x)  h = Mul(c, c)  r = Sqrt(h)  y = Cast<to: int = 1>(r) }""")
    report = compare_simulated(SQUARE, typed, data(SQUARE, [300, 4]))
    assert report.first_nonfinite == "h"


def test_identical_models_are_identical_to_the_bit():
    report = compare_fp32(SQUARE, SQUARE, data(SQUARE, [300, np.float32(0.1)]))
    assert (report.identical, report.max_abs, report.max_rel, report.rel_l2) == (True, 0.0, 0.0, 0.0)


def test_powers_of_two_change_no_bit():
    assert compare_fp32(SQUARE, SCALED, data(SQUARE, [300.7, 0.1], [1e-3, 7])).identical


def test_one_unit_in_the_last_place_is_seen():
    before = model("g (float[2] x) => (float[2] y) <float w = {0.33333334}> { y = Mul(x, w) }")
    after = model("g (float[2] x) => (float[2] y) <float w = {3.0}> { y = Div(x, w) }")
    report = compare_fp32(before, after, data(before, [5, 7]))
    assert not report.identical
    assert 0 < report.max_rel < 1e-6
    assert 0 < report.rel_l2 < 1e-6


def test_nan_equals_nan_and_the_sign_of_zero_counts():
    proto = model("g (float[1] x) => (float[1] y) { y = Sqrt(x) }")
    assert compare_fp32(proto, proto, data(proto, [-1])).identical
    before = model("g (float[1] x) => (float[1] y) { y = Identity(x) }")
    after = model("g (float[1] x) => (float[1] y) { y = Neg(x) }")
    report = compare_fp32(before, after, data(before, [0]))
    assert (report.identical, report.max_abs) == (False, 0.0)


def test_labels_are_compared():
    before, after = (
        model(f"g (float[3] x) => (int64[1] label, bool[3] big) {{ label = {op}(x)  big = Less(x, x) }}")
        for op in ("ArgMax", "ArgMin")
    )
    assert compare_fp32(before, before, data(before, [1, 5, -2])).identical
    report = compare_fp32(before, after, data(before, [1, 5, -2]))
    assert not report.identical
    assert [error.max_abs for error in report.outputs] == [1.0, 0.0]


def test_fp16_inputs_and_outputs_are_cast():
    typed = model("g (float16[2] x) => (float16[2] y) { y = Neg(x) }")
    before = model("g (float[2] x) => (float[2] y) { y = Neg(x) }")
    assert compare_fp32(before, typed, data(before, [1, 2])).identical
    assert compare_simulated(before, typed, data(before, [1, 2])).outputs[0].rel_l2 == 0.0


def test_a_missing_output_is_an_error():
    other = model("g (float[2] x) => (float[2] z) { z = Neg(x) }")
    with pytest.raises(ModelError) as caught:
        compare_fp32(SQUARE, other, data(SQUARE, [1, 2]))
    assert caught.value.problems[0].code == "MODEL-OUTPUT"
    assert caught.value.problems[0].tensor == "y"


def test_distance_of_special_cases():
    zeros, ones = np.zeros(4, np.float32), np.ones(4, np.float32)
    assert distance(zeros, zeros).rel_l2 == 0.0
    assert (
        distance(ones * 2**-14, zeros).rel_l2 == 1.0
    )  # against zeros, in units of the smallest normal number
    assert distance(ones[:2], ones).rel_l2 == math.inf
    assert distance(ones[:0], ones[:0]).rel_l2 == 0.0
    mask = np.array([1, -np.inf], np.float32)
    assert distance(mask, mask).nonfinite == 0
    assert distance(-mask, mask).nonfinite == 1


def test_outputs_alone_are_what_they_are_among_all():
    feeds = data(SQUARE, [300, 4])
    whole = compare_simulated(SQUARE, SCALED, feeds, assume_fp16=True, exponents={"h": 8})
    alone = compare_simulated(SQUARE, SCALED, feeds, assume_fp16=True, exponents={"h": 8}, tensors="outputs")
    assert alone.outputs == whole.outputs
    assert list(alone.tensors) == ["y"]


SPECIAL = np.array([1, -0.1, 0, np.inf, -np.inf, np.nan, 65504, 1e-30, 3e38], np.float32)


@pytest.mark.parametrize("exponent", [0, 3, -7])
@pytest.mark.parametrize(
    "reference", [SPECIAL, SPECIAL[::-1], np.zeros(9, np.float32), SPECIAL[:3], SPECIAL[:0]]
)
def test_many_small_tensors_are_measured_as_each_alone(exponent, reference):
    values = {name: np.float32(scale) * SPECIAL for name, scale in (("a", 1), ("b", 0.5), ("c", 2**-20))}
    values["d"] = SPECIAL[[0, 1, 6]]
    together = distances(
        values, dict.fromkeys(values, reference), list(values), dict.fromkeys(values, exponent)
    )
    for name, metric in together.items():
        assert tuple(metric) == pytest.approx(tuple(distance(values[name], reference, exponent)), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1.0, 1e15, 1e30])
@pytest.mark.parametrize("size", [5, 70_000])
def test_fast_sums_agree_with_exact_ones(scale, size):
    rng = np.random.default_rng(0)
    reference = (rng.standard_normal(size) * scale).astype(np.float32)
    values = (reference * (1 + 1e-3 * rng.standard_normal(size))).astype(np.float32)
    fast = distance(values, reference)
    exact = distance(values.astype(np.float64), reference.astype(np.float64))
    assert fast.rel_l2 == pytest.approx(exact.rel_l2, rel=1e-4)
    assert fast.max_abs == pytest.approx(exact.max_abs, rel=1e-6)


def test_the_mode_decides_what_kernels_keep_in_fp16():
    proto = model("g (float[n] x) => (float[n] y) <int64 axis = {0}> { y = CumSum(x, axis) }")
    feeds = data(proto, np.ones(4096))
    assert compare_simulated(proto, proto, feeds, assume_fp16=True).output_rel_l2 < 2**-11
    assert compare_simulated(proto, proto, feeds, assume_fp16=True, mode="cuda").output_rel_l2 > 0.1
