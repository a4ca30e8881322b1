"""The nodes that stay in FP32, each with a name that engines can be given."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from onnx_fp16fix.graph import build_view
from onnx_fp16fix.model import Model, Names, Patch, apply_patches

__all__ = ["Layer", "named_layers"]

_UNSAFE = re.compile(r"[,:*\s\"'\\]")
"""What trtexec reads as a separator or a wildcard, and what a shell would split or unquote."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A node to keep in FP32; ``floats``: its output slots that hold floats."""

    name: str
    op: str
    floats: tuple[int, ...]


def named_layers(model: Model, nodes: Collection[int]) -> tuple[Model, tuple[Layer, ...]]:
    """The main-graph nodes as layers, and the model in which each has a name of its own that engines can read.

    Nodes that have such a name keep it; the others get one from their first output.
    """
    scope, names, patch = build_view(model).main, Names(model), Patch()
    used: dict[str, int] = {}
    for node in model.proto.graph.node:
        used[node.name] = used.get(node.name, 0) + 1
    layers = []
    for index in sorted(nodes):
        node = scope.nodes[index]
        if node.op == "Constant":
            continue
        name = node.name
        if not name or _UNSAFE.search(name) or used[name] > 1:
            name = names.fresh(_UNSAFE.sub("_", f"{node.outputs[0].name}/fp16fix/{node.op}"))
            copy = onnx.NodeProto()
            copy.CopyFrom(node.proto)
            copy.name = name
            patch.replaced[index] = copy
        floats = (
            slot for slot, tensor in enumerate(node.outputs) if scope.dtype(tensor.name) == TensorProto.FLOAT
        )
        layers.append(Layer(name, node.op, tuple(floats)))
    return (model if patch.is_empty() else apply_patches(model, [patch])), tuple(layers)
