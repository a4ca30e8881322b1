"""Scaled constants: changed in place where all readers, in whatever scope, agree on one exponent, else copied once per
exponent into the scope that holds the constant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from onnx_fp16fix.emit.weights import scaled
from onnx_fp16fix.graph import ConstantTensor, ScopeView
from onnx_fp16fix.model import Names, Patch, ScopePath, Spool
from onnx_fp16fix.plan import Plan
from onnx_fp16fix.plan.plan import Slot

__all__ = ["scale_constants"]

_Place = tuple[ScopePath, Slot]


def scale_constants(
    scopes: Sequence[ScopeView],
    plan: Plan,
    patches: Mapping[ScopePath, Patch],
    names: Names,
    spool: Spool | None = None,
) -> dict[_Place, str]:
    """Write the constants of a plan's ``operands`` into the patches of their scopes.

    The result is the new names of operands that read a copy. ``scopes``: all that may read each other's constants,
    parents first. ``spool``: where those of the main graph go.
    """
    plans = dict(plan.scopes(scopes[0].path))
    wanted: dict[int, gs.Tensor] = {}
    for scope in scopes:
        for index, position in plans[scope.path].operands if scope.path in plans else ():
            tensor = scope.nodes[index].inputs[position]
            wanted[id(tensor)] = tensor
    readers = _readers(scopes, wanted)
    renamed: dict[_Place, str] = {}
    for key, tensor in wanted.items():
        owner = next(scope for scope in scopes if scope.tensors.get(tensor.name) is tensor)
        patch, own = patches[owner.path], None if owner.path else spool
        by_exponent: dict[int, list[_Place]] = {}
        for path, slot in readers[key]:
            exponent = plans[path].operands.get(slot, 0) if path in plans else 0
            by_exponent.setdefault(exponent, []).append((path, slot))
        if _leaves(scopes, tensor):
            by_exponent.setdefault(0, [])
        if len(by_exponent) == 1 and _in_place(owner, patch, tensor, next(iter(by_exponent)), own):
            continue
        for exponent, places in by_exponent.items():
            if exponent:
                name = names.fresh(f"{tensor.name}/fp16fix/scaled")
                patch.initializers.append(_scaled(owner, tensor, exponent, name, own))
                renamed.update(dict.fromkeys(places, name))
        if 0 not in by_exponent:
            _drop(owner, patch, tensor)
    return renamed


def _readers(scopes: Sequence[ScopeView], wanted: Mapping[int, gs.Tensor]) -> dict[int, list[_Place]]:
    readers: dict[int, list[_Place]] = {key: [] for key in wanted}
    for scope in scopes:
        for key, tensor in wanted.items():
            readers[key] += [(scope.path, (node.index, slot)) for node, slot in scope.consumers(tensor)]
    return readers


def _leaves(scopes: Sequence[ScopeView], tensor: gs.Tensor) -> bool:
    """Whether a scope gives the constant itself as an output."""
    return any(scope.tensor(name) is tensor for scope in scopes for name in scope.outputs)


def _in_place(owner: ScopeView, patch: Patch, tensor: gs.Tensor, exponent: int, spool: Spool | None) -> bool:
    producer = owner.producer(tensor)
    if isinstance(tensor, ConstantTensor):
        proto = _scaled(owner, tensor, exponent, tensor.name, spool)
        proto.doc_string = tensor.proto.doc_string
        proto.metadata_props.extend(tensor.proto.metadata_props)
        patch.replaced_initializers[tensor.name] = proto
        return True
    if producer is not None and producer.op == "Constant":
        node = onnx.NodeProto()
        node.CopyFrom(producer.proto)
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("value", _scaled(owner, tensor, exponent, "")))
        patch.replaced[producer.index] = node
        return True
    return False


def _drop(owner: ScopeView, patch: Patch, tensor: gs.Tensor) -> None:
    """Remove a constant of which every reader took a scaled copy."""
    producer = owner.producer(tensor)
    if producer is not None:
        patch.removed.add(producer.index)
    elif isinstance(tensor, ConstantTensor):
        patch.dropped_initializers.add(tensor.name)


def _scaled(
    scope: ScopeView, tensor: gs.Tensor, exponent: int, name: str, spool: Spool | None = None
) -> onnx.TensorProto:
    values: npt.NDArray[Any] | None = scope.constant(tensor)
    assert values is not None
    return scaled(values, exponent, name, spool)
