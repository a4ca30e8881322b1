"""The nodes that stay in FP32, each with a name that engines can be given."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from onnx_fp16fix.graph import ScopeView, ViewNode, build_view
from onnx_fp16fix.model import Model, Names, Patch, ScopePath, apply_patches

__all__ = ["Layer", "named_layers"]

_UNSAFE = re.compile(r"[,:*\s\"'\\]")
"""What trtexec reads as a separator or a wildcard, and what a shell would split or unquote."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A node to keep in FP32; ``floats``: its output slots that hold floats."""

    name: str
    op: str
    floats: tuple[int, ...]


def named_layers(
    model: Model, nodes: Collection[int], bodies: Mapping[ScopePath, Collection[int]] | None = None
) -> tuple[Model, tuple[Layer, ...]]:
    """These nodes of the main graph and of ``bodies`` as layers, and the model in which each has a name of its own that
    engines can read.

    Nodes that have such a name keep it; the others get one from their first output. An If, Loop or Scan is no layer:
    engines take it apart, and what is inside it is named instead.
    """
    main, names = build_view(model).main, Names(model)
    used = Counter(node.name for scope in model.scopes() for node in scope.graph.node)
    layers: list[Layer] = []
    patches = []
    for scope in (main, *main.inside()):
        patch = Patch(scope.path)
        for index in sorted(nodes if scope is main else (bodies or {}).get(scope.path, ())):
            node = scope.nodes[index]
            if node.op == "Constant" or index in scope.bodies:
                continue
            name = node.name
            if not name or _UNSAFE.search(name) or used[name] > 1:
                name = names.fresh(_UNSAFE.sub("_", f"{node.outputs[0].name}/fp16fix/{node.op}"))
                copy = onnx.NodeProto()
                copy.CopyFrom(node.proto)
                copy.name = name
                patch.replaced[index] = copy
            layers.append(Layer(name, node.op, tuple(_floats(scope, node))))
        patches.append(patch)
    changed = [patch for patch in patches if not patch.is_empty()]
    return (apply_patches(model, changed) if changed else model), tuple(layers)


def _floats(scope: ScopeView, node: ViewNode) -> Iterator[int]:
    return (slot for slot, made in enumerate(node.outputs) if scope.dtype(made.name) == TensorProto.FLOAT)
