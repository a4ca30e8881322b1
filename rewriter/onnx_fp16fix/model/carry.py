"""Types of a patched model from those of the model before: only what the patch writes is inferred.

What inference finds of a node follows from the types of its operands and, where these are integers, from their values.
So where all that was written anew is float and of a known shape, and what keeps a name has the type that name had, the
rest of the graph has the types it had.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TypeGuard

import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnx_fp16fix.model.infer import TensorType, TypeTable, declared_types
from onnx_fp16fix.model.model import Model, subgraphs
from onnx_fp16fix.model.patch import FREE_INITIALIZERS, Patch

__all__ = ["carried_types"]

_VALUELESS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BOOL})
"""Element types whose values inference does not follow."""
_SMALL = 64
"""Elements of a list of sizes or axes, at most; rules write no longer ones."""
_KINDS = 256
"""Nodes inferred one by one, up to which that is quicker than the whole model."""


def carried_types(known: TypeTable, patch: Patch, before: Model) -> TypeTable | None:
    """Types of what the patch makes of ``before``, of types ``known``; None where the whole of it has to be inferred:
    edits of bodies or declarations, integers or unknown shapes among what is new, too many kinds of nodes.
    """
    proto = before.proto
    if set(known.scopes) != {()} or proto.functions or proto.ir_version < FREE_INITIALIZERS:
        return None
    if patch.scope or patch.border or patch.rewired or patch.replaced_initializers:
        return None
    if any(info is not None for info in patch.value_info.values()):
        return None
    earlier = known.scopes[()]
    types = dict(earlier)
    for name in _gone(patch, proto.graph):
        types.pop(name, None)
    for tensor in patch.initializers:
        types[tensor.name] = TensorType(tensor.data_type, tuple(tensor.dims))
    nodes = [(node, node.input[:], node.output[:]) for node in _written(patch)]
    kinds = _Kinds(proto, patch, {name for _, operands, _ in nodes for name in operands}, types)
    for node, operands, results in nodes:
        found = kinds.of(node, operands, results)
        if found is None:
            return None
        for name, kind in zip(results, found, strict=True):
            if name and earlier.get(name, kind) != kind:
                return None
            types[name] = kind
    types.pop("", None)
    return TypeTable({(): types})


def _gone(patch: Patch, graph: onnx.GraphProto) -> Iterator[str]:
    """Names that the patch takes away; some are written again."""
    yield from patch.dropped_initializers
    for index in (*patch.removed, *patch.replaced):
        yield from graph.node[index].output


def _written(patch: Patch) -> Iterator[NodeProto]:
    """New nodes, in the order that they will have."""
    for index in sorted({*patch.inserted, *patch.replaced}):
        yield from patch.inserted.get(index, ())
        if index in patch.replaced:
            yield patch.replaced[index]


class _Kinds:
    """Results of nodes, inferred once for all that are alike. ``types`` has those of all operands when one is asked of;
    ``read``: names of operands."""

    def __init__(
        self, proto: onnx.ModelProto, patch: Patch, read: set[str], types: Mapping[str, TensorType]
    ) -> None:
        self._proto, self._types = proto, types
        listed = {name for name in read if (kind := types.get(name)) and kind.elem_type not in _VALUELESS}
        stored = chain(proto.graph.initializer, patch.initializers) if listed else ()
        self._values = {
            tensor.name: numpy_helper.to_array(tensor)
            for tensor in stored
            if tensor.name in listed
            and tensor.data_location != TensorProto.EXTERNAL
            and len(tensor.dims) <= 1
            and sum(tensor.dims) <= _SMALL
        }
        self._known: dict[tuple[object, ...], tuple[TensorType, ...] | None] = {}

    def of(
        self, node: NodeProto, operands: Sequence[str], results: Sequence[str]
    ) -> tuple[TensorType, ...] | None:
        """Types of its results; None where they are not float, not of a known shape, or not known."""
        kinds = tuple([self._types.get(name) if name else None for name in operands])
        values = [
            (slot, self._values[name].tobytes()) for slot, name in enumerate(operands) if name in self._values
        ]
        attributes = [attribute.SerializeToString() for attribute in node.attribute]
        key = node.domain, node.op_type, kinds, *values, *attributes, tuple([bool(name) for name in results])
        if key not in self._known:
            fits = len(self._known) < _KINDS and not any(subgraphs(node))
            fits = fits and all(_has_sizes(self._types.get(name)) for name in operands if name)
            self._known[key] = self._inferred(node) if fits else None
        return self._known[key]

    def _inferred(self, node: NodeProto) -> tuple[TensorType, ...] | None:
        model = onnx.ModelProto(ir_version=self._proto.ir_version)
        model.opset_import.extend(self._proto.opset_import)
        graph = model.graph
        graph.node.append(node)
        for name in {*node.input} - {""}:
            if name in self._values:
                graph.initializer.append(numpy_helper.from_array(self._values[name], name))
            else:
                kind = self._types[name]
                graph.input.append(helper.make_tensor_value_info(name, kind.elem_type, kind.shape))
        try:
            found = declared_types(onnx.shape_inference.infer_shapes(model, data_prop=True).graph)
        except Exception:  # many kinds; inference of the whole model passes over such a node
            return None
        results = tuple(found.get(name, _ABSENT) if name else _ABSENT for name in node.output)
        settled = all(
            not name or (_has_sizes(kind) and kind.elem_type in _VALUELESS)
            for name, kind in zip(node.output, results, strict=True)
        )
        return results if settled else None


_ABSENT = TensorType()


def _has_sizes(kind: TensorType | None) -> TypeGuard[TensorType]:
    if kind is None or not kind.elem_type or kind.shape is None:
        return False
    return all(isinstance(size, int) for size in kind.shape)
