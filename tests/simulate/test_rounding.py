"""Simulated FP16 is numpy float16, bit for bit; ReduceMean is what an H200 computes."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibrate.small_models import binary, model, unary
from onnx_fp16fix.errors import ModelError
from onnx_fp16fix.runtime import open_session
from onnx_fp16fix.simulate import rounded_graph

HALF = TensorProto.FLOAT16
ALL_BITS = np.arange(1 << 16, dtype=np.uint16).view(np.float16)


def run(proto, **feeds):
    wide = {name: np.asarray(value).astype(np.float32) for name, value in feeds.items()}
    return open_session(proto).run(wide)


def same(actual, expected):
    """Equal bits in FP16, signs of zeros included; any NaN equals any NaN."""
    assert actual.dtype == np.float32
    narrow = actual.astype(np.float16)
    assert np.array_equal(narrow.astype(np.float32), actual, equal_nan=True), "not FP16 values"
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(narrow), nan)
    np.testing.assert_array_equal(narrow[~nan].view(np.uint16), expected[~nan].view(np.uint16))


UNARY = {
    "Neg": np.negative, "Abs": np.abs, "Sqrt": np.sqrt, "Relu": lambda x: np.where(x < 0, np.float16(0), x),
    "Floor": np.floor, "Ceil": np.ceil, "Reciprocal": lambda x: np.float16(1) / x, "Identity": lambda x: x,
}  # fmt: skip
BINARY = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}


@pytest.mark.parametrize("op", UNARY)
def test_unary_ops_on_every_fp16_value(op):
    values = ALL_BITS[ALL_BITS.view(np.uint16) != 0x8000] if op in {"Relu", "Ceil"} else ALL_BITS
    with np.errstate(all="ignore"):
        expected = UNARY[op](values).astype(np.float16)
    same(run(rounded_graph(unary(op, HALF)), x=values)["y"], expected)


@pytest.mark.parametrize("op", BINARY)
@pytest.mark.parametrize("typed", [True, False])
def test_binary_ops_on_random_bit_patterns(op, typed):
    rng = np.random.default_rng(5)
    a, b = (rng.integers(0, 1 << 16, 200_000, dtype=np.uint16).view(np.float16) for _ in range(2))
    proto = binary(op, HALF if typed else TensorProto.FLOAT)
    with np.errstate(all="ignore"):
        expected = BINARY[op](a, b)
    same(run(rounded_graph(proto, assume_fp16=not typed), a=a, b=b)["y"], expected)


@pytest.mark.parametrize("op", BINARY)
def test_binary_ops_on_subnormals(op):
    rng = np.random.default_rng(6)
    a, b = (rng.integers(0, 1 << 11, 50_000, dtype=np.uint16).view(np.float16) for _ in range(2))
    with np.errstate(all="ignore"):
        expected = BINARY[op](a, b)
    same(run(rounded_graph(binary(op, HALF)), a=a, b=b)["y"], expected)


@pytest.mark.parametrize(
    "level", ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"]
)
def test_onnx_runtime_keeps_the_casts_at_every_level(level):
    proto = model("g (float[2] x) => (float[2] y) <float w = {1.0}> { h = Add(x, w)  y = Sub(h, w) }")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    rounded = rounded_graph(proto, assume_fp16=True)
    session = onnxruntime.InferenceSession(
        rounded.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (y,) = session.run(None, {"x": np.array([2.0**-11, 70000], np.float32)})
    np.testing.assert_array_equal(y, np.array([0, np.inf], np.float32))


def test_inputs_are_rounded_on_entry():
    proto = model("g (float[3] x) => (float[3] y) { y = Neg(x) }")
    y = run(rounded_graph(proto, assume_fp16=True), x=[0.1, 1e-9, 65520])["y"]
    np.testing.assert_array_equal(-y, np.array([np.float16(0.1), 0, np.inf], np.float32))


WEIGHTS = np.array([0.1, 1e-9, -1e-7, 65519, 65520, -3.4e38, 2049], np.float32)


@pytest.mark.parametrize("external", [False, True])
def test_weights_are_rounded_to_nearest_and_never_clamped(external, tmp_path):
    proto = model("g (float[7] x) => (float[7] y) <float[7] w = {0,0,0,0,0,0,0}> { y = Add(x, w) }")
    weight = proto.graph.initializer[0]
    weight.CopyFrom(numpy_helper.from_array(WEIGHTS, "w"))
    if external:
        onnx.external_data_helper.set_external_data(weight, "w.bin", 0, WEIGHTS.nbytes)
        weight.ClearField("raw_data")
        WEIGHTS.tofile(tmp_path / "w.bin")
    session = open_session(rounded_graph(proto, assume_fp16=True, base_dir=tmp_path), tmp_path)
    with np.errstate(over="ignore"):
        expected = WEIGHTS.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(session.run({"x": np.zeros(7, np.float32)})["y"], expected)


def test_large_weights_are_rounded_like_small_ones():
    """Every FP16 value and what lies around the middle to the next one, in one tensor."""
    middles = (ALL_BITS[:31743].astype(np.float32) + ALL_BITS[1:31744].astype(np.float32)) / 2
    values = np.concatenate(
        [ALL_BITS.astype(np.float32), middles, np.nextafter(middles, 0), np.nextafter(middles, 1e9)]
    )
    values = np.concatenate([values, -values])
    proto = model("g (float[n] x) => (float[n] y) <float[1] w = {0}> { y = Mul(x, w) }")
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "w"))
    (weight,) = rounded_graph(proto, assume_fp16=True).graph.initializer
    with np.errstate(over="ignore"):
        same(numpy_helper.to_array(weight), values.astype(np.float16))


def test_constants_are_rounded():
    proto = model(
        "g (float[1] x) => (float[1] y) { c = Constant<value_float: float = 2049.0>()  y = Add(x, c) }"
    )
    assert run(rounded_graph(proto, assume_fp16=True), x=[0.0])["y"] == [2048.0]


MEANS = [
    pytest.param(
        "<axes: ints = [-1], keepdims: int = 0>(x)", 11, (), id="axes attribute, before ReduceSum-13"
    ),
    pytest.param("<axes: ints = [1], keepdims: int = 1>(x)", 17, (), id="axes attribute"),
    pytest.param("(x, axes)", 18, (1,), id="axes input"),
    pytest.param("(x)", 17, (), id="all axes"),
]


@pytest.mark.parametrize(("text", "opset", "axes"), MEANS)
@pytest.mark.parametrize("typed", [True, False])
def test_the_sum_inside_a_mean_overflows_as_on_a_gpu(text, opset, axes, typed):
    kind = "float16" if typed else "float"
    initializer = f"<int64[1] axes = {{{axes[0]}}}>" if axes else ""
    proto = model(f"g ({kind}[n, m] x) => ({kind}[] y) {initializer} {{ y = ReduceMean{text} }}", opset=opset)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    session = open_session(rounded_graph(proto, assume_fp16=not typed))
    for value, mean in ((63, 63), (64, np.inf), (-64, -np.inf)):
        y = session.run({"x": np.full((1, 1024), value, np.float32)})["y"]
        assert y.reshape(-1) == [mean]


@pytest.mark.parametrize(("noop", "expected"), [(1, [[60000.0, 60000.0]]), (0, [[np.inf]])])
def test_mean_without_axes_may_do_nothing(noop, expected):
    proto = model(
        f"""g (float[1,2] x) => (float[a,b] y) <int64[0] axes = {{}}>
        {{ y = ReduceMean<noop_with_empty_axes: int = {noop}>(x, axes) }}""",
        opset=18,
    )
    y = run(rounded_graph(proto, assume_fp16=True), x=[[60000, 60000]])["y"]
    np.testing.assert_array_equal(y, expected)


def test_fp32_islands_of_a_typed_model_stay_fp32():
    proto = model("""g (float[1] x) => (float[1] y)
        { h = Cast<to: int = 10>(x)  w = Cast<to: int = 1>(h)  s = Mul(w, w)  r = Sqrt(s)  n = Cast<to: int = 10>(r)
          y = Cast<to: int = 1>(n) }""")
    values = open_session(rounded_graph(proto), outputs=["h", "s", "y"]).run(
        {"x": np.array([1000.3], np.float32)}
    )
    assert values["h"] == [1000.5]
    assert values["s"] == [1000.5**2]
    assert values["y"] == [1000.5]


def test_a_cast_to_fp16_rounds_doubles_once():
    proto = model("g (double[1] x) => (float[1] y) { h = Cast<to: int = 10>(x)  y = Cast<to: int = 1>(h) }")
    y = open_session(rounded_graph(proto)).run({"x": np.array([70000.0])})["y"]
    assert y == [np.inf]


def test_casts_that_onnx_runtime_would_drop_get_other_names():
    proto = model("g (float[1] x) => (float[1] y) { h = Cast<to: int = 10>(x)  y = Cast<to: int = 1>(h) }")
    for node in proto.graph.node:
        node.name = f"InsertedPrecisionFreeCast_{node.output[0]}"
    assert run(rounded_graph(proto), x=[2049.0])["y"] == [2048.0]
    assert not any(node.name.startswith("Inserted") for node in rounded_graph(proto).graph.node)


def test_what_a_schema_wants_as_float_is_left_alone():
    proto = model("""g (float[1,1,1,10] x) => (float[a,b,c,d] y) <float[4] scales = {1, 1, 1, 1.7001}>
        { e =  Constant<value_float: float = 0.1>()  y = Resize(x, , scales) }""")
    rounded = rounded_graph(proto, assume_fp16=True)
    (resize,) = [node for node in rounded.graph.node if node.op_type == "Resize"]
    kept = {tensor.name: numpy_helper.to_array(tensor) for tensor in rounded.graph.initializer}
    assert kept[resize.input[2]][3] == np.float32(1.7001)


BRANCHES = """g (bool c, {kind}[1] x) => ({kind}[1] y) {{
    y = If (c) <then_branch = t () => ({kind}[1] a) {{ h = Mul(x, x)  a = Sqrt(h) }},
                else_branch = e () => ({kind}[1] b) {{ b = Neg(x) }}> }}"""


@pytest.mark.parametrize("typed", [True, False])
def test_bodies_are_rounded_and_read_rounded_inputs(typed):
    proto = model(BRANCHES.format(kind="float16" if typed else "float"))
    session = open_session(rounded_graph(proto, assume_fp16=not typed))
    x = np.array([300.1], np.float32)
    assert session.run({"c": np.array(True), "x": x})["y"] == [np.inf]
    assert session.run({"c": np.array(False), "x": x})["y"] == [-300.0]


def test_loop_bodies_are_rounded_in_every_iteration():
    proto = model("""g (int64 n, bool c, float16[1] x) => (float16[1] y) {
        y = Loop (n, c, x) <body = b (int64 i, bool go, float16[1] s) => (bool again, float16[1] t)
            { again = Identity(go)  t = Add(s, s) }> }""")
    session = open_session(rounded_graph(proto))
    feed = {"n": np.array(8), "c": np.array(True), "x": np.array([300.0], np.float32)}
    assert session.run(feed)["y"] == [np.inf]


def test_local_functions_are_inlined():
    proto = model(
        "g (float[1] x) => (float[1] y) { y = local.Twice(x) }",
        domains=', "local" : 1',
        functions='<domain: "local", opset_import: ["" : 17]> Twice (a) => (b) { s = Mul(a, a)  b = Sqrt(s) }',
    )
    assert run(rounded_graph(proto, assume_fp16=True), x=[300.0])["y"] == [np.inf]


def test_type_attributes_follow():  # ONNX text gives FLOAT16 values as bits
    proto = model("""g (int64[1] n) => (float16[m] y, float16[m] z)
        <float16[1] one = {15360}> { y = ConstantOfShape<value: tensor = float16[1] {11878}>(n)
          r = RandomUniform<dtype: int = 10, shape: ints = [2]>()  z = Mul(r, one) }""")
    values = open_session(rounded_graph(proto)).run({"n": np.array([2])})
    same(values["y"], np.full(2, 0.1, np.float16))
    same(values["z"], values["z"].astype(np.float16))


def test_names_of_rounded_tensors_and_the_model_itself_stay():
    proto = model("g (float[2] x) => (float[2] y) { h = Exp(x)  y = Tanh(h) }")
    before = proto.SerializeToString()
    rounded = rounded_graph(proto, assume_fp16=True)
    assert {"h", "y"} <= {name for node in rounded.graph.node for name in node.output}
    assert proto.SerializeToString() == before
    onnx.checker.check_model(rounded, full_check=True)


def test_a_type_that_nobody_knows_is_an_error():
    proto = model(
        "g (float[2] x) => (float[2] y) { y = Relu(h)  h = nowhere.Op(x) }", domains=', "nowhere" : 1'
    )
    proto.graph.node.sort(key=lambda node: node.op_type)
    with pytest.raises(ModelError) as caught:
        rounded_graph(proto)
    assert caught.value.problems[0].code == "MODEL-LOAD"
    assert "nowhere" in str(caught.value)


def test_values_handed_to_graph_inputs_of_fp16_are_cast():
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node("Neg", ["x"], ["y"])], "g",
            [helper.make_tensor_value_info("x", HALF, [1])], [helper.make_tensor_value_info("y", HALF, [1])],
        ),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip
    assert open_session(proto).run({"x": np.array([0.1], np.float32)})["y"] == [-np.float16(0.1)]


def test_weights_in_files_are_widened_next_to_their_first_reader(tmp_path):
    """All at the top would be all in memory at once."""
    proto = model("g (float16[2,4] x) => (float16[2,4] y, float16[4,4] v)"
                  "{ a = MatMul(x, w)  b = Relu(a)  c = MatMul(b, v)  y = MatMul(c, w) }")  # fmt: skip
    values = {name: np.full((4, 4), 0.1, np.float16) for name in "wv"}
    for name, array in values.items():
        tensor = numpy_helper.from_array(array, name)
        onnx.external_data_helper.set_external_data(tensor, f"{name}.bin", 0, array.nbytes)
        tensor.ClearField("raw_data")
        (tmp_path / f"{name}.bin").write_bytes(array.tobytes())
        proto.graph.initializer.append(tensor)
    rounded = rounded_graph(proto, base_dir=tmp_path)
    made = [node.output[0] for node in rounded.graph.node]
    assert made.index("w") < made.index("a") < made.index("b") < made.index("v") < made.index("c")
    found = open_session(rounded, tmp_path).run({"x": np.ones((2, 4), np.float32)})
    same(found["v"], values["v"])
