"""Equal constants of the typed model, stored once."""

from __future__ import annotations

import math

import onnx

from onnx_fp16fix.model import Model, Patch, apply_patches
from onnx_fp16fix.model.digest import raw_digest
from onnx_fp16fix.model.model import subgraphs
from onnx_fp16fix.model.tensors import is_external

__all__ = ["share_constants"]

_SMALL = 1 << 10
"""Elements; of larger constants a digest is compared instead of the bytes."""


def share_constants(model: Model) -> Model:
    """The model in which initializers of one type, shape and content are one; the first of them keeps its name.

    Those that a caller may set (graph inputs), that leave the graph, or that bodies read stay as they are, and so do
    weights in other files.
    """
    promised = _promised(model.proto.graph)
    kept: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renamed: dict[str, str] = {}
    for tensor in model.proto.graph.initializer:
        name, external = tensor.name, is_external(tensor)
        if name in promised or (not model.is_inside(tensor) if external else not tensor.HasField("raw_data")):
            continue
        dims = tuple(tensor.dims)
        large = external or math.prod(dims) > _SMALL
        content = raw_digest(tensor, model.base_dir) if large else tensor.raw_data
        if (first := kept.setdefault((tensor.data_type, dims, content), name)) != name:
            renamed[name] = first
    if not renamed:
        return model
    patch = Patch(dropped_initializers=set(renamed))
    for index, node in enumerate(model.proto.graph.node):
        if not renamed.keys().isdisjoint(node.input):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.input[:] = [renamed.get(name, name) for name in node.input]
            patch.replaced[index] = copy
    patch.value_info = {info.name: None for info in model.proto.graph.value_info if info.name in renamed}
    return apply_patches(model, [patch])


def _promised(graph: onnx.GraphProto) -> set[str]:
    """Names that belong to others too: of inputs, outputs, and whatever bodies read."""
    inside = (body for node in graph.node for _, body in subgraphs(node))
    return {info.name for info in (*graph.input, *graph.output)}.union(*map(_read_in, inside))


def _read_in(body: onnx.GraphProto) -> set[str]:
    names = {name for node in body.node for name in node.input} | {info.name for info in body.output}
    inside = (inner for node in body.node for _, inner in subgraphs(node))
    return names.union(*map(_read_in, inside))
