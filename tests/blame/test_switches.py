"""The switched model computes what the typed model with the same FP32 nodes computes, bit for bit."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
import pytest

from blame.planted_models import FAULTS, planted
from calibrate.small_models import model
from onnx_fp16fix.blame.places import Places
from onnx_fp16fix.blame.switches import Switched, build_switched
from onnx_fp16fix.emit import convert
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.model import wrap_model
from onnx_fp16fix.runtime import open_session
from onnx_fp16fix.simulate import rounded_graph
from operators.cases import CASES
from operators.one_node import Case

Arrays = Mapping[str, np.ndarray]


def places_of(proto: onnx.ModelProto) -> Places:
    return Places(build_view(wrap_model(proto)).main)


def run(switched: Switched, feed: Arrays, fp32: Collection[int]) -> Arrays:
    switches = {name: np.array(index not in fp32) for index, name in switched.switches.items()}
    return open_session(switched.proto).run({**feed, **switches})


def check(proto: onnx.ModelProto, feed: Arrays, fp32: Collection[int]) -> Switched:
    places = places_of(proto)
    switched = build_switched(places)
    found = run(switched, feed, fp32)
    main, bodies = places.by_scope(fp32)
    expected = open_session(rounded_graph(convert(places.main, main, bodies=bodies).model.proto)).run(feed)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
    return switched


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_op(case: Case) -> None:
    feed = {f"x{slot}": value for slot, value in case.values().items() if slot not in case.constants}
    proto = case.model()
    for fp32 in ((), (0,)):
        check(proto, feed, fp32)


@pytest.mark.parametrize("seed", range(8))
def test_random_sets_of_a_model_full_of_faults(seed: int) -> None:
    plant = planted(40, FAULTS, seed, samples=1)
    rng = np.random.default_rng(seed)
    nodes = range(len(plant.model.graph.node))
    fp32 = frozenset(index for index in nodes if rng.random() < seed / 7)
    assert len(check(plant.model, plant.data[0], fp32).switches) == len(nodes)


BRANCHY = """g (float[4] x, bool c) => (float[4] y, int64 n)
    <float[4] w = {1, 20000.5, 3e-6, 70000}> {
    k = Constant <value = float[4] {0.1, 0.2, 0.3, 0.4}> ()
    a = Mul(x, w)
    i = If (c) <then_branch = t () => (float[4] p) { p = Add(a, w) },
                else_branch = e () => (float[4] q) { q = Sub(a, k) }>
    s = Add(i, k)
    m, n0 = TopK(s, four)
    n = ReduceSum(n0)
    u = Cast <to = 6> (s)
    v = Cast <to = 1> (u)
    y = Add(m, v)
}"""


def branchy() -> onnx.ModelProto:
    proto = model(BRANCHY)
    four = onnx.numpy_helper.from_array(np.array([4], np.int64), "four")
    proto.graph.initializer.append(four)
    return proto


@pytest.mark.parametrize("fp32", [(), (1,), (2,), (3, 4), (6, 7), tuple(range(11))])
@pytest.mark.parametrize("condition", [True, False])
def test_bodies_constants_and_integers(fp32: tuple[int, ...], condition: bool) -> None:
    feed = {"x": np.array([1.1, 2.2, 3.3, 0.5], np.float32), "c": np.array(condition)}
    switched = check(branchy(), feed, fp32)
    places = places_of(branchy())
    assert [places.op(number) for number in switched.switches] == [
        "Mul",
        "Add",
        "Sub",
        "Add",
        "TopK",
        "Cast",
        "Add",
    ]
    assert places.names[3] == "2:else_branch:0::q"


NESTED = """g (int64 n, bool c, float[3] x) => (float[3] y, float[k,3] all) {
    y, all = Loop (n, c, x) <body = b (int64 i, bool go, float[3] p) => (bool again, float[3] q, float[3] seen)
        <float[3] k = {1.1, 2.2, 3.3}> {
        f = Constant <value = float[3] {0.31, 0.32, 0.33}> ()
        again = Identity(go)
        a = Mul(p, f)
        j = Constant <value = int64 {1}> ()
        odd = Mod(i, two)
        isodd = Equal(odd, j)
        h = If (isodd) <
            then_branch = t () => (float[3] u) { f1 = Constant <value = float[3] {7.7, 0.1, 0.2}> ()  u = Div(a, f1) },
            else_branch = e () => (float[3] v) { e1 = Exp(a)  v = Add(e1, k) }>
        q = Sub(h, f)
        seen = Sqrt(q)
    }>
}"""


@pytest.mark.parametrize("seed", range(5))
def test_random_sets_in_bodies(seed: int) -> None:
    proto = model(NESTED)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(2), "two"))
    places = places_of(proto)
    rng = np.random.default_rng(seed)
    fp32 = frozenset(number for number in places.names if rng.random() < seed / 4)
    feed = {"n": np.array(4), "c": np.array(True), "x": np.float32([1.234567, 2.1, 0.987654])}
    switched = check(proto, feed, fp32)
    assert [places.op(number) for number in switched.switches] == ["Mul", "Div", "Exp", "Add", "Sub", "Sqrt"]


def test_names_of_the_model_that_look_like_ours_stay_apart() -> None:
    text = "g (float[2] x) => (float[2] y) { fp16fix_bisect = Neg(x)  y = Exp(fp16fix_bisect) }"
    proto = model(text)
    for node in proto.graph.node:
        node.input[:] = [name.replace("_bisect", ".bisect.1.out0") for name in node.input]
        node.output[:] = [name.replace("_bisect", ".bisect.1.out0") for name in node.output]
    check(proto, {"x": np.array([1.234567, -3], np.float32)}, (1,))


def test_without_floats_nothing_has_a_switch() -> None:
    assert not build_switched(places_of(model("g (int64[2] x) => (int64[2] y) { y = Neg(x) }"))).switches
