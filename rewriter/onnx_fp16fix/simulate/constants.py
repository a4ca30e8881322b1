"""Constants as FP16 or BF16 holds them, written in FLOAT."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy.typing as npt
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from onnx_fp16fix.fp16 import to_float16
from onnx_fp16fix.runtime import Session, open_session

__all__ = ["HALVES", "constant_tensor", "rounded_tensor", "widened_attribute"]

HALVES = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})
"""Element types whose values the simulation carries in FLOAT."""

_TYPE_ATTRIBUTES = frozenset({"dtype", "to", "output_dtype", "softmax_precision", "stash_type"})
_MANY = 1 << 14  # elements from which on ONNX Runtime rounds faster than numpy, its call included

_VALUES = {
    "value_float": TensorProto.FLOAT,
    "value_floats": TensorProto.FLOAT,
    "value_int": TensorProto.INT64,
    "value_ints": TensorProto.INT64,
}


def rounded_tensor(tensor: TensorProto, half: int = TensorProto.FLOAT16) -> TensorProto:
    """A FLOAT tensor of the same name; FLOAT values are rounded to ``half``, those of a half type are what they are."""
    values: npt.NDArray[Any] = numpy_helper.to_array(tensor)
    if tensor.data_type not in HALVES and (values.size > _MANY or half != TensorProto.FLOAT16):
        values = _caster(half).run({"x": values})["y"]
    elif tensor.data_type not in HALVES:
        values = to_float16(values)
    return numpy_helper.from_array(values.astype("float32", copy=False), tensor.name)


@lru_cache(maxsize=2)
def _caster(half: int) -> Session:
    """Rounds a FLOAT tensor of any shape to ``half``: for FP16 what numpy does, ten times as fast."""
    graph = onnx.GraphProto(name="round")
    graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, None))
    graph.node.append(helper.make_node("Cast", ["x"], ["half"], to=half))
    graph.node.append(helper.make_node("Cast", ["half"], ["y"], to=TensorProto.FLOAT))
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return open_session(proto, outputs=["y"], arena=False)


def constant_tensor(node: onnx.NodeProto) -> TensorProto | None:
    """The value of a Constant node; None for strings and sparse tensors."""
    for attribute in node.attribute:
        if attribute.name == "value":
            tensor: TensorProto = attribute.t
            return tensor
        kind = _VALUES.get(attribute.name)
        if kind is not None:
            value = helper.get_attribute_value(attribute)
            several = attribute.name.endswith("s")
            return helper.make_tensor(
                "", kind, [len(value)] if several else [], value if several else [value]
            )
    return None


def widened_attribute(attribute: AttributeProto) -> AttributeProto:
    """The attribute with FLOAT where it says FLOAT16 or BFLOAT16, as a type or as a tensor."""
    is_type = attribute.type == AttributeProto.INT and attribute.name in _TYPE_ATTRIBUTES
    is_tensor = attribute.type == AttributeProto.TENSOR and attribute.t.data_type in HALVES
    if not (is_type and attribute.i in HALVES) and not is_tensor:
        return attribute
    widened = AttributeProto()
    widened.CopyFrom(attribute)
    if is_tensor:
        widened.t.CopyFrom(rounded_tensor(attribute.t))
    else:
        widened.i = TensorProto.FLOAT
    return widened
