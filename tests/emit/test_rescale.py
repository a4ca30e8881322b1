"""The rescaled FP32 model: constants, attributes and Muls by powers of two, and not one bit of difference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibrate.small_models import model
from emit.typing_checks import initializers
from onnx_fp16fix.calibrate.ranges import RangeTable
from onnx_fp16fix.emit import Rescaled, convert, rescale
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.model import wrap_model
from onnx_fp16fix.plan import Plan
from onnx_fp16fix.plan.known.facts import Facts
from onnx_fp16fix.runtime import open_session

X = np.float32([0.3, -7.1])
W = np.float32([1.7, -0.9])


def rescaled(proto: onnx.ModelProto, plan: Plan, **feeds: np.ndarray) -> Rescaled:
    """The model with the plan applied; checked to be valid and to compute the same bits."""
    before = proto.SerializeToString()
    scope = build_view(wrap_model(proto)).main
    made = rescale(scope, Facts(scope, RangeTable({}, 0)), plan)
    after = made.model.proto
    assert proto.SerializeToString() == before, "the model given was changed"
    onnx.checker.check_model(after, full_check=True)
    assert (after.graph.input, after.graph.output) == (proto.graph.input, proto.graph.output)
    expected, actual = (open_session(m).run({"x": X, **feeds}) for m in (proto, after))
    for name, value in expected.items():
        assert value.tobytes() == actual[name].tobytes(), name
    return made


def ops(made: Rescaled) -> list[str]:
    return [node.op_type for node in made.model.proto.graph.node]


def with_weights(text: str, **weights: np.ndarray) -> onnx.ModelProto:
    proto = model(text)
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    return proto


TWO_LAYERS = "g (float[2] x) => (float[2] y) { h = Mul(x, w)  y = Mul(h, v) }"


def test_a_plan_without_content_changes_nothing() -> None:
    proto = with_weights(TWO_LAYERS, w=W, v=W)
    made = rescaled(proto, Plan())
    assert made.model.proto == proto
    assert (made.fp32_nodes, dict(made.exponents), made.inserted_muls) == (frozenset(), {}, 0)


def test_weights_take_a_scale_and_give_it_back() -> None:
    proto = with_weights(TWO_LAYERS, w=W, v=W)
    proto.graph.initializer[0].doc_string = "first layer"
    made = rescaled(proto, Plan(exponents={"h": 5}, operands={(0, 1): 5, (1, 1): -5}))
    values = initializers(made.model.proto)
    np.testing.assert_array_equal(values["w"], W / 32)
    np.testing.assert_array_equal(values["v"], W * 32)
    assert made.model.proto.graph.initializer[0].doc_string == "first layer"
    assert made.exponents == {"h": 5}
    assert ops(made) == ["Mul", "Mul"]


def test_a_shared_constant_is_copied_once_for_each_exponent() -> None:
    proto = with_weights(
        "g (float[2] x) => (float[2] y) { a = Mul(x, w)  b = Mul(a, w)  c = Mul(b, w)  y = Mul(c, w) }", w=W
    )
    plan = Plan(exponents={"a": 3, "c": 3}, operands={(0, 1): 3, (1, 1): -3, (2, 1): 3, (3, 1): -3})
    made = rescaled(proto, plan)
    values = sorted(value[0] for value in initializers(made.model.proto).values())
    assert values == [W[0] / 8, W[0] * 8]  # the constant itself is read by nobody any more
    kept = rescaled(proto, Plan(exponents={"a": 3}, operands={(0, 1): 3, (1, 1): -3}))
    assert len(initializers(kept.model.proto)) == 3
    np.testing.assert_array_equal(initializers(kept.model.proto)["w"], W)


@pytest.mark.parametrize("exponent", [5, 130], ids=["normal", "beyond FP32's exponents"])
@pytest.mark.parametrize("fp32", [(), (0,), (0, 1)], ids=["FP16", "both", "FP32"])
def test_scaled_and_rounded_at_once_are_the_bits_of_one_after_the_other(
    fp32: tuple[int, ...], exponent: int
) -> None:
    weights = np.float32([1.0 + 2.0**-11 + 2.0**-23, -3.3]) * np.float32(2.0 ** (exponent - 21))
    proto = with_weights(
        "g (float[2] x) => (float[2] y) { h = Mul(x, w)  k = Mul(h, w)  y = Mul(k, v) }", w=weights, v=W
    )
    scope = build_view(wrap_model(proto)).main
    plan = Plan(exponents={"h": exponent}, operands={(0, 1): exponent, (1, 1): exponent})
    made = rescale(scope, Facts(scope, RangeTable({}, 0)), plan)
    assert made.unscaled == {"w": exponent}
    at_once = convert(build_view(made.frame).main, fp32, share=True, unscaled=made.unscaled)
    assert at_once.model.proto == convert(build_view(made.model).main, fp32, share=True).model.proto


BRANCH = """g (float[2] x, bool c) => (float[2] y) { h = Mul(x, w)  v = Mul(h, w)
    y = If (c) <then_branch = t () => (float[2] a) { a = Mul(v, w) },
                else_branch = e () => (float[2] b) { b = Neg(v) }> }"""


@pytest.mark.parametrize("condition", [True, False])
def test_a_constant_that_a_body_reads_keeps_its_value(condition: bool) -> None:
    proto = with_weights(BRANCH, w=W)
    plan = Plan(exponents={"h": 4}, operands={(0, 1): 4, (1, 1): -4})
    made = rescaled(proto, plan, c=np.array(condition))
    np.testing.assert_array_equal(initializers(made.model.proto)["w"], W)
    assert len(initializers(made.model.proto)) == 3


@pytest.mark.parametrize("condition", [True, False])
def test_a_tensor_that_a_body_reads_keeps_its_value(condition: bool) -> None:
    proto = with_weights(BRANCH, w=W)
    plan = Plan(exponents={"v": 4}, operands={(1, 1): 4}, results={"v": -4})
    made = rescaled(proto, plan, c=np.array(condition))
    assert ops(made) == ["Mul", "Mul", "Mul", "If"]
    assert made.inserted_muls == 1
    assert made.exponents == {"v/fp16fix/scaled": 4}


CONSTANTS = [
    "value: tensor = float[2] {1.7, -0.9}",
    "value_floats: floats = [1.7, -0.9]",
    "value_float: float = 1.7",
]


@pytest.mark.parametrize("attribute", CONSTANTS)
def test_constant_nodes_change_in_place(attribute: str) -> None:
    proto = model(f"""g (float[2] x) => (float[2] y)
        {{ c = Constant<{attribute}>()  h = Mul(x, c)  d = Constant<{attribute}>()  y = Mul(h, d) }}""")
    made = rescaled(proto, Plan(exponents={"h": 2}, operands={(1, 1): 2, (3, 1): -2}))
    assert ops(made) == ["Constant", "Mul", "Constant", "Mul"]
    assert not made.model.proto.graph.initializer
    value = numpy_helper.to_array(made.model.proto.graph.node[0].attribute[0].t)
    assert value.reshape(-1)[0] == np.float32(1.7) / 4


@pytest.mark.parametrize("both", [True, False])
def test_a_shared_constant_node_is_copied(both: bool) -> None:
    proto = model("""g (float[2] x) => (float[2] y)
        { c = Constant<value_float: float = 1.7>()  a = Mul(x, c)  b = Mul(a, c)  y = Mul(b, c) }""")
    operands = {(1, 1): 2, (2, 1): -1, (3, 1): -1} if both else {(1, 1): 2, (2, 1): -2}
    made = rescaled(proto, Plan(exponents={"a": 2, **({"b": 1} if both else {})}, operands=operands))
    assert ("Constant" in ops(made)) is not both  # gone once nobody reads it


def test_a_folded_constant_is_written_out() -> None:
    proto = with_weights(
        """g (float[2] x) => (float[2] y) <int64[1] n = {2}>
        { c = ConstantOfShape<value: tensor = float[1] {1.7}>(n)  h = Mul(x, c)  y = Mul(h, v) }""",
        v=W,
    )
    made = rescaled(proto, Plan(exponents={"h": 2}, operands={(1, 1): 2, (2, 1): -2}))
    assert ops(made) == ["Mul", "Mul"]


NORM = "g (float[2] x) => (float[2] y) { h = Mul(x, w)  y = LayerNormalization%s(h, v) }"


@pytest.mark.parametrize(("attributes", "epsilon"), [("", 1e-5), ("<epsilon = 0.25, axis = 0>", 0.25)])
def test_an_epsilon_takes_the_square_of_the_scale(attributes: str, epsilon: float) -> None:
    proto = with_weights(NORM % attributes, w=W, v=W)
    made = rescaled(proto, Plan(exponents={"h": -6}, operands={(0, 1): -6}))
    (norm,) = [node for node in made.model.proto.graph.node if node.op_type == "LayerNormalization"]
    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in norm.attribute}
    assert values["epsilon"] == np.float32(epsilon) * 2.0**12
    assert len(values) == max(1, attributes.count("="))


def test_an_operand_with_a_mul_of_its_own() -> None:
    proto = with_weights(
        "g (float[2] x) => (float[2] y) { h = Mul(x, w)  s = Sigmoid(h)  t = Mul(h, v)  y = Add(s, t) }",
        w=W,
        v=W,
    )
    plan = Plan(exponents={"h": 3}, operands={(0, 1): 3, (2, 1): -3}, muls={(1, 0): -3})
    made = rescaled(proto, plan)
    assert ops(made) == ["Mul", "Mul", "Sigmoid", "Mul", "Add"]
    assert made.inserted_muls == 1
    assert made.fp32_nodes == frozenset()


def test_equal_muls_of_one_tensor_are_made_once() -> None:
    proto = with_weights(
        "g (float[2] x) => (float[2] y) { h = Mul(x, w)  s = Sigmoid(h)  t = Tanh(h)  y = Add(s, t) }", w=W
    )
    made = rescaled(proto, Plan(exponents={"h": 3}, operands={(0, 1): 3}, muls={(1, 0): -3, (2, 0): -3}))
    assert made.inserted_muls == 1
    different = rescaled(
        proto, Plan(exponents={"h": 3}, operands={(0, 1): 3}, muls={(1, 0): -3, (2, 0): -3}, fp32={2: "why"})
    )
    assert different.inserted_muls == 2
    assert len(different.fp32_nodes) == 2  # Tanh, and the Mul before it


def test_a_mul_towards_fp32_runs_in_fp32() -> None:
    proto = with_weights(TWO_LAYERS.replace("Mul(h, v)", "Tanh(h)"), w=W)
    plan = Plan(exponents={"h": 3}, operands={(0, 1): 3}, muls={(1, 0): -3}, fp32={1: "why"})
    made = rescaled(proto, plan)
    assert made.fp32_nodes == {1, 2}


@pytest.mark.parametrize(("shift", "fp32"), [(-15, False), (-16, True), (14, False), (15, True)])
def test_a_factor_beyond_fp16_is_multiplied_in_fp32(shift: int, fp32: bool) -> None:
    """2**16 is an infinity in FP16, and zero times that no number."""
    proto = with_weights(TWO_LAYERS.replace("Mul(h, v)", "Tanh(h)"), w=W)
    made = rescaled(proto, Plan(exponents={"h": -shift}, operands={(0, 1): -shift}, muls={(1, 0): shift}))
    assert made.fp32_nodes == ({1} if fp32 else set())


def test_an_output_gets_its_true_value_back() -> None:
    proto = with_weights(
        "g (float[2] x) => (float[2] h, float[2] y) { h = Mul(x, w)  y = Mul(h, v) }", w=W, v=W
    )
    plan = Plan(exponents={"h": 3, "y": 1}, operands={(0, 1): 3, (1, 1): -2}, results={"h": -3, "y": -1})
    made = rescaled(proto, plan)
    assert ops(made) == ["Mul"] * 4
    assert made.exponents == {"h/fp16fix/scaled": 3, "y/fp16fix/scaled": 1}
    assert made.fp32_nodes == {1, 3}  # a true value may be beyond FP16
    assert made.model.proto.graph.node[2].input[0] == "h/fp16fix/scaled"


def test_an_input_is_scaled_once_for_all_its_readers() -> None:
    proto = with_weights(
        "g (float[2] x) => (float[2] y, float[2] x) { a = Mul(x, w)  b = Mul(x, v)  y = Add(a, b) }", w=W, v=W
    )
    made = rescaled(proto, Plan(entries={"x": 7}, operands={(0, 1): -7, (1, 1): -7}))
    assert ops(made) == ["Mul", "Mul", "Mul", "Add"]
    assert [node.input[0] for node in made.model.proto.graph.node[1:3]] == ["x/fp16fix/scaled"] * 2
    assert made.fp32_nodes == {0}


def test_an_input_may_be_scaled_for_one_reader() -> None:
    proto = with_weights("g (float[2] x) => (float[2] y) { a = Mul(x, w)  y = Add(a, x) }", w=W)
    made = rescaled(proto, Plan(muls={(0, 0): 7}, operands={(0, 1): -7}))
    assert made.model.proto.graph.node[2].input[1] == "x"
    assert made.inserted_muls == 1


def test_the_exponents_of_attributes_follow_an_entry_and_a_mul() -> None:
    proto = with_weights("g (float[2] x) => (float[2] y) { y = LayerNormalization(x, w) }", w=W)
    entered = rescaled(proto, Plan(entries={"x": 2}, muls={(0, 0): 3}))
    (norm,) = [node for node in entered.model.proto.graph.node if node.op_type == "LayerNormalization"]
    assert norm.attribute[0].f == np.float32(1e-5) * 2.0**-10


def test_fp32_nodes_are_found_again() -> None:
    proto = with_weights("g (float[2] x) => (float[2] y) { a = Exp(x)  b = Neg(a)  y = Sigmoid(b) }")
    made = rescaled(proto, Plan(fp32={1: "why", 2: "why"}))
    assert made.fp32_nodes == {1, 2}


def test_new_names_clash_with_nothing() -> None:
    proto = with_weights("g (float[2] x) => (float[2] y) { h = Mul(x, w)  y = Mul(h, w) }", w=W)
    proto.graph.initializer.append(numpy_helper.from_array(W, "w/fp16fix/scaled"))
    proto.graph.node[0].name = "fp16fix/two_to_3"
    made = rescaled(proto, Plan(exponents={"h": 3}, operands={(0, 1): 3, (1, 1): -3}))
    names = [tensor.name for tensor in made.model.proto.graph.initializer]
    assert len(names) == len(set(names)) == 3


def test_external_weights_are_scaled_from_their_file(tmp_path: Path) -> None:
    proto = with_weights(TWO_LAYERS, w=W, v=W)
    onnx.save_model(
        proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    light = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    scope = build_view(wrap_model(light, tmp_path)).main
    plan = Plan(exponents={"h": 5}, operands={(0, 1): 5, (1, 1): -5})
    made = rescale(scope, Facts(scope, RangeTable({}, 0)), plan)
    (first, second) = made.model.proto.graph.initializer
    assert {first.data_location, second.data_location} == {TensorProto.DEFAULT}
    np.testing.assert_array_equal(numpy_helper.to_array(first), W / 32)
