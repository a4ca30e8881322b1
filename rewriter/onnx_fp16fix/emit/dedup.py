"""Equal constants of the typed model, stored once."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain

from onnx import TensorProto

from onnx_fp16fix.emit.state import State
from onnx_fp16fix.model import Model
from onnx_fp16fix.model.digest import raw_digest
from onnx_fp16fix.model.patch import FREE_INITIALIZERS
from onnx_fp16fix.model.tensors import is_external

__all__ = ["share_constants"]

_SMALL = 1 << 10
"""Elements; of larger constants a digest is compared instead of the bytes."""


def share_constants(states: Sequence[State]) -> Mapping[str, str]:
    """Drop what equals an earlier initializer of the main graph as it will be; names with the one to read instead.

    ``states``: the main graph and the bodies in it, whose nodes have their names. Initializers that a caller may set
    (graph inputs), that leave the graph, or that bodies read stay as they are.
    """
    main, *bodies = states
    patch, model = main.patch, main.scope.model
    added = patch.initializers if model.proto.ir_version >= FREE_INITIALIZERS else []
    tensors = (
        patch.replaced_initializers.get(tensor.name, tensor)
        for tensor in model.proto.graph.initializer
        if tensor.name not in patch.dropped_initializers
    )
    promised = {*main.scope.inputs, *main.scope.outputs}
    for body in bodies:
        promised.update(body.scope.outputs)
        for names, _ in body.names:
            promised.update(body.shared.rename.get(name, name) for name in names)
        for nodes in body.patch.inserted.values():
            promised.update(name for node in nodes for name in node.input)
    equal = _equal(model, chain(tensors, added), promised)
    if equal:
        patch.initializers = [tensor for tensor in patch.initializers if tensor.name not in equal]
        for name in patch.replaced_initializers.keys() & equal.keys():
            del patch.replaced_initializers[name]
        patch.dropped_initializers.update(
            tensor.name for tensor in model.proto.graph.initializer if tensor.name in equal
        )
        patch.value_info.update((name, None) for name in main.infos if name in equal)
    return equal


def _equal(model: Model, tensors: Iterable[TensorProto], promised: Collection[str]) -> dict[str, str]:
    """Names of initializers whose type, shape and content an earlier one has, with the name of that.

    Those that are ``promised`` stay as they are, and so do weights in files that are not those of ``model``.
    """
    kept: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    found: dict[str, str] = {}
    for tensor in tensors:
        name, external = tensor.name, is_external(tensor)
        if name in promised or (not model.is_inside(tensor) if external else not tensor.HasField("raw_data")):
            continue
        dims = tuple(tensor.dims[:])
        large = external or math.prod(dims) > _SMALL
        content = raw_digest(tensor, model.base_dir) if large else tensor.raw_data
        if (first := kept.setdefault((tensor.data_type, dims, content), name)) != name:
            found[name] = first
    return found
