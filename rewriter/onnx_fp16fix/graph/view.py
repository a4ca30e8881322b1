"""What is known of each scope: its nodes and tensors, who makes and reads them, their types and constant values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs
from onnx import TensorProto, numpy_helper

from onnx_fp16fix.graph.nodes import ConstantTensor, ViewNode
from onnx_fp16fix.model import Model, Names, ScopePath, TypeTable
from onnx_fp16fix.model.infer import Dim, TensorType
from onnx_fp16fix.model.model import GraphLike

__all__ = ["GraphView", "ScopeView"]

_FOLD_LIMIT = 1 << 20
"""ConstantOfShape with more elements is not folded: it would cost memory and tell nothing more."""
_FOLDED = frozenset({"Constant", "ConstantOfShape", "Identity"})
"""Ops whose results may be constants."""


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

    def names(self) -> Iterable[str]:
        """Names of nodes, and of the tensors that they read and make (outer ones aside)."""
        return chain(self.tensors, [node.name for node in self.nodes])

    def fresh_names(self) -> Names:
        """Names that are new to the whole model; for a main graph."""
        return Names(self.model, {scope.path: scope.names() for scope in (self, *self.inside())})

    def producer(self, tensor: gs.Tensor) -> ViewNode | None:
        """The node of this scope that makes the tensor."""
        return self._producers.get(id(tensor))

    def consumers(self, tensor: gs.Tensor) -> list[tuple[ViewNode, int]]:
        """Nodes of this scope that read the tensor, with the input slot, in node order."""
        return self._consumers.get(id(tensor), [])

    @cached_property
    def _consumers(self) -> dict[int, list[tuple[ViewNode, int]]]:
        found: dict[int, list[tuple[ViewNode, int]]] = {}
        for node in self.nodes:
            for slot, tensor in enumerate(node.inputs):
                if not tensor.name:
                    continue
                if (readers := found.get(id(tensor))) is None:
                    found[id(tensor)] = [(node, slot)]
                else:
                    readers.append((node, slot))
        return found

    def outside_uses(self, tensor: gs.Tensor) -> int:
        """Uses that are no node of this scope: scope outputs and nodes inside bodies."""
        return self._outside.get(id(tensor), 0)

    def dtype(self, name: str) -> int:
        """``TensorProto.DataType`` of a tensor, 0 if unknown."""
        known = self._types.get(name) if name in self.tensors else self._type(name)
        return known.elem_type if known is not None else 0

    def shape(self, name: str) -> tuple[Dim, ...] | None:
        """Inferred shape, None if the rank is unknown."""
        return self._type(name).shape

    def _type(self, name: str) -> TensorType:
        scope = self.owner(name)
        return TensorType() if scope is None else self.types.get(scope.path, name)

    def dtypes(self) -> dict[int, int]:
        """``dtype`` of the scope's own tensors, by identity."""
        types = self._types
        return {
            id(tensor): known.elem_type if (known := types.get(name)) is not None else 0
            for name, tensor in self.tensors.items()
        }

    @cached_property
    def _types(self) -> Mapping[str, TensorType]:
        """Of the scope's own tensors."""
        return self.types.scopes.get(self.path, {})

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

    @cached_property
    def unread(self) -> frozenset[int]:
        """Nodes whose results reach neither an output nor a node with bodies; Constant nodes aside."""
        makers = self._producers
        read = {node.index for node in self.nodes if node.index in self.bodies or node.op == "Constant"}
        read |= {makers[key].index for key in self._outside if key in makers}
        stack = list(read)
        while stack:
            for tensor in self.nodes[stack.pop()].inputs:
                maker = makers.get(id(tensor))
                if maker is not None and maker.index not in read:
                    read.add(maker.index)
                    stack.append(maker.index)
        return frozenset(range(len(self.nodes))) - read

    def is_exit_cast(self, node: ViewNode) -> bool:
        """Whether the node casts a value of another float type to a FLOAT that only leaves the scope: the border
        that an earlier conversion drew, to be left as it is."""
        if node.op != "Cast" or node.domain or not node.inputs or not node.outputs:
            return False
        low = self.dtype(node.inputs[0].name) in (TensorProto.FLOAT16, TensorProto.BFLOAT16)
        return low and not self.consumers(node.outputs[0]) and self.outside_uses(node.outputs[0]) > 0

    def is_constant(self, tensor: gs.Tensor) -> bool:
        """Whether ``constant`` would give values, without reading large ones."""
        if isinstance(tensor, ConstantTensor):
            return True
        maker = self._producers.get(id(tensor))
        return (maker is None or maker.op in _FOLDED) and self.constant(tensor) is not None

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
