"""``convert`` with everything that must hold of every result checked on the way."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from onnx_fp16fix.emit import Converted, convert
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.half import FP16, FloatType
from onnx_fp16fix.model import infer_types, wrap_model
from onnx_fp16fix.runtime import open_session

__all__ = ["converted", "initializers", "nodes_of", "types_of"]

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


def converted(
    proto: onnx.ModelProto,
    fp32: Collection[int] = (),
    io: Literal["fp32", "fp16", "bf16"] = "fp32",
    *,
    half: FloatType = FP16,
    load: bool = True,
    known: bool = True,
) -> Converted:
    """The typed model: valid with inferred types, loads, and promises outside what it did.

    ``known``: whether ONNX has the ops; its checker refuses what ONNX Runtime takes in the default domain besides.
    """
    before = proto.SerializeToString()
    made = convert(build_view(wrap_model(proto)).main, fp32, half=half, half_io=io != "fp32")
    after = made.model.proto
    assert proto.SerializeToString() == before, "the model given was changed"
    if known:
        onnx.checker.check_model(after, full_check=True)
    if load:
        open_session(after)
        open_session(after, optimize=True)
    _assert_same_promise(proto, after, io)
    added = len([n for n in after.graph.node if n.op_type == "Cast" and "/fp16fix/Cast" in n.name])
    assert made.casts == added
    assert len(after.graph.node) == len(proto.graph.node) + added
    return made


def _assert_same_promise(before: onnx.ModelProto, after: onnx.ModelProto, io: str) -> None:
    assert (after.opset_import, after.ir_version) == (before.opset_import, before.ir_version)
    assert after.metadata_props == before.metadata_props
    assert after.doc_string == before.doc_string
    for old, new in ((before.graph.input, after.graph.input), (before.graph.output, after.graph.output)):
        assert [info.name for info in new] == [info.name for info in old]
        for was, info in zip(old, new, strict=True):
            if io == "fp32":
                assert info == was
            elif was.type.tensor_type.elem_type == FLOAT:
                assert info.type.tensor_type.shape == was.type.tensor_type.shape
                assert info.doc_string == was.doc_string


def nodes_of(proto: onnx.ModelProto) -> list[str]:
    """Op types in order; Casts with their target."""
    names = {HALF: "float16", FLOAT: "float32"}
    return [
        f"Cast({names.get(node.attribute[0].i, node.attribute[0].i)})"
        if node.op_type == "Cast"
        else node.op_type
        for node in proto.graph.node
    ]


def types_of(proto: onnx.ModelProto) -> Mapping[str, int]:
    """Element types of all tensors of the main graph, inferred afresh."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    del bare.graph.value_info[:]
    return {name: entry.elem_type for name, entry in infer_types(wrap_model(bare)).scopes[()].items()}


def initializers(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Values of initializers by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
