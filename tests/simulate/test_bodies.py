"""Bodies of If, Loop and Scan in the comparison: every run of them, what came first, what does no harm."""

from __future__ import annotations

import threading

import numpy as np
import onnx
import pytest

import onnx_fp16fix
from calibrate.small_models import model
from onnx_fp16fix.calibrate import open_data
from onnx_fp16fix.simulate import SimulationReport, compare_simulated, meeting
from onnx_fp16fix.simulate.bodies import matching_bodies
from onnx_fp16fix.simulate.meeting import Meeting, run_together

TRUE, FALSE = np.array(True), np.array(False)


def simulate(proto: onnx.ModelProto, *feeds: dict[str, np.ndarray], **options: object) -> SimulationReport:
    return compare_simulated(proto, proto, open_data(list(feeds), proto), assume_fp16=True, **options)


LOOP = model("""g (int64 n, bool c, float[2] x) => (float[2] y, float[k,2] all) {
    y, all = Loop (n, c, x) <body = b (int64 i, bool go, float[2] p) => (bool again, float[2] q, float[2] out) {
        again = Identity(go)
        q = Mul(p, forty)
        s = Mul(p, p)
        out = Tanh(s)
    }> }""")
LOOP.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(40), "forty"))


def loop_feed(iterations: int, x: float = 1.0) -> dict[str, np.ndarray]:
    return {"n": np.array(iterations), "c": TRUE, "x": np.float32([x, -x])}


def test_every_iteration_counts_and_the_first_in_time_comes_first() -> None:
    report = simulate(LOOP, loop_feed(6))
    # 40**3 = 64000 fits, 40**4 does not: made in run 3, read in run 4; the square of 1600 in run 2
    assert [(name, error.run) for name, error in report.tensors.items() if error.nonfinite] == [
        ("0:body:0::p", 4),
        ("0:body:0::q", 3),
        ("0:body:0::s", 2),
        ("y", None),
    ]
    assert (report.first_nonfinite, report.first_lossy) == ("0:body:0::s", "0:body:0::s")
    assert report.tensors["0:body:0::out"].rel_l2 < 1e-3
    # tanh saturates; what goes round and leaves the body is no longer right
    assert report.harmless == {"0:body:0::s"}
    assert "0:body:0::q" in report.harmful


def test_worst_over_samples() -> None:
    small, large = loop_feed(2), loop_feed(2, 300.0)
    assert simulate(LOOP, small).first_nonfinite is None
    report = simulate(LOOP, small, large, small)
    assert report.first_nonfinite == "0:body:0::s"
    assert report.tensors["0:body:0::s"].run == 0
    assert report.tensors["y"].nonfinite == 2


def test_nested_bodies_and_both_branches() -> None:
    proto = model("""g (bool c, float[3,2] x) => (float[] y) {
        h = Neg(x)
        y = If (c) <
            then_branch = t () => (float[2] last) {
                last, all = Scan <num_scan_inputs = 1,
                    body = s (float[2] state, float[2] e) => (float[2] new, float[2] sq) {
                        sq = Mul(e, e)  new = Max(state, e)
                    }> (zeros, h) },
            else_branch = e () => (float[3,2] r) { d = Mul(h, h)  r = Sqrt(d) }> }""")
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(2, np.float32), "zeros"))
    x = np.float32([[1, 2], [-300, 4], [500, 1]])
    report = simulate(proto, {"c": TRUE, "x": x}, {"c": FALSE, "x": x})
    names = list(report.tensors)
    inner = "1:then_branch:0/0:body:0::"
    assert names.index("h") < names.index(f"{inner}state") < names.index(f"{inner}sq")
    assert names.index(f"{inner}sq") < names.index("1:then_branch:0::last") < names.index("y")
    assert (report.tensors[f"{inner}sq"].nonfinite, report.tensors[f"{inner}sq"].run) == (1, 1)
    assert report.tensors["1:else_branch:0::d"].nonfinite == 2
    assert simulate(proto, {"c": TRUE, "x": x}).first_nonfinite == f"{inner}sq"
    assert f"{inner}new" in names


def test_a_loop_that_ends_at_another_time_is_said() -> None:
    # 2048 + 1 is 2048 in FP16: the bound is never passed
    proto = model("""g (int64 n, bool c, float[1] x) => (float[1] y) {
        y = Loop (n, c, x) <body = b (int64 i, bool go, float[1] p) => (bool again, float[1] q) {
            q = Add(p, one)  top = ReduceMax <keepdims = 0> (q)  again = Less(top, bound) }> }""")
    for name, value in (("one", 1.0), ("bound", 2050.0)):
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(value), name))
    feed = {"n": np.array(50), "c": TRUE, "x": np.float32([2045])}
    report = simulate(proto, feed)
    assert report.strayed == {"0:body:0": (5, 50)}
    assert report.tensors["0:body:0::q"].run == 4
    assert simulate(proto, {**feed, "x": np.float32([2])}).strayed == {}


def test_kernels_that_loop_inside_are_no_bodies_of_the_model() -> None:
    proto = model("""g (bool c, float[2,40] x) => (float[2,2] y) {
        y = If (c) <then_branch = t () => (float[2,2] a) { a = MatMul(x, w) },
                    else_branch = e () => (float[2,2] b) { b = MatMul(x, w) }> }""")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.full((40, 2), 300, np.float32), "w"))
    x = np.repeat(np.float32([[200, -200]]), 2, 0).repeat(20, 1)
    for mode, wrong in (("default", []), ("pessimistic", ["0:then_branch:0::a", "y"])):
        report = simulate(proto, {"c": TRUE, "x": x}, mode=mode)
        assert [name for name, error in report.tensors.items() if error.nonfinite] == wrong


def test_outputs_alone_leave_bodies_closed() -> None:
    assert list(simulate(LOOP, loop_feed(3), tensors="outputs").tensors) == ["y", "all"]


def test_scaled_tensors_of_a_repaired_body_are_compared_as_what_they_stand_for() -> None:
    proto = model("""g (bool c, float[4,8] x) => (float[4,1] y) {
        y = If (c) <
            then_branch = t () => (float[4,1] a) { s = Mul(x, x)  m = ReduceMean <axes = [-1]> (s)  a = Sqrt(m) },
            else_branch = e () => (float[4,1] b) { b = ReduceMean <axes = [-1]> (x) }> }""")
    x = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32) * 900
    outcome = onnx_fp16fix.fix(proto, [{"c": TRUE, "x": x}, {"c": FALSE, "x": x}], tensorrt="off")
    assert outcome.plan.rescaled_tensors >= 2
    # a tensor compared without its scale would be off by more than a half
    assert outcome.verification.fp16_sim.worst_tensor.rel_l2 < 5e-3
    assert outcome.run.status == "ok"


# The meeting of both runs


def test_who_is_far_ahead_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "AHEAD_BYTES", 4000)
    ahead, most, met = 0, 0, []
    lock = threading.Lock()

    def walk(side: int, sign: int):
        def run() -> None:
            nonlocal ahead, most
            for _ in range(200):
                place.show(side, "k", np.zeros(250, np.float32))
                with lock:
                    ahead += sign
                    most = max(most, abs(ahead))

        return run

    place = Meeting(lambda key, run, arrays: met.append((key, run, sorted(arrays))))
    run_together(place, walk(0, 1), walk(1, -1))
    assert met == [("k", run, [0, 1]) for run in range(200)]
    assert most <= 8  # 1000 bytes each, and a few on the way


def test_what_only_one_side_shows_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "AHEAD_BYTES", 100)
    met = []
    place = Meeting(lambda key, run, arrays: met.append(key))

    def walk(side: int, keys: str):
        return lambda: [place.show(side, key, np.zeros(50)) for key in keys]

    run_together(place, walk(0, "abcdef" * 9), walk(1, "fedcb" * 3))
    assert sorted(met) == sorted("bcdef" * 3)


@pytest.mark.parametrize("side", [0, 1])
def test_a_failure_of_one_side_ends_the_other(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "AHEAD_BYTES", 100)
    place, before = Meeting(lambda key, run, arrays: None), threading.active_count()

    def fails() -> None:
        raise KeyboardInterrupt

    def waits() -> None:
        for _ in range(1000):
            place.show(1 - side, "k", np.zeros(50))

    with pytest.raises(KeyboardInterrupt):
        run_together(place, *((fails, waits) if side == 0 else (waits, fails)))
    assert threading.active_count() == before


def test_a_node_is_found_again_by_what_has_not_changed() -> None:
    after = onnx.ModelProto()
    after.CopyFrom(LOOP)
    loop = after.graph.node[0]
    loop.output[0], loop.output[1] = "y.stored", "all.stored"
    after.graph.node.insert(0, onnx.helper.make_node("Identity", ["x"], ["unused"]))
    assert matching_bodies(LOOP.graph, after.graph) == {("1:body:0",): ("0:body:0",)}
    for node, name in zip(after.graph.node[1].attribute[0].g.node, "abcd", strict=True):
        node.output[0] = name
    assert matching_bodies(LOOP.graph, after.graph) == {}


def test_a_loop_that_would_never_end_in_fp16_ends() -> None:
    """Halved until no element is above 1; infinity stays above 1."""
    proto = model("""g (int64 n, bool c, float[2] x) => (float[2] y) {
        start = Mul(x, big)
        y = Loop (n, c, start) <body = b (int64 i, bool go, float[2] p) => (bool again, float[2] q) {
            q = Mul(p, half)
            top = ReduceMax<keepdims = 0>(q)
            again = Greater(top, one)
        }> }""")
    for name, value in {"big": 1e5, "half": 0.5, "one": 1.0}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(value), name))
    report = simulate(proto, loop_feed(2**63 - 1))
    assert report.outputs[0].nonfinite == 2
