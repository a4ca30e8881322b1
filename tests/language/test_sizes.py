"""N of a mean, computed in the graph from shapes as exporters of dynamic models write it."""

from __future__ import annotations

import onnx
import onnx.parser
import pytest

from language._models import load_text, rule_text, view
from onnx_fp16fix.language import apply_rules

RULE = rule_text(
    "x / Sqrt(ReduceMean(x ** 2, axes=ax, keepdims=1) + eps)",
    "action: {name: rescale}",
    vars="{eps: const scalar, ax: axes}",
)
HEAD = '<ir_version: 10, opset_import: ["" : 17]>\n'
GRAPH = """g (float[b,t,d] x, float[b,t,d] o, float[?,8,e] u) => (float[b,t,d] y)
<int64[1] last = {-1}, int64[2] both = {1, 2}, int64 two = {2}, int64 one = {1}, int64[1] first = {0},
 int64[1] start = {2}, int64[1] end = {9}, float eps = {0.01}, float unit = {1.0}> {
    s = Shape(x) {n} q = Mul(x, x) k = ReduceSum<keepdims = 1>(q, {axes}) m = {mean}
    a = Add(m, eps) r = Sqrt(a) y = Div(x, r)
}"""


def found(tmp_path, n: str, axes: str = "last", mean: str = "Div(k, f)", dims: str = "b,t,d") -> int:
    text = GRAPH.replace("{n}", n).replace("{axes}", axes).replace("{mean}", mean).replace("b,t,d", dims)
    model = onnx.parser.parse_model(HEAD + text)
    onnx.checker.check_model(model)
    (stats,) = apply_rules(view(model), load_text(RULE, tmp_path), None).stats
    return stats.matched


CAST = " f = Cast<to = 1>(c)"
LAST = [
    "c = Gather(s, two)" + CAST,
    "c = Gather(s, last)" + CAST,
    "h = Shape<start = -1>(x) c = Squeeze(h)" + CAST,
    "h = Slice(s, start, end, first) c = ReduceProd<keepdims = 0>(h)" + CAST,
    "i = Identity(x) h = Shape(i) c = Gather(h, two)" + CAST,
    "v = Neg(x) h = Shape(v) c = Gather(h, two)" + CAST,  # another value of the same shape
]
BOTH = [
    "h = Gather(s, both) c = ReduceProd<keepdims = 0>(h)" + CAST,
    "h = Gather(s, one) j = Gather(s, two) c = Mul(j, h)" + CAST,
    "h = Gather(s, both) j = Cast<to = 1>(h) f = ReduceProd<keepdims = 0>(j)",
    "h = Gather(s, one) j = Gather(s, two) l = Unsqueeze(h, first) p = Unsqueeze(j, first) z = Concat<axis = 0>(l, p) "
    "c = ReduceProd(z)" + CAST,
]


@pytest.mark.parametrize("dims", ["b,t,d", "b,4,8", "b,t,8"])
@pytest.mark.parametrize(("n", "axes"), [*((n, "last") for n in LAST), *((n, "both") for n in BOTH)])
def test_a_sum_by_the_number_of_its_elements_is_a_mean(n, axes, dims, tmp_path):
    assert found(tmp_path, n, axes, dims=dims) == 1


@pytest.mark.parametrize("mean", ["Mul(k, w)", "Mul(w, k)"])
@pytest.mark.parametrize("inverse", ["w = Reciprocal(f)", "w = Div(unit, f)"])
def test_a_sum_times_the_inverse_of_n_is_a_mean(mean, inverse, tmp_path):
    assert found(tmp_path, f"{LAST[0]} {inverse}", mean=mean) == 1


@pytest.mark.parametrize(
    ("n", "axes"),
    [
        ("c = Gather(s, one)" + CAST, "last"),  # the size of another axis
        (LAST[0], "both"),
        (BOTH[0], "last"),
        ("h = Shape(u) c = Gather(h, two)" + CAST, "last"),  # of another tensor
        ("c = Size(x)" + CAST, "both"),
        ("c = Gather(s, two) z = Sub(c, one) f = Cast<to = 1>(z)", "last"),  # N - 1
        ("c = Gather(s, two) z = Cast<to = 10>(c) f = Cast<to = 1>(z)", "last"),  # FP16 rounds it
    ],
)
def test_any_other_number_is_not(n, axes, tmp_path):
    assert found(tmp_path, n, axes) == 0


def test_sizes_that_differ_do_not_make_a_mean(tmp_path):
    assert found(tmp_path, "c = Gather(s, one)" + CAST, dims="b,4,8") == 0
    assert found(tmp_path, "c = Gather(s, one)" + CAST, dims="b,8,8") == 1
    assert found(tmp_path, "h = Shape(u) c = Gather(h, one)" + CAST, dims="b,t,8") == 1
