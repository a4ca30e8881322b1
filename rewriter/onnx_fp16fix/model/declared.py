"""Types that graphs declare for what their nodes make, compared with what they do make.

ONNX's checker believes a declaration and ONNX Runtime refuses a wrong one; a part of the graph that is run without its
declarations would seem to be in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx
from onnx import TensorProto

from onnx_fp16fix.errors import Problem
from onnx_fp16fix.model.infer import light_copy
from onnx_fp16fix.model.model import GraphLike, Model, ScopePath

__all__ = ["wrong_types"]


def wrong_types(model: Model, place: str | None) -> Iterator[Problem]:
    """A problem (MODEL-INVALID) for each computed tensor whose declared element type its node cannot make."""
    scopes = [scope for scope in model.scopes() if isinstance(scope.graph, onnx.GraphProto)]
    declared = [_types(scope.graph) for scope in scopes]
    made = _inferred(model.proto) if any(any(types.values()) for types in declared) else {}
    # Inner scopes first: what a body gets wrong its node gets wrong too.
    for scope, types in reversed(list(zip(scopes, declared, strict=True))):
        found = made.get(scope.path, {})
        wrong = {name for name, kind in types.items() if kind and found.get(name, kind) not in (kind, 0)}
        for node in scope.graph.node if wrong else ():
            for name in wrong.intersection(node.output):
                names = TensorProto.DataType.Name(types[name]), TensorProto.DataType.Name(found[name])
                yield Problem(
                    "MODEL-INVALID",
                    f"'{name}' is declared as {names[0]}, but {node.op_type} makes {names[1]}",
                    file=place,
                    node=node.name or None,
                    tensor=name,
                    hint="no runtime loads it: correct the declared type, or add a Cast",
                )


def _types(graph: GraphLike) -> dict[str, int]:
    """Element types of inner and returned tensors; nothing else has a declaration to be wrong."""
    if not isinstance(graph, onnx.GraphProto):
        return {}
    return {info.name: info.type.tensor_type.elem_type for info in (*graph.value_info, *graph.output)}


def _inferred(proto: onnx.ModelProto) -> Mapping[ScopePath, dict[str, int]]:
    """Element types by inference from the inputs alone, 0 where it cannot tell."""
    light = light_copy(proto)
    for scope in Model(light).scopes():
        del scope.graph.value_info[:]
        for info in scope.graph.output if isinstance(scope.graph, onnx.GraphProto) else ():
            info.ClearField("type")
    try:
        inferred = onnx.shape_inference.infer_shapes(light)
    except Exception:  # inference of custom or broken nodes raises many kinds; running the model will tell
        return {}
    return {scope.path: _types(scope.graph) for scope in Model(inferred).scopes()}
