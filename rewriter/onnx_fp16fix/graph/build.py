"""The view of a model, built in one pass per scope."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import onnx
import onnx_graphsurgeon as gs

from onnx_fp16fix.graph.nodes import ConstantTensor, VariableTensor, ViewNode
from onnx_fp16fix.graph.view import GraphView, ScopeView
from onnx_fp16fix.model import Model, Scope, ScopePath, TypeTable, infer_types
from onnx_fp16fix.model.model import may_hold_bodies, subgraphs

__all__ = ["build_view"]


def build_view(model: Model, types: TypeTable | None = None) -> GraphView:
    """View of a model; ``types`` may be given when they are inferred already. Linear in nodes."""
    types = infer_types(model) if types is None else types
    scopes: dict[ScopePath, ScopeView] = {}
    for scope in model.scopes():
        parent = scopes[scope.parent.path] if scope.parent is not None else None
        view = scopes[scope.path] = _build_scope(scope, model, types, parent)
        if parent is not None:
            index, element = scope.path[-1].split(":", 1)
            parent.bodies.setdefault(int(index), {})[element] = view
    return GraphView(model, types, scopes)


def _build_scope(scope: Scope, model: Model, types: TypeTable, parent: ScopeView | None) -> ScopeView:
    graph = scope.graph
    view = ScopeView(scope.path, model, types, parent, graph)
    if isinstance(graph, onnx.GraphProto):
        view.inputs = tuple(info.name for info in graph.input)
        view.outputs = tuple(info.name for info in graph.output)
        overridable = set(view.inputs)
        for tensor in graph.initializer:
            if (name := tensor.name) not in overridable:
                view.tensors[name] = ConstantTensor(name, tensor, view)
        for sparse in graph.sparse_initializer:
            view.tensors[sparse.values.name] = VariableTensor(sparse.values.name, view)
    else:
        view.inputs, view.outputs = tuple(graph.input), tuple(graph.output)
    for name in view.inputs:
        view.tensors[name] = VariableTensor(name, view)
    # names made here hide outer ones even before their node is reached (bodies may not shadow, but files lie)
    nodes = [(node, node.output[:]) for node in graph.node]
    for _, results in nodes:
        for name in results:
            if name and name not in view.tensors:
                view.tensors[name] = VariableTensor(name, view)
    _add_nodes(view, nodes)
    for name in view.outputs:
        _use_outside(view, name)
    return view


def _add_nodes(view: ScopeView, nodes: Iterable[tuple[onnx.NodeProto, Sequence[str]]]) -> None:
    own, producers, path = view.tensors, view._producers, view.path
    for index, (proto, results) in enumerate(nodes):
        inputs = [own.get(name) or _resolve(view, name) for name in proto.input[:]]
        outputs = [own[name] if name else VariableTensor() for name in results]
        node = ViewNode(proto, path, index, inputs, outputs)
        view.nodes.append(node)
        for tensor in outputs:
            if tensor.name:
                producers[id(tensor)] = node
        if may_hold_bodies(node.domain, node.op):
            for _, body in subgraphs(proto):
                for name in _free_names(body):
                    _use_outside(view, name)


def _resolve(view: ScopeView, name: str) -> gs.Tensor:
    """The tensor of an outer scope, one that is absent, or one that nobody makes."""
    if not name:
        return VariableTensor()
    tensor = view.tensor(name)
    if tensor is None:  # an undefined name in a function or a broken graph
        tensor = view.tensors[name] = VariableTensor(name, view)
    return tensor


def _use_outside(view: ScopeView, name: str) -> None:
    tensor = view.tensor(name)
    if tensor is not None:
        view._outside[id(tensor)] = view._outside.get(id(tensor), 0) + 1


def _free_names(graph: onnx.GraphProto) -> Iterator[str]:
    """Names a body reads from outside, once per use; bodies inside it included."""
    own = {tensor.name for tensor in graph.initializer} | {info.name for info in graph.input}
    own.update(name for node in graph.node for name in node.output)
    for node in graph.node:
        for name in node.input:
            if name and name not in own:
                yield name
        for _, body in subgraphs(node):
            yield from (name for name in _free_names(body) if name not in own)
    yield from (info.name for info in graph.output if info.name not in own)
