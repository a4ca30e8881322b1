"""graphsurgeon objects over the proto.

graphsurgeon's own importer is quadratic in If nodes, copies outer tensors into bodies and decodes every weight; its
exporter loses parts of the model. So the view is built here, one pass per scope, with the classes users of
graphsurgeon know (``gs.Node``, ``gs.Variable``, ``gs.Constant``), and it is read-only: edits are ``model.Patch``es.

Tensors are told apart by identity. graphsurgeon's ``==`` compares names, which mixes up absent inputs and equal names
in sibling bodies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper, numpy_helper

from onnx_fp16fix.model import Model, Scope, ScopePath, TypeTable, infer_types
from onnx_fp16fix.model.infer import Dim, TensorType
from onnx_fp16fix.model.model import GraphLike, subgraphs
from onnx_fp16fix.model.tensors import read_tensor

__all__ = ["ConstantTensor", "GraphView", "ScopeView", "ViewNode", "build_view"]

_FOLD_LIMIT = 1 << 20
"""ConstantOfShape with more elements is not folded: it would cost memory and tell nothing more."""


class ConstantTensor(gs.Constant):  # type: ignore[misc]
    """A constant whose values are decoded on each access and never cached; large ones are mapped from disk."""

    def __init__(self, name: str, proto: TensorProto, model: Model) -> None:
        self.name = name
        self.inputs = gs.util.misc.SynchronizedList(self, field_name="outputs", initial=[])
        self.outputs = gs.util.misc.SynchronizedList(self, field_name="inputs", initial=[])
        self.data_location = None
        self._export_dtype = None
        self.proto = proto
        self._model = model

    @property
    def values(self) -> npt.NDArray[Any]:
        """Values, read from where they are stored."""
        return read_tensor(self.proto, self._model.base_dir)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape without reading the values."""
        return tuple(self.proto.dims)

    @property
    def dtype(self) -> np.dtype[Any]:
        """numpy type without reading the values."""
        return helper.tensor_dtype_to_np_dtype(self.proto.data_type)


class ViewNode(gs.Node):  # type: ignore[misc]
    """A ``gs.Node`` that knows its place (scope and index there) and its proto; attributes are decoded when read."""

    def __init__(
        self,
        proto: onnx.NodeProto,
        scope: ScopePath,
        index: int,
        inputs: list[gs.Tensor],
        outputs: list[gs.Tensor],
    ) -> None:
        self.proto = proto
        self.scope = scope
        self.index = index
        self.op = proto.op_type
        self.name = proto.name
        self.domain = "" if proto.domain == "ai.onnx" else proto.domain
        self.inputs = gs.util.misc.SynchronizedList(self, field_name="outputs", initial=inputs)
        self.outputs = gs.util.misc.SynchronizedList(self, field_name="inputs", initial=outputs)

    @cached_property
    def attrs(self) -> dict[str, Any]:
        """Attribute values by name; bodies stay GraphProtos, references to function attributes AttributeProtos."""
        return {
            attribute.name: attribute if attribute.ref_attr_name else helper.get_attribute_value(attribute)
            for attribute in self.proto.attribute
        }

    @property
    def label(self) -> str:
        """How reports call the node: its name, or its first output's where it has none."""
        return str(self.name or self.outputs[0].name)

    def output_slot(self, tensor: gs.Tensor) -> int:
        """The output slot that makes the tensor, which must be one of the node's."""
        return next(slot for slot, made in enumerate(self.outputs) if made is tensor)

    def input(self, slot: int) -> gs.Tensor | None:
        """The tensor at an input slot, or None where it is absent."""
        if slot >= len(self.inputs) or self.inputs[slot].is_empty():
            return None
        return self.inputs[slot]


@dataclass(eq=False)
class ScopeView:
    """One scope: its nodes in file order and who makes and reads each tensor."""

    path: ScopePath
    model: Model
    types: TypeTable
    parent: ScopeView | None
    graph: GraphLike
    nodes: list[ViewNode] = field(default_factory=list)
    tensors: dict[str, gs.Tensor] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    bodies: dict[int, dict[str, ScopeView]] = field(default_factory=dict)
    """Scopes of bodies by node index and path element."""
    _producers: dict[int, ViewNode] = field(default_factory=dict)
    _consumers: dict[int, list[tuple[ViewNode, int]]] = field(default_factory=dict)
    _outside: dict[int, int] = field(default_factory=dict)

    def owner(self, name: str) -> ScopeView | None:
        """The scope, this or an outer one, whose tensor the name means here."""
        scope: ScopeView | None = self
        while scope is not None and name not in scope.tensors:
            scope = scope.parent
        return scope

    def tensor(self, name: str) -> gs.Tensor | None:
        """The tensor of this name as this scope sees it, outer scopes included."""
        scope = self.owner(name)
        return None if scope is None else scope.tensors[name]

    def inside(self) -> Iterator[ScopeView]:
        """All scopes of bodies in this one, at any depth; parents first."""
        for bodies in self.bodies.values():
            for body in bodies.values():
                yield body
                yield from body.inside()

    def producer(self, tensor: gs.Tensor) -> ViewNode | None:
        """The node of this scope that makes the tensor."""
        return self._producers.get(id(tensor))

    def consumers(self, tensor: gs.Tensor) -> list[tuple[ViewNode, int]]:
        """Nodes of this scope that read the tensor, with the input slot, in node order."""
        return self._consumers.get(id(tensor), [])

    def outside_uses(self, tensor: gs.Tensor) -> int:
        """Uses that are no node of this scope: scope outputs and nodes inside bodies."""
        return self._outside.get(id(tensor), 0)

    def dtype(self, name: str) -> int:
        """``TensorProto.DataType`` of a tensor, 0 if unknown."""
        return self._type(name).elem_type

    def shape(self, name: str) -> tuple[Dim, ...] | None:
        """Inferred shape, None if the rank is unknown."""
        return self._type(name).shape

    def _type(self, name: str) -> TensorType:
        scope = self.owner(name)
        return TensorType() if scope is None else self.types.get(scope.path, name)

    def constant(self, tensor: gs.Tensor) -> npt.NDArray[Any] | None:
        """Values of an initializer that no input overrides, a Constant or a ConstantOfShape node; else None."""
        if isinstance(tensor, ConstantTensor):
            return tensor.values
        scope: ScopeView | None = self
        while scope is not None:
            node = scope.producer(tensor)
            if node is not None:
                return scope._fold(node)
            scope = scope.parent
        return None

    def is_exit_cast(self, node: ViewNode) -> bool:
        """Whether the node casts a value of another float type to a FLOAT that only leaves the scope: the border
        that an earlier conversion drew, to be left as it is."""
        if node.op != "Cast" or node.domain or not node.inputs or not node.outputs:
            return False
        low = self.dtype(node.inputs[0].name) in (TensorProto.FLOAT16, TensorProto.BFLOAT16)
        return low and not self.consumers(node.outputs[0]) and self.outside_uses(node.outputs[0]) > 0

    def is_constant(self, tensor: gs.Tensor) -> bool:
        """Whether ``constant`` would give values, without reading large ones."""
        return isinstance(tensor, ConstantTensor) or self.constant(tensor) is not None

    def _fold(self, node: ViewNode) -> npt.NDArray[Any] | None:
        if node.domain:
            return None
        if node.op == "Constant":
            return _constant_node(node)
        if node.op == "Identity":  # PyTorch's exporter writes one for each further user of equal weights
            return self.constant(node.inputs[0])
        if node.op == "ConstantOfShape":
            shape = self.constant(node.inputs[0])
            if shape is None or np.prod(shape, dtype=np.float64) > _FOLD_LIMIT:
                return None
            value = node.attrs.get("value")
            filler = numpy_helper.to_array(value) if value is not None else np.zeros(1, np.float32)
            return np.full(tuple(int(size) for size in shape), filler.reshape(-1)[0], filler.dtype)
        return None


def _constant_node(node: ViewNode) -> npt.NDArray[Any] | None:
    for name, value in node.attrs.items():
        if name == "value" and isinstance(value, TensorProto):
            if value.data_location == TensorProto.EXTERNAL:
                return None
            return numpy_helper.to_array(value)
        if name in ("value_float", "value_floats"):
            return np.asarray(value, np.float32)
        if name in ("value_int", "value_ints"):
            return np.asarray(value, np.int64)
    return None


@dataclass(eq=False)
class GraphView:
    """All scopes of a model."""

    model: Model
    types: TypeTable
    scopes: Mapping[ScopePath, ScopeView]

    @property
    def main(self) -> ScopeView:
        """The main graph."""
        return self.scopes[()]

    def __iter__(self) -> Iterator[ScopeView]:
        return iter(self.scopes.values())


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
            if tensor.name not in overridable:
                view.tensors[tensor.name] = ConstantTensor(tensor.name, tensor, model)
        for sparse in graph.sparse_initializer:
            view.tensors[sparse.values.name] = gs.Variable(sparse.values.name)
    else:
        view.inputs, view.outputs = tuple(graph.input), tuple(graph.output)
    for name in view.inputs:
        view.tensors[name] = gs.Variable(name)
    # names made here hide outer ones even before their node is reached (bodies may not shadow, but files lie)
    for node in graph.node:
        for name in node.output:
            if name and name not in view.tensors:
                view.tensors[name] = gs.Variable(name)
    for index, node in enumerate(graph.node):
        _add_node(view, node, index)
    for name in view.outputs:
        _use_outside(view, name)
    return view


def _add_node(view: ScopeView, proto: onnx.NodeProto, index: int) -> None:
    inputs = [_resolve(view, name) for name in proto.input]
    outputs = [view.tensors[name] if name else gs.Variable.empty() for name in proto.output]
    node = ViewNode(proto, view.path, index, inputs, outputs)
    view.nodes.append(node)
    for slot, tensor in enumerate(inputs):
        if not tensor.is_empty():
            view._consumers.setdefault(id(tensor), []).append((node, slot))
    for tensor in outputs:
        if not tensor.is_empty():
            view._producers[id(tensor)] = node
    if proto.attribute:
        for _, body in subgraphs(proto):
            for name in _free_names(body):
                _use_outside(view, name)


def _resolve(view: ScopeView, name: str) -> gs.Tensor:
    if not name:
        return gs.Variable.empty()
    tensor = view.tensor(name)
    if tensor is None:  # an undefined name in a function or a broken graph: a tensor nobody makes
        tensor = view.tensors[name] = gs.Variable(name)
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
