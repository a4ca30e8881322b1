"""Calibration: the same numbers whichever way a tensor is measured."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibrate.small_models import long_chain, model
from onnx_fp16fix.calibrate import calibrate, measure, open_data, runner
from onnx_fp16fix.calibrate.steps import Budget
from onnx_fp16fix.errors import ModelError
from onnx_fp16fix.model import load_model


@pytest.fixture(params=["at once", "node by node"])
def way(request, monkeypatch):
    """Run the graph in one part, and in as many parts as it has nodes."""
    if request.param == "node by node":
        monkeypatch.setattr(measure, "Budget", lambda: Budget(part=0))


def ranges(proto, *feeds, **options):
    return calibrate(proto, open_data(list(feeds), proto), **options)


def test_ranges_of_all_float_tensors(way):
    proto = model("""g (float[2,2] x, int64[2] i) => (float[2,2] y, int64[2] j)
        <float[2,2] w = {1, 2, 3, 4}> { h = MatMul(x, w)  r = Relu(h)  y = Transpose(r)  j = Add(i, i) }""")
    x = np.array([[1, 0], [0, -0.5]], np.float32)
    table = ranges(proto, {"x": x, "i": np.array([1, 2])})
    assert list(table) == ["x", "h", "r", "y"]
    h = table.get("h")
    assert (h.minimum, h.maximum, h.smallest, h.mean_abs, h.count) == (-2.0, 2.0, 1.0, 1.625, 4)
    assert (table.get("r").minimum, table.get("r").smallest) == (0.0, 1.0)
    assert table.get("y").shape == (2, 2)
    assert table.get("w") is None
    assert (table.samples, table.random) == (1, False)


def test_samples_merge(way):
    proto = model("g (float[n] x) => (float[n] y) { y = Neg(x) }")
    table = ranges(proto, {"x": np.array([1.0, 3.0], np.float32)}, {"x": np.array([-4, 0, 2, 2], np.float32)})
    y = table.get("y")
    assert (y.minimum, y.maximum, y.smallest, y.count, y.shape) == (-3.0, 4.0, 1.0, 6, (4,))
    assert y.mean_abs == pytest.approx(2.0)
    assert table.samples == 2


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("other", [np.nan, np.inf, -np.inf])
def test_nonfinite_elements_are_counted_and_do_not_poison(way, other, place):
    proto = model(
        """g (float[3] x) => (float[3] y) <float[3] w = {0, 0, 0}> { h = Sqrt(x)  y = Add(h, w) }"""
    )
    weight = np.zeros(3, np.float32)
    weight[place] = other
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    y = ranges(proto, {"x": np.array([1, 4, 16], np.float32)}).get("y")
    kept = np.delete([1.0, 2.0, 4.0], place)
    assert (y.nonfinite, y.count) == (1, 2)
    assert (y.minimum, y.maximum, y.smallest) == (kept.min(), kept.max(), kept.min())


def test_nothing_finite_has_no_magnitude(way):
    proto = model("g (float[2] x) => (float[2] y) { y = Log(x) }")
    y = ranges(proto, {"x": np.zeros(2, np.float32)}).get("y")
    assert (y.nonfinite, y.count, y.absmax) == (2, 0, 0.0)


def test_a_sum_beyond_fp32_is_not_taken_for_infinity(way):
    proto = model("g (float[4] x) => (float[4] y) { y = Identity(x)  }")
    y = ranges(proto, {"x": np.full(4, 3e38, np.float32)}).get("y")
    assert y.nonfinite == 0
    assert y.maximum == np.float32(3e38)


def test_empty_tensors_and_scalars(way):
    proto = model("g (float[n] x, float s) => (float[n] y, float t) { y = Neg(x)  t = Neg(s) }")
    table = ranges(proto, {"x": np.zeros(0, np.float32), "s": np.float32(3)})
    assert (table.get("y").count, table.get("y").absmax, table.get("y").shape) == (0, 0.0, (0,))
    assert (table.get("t").minimum, table.get("t").shape, table.get("t").numel) == (-3.0, (), 1)


@pytest.mark.parametrize(
    ("elem_type", "dtype"), [(TensorProto.FLOAT16, np.float16), (TensorProto.DOUBLE, np.float64)]
)
def test_other_float_types(way, elem_type, dtype):
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["y"])], "g", [info("x", elem_type, [4])], [info("y", elem_type, [4])]
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    y = ranges(proto, {"x": np.array([60000, 60000, 60000, 0.5], dtype)}).get("y")
    assert (y.minimum, y.maximum, y.smallest, y.nonfinite) == (-60000, -0.5, 0.5, 0)


def test_only_selects(way):
    proto = model(
        "g (float[2] x) => (float[2] y) { h = Neg(x)  v = Reshape(h, s)  y = Neg(v) }".replace(
            "{ h", "<int64[1] s = {2}> { h"
        )
    )
    x = np.array([1, 2], np.float32)
    table = ranges(proto, {"x": x}, only={"v", "y"})
    assert list(table) == ["v", "y"]
    assert (table.get("v").minimum, table.get("y").minimum) == (-2.0, 1.0)


def test_shapes_that_only_a_run_tells(way):
    proto = model(
        """g (float[4] x) => (float[1, m] y) { i = NonZero(x)  c = Cast<to: int = 1>(i)  y = Neg(c) }"""
    )
    y = ranges(proto, {"x": np.array([0, 1, 0, 1], np.float32)}).get("y")
    assert (y.shape, y.minimum, y.maximum) == ((1, 2), -3.0, -1.0)


def test_operators_without_inference_are_asked_of_onnx_runtime(way):
    proto = model(
        "g (float[2] x) => (float[2] y) { h = com.microsoft.QuickGelu(x)  y = Relu(h) }",
        domains=', "com.microsoft" : 1',
    )
    assert list(ranges(proto, {"x": np.ones(2, np.float32)})) == ["x", "h", "y"]


def test_larger_feeds_have_the_graph_cut_again(monkeypatch):
    monkeypatch.setattr(measure, "Budget", lambda: Budget(part=1000))
    cut = []
    original = runner.make_steps
    monkeypatch.setattr(runner, "make_steps", lambda *a, **k: cut.append(original(*a, **k)) or cut[-1])
    proto = model("g (float[n] x) => (float[n] y) { h = Neg(x)  r = Relu(h)  y = Abs(r) }")
    table = ranges(proto, *({"x": np.full(size, 2, np.float32)} for size in (4, 8, 4000)))
    assert (table.get("h").minimum, table.get("y").shape) == (-2.0, (4000,))
    assert [len(steps) for steps in cut] == [1, 3]


def test_parts_and_the_whole_agree_on_a_long_chain(monkeypatch):
    proto = long_chain(60)
    data = open_data(None, proto)
    whole = calibrate(proto, data)
    monkeypatch.setattr(measure, "Budget", lambda: Budget(part=0))
    assert whole.random
    assert len(whole.tensors) == 61
    assert calibrate(proto, data) == whole


def test_no_node_is_added_and_each_runs_once(monkeypatch):
    opened = []
    original = runner.open_session
    monkeypatch.setattr(
        runner, "open_session", lambda proto, *a, **k: opened.append(proto) or original(proto, *a, **k)
    )
    proto = long_chain(50)
    monkeypatch.setattr(measure, "Budget", lambda: Budget(part=256))
    calibrate(proto, open_data(None, proto))
    assert [node.name for part in opened for node in part.graph.node] == [f"n{at}" for at in range(50)]
    assert len(opened) > 5


def test_weights_left_in_the_file_give_the_same_ranges(tmp_path, monkeypatch):
    """They may be laid out for the kernels, blocks of channels for convolutions: the same numbers but for rounding."""
    rng = np.random.default_rng(0)
    proto = model("""g (float[1,16,8,8] x) => (float[1,32] y)
        { c = Conv<pads = [1,1,1,1]>(x, w)  r = Relu(c)  d = Conv(r, v)  p = GlobalAveragePool(d)
          f = Flatten(p)  y = MatMul(f, m) }""")
    shapes = {"w": (32, 16, 3, 3), "v": (64, 32, 3, 3), "m": (64, 32)}
    proto.graph.initializer.extend(
        numpy_helper.from_array(rng.standard_normal(shape, dtype=np.float32), name)
        for name, shape in shapes.items()
    )
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    feed = {"x": rng.standard_normal((1, 16, 8, 8), dtype=np.float32)}
    expected = ranges(proto, feed)
    options = []
    original = runner.open_session
    monkeypatch.setattr(
        runner,
        "open_session",
        lambda *a, **k: options.append((k["optimize"], k["prepack"])) or original(*a, **k),
    )
    lean = load_model(path, lean=True)
    found = calibrate(lean.proto, open_data([feed], lean.proto), base_dir=lean.base_dir)
    assert options == [(True, True)]
    assert list(found) == list(expected) == ["x", "c", "r", "d", "p", "f", "y"]
    for name, entry in expected.tensors.items():
        other = found.tensors[name]
        assert (other.count, other.shape) == (entry.count, entry.shape)
        assert [other.minimum, other.maximum, other.mean_abs] == pytest.approx(
            [entry.minimum, entry.maximum, entry.mean_abs], rel=1e-4, abs=1e-4
        )
    monkeypatch.setattr(runner, "_LAID_OUT", 1 << 13)  # less than the weights
    assert list(calibrate(lean.proto, open_data([feed], lean.proto), base_dir=lean.base_dir)) == list(found)
    assert options[1:] == [(False, False)]


def test_the_users_model_is_untouched():
    proto = long_chain(10)
    before = proto.SerializeToString()
    calibrate(proto, open_data(None, proto))
    assert proto.SerializeToString() == before


def test_a_model_that_does_not_run_is_one_error():
    proto = model("g (float[n] x, float[m] z) => (float[n] y) { y = Add(x, z) }")
    with pytest.raises(ModelError) as caught:
        ranges(proto, {"x": np.ones(2, np.float32), "z": np.ones(3, np.float32)})
    assert caught.value.problems[0].code == "MODEL-RUN"
