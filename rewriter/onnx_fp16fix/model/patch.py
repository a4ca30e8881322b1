"""Changing a model: what to remove, replace and add in each scope, applied in one linear pass per scope."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from onnx_fp16fix.model.frame import check_frame, is_inside
from onnx_fp16fix.model.model import GraphLike, Model, ScopePath

__all__ = ["FREE_INITIALIZERS", "Patch", "apply_patches"]

FREE_INITIALIZERS = 4
"""First IR version in which an initializer need not be a graph input."""


@dataclass(slots=True)
class Patch:
    """Edits of one scope; node indices are positions in the scope before any edit.

    ``inserted[i]`` go before node ``i`` (the number of nodes = at the end). ``rewired`` gives a node other input and
    output names and leaves the rest of it, so that its bodies may be edited too. ``value_info`` replaces or adds an
    entry, or drops it where the value is None. ``border`` replaces graph inputs and outputs by name.
    """

    scope: ScopePath = ()
    removed: set[int] = field(default_factory=set)
    inserted: dict[int, list[onnx.NodeProto]] = field(default_factory=dict)
    replaced: dict[int, onnx.NodeProto] = field(default_factory=dict)
    rewired: dict[int, tuple[list[str], list[str]]] = field(default_factory=dict)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    replaced_initializers: dict[str, onnx.TensorProto] = field(default_factory=dict)
    dropped_initializers: set[str] = field(default_factory=set)
    value_info: dict[str, onnx.ValueInfoProto | None] = field(default_factory=dict)
    border: dict[str, onnx.ValueInfoProto] = field(default_factory=dict)

    def insert(self, index: int, node: onnx.NodeProto) -> None:
        """Add ``node`` after what is already inserted before node ``index``."""
        self.inserted.setdefault(index, []).append(node)

    def is_empty(self) -> bool:
        """Whether it changes nothing."""
        parts = (self.removed, self.inserted, self.replaced, self.rewired, self.initializers)
        return not any(
            (*parts, self.replaced_initializers, self.dropped_initializers, self.value_info, self.border)
        )

    def merge(self, other: Patch) -> None:
        """Take over the edits of another patch of the same scope that touches other nodes."""
        self.removed |= other.removed
        self.replaced |= other.replaced
        self.rewired |= other.rewired
        for index, nodes in other.inserted.items():
            self.inserted.setdefault(index, []).extend(nodes)
        self.initializers += other.initializers
        self.replaced_initializers |= other.replaced_initializers
        self.dropped_initializers |= other.dropped_initializers
        self.value_info |= other.value_info
        self.border |= other.border


def apply_patches(model: Model, patches: Iterable[Patch]) -> Model:
    """A new model with the edits; the old one is left as it is.

    Raises AssertionError when anything that no patch names has changed: that would be a bug of ours.
    """
    by_scope: dict[ScopePath, Patch] = {}
    for patch in patches:
        if patch.scope in by_scope:
            by_scope[patch.scope].merge(patch)
        elif not patch.is_empty():
            by_scope[patch.scope] = Patch(patch.scope)
            by_scope[patch.scope].merge(patch)
    if not by_scope:
        return model
    if model.proto.ir_version < FREE_INITIALIZERS:
        for patch in by_scope.values():
            _as_constants(patch)
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    # innermost first: the path of a body counts the nodes of its parent before the parent is edited
    for path in sorted(by_scope, key=len, reverse=True):
        _rebuild(_find(proto, path), _find(model.proto, path), by_scope[path], _edited_inside(path, by_scope))
    check_frame(model.proto, proto, by_scope)
    return model.with_proto(proto)


def _as_constants(patch: Patch) -> None:
    """Before IR version 4 every initializer was a graph input as well; new ones become Constant nodes instead."""
    nodes = [
        onnx.helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in patch.initializers
    ]
    if nodes:
        patch.inserted[0] = [*nodes, *patch.inserted.get(0, ())]
        patch.initializers = []


def _find(proto: onnx.ModelProto, path: ScopePath) -> GraphLike:
    graph: GraphLike = proto.graph
    rest: Sequence[str] = path
    if path and path[0].startswith("function:"):
        graph = proto.functions[int(path[0].removeprefix("function:"))]
        rest = path[1:]
    for element in rest:
        index, attribute_name, position = element.split(":")
        node = graph.node[int(index)]
        attribute = next(entry for entry in node.attribute if entry.name == attribute_name)
        graph = (
            attribute.g if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs[int(position)]
        )
    return graph


def _edited_inside(path: ScopePath, patches: Iterable[ScopePath]) -> set[int]:
    """Nodes of a scope in whose bodies something is edited."""
    return {int(other[len(path)].split(":")[0]) for other in patches if is_inside(other, path)}


def _rebuild(graph: GraphLike, before: GraphLike, patch: Patch, edited_inside: Collection[int]) -> None:
    """``before`` is the graph in the old model, which still holds what is kept while this one is cleared."""
    nodes = list(before.node)
    for index in {*edited_inside, *patch.rewired}:
        nodes[index] = _copy(graph.node[index])
    for index, (inputs, outputs) in patch.rewired.items():
        nodes[index].input[:], nodes[index].output[:] = inputs, outputs
    for index, node in patch.replaced.items():
        nodes[index] = node
    del graph.node[:]
    graph.node.extend(_edited(nodes, patch.removed, patch.inserted))
    if isinstance(graph, onnx.GraphProto):
        _rebuild_initializers(graph, patch)
        for info in (*graph.input, *graph.output):
            if info.name in patch.border:
                info.CopyFrom(patch.border[info.name])
    _rebuild_value_info(graph, patch)


def _edited(
    nodes: Sequence[onnx.NodeProto],
    removed: Collection[int],
    inserted: Mapping[int, Sequence[onnx.NodeProto]],
) -> list[onnx.NodeProto]:
    """The nodes without those removed, and with what is inserted before an index (the end: their number)."""
    found: list[onnx.NodeProto] = []
    start = 0
    for index in sorted({*removed, *inserted}):
        found += nodes[start:index]
        found += inserted.get(index, ())
        start = index + (index in removed)
    return [*found, *nodes[start:]]


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _rebuild_initializers(graph: onnx.GraphProto, patch: Patch) -> None:
    for tensor in graph.initializer:
        if tensor.name in patch.replaced_initializers:
            tensor.CopyFrom(patch.replaced_initializers[tensor.name])
    if patch.dropped_initializers:
        for index in reversed(range(len(graph.initializer))):
            if graph.initializer[index].name in patch.dropped_initializers:
                del graph.initializer[index]
    graph.initializer.extend(patch.initializers)


def _rebuild_value_info(graph: GraphLike, patch: Patch) -> None:
    if not patch.value_info:
        return
    seen = set()
    for index in reversed(range(len(graph.value_info))):
        name = graph.value_info[index].name
        if name in patch.value_info:
            seen.add(name)
            if (info := patch.value_info[name]) is None:
                del graph.value_info[index]
            else:
                graph.value_info[index].CopyFrom(info)
    added = (info for name, info in patch.value_info.items() if name not in seen and info is not None)
    graph.value_info.extend(added)
