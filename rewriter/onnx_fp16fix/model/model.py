"""A loaded model and its scopes: the main graph, subgraph bodies, local functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import onnx

from onnx_fp16fix.model.spool import Spool
from onnx_fp16fix.model.tensors import OWN_FILES, nbytes

if TYPE_CHECKING:
    from onnx_fp16fix.model.infer import TypeTable

__all__ = ["GraphLike", "Model", "Scope", "ScopePath", "subgraphs"]

ScopePath = tuple[str, ...]
"""``()`` is the main graph; a body adds ``"<node index>:<attribute>:<position>"``; function number i starts with
``"function:<i>"``."""

GraphLike = onnx.GraphProto | onnx.FunctionProto

Ops = frozenset[tuple[str, str]]
"""Domains and types of nodes."""


@dataclass(frozen=True, slots=True)
class Scope:
    """One list of nodes with its own names; inner scopes see the names of ``parent``."""

    path: ScopePath
    graph: GraphLike
    parent: Scope | None


@dataclass(frozen=True)
class Model:
    """A model as read.

    ``base_dir`` is where external data live; ``path`` is None for a model that came as a ModelProto.
    ``pristine`` is true while the proto is what the file at ``path`` holds, byte for byte.
    """

    proto: onnx.ModelProto
    base_dir: Path | None = None
    path: Path | None = None
    pristine: bool = field(default=False, compare=False)
    spools: tuple[Spool, ...] = field(default=(), compare=False, repr=False)
    """Where weights are that were made and not saved yet."""
    types: TypeTable | None = field(default=None, compare=False, repr=False)
    """Types of its tensors where they were inferred already; ``infer_types`` gives them in any case."""

    @cached_property
    def opset(self) -> int:
        """Version of the default operator set."""
        return self.opset_of("")

    def opset_of(self, domain: str) -> int:
        """Version imported for a domain; 0 if it is not imported."""
        wanted = {"", "ai.onnx"} if domain in ("", "ai.onnx") else {domain}
        return next((entry.version for entry in self.proto.opset_import if entry.domain in wanted), 0)

    def is_inside(self, tensor: onnx.TensorProto) -> bool:
        """Whether a tensor whose bytes lie elsewhere for now belongs inside the file that the model is saved to: one
        that was made, or one left in the .onnx file that the model was read from."""
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            return True
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        return Path(location) in OWN_FILES or (self.path is not None and location == self.path.name)

    def scopes(self) -> Iterator[Scope]:
        """The main graph, then every body inside it, then every function with its bodies; parents first."""
        return (scope for scope, _ in self._walked)

    @cached_property
    def weight_bytes(self) -> int:
        """Of the main graph's initializers, as raw data; those of no known size aside."""
        return sum(nbytes(tensor) or 0 for tensor in self.proto.graph.initializer)

    @cached_property
    def ops(self) -> Ops:
        """Domains and types of all its nodes."""
        return frozenset().union(*(ops for _, ops in self._walked))

    @cached_property
    def _walked(self) -> tuple[tuple[Scope, Ops], ...]:
        """Its scopes, with the ops of each."""
        found = list(_walk(Scope((), self.proto.graph, None)))
        for index, function in enumerate(self.proto.functions):
            found += _walk(Scope((f"function:{index}",), function, None))
        return tuple(found)

    def with_proto(self, proto: onnx.ModelProto) -> Model:
        """The same place on disk with other content."""
        return Model(proto, self.base_dir, self.path, spools=self.spools)


@lru_cache(maxsize=1024)
def may_hold_bodies(domain: str, op: str) -> bool:
    """Whether nodes of this type have an attribute that is a graph; true where no schema can tell."""
    if domain not in ("", "ai.onnx") or not onnx.defs.has(op):
        return True
    kinds = onnx.defs.OpSchema.AttrType
    return any(
        attribute.type in (kinds.GRAPH, kinds.GRAPHS)
        for attribute in onnx.defs.get_schema(op).attributes.values()
    )


def subgraphs(node: onnx.NodeProto) -> Iterator[tuple[str, onnx.GraphProto]]:
    """The bodies of a node with the path element that names each, relative to the node."""
    if not may_hold_bodies(node.domain, node.op_type):  # quicker than looking at all attributes
        return
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield f"{attribute.name}:0", attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            for position, graph in enumerate(attribute.graphs):
                yield f"{attribute.name}:{position}", graph


def _walk(scope: Scope) -> Iterator[tuple[Scope, Ops]]:
    ops = frozenset([(node.domain, node.op_type) for node in scope.graph.node])
    yield scope, ops
    if not any(may_hold_bodies(*op) for op in ops):
        return
    for index, node in enumerate(scope.graph.node):
        for element, graph in subgraphs(node):
            yield from _walk(Scope((*scope.path, f"{index}:{element}"), graph, scope))
