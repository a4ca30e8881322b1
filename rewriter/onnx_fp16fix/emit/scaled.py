"""Scaled constants: changed in place where all readers, in whatever scope, agree on one exponent, else copied once per
exponent into the scope that holds the constant."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from onnx_fp16fix.emit.weights import Wanted, scaled_all
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
    jobs = list[_Job]()
    for key, tensor in wanted.items():
        owner = next(scope for scope in scopes if scope.tensors.get(tensor.name) is tensor)
        patch, own = patches[owner.path], None if owner.path else spool
        by_exponent: dict[int, list[_Place]] = {}
        for path, slot in readers[key]:
            exponent = plans[path].operands.get(slot, 0) if path in plans else 0
            by_exponent.setdefault(exponent, []).append((path, slot))
        if _leaves(scopes, tensor):
            by_exponent.setdefault(0, [])
        if len(by_exponent) == 1 and (put := _in_place(owner, patch, tensor)) is not None:
            name = tensor.name if isinstance(tensor, ConstantTensor) else ""
            jobs.append(_Job(put, owner, tensor, next(iter(by_exponent)), name, own if name else None))
            continue
        for exponent, places in by_exponent.items():
            if exponent:
                name = names.fresh(f"{tensor.name}/fp16fix/scaled")
                jobs.append(_Job(patch.initializers.append, owner, tensor, exponent, name, own))
                renamed.update(dict.fromkeys(places, name))
        if 0 not in by_exponent:
            _drop(owner, patch, tensor)
    for job, made in zip(jobs, scaled_all(job.wanted() for job in jobs), strict=True):
        job.put(made)
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


@dataclass(frozen=True, slots=True)
class _Job:
    """A constant to be scaled; ``put`` says where it goes."""

    put: Callable[[onnx.TensorProto], None]
    scope: ScopeView
    tensor: gs.Tensor
    exponent: int
    name: str
    spool: Spool | None

    def wanted(self) -> Wanted:
        values: npt.NDArray[Any] | None = self.scope.constant(self.tensor)
        assert values is not None
        return Wanted(values, self.name, self.spool, self.exponent)


def _in_place(owner: ScopeView, patch: Patch, tensor: gs.Tensor) -> Callable[[onnx.TensorProto], None] | None:
    """What puts other values in the place of a constant; None where it has no place of its own."""
    producer = owner.producer(tensor)

    def initializer(made: onnx.TensorProto) -> None:
        made.doc_string = tensor.proto.doc_string
        if entries := tensor.proto.metadata_props:
            made.metadata_props.extend(entries)
        patch.replaced_initializers[tensor.name] = made

    def node(made: onnx.TensorProto) -> None:
        assert producer is not None
        copy = patch.replaced[producer.index] = onnx.NodeProto()
        copy.CopyFrom(producer.proto)
        del copy.attribute[:]
        copy.attribute.append(helper.make_attribute("value", made))

    if isinstance(tensor, ConstantTensor):
        return initializer
    return node if producer is not None and producer.op == "Constant" else None


def _drop(owner: ScopeView, patch: Patch, tensor: gs.Tensor) -> None:
    """Remove a constant of which every reader took a scaled copy."""
    producer = owner.producer(tensor)
    if producer is not None:
        patch.removed.add(producer.index)
    elif isinstance(tensor, ConstantTensor):
        patch.dropped_initializers.add(tensor.name)
