"""The typed model: FP16 inside, FP32 at the border, one Cast per tensor and type."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibrate.small_models import model
from emit.typing_checks import FLOAT, HALF, converted, initializers, nodes_of, types_of
from onnx_fp16fix.emit import convert
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.model import wrap_model
from onnx_fp16fix.runtime import open_session

CHAIN = "g (float[n,2] x) => (float[n,2] y) <float[2] w = {1, 2}> { h = Mul(x, w)  y = Relu(h) }"


def test_a_chain_runs_in_fp16_between_two_casts() -> None:
    made = converted(model(CHAIN))
    assert nodes_of(made.model.proto) == ["Cast(float16)", "Mul", "Relu", "Cast(float32)"]
    types = types_of(made.model.proto)
    assert (types["x"], types["w"], types["h"], types["y"]) == (FLOAT, HALF, HALF, FLOAT)
    (y,) = open_session(made.model.proto).run({"x": np.float32([[1, 2]])}).values()
    np.testing.assert_array_equal(y, [[1, 4]])


def test_all_nodes_in_fp32_changes_nothing() -> None:
    proto = model(CHAIN)
    made = converted(proto, fp32={0, 1})
    assert made.model.proto == proto


def test_one_node_in_fp32_gets_one_cast_on_each_side() -> None:
    proto = model("""g (float[2] x) => (float[2] y)
        { a = Neg(x)  b = Sqrt(a)  c = Exp(b)  d = Abs(b)  y = Add(c, d) }""")
    made = converted(proto, fp32={1})
    assert nodes_of(made.model.proto) == [
        "Cast(float16)", "Neg", "Cast(float32)", "Sqrt", "Cast(float16)", "Exp", "Abs", "Add", "Cast(float32)",
    ]  # fmt: skip


def test_a_tensor_is_cast_once_however_many_read_it() -> None:
    proto = model(
        "g (float[2] x) => (float[2] y) { a = Neg(x)  b = Abs(x)  c = Exp(x)  y = Sum(a, b, c, x) }"
    )
    assert converted(proto).casts == 2


def test_what_the_model_says_of_itself_is_kept() -> None:
    proto = model("g (float[batch, 2, ?] x) => (float[batch, m, ?] y) { y = Relu(x) }", opset=13)
    proto.ir_version = 7
    proto.metadata_props.add(key="author", value="someone")
    proto.graph.input[0].doc_string = "pixels"
    proto.doc_string = "a model"
    for io in ("fp32", "fp16"):
        made = converted(proto, io=io)
        assert made.model.opset == 13


def test_an_output_that_is_read_inside_as_well() -> None:
    proto = model("g (float[2] x) => (float[2] h, float[2] y) { h = Exp(x)  y = Neg(h) }")
    made = converted(proto)
    assert nodes_of(made.model.proto) == ["Cast(float16)", "Exp", "Cast(float32)", "Neg", "Cast(float32)"]
    neg = made.model.proto.graph.node[3]
    assert neg.input[0] == "h/fp16fix/float16"


def test_an_output_that_fp32_nodes_read_needs_no_second_cast() -> None:
    proto = model("g (float[2] x) => (float[2] h, float[2] y) { h = Exp(x)  y = Neg(h) }")
    made = converted(proto, fp32={1})
    assert nodes_of(made.model.proto) == ["Cast(float16)", "Exp", "Cast(float32)", "Neg"]
    assert made.model.proto.graph.node[3].input[0] == "h"


@pytest.mark.parametrize("io", ["fp32", "fp16"])
def test_an_input_that_is_an_output_at_once(io: str) -> None:
    proto = model("g (float[2] x) => (float[2] x, float[2] y) { y = Relu(x) }")
    made = converted(proto, io=io)
    kind = HALF if io == "fp16" else FLOAT
    infos = (*made.model.proto.graph.input, *made.model.proto.graph.output)
    assert [info.type.tensor_type.elem_type for info in infos] == [kind] * 3
    values = open_session(made.model.proto).run({"x": np.float32([1, -2])})
    np.testing.assert_array_equal(values["x"], [1, -2])


def test_fp16_at_the_border() -> None:
    proto = model("g (float[n,2] x, int64 i) => (float[n,2] y, int64 i) { h = Exp(x)  y = Neg(h) }")
    made = converted(proto, io="fp16")
    assert nodes_of(made.model.proto) == ["Exp", "Neg"]
    graph = made.model.proto.graph
    elem_types = [info.type.tensor_type.elem_type for info in (*graph.input, *graph.output)]
    assert elem_types == [HALF, TensorProto.INT64, HALF, TensorProto.INT64]


def test_fp16_at_the_border_of_fp32_nodes() -> None:
    proto = model("g (float[2] x) => (float[2] h, float[2] y) { h = Exp(x)  y = Neg(h) }")
    made = converted(proto, fp32={0, 1}, io="fp16")
    assert nodes_of(made.model.proto) == ["Cast(float32)", "Exp", "Cast(float16)", "Neg", "Cast(float16)"]


BRANCHES = """g (bool c, float[2] x) => (float[2] y, float[2] z) <float[2] w = {1, 2}> {
    h = Exp(x)
    y = If (c) <then_branch = t () => (float[2] a) { a = Mul(h, w) },
                else_branch = e () => (float[2] b) { b = Neg(x) }>
    z = Mul(h, w)
}"""


@pytest.mark.parametrize("io", ["fp32", "fp16"])
@pytest.mark.parametrize("fp32", [set(), {0}, {0, 2}])
def test_bodies_that_no_plan_covers_read_fp32(io: str, fp32: set[int]) -> None:
    proto = model(BRANCHES)
    made = converted(proto, fp32=fp32, io=io)
    types = types_of(made.model.proto)
    branches = [
        a.g.node for node in made.model.proto.graph.node if node.op_type == "If" for a in node.attribute
    ]
    assert [[node.op_type for node in nodes] for nodes in branches] == [["Mul"], ["Neg"]]
    assert {types[name] for nodes in branches for node in nodes for name in node.input} == {FLOAT}
    feeds = {"x": np.float32([0, 1])}
    for condition in (True, False):
        values = open_session(made.model.proto).run({**feeds, "c": np.array(condition)})
        expected = open_session(proto).run({**feeds, "c": np.array(condition)})
        for name in ("y", "z"):  # one FP16 rounding of exp, one of the product
            np.testing.assert_allclose(values[name], expected[name], rtol=2**-10)


def test_loop_bodies_and_carried_values_stay_fp32() -> None:
    proto = model("""g (int64 n, bool c, float[1] x) => (float[1] y) {
        s = Exp(x)
        r = Loop (n, c, s) <body = b (int64 i, bool go, float[1] p) => (bool again, float[1] q)
            { again = Identity(go)  q = Add(p, x) }>
        y = Neg(r) }""")
    made = converted(proto)
    expected = ["Cast(float16)", "Exp", "Cast(float32)", "Loop", "Cast(float16)", "Neg", "Cast(float32)"]
    assert nodes_of(made.model.proto) == expected


def test_local_functions_stay_fp32() -> None:
    proto = model(
        "g (float[1] x) => (float[1] y) { h = Exp(x)  f = local.Twice(h)  y = Neg(f) }",
        domains=', "local" : 1',
        functions='<domain: "local", opset_import: ["" : 17]> Twice (a) => (b) { s = Mul(a, a)  b = Sqrt(s) }',
    )
    made = converted(proto)
    assert made.model.proto.functions == proto.functions
    assert made.casts == 4


def test_a_constant_read_by_fp16_and_fp32_nodes_exists_twice() -> None:
    proto = model("g (float[2] x) => (float[2] y) <float[2] w = {0.1, 2}> { h = Mul(x, w)  y = Add(h, w) }")
    made = converted(proto, fp32={1})
    values = initializers(made.model.proto)
    assert {name: value.dtype for name, value in values.items()} == {
        "w": np.float32, "w/fp16fix/float16": np.float16,
    }  # fmt: skip
    assert values["w"][0] == np.float32(0.1)
    assert values["w/fp16fix/float16"][0] == np.float16(0.1)


CONSTANTS = {
    "value": "value: tensor = float[2] {0.1, 1e6}",
    "value_floats": "value_floats: floats = [0.1, 1e6]",
    "value_float": "value_float: float = 1e6",
}


@pytest.mark.parametrize("form", CONSTANTS)
@pytest.mark.parametrize("fp32", [set(), {1}, {2}, {1, 2}])
def test_constant_nodes(form: str, fp32: set[int]) -> None:
    proto = model(
        f"g (float[2] x) => (float[2] y) {{ c = Constant<{CONSTANTS[form]}>()  h = Add(x, c)  y = Sub(h, c) }}"
    )
    made = converted(proto, fp32=fp32)
    both = fp32 in ({1}, {2})
    assert ("c/fp16fix/float16" in initializers(made.model.proto)) is both
    assert types_of(made.model.proto)["c"] == (FLOAT if fp32 else HALF)
    assert made.overflowed == (() if fp32 == {1, 2} else ("c",))


def test_integer_constants_are_left_alone() -> None:
    proto = model("""g (float[2] x) => (float[1,2] y) <int64[2] shape = {1, 2}>
        { c = Constant<value_ints: ints = [0]>()  h = Unsqueeze(x, c)  s = Exp(h)  y = Reshape(s, shape) }""")
    graph = converted(proto).model.proto.graph
    assert graph.initializer == proto.graph.initializer
    assert proto.graph.node[0] in graph.node


def test_a_sparse_constant_stays_fp32() -> None:
    proto = model("g (float[4] x) => (float[4] y) { c = Constant<value_float: float = 0>()  y = Add(x, c) }")
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(np.float32([3]), "values"), numpy_helper.from_array(np.array([1]), "i"), [4]
    )
    del proto.graph.node[0].attribute[:]
    proto.graph.node[0].attribute.append(helper.make_attribute("sparse_value", sparse))
    made = converted(proto)
    (y,) = open_session(made.model.proto).run({"x": np.zeros(4, np.float32)}).values()
    np.testing.assert_array_equal(y, [0, 3, 0, 0])


@pytest.mark.parametrize("io", ["fp32", "fp16"])
def test_an_initializer_that_an_input_overrides_is_an_input(io: str) -> None:
    proto = model("g (float[2] x, float[2] w) => (float[2] y) { y = Mul(x, w) }")
    proto.graph.initializer.append(numpy_helper.from_array(np.float32([2, 3]), "w"))
    made = converted(proto, io=io)
    session = open_session(made.model.proto)
    np.testing.assert_array_equal(session.run({"x": np.float32([1, 1])})["y"], [2, 3])


def test_a_constant_that_is_an_output() -> None:
    proto = model("g (float[2] x) => (float[2] w, float[2] y) <float[2] w = {0.1, 2}> { y = Mul(x, w) }")
    made = converted(proto)
    assert initializers(made.model.proto)["w"].dtype == np.float32
    assert open_session(made.model.proto).run({"x": np.float32([1, 1])})["w"][0] == np.float32(0.1)


def test_a_cast_from_integers_makes_fp16_at_once() -> None:
    proto = model("g (int64[2] i) => (float[2] y) { f = Cast<to: int = 1>(i)  y = Sqrt(f) }")
    made = converted(proto)
    assert nodes_of(made.model.proto) == ["Cast(float16)", "Sqrt", "Cast(float32)"]


def test_a_cast_to_integers_reads_fp16() -> None:
    proto = model("g (float[2] x) => (int64[2] y) { h = Sqrt(x)  y = Cast<to: int = 7>(h) }")
    assert nodes_of(converted(proto).model.proto) == ["Cast(float16)", "Sqrt", "Cast(7)"]


def test_shape_reads_what_is_there() -> None:
    proto = model(
        "g (float[2,n] x) => (int64[2] s, int64[2] t, float[2,n] y) { s = Shape(x)  y = Sqrt(x)  t = Shape(y) }"
    )
    assert nodes_of(converted(proto).model.proto) == [
        "Cast(float16)",
        "Shape",
        "Sqrt",
        "Cast(float32)",
        "Shape",
    ]


def test_a_model_that_holds_fp16_already() -> None:
    proto = model("""g (float[2] x) => (float[2] y)
        { h = Cast<to: int = 10>(x)  s = Sqrt(h)  f = Cast<to: int = 1>(s)  y = Exp(f) }""")
    made = converted(proto)
    assert types_of(made.model.proto)["s"] == HALF
    assert made.casts == 1


def test_makers_of_tensors() -> None:
    proto = model("""g (int64[1] n, float[2,2] x) => (float[m] y, float[2,2] z) {
        c = ConstantOfShape<value: tensor = float[1] {0.1}>(n)
        d = ConstantOfShape(n)
        y = Add(c, d)
        e = EyeLike(x)
        z = MatMul(e, x) }""")
    made = converted(proto)
    types = types_of(made.model.proto)
    assert [types[name] for name in "cd"] == [HALF, HALF]
    values = open_session(made.model.proto).run({"n": np.array([2]), "x": np.float32([[1, 2], [3, 4]])})
    np.testing.assert_array_equal(values["y"], np.float32(np.float16([0.1, 0.1])))
    np.testing.assert_array_equal(values["z"], [[1, 2], [3, 4]])


def test_resize_keeps_its_scales() -> None:
    proto = model("""g (float[1,1,1,10] x) => (float[a,b,c,d] y) <float[4] s = {1, 1, 1, 1.7001}>
        { y = Resize(x, , s) }""")
    made = converted(proto)
    assert initializers(made.model.proto)["s"][3] == np.float32(1.7001)
    (y,) = open_session(made.model.proto).run({"x": np.ones((1, 1, 1, 10), np.float32)}).values()
    assert y.shape == (1, 1, 1, 17)


def test_scales_of_resize_that_are_data_elsewhere_exist_twice() -> None:
    proto = model("""g (float[1,1,1,4] x) => (float[a,b,c,d] y, float[4] z) <float[4] s = {1, 1, 1, 1.7001}>
        { y = Resize(x, , s)  z = Neg(s) }""")
    values = initializers(converted(proto).model.proto)
    assert {name: value.dtype for name, value in values.items()} == {
        "s": np.float32, "s/fp16fix/float16": np.float16,
    }  # fmt: skip


def test_statistics_of_a_batch_normalization_stay_fp32() -> None:
    proto = model("""g (float[1,2,3] x) => (float[1,2,3] y)
        <float[2] s = {1, 1}, float[2] b = {0, 0}, float[2] m = {0, 0}, float[2] v = {1e6, 1}>
        { y = BatchNormalization(x, s, b, m, v) }""")
    made = converted(proto)
    assert made.overflowed == ()
    dtypes = {name: value.dtype for name, value in initializers(made.model.proto).items()}
    assert dtypes == {"s": np.float16, "b": np.float16, "m": np.float32, "v": np.float32}


def test_weights_are_rounded_to_nearest_and_never_clamped() -> None:
    weights = np.float32([1e-8, -1e-8, 4e-8, -4e-8, 65519, 65520, -1e6, np.inf, 0.1])
    proto = model("g (float[9] x) => (float[9] y) { h = Mul(x, w)  y = Mul(h, one) }")
    for name, value in (("w", weights), ("one", np.ones(9, np.float32))):
        proto.graph.initializer.append(numpy_helper.from_array(value, name))
    made = converted(proto)
    half = initializers(made.model.proto)["w"]
    expected = np.float16([0.0, -0.0, 6e-8, -6e-8, 65504, np.inf, -np.inf, np.inf, 0.1])
    np.testing.assert_array_equal(half.view(np.uint16), expected.view(np.uint16))
    assert made.overflowed == ("w",)


def test_an_infinity_that_was_one_before_is_no_overflow() -> None:
    proto = model("g (float[2] x) => (float[2] y) { y = Max(x, w) }")
    proto.graph.initializer.append(numpy_helper.from_array(np.float32([-np.inf, np.nan]), "w"))
    assert converted(proto).overflowed == ()


def test_names_that_are_taken() -> None:
    proto = model("""g (float[2] x) => (float[2] y) {
        x_float16 = Neg(x)  y = Add(x, x_float16) }""")
    text = proto.SerializeToString().replace(b"x_float16", b"x/fp16fix")
    proto = onnx.ModelProto.FromString(text)
    proto.graph.node[0].output[0] = proto.graph.node[1].input[1] = "x/fp16fix/float16"
    converted(proto)


def test_declared_types_follow() -> None:
    proto = model(CHAIN)
    proto.graph.value_info.append(helper.make_tensor_value_info("h", FLOAT, ["n", 2], doc_string="hidden"))
    proto.graph.value_info.append(helper.make_tensor_value_info("w", FLOAT, [2]))
    graph = converted(proto).model.proto.graph
    assert [info.type.tensor_type.elem_type for info in graph.value_info] == [HALF, HALF]
    assert graph.value_info[0].doc_string == "hidden"
    graph = converted(proto, fp32={0}).model.proto.graph
    assert [info.type.tensor_type.elem_type for info in graph.value_info] == [FLOAT, FLOAT]


SEQUENCES = """g (float[2] x, int64 i) => ({out} y) {{
    a = Exp(x)  s = SequenceConstruct(a, x)  {last} }}"""


@pytest.mark.parametrize("fp32", [set(), {0}, {1}, {2}])
def test_sequences_stay_fp32(fp32: set[int]) -> None:
    proto = model(SEQUENCES.format(out="float[2]", last="b = SequenceAt(s, i)  y = Neg(b)"))
    made = converted(proto, fp32=fp32)
    values = open_session(made.model.proto).run({"x": np.float32([1, 2]), "i": np.array(1)})
    np.testing.assert_array_equal(values["y"], [-1, -2])
    converted(model(SEQUENCES.format(out="seq(float[2])", last="y = Identity(s)")), fp32=fp32)


def test_optionals_stay_fp32() -> None:
    proto = model(
        "g (float[2] x) => (float[2] y) { a = Exp(x)  o = Optional(a)  b = OptionalGetElement(o)  y = Neg(b) }",
        opset=18,
    )
    made = converted(proto)
    values = open_session(made.model.proto).run({"x": np.float32([0, 0])})
    np.testing.assert_array_equal(values["y"], [-1, -1])


def test_an_empty_constant() -> None:
    proto = model("g (float[2] x) => (float[n] y) { y = Concat<axis: int = 0>(x, e) }")
    proto.graph.initializer.append(numpy_helper.from_array(np.empty(0, np.float32), "e"))
    assert converted(proto).overflowed == ()


def test_a_node_may_read_one_tensor_twice_and_leave_slots_open() -> None:
    proto = model("g (float[2] x) => (float[2] y) <float m = {4}> { s = Mul(x, x)  y = Clip(s, , m) }")
    made = converted(proto)
    assert nodes_of(made.model.proto) == ["Cast(float16)", "Mul", "Clip", "Cast(float32)"]
    clip = made.model.proto.graph.node[2]
    assert list(clip.input) == ["s", "", "m"]


def test_unused_results_get_no_cast() -> None:
    proto = model("g (float[4] x) => (float[2] y) <int64[1] k = {2}> { a = Abs(x)  y, i = TopK(a, k) }")
    assert converted(proto).casts == 2


def test_what_reads_a_tensor_of_unknown_type_stays_fp32() -> None:
    proto = model(
        "g (float[2] x) => (float[2] y, float[2] z) { a = Exp(x)  b = nowhere.Op(a)  y = Neg(b)  z = Add(y, x) }",
        domains=', "nowhere" : 1',
    )
    made = convert(build_view(wrap_model(proto)).main, ())
    expected = ["Cast(float16)", "Exp", "Cast(float32)", "Op", "Neg", "Cast(float16)", "Add", "Cast(float32)"]
    assert nodes_of(made.model.proto) == expected


SELECTS = {
    "a comparison of inputs": ("c = Greater(x, k)", ["Greater"]),
    "beside another reader": ("c = Greater(x, k)  m = Mul(x, k)", ["Cast(float16)", "Greater", "Mul"]),
    "through what moves data": (
        "t = Transpose(x)  u = Flatten(t)  c = Less(u, k)",
        ["Transpose", "Flatten", "Less"],
    ),
    "of what else is read in FP16": (
        "t = Transpose(x)  c = Less(t, k)  m = Mul(t, k)",
        ["Cast(float16)", "Transpose", "Less", "Mul"],
    ),
    "of what is made in FP16": ("a = Exp(x)  c = Equal(a, x)", ["Cast(float16)", "Exp", "Equal"]),
    "of an index": ("i = ArgMax(x)  c = Cast<to = 9>(i)", ["ArgMax", "Cast(9)"]),
}


@pytest.mark.parametrize("case", SELECTS)
def test_what_selects_reads_inputs_as_they_are(case: str) -> None:
    body, expected = SELECTS[case]
    result = "float[2,2] m" if "m =" in body else "bool[?,?] c"
    proto = model(f"g (float[2,2] x) => ({result}) <float[2,2] k = {{1, 2, 3, 4}}> {{ {body} }}")
    made = converted(proto)
    assert [node for node in nodes_of(made.model.proto) if node != "Cast(float32)"] == expected
    open_session(made.model.proto)


def test_inputs_in_fp16_are_compared_in_fp16() -> None:
    proto = model("g (float[2] x, float[2] y) => (bool[2] c) { c = Less(x, y) }")
    made = converted(proto, io="fp16")
    assert nodes_of(made.model.proto) == ["Less"]


def test_neighbours_that_fp16_makes_equal_are_told_apart_by_top_k() -> None:
    proto = model("g (float[4] x) => (int64[1] i) <int64[1] k = {1}> { v, i = TopK(x, k) }")
    x = np.float32([1, 1 + 2**-13, 1 + 2**-12, 1])
    (index,) = open_session(converted(proto).model.proto).run({"x": x}).values()
    assert index == [2]
