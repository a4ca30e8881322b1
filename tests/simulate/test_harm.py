"""Harmless overflow told from harmful: by what reads it, over masks, cascades, islands, bodies and samples."""

import numpy as np
import pytest

from calibrate.small_models import model
from onnx_fp16fix.calibrate import open_data
from onnx_fp16fix.simulate import compare_simulated

BIG = [300.0, 2.0]


def simulate(text, *samples, after=None, opset=17, **options):
    before = model(text, opset=opset)
    feeds = [
        sample if isinstance(sample, dict) else {"x": np.array(sample, np.float32)} for sample in samples
    ]
    data = open_data(feeds, before)
    if after is not None:
        return compare_simulated(before, model(after, opset=opset), data, **options)
    return compare_simulated(before, before, data, assume_fp16=True, **options)


HARMLESS = {
    "saturating": "y = Tanh(h)",
    "logistic": "y = Sigmoid(h)",
    "exponential of minus infinity": "n = Neg(h)  y = Exp(n)",
    "bound": "y = Min(h, one)",
    "through an op that keeps it": "r = Relu(h)  y = Erf(r)",
    "through an op that grows it": "r = Mul(h, h)  y = Tanh(r)",
    "comparison": "b = Greater(h, one)  y = Where(b, one, x)",
    "masked": "b = Greater(x, one)  y = Where(b, one, h)",
    "index": "k = ArgMax<axis: int = 0>(h)  y = Gather(x, k)",
    "too large for the quotient to be seen": "s = Mul(h, big)  y = Div(one, s)",
}
HARMFUL = {
    "denominator": "y = Div(x, h)",
    "reciprocal": "y = Reciprocal(h)",
    "infinity over infinity": "q = Mul(x, x)  y = Div(q, h)",
    "difference": "d = Sub(h, h)  y = Tanh(d)",
    "graph output": "y = Identity(h)",
    "comes back finite but wrong": "y = Sqrt(h)",
    "one reader minds": "a = Tanh(h)  b = Div(x, h)  y = Add(a, b)",
    "softmax": "y = Softmax(h)",
    "behind an op that keeps it": "r = Relu(h)  y = Div(x, r)",
}
GRAPH = (
    "g (float[2] x) => (float[a] y) <float one = {{1.0}}, float big = {{10000.0}}> {{ h = Mul(x, x)  {} }}"
)


@pytest.mark.parametrize("case", HARMLESS)
def test_harmless(case):
    report = simulate(GRAPH.format(HARMLESS[case]), BIG)
    assert "h" in report.harmless
    assert report.harmful == ()
    assert report.first_nonfinite == "h"


@pytest.mark.parametrize("case", HARMFUL)
def test_harmful(case):
    report = simulate(GRAPH.format(HARMFUL[case]), BIG)
    assert report.first_nonfinite == "h"
    assert report.harmful[0] == "h"


def test_one_sample_that_minds_is_enough():
    text = (
        "g (float[2] x) => (float[2] y) <float c = {250.0}, float u = {1.0}>"
        " { h = Mul(x, x)  b = Less(x, c)  y = Where(b, u, h) }"
    )
    # 300 is masked away only while it is below the bound
    swapped = text.replace("Less", "Greater")
    assert simulate(swapped, [300, 2], [260, 2]).harmful == ()
    assert simulate(text, [200, 2], [260, 2]).harmful[0] == "h"


def test_infinities_on_both_sides_are_no_suspects():
    report = simulate("g (float[2] x) => (float[2] y) { h = Log(x)  y = Exp(h) }", [0, 1])
    assert report.harmless == frozenset()
    assert report.harmful == ()


def test_casts_of_a_typed_model_are_looked_through():
    before = "g (float[2] x) => (float[2] y, float[2] z) { h = Mul(x, x)  y = Tanh(h)  z = Neg(x) }"
    after = """g (float[2] x) => (float[2] y, float[2] z) { c = Cast<to: int = 10>(x)  h = Mul(c, c)
        w = Cast<to: int = 1>(h)  y = Tanh(w)  z = Neg(x) }"""
    assert simulate(before, BIG, after=after).harmless == {"h"}
    assert simulate(before.replace("Tanh", "Sqrt"), BIG, after=after.replace("Tanh", "Sqrt")).harmful == (
        "h",
        "y",
    )


def test_true_values_are_scaled_like_the_tensor():
    before = (
        "g (float[2] x) => (float[2] y) <float u = {16.0}> { h = Mul(x, x)  s = Div(x, h)  y = Mul(s, u) }"
    )
    after = """g (float[2] x) => (float[2] y) <float up = {4.0}, float u = {256.0}>
        { d = Mul(x, up)  h = Mul(d, d)  s = Div(x, h)  y = Mul(s, u) }"""
    report = simulate(before, [100, 2], after=after, assume_fp16=True, exponents={"h": -4, "s": 4})
    assert report.harmful[0] == "h"


def test_bodies_that_read_an_infinity():
    text = """g (bool c, float[2] x) => (float[2] y) {{ h = Mul(x, x)
        y = If (c) <then_branch = t () => (float[2] u) {{ u = {}(h) }},
                    else_branch = e () => (float[2] v) {{ v = Neg(x) }}> }}"""
    feed = {"c": np.array(True), "x": np.array(BIG, np.float32)}
    assert simulate(text.format("Tanh"), feed).harmful == ()
    assert simulate(text.format("Sqrt"), feed).harmful == ("h", "1:then_branch:0::u", "y")
    assert simulate(text.format("Sqrt"), {**feed, "c": np.array(False)}).harmful == ()


def test_a_tensor_that_nothing_reads_does_no_harm():
    assert simulate("g (float[2] x) => (float[2] y) { h = Mul(x, x)  y = Neg(x) }", BIG).harmless == {"h"}


def test_outputs_alone_judge_nothing():
    report = simulate(GRAPH.format("y = Identity(h)"), BIG, tensors="outputs")
    assert report.harmless == frozenset()
    assert report.harmful == ("y",)


def test_the_first_tensor_that_loses_more_than_the_threshold():
    text = "g (float[1] x) => (float[1] y) <float[1] c = {2048.0}> { a = Mul(x, x)  b = Add(a, c)  y = Sub(b, c) }"
    report = simulate(text, [1.1])
    assert report.first_lossy == "y"
    assert simulate(text, [1.1], threshold=1e-5).first_lossy == "a"
    assert simulate(text, [2.0]).first_lossy is None
