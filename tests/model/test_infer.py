"""Types and shapes of every scope, from a copy that carries no large weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibrate.small_models import model as parsed
from model.edits import furnished, nested
from onnx_fp16fix.model import Model, infer_types, wrap_model
from onnx_fp16fix.model.infer import TensorType, light_copy

F32, BOOL = TensorProto.FLOAT, TensorProto.BOOL


def reshaped(sizes: np.ndarray) -> onnx.ModelProto:
    proto = parsed("g (float[n] x) => (float[] y) { h = Reshape(x, sizes)  y = Relu(h) }")
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    proto.graph.initializer.append(numpy_helper.from_array(sizes, "sizes"))
    return proto


def test_types_of_all_scopes() -> None:
    types = infer_types(wrap_model(nested()))
    assert types.get((), "h") == TensorType(F32, (2,))
    assert types.get((), "c") == TensorType(BOOL, ())
    assert types.get((), "w") == TensorType(F32, (2,))
    assert types.get(("1:then_branch:0",), "a") == TensorType(F32, (2,))
    assert types.get(("1:else_branch:0", "0:body:0"), "r").elem_type == F32
    assert types.get(("1:else_branch:0", "0:body:0"), "h") == TensorType()
    assert types.get((), "nowhere") == TensorType()
    assert types.get(("9:body:0",), "h") == TensorType()


def test_small_shape_constants_are_kept() -> None:
    types = infer_types(wrap_model(reshaped(np.array([2, 3, -1]))))
    assert types.get((), "h").shape[:2] == (2, 3)


def test_floats_that_sizes_depend_on_are_kept() -> None:
    proto = parsed("""g (float[1,3,4,4] x) => (float[1,3,8,8] y, float[7] z)
        <float[4] factors = {1, 1, 2, 2}, float zero = {0}, float end = {3.5}, float step = {0.5}>
        { y = Resize <mode = "nearest"> (x, , factors)  z = Range(zero, end, step) }""")
    for info in proto.graph.output:
        info.type.tensor_type.ClearField("shape")
    types = infer_types(wrap_model(proto))
    assert (types.get((), "y").shape, types.get((), "z").shape) == ((1, 3, 8, 8), (7,))


def test_symbolic_and_unknown_sizes() -> None:
    types = infer_types(wrap_model(parsed("g (float[n, ?, 3] x) => (float[a, b, c] y) { y = Relu(x) }")))
    assert types.get((), "x").shape in (("n", None, 3), ("n", "?", 3))


@pytest.mark.parametrize("elements", [1024, 1025])
def test_a_light_copy_keeps_small_weights_only(elements: int) -> None:
    proto = reshaped(np.ones(elements, np.int64))
    (tensor,) = light_copy(proto).graph.initializer
    assert tuple(tensor.dims) == (elements,)
    assert bool(tensor.raw_data) is (elements <= 1024)
    (tensor,) = light_copy(proto, keep=0).graph.initializer
    assert (tuple(tensor.dims), tensor.raw_data, tensor.data_location) == ((0,), b"", TensorProto.DEFAULT)


def test_a_light_copy_loses_nothing_else() -> None:
    before = furnished()
    before.DiscardUnknownFields()
    light = light_copy(before)
    assert light == before  # all of its weights are small


def test_a_broken_node_does_not_hide_the_declared_types() -> None:
    proto = parsed("g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { h = Add(x, w)  y = Relu(h) }")
    proto.graph.value_info.append(helper.make_tensor_value_info("h", F32, [2]))
    proto.graph.node[0].attribute.append(helper.make_attribute("axis", "nonsense"))
    proto.graph.node[0].op_type = "Concat"
    types = infer_types(Model(proto))
    assert types.get((), "h") == TensorType(F32, (2,))
    assert types.get((), "y") == TensorType(F32, (2,))


def test_what_nobody_knows_is_unknown() -> None:
    proto = parsed(
        "g (float[2] x) => (float[2] y) { h = nowhere.Op(x)  y = Relu(h) }", domains=', "nowhere" : 1'
    )
    assert infer_types(wrap_model(proto)).get((), "h") == TensorType()


def test_sequences_have_no_tensor_type() -> None:
    proto = parsed(
        "g (float[2] x, int64 i) => (float[2] y) { s = SequenceConstruct(x)  y = SequenceAt(s, i) }"
    )
    types = infer_types(wrap_model(proto))
    assert types.get((), "s") == TensorType()
    assert types.get((), "y") == TensorType(F32, (2,))


def test_weights_beyond_the_light_copy_still_have_a_type() -> None:
    proto = parsed("g (float[64,64] x) => (float[64,64] y) { y = MatMul(x, w) }")
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((64, 64), np.float32), "w"))
    assert infer_types(wrap_model(proto)).get((), "w") == TensorType(F32, (64, 64))


def test_types_are_inferred_once_per_model(monkeypatch: pytest.MonkeyPatch) -> None:
    proto = reshaped(np.array([2, 3, -1]))
    expected = infer_types(Model(proto))
    model = wrap_model(proto)
    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", None)
    assert infer_types(model) == expected
