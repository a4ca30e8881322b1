"""Scaled constants: changed in place where all readers, in whatever scope, agree on one exponent, else copied once per
exponent into the scope that holds the constant."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
from onnx import helper

from onnx_fp16fix.emit.weights import Wanted, scaled_all
from onnx_fp16fix.graph import ConstantTensor, ScopeView
from onnx_fp16fix.model import Model, Names, Patch, ScopePath, Spool
from onnx_fp16fix.model.tensors import read_tensor
from onnx_fp16fix.plan import Plan
from onnx_fp16fix.plan.plan import Slot

__all__ = ["scale_constants", "scaled_initializers"]

_Place = tuple[ScopePath, Slot]


def scale_constants(
    scopes: Sequence[ScopeView],
    plan: Plan,
    patches: Mapping[ScopePath, Patch],
    names: Names,
    spool: Spool | None = None,
) -> tuple[dict[_Place, str], dict[str, int]]:
    """Write the constants of a plan's ``operands`` into the patches of their scopes.

    The result is the new names of operands that read a copy, and initializers of the main graph that are to be scaled
    where they are, with their exponents: see ``scaled_initializers``. ``scopes``: all that may read each other's
    constants, parents first. ``spool``: where the copies of the main graph go.
    """
    plans = dict(plan.scopes(scopes[0].path))
    wanted: dict[int, gs.Tensor] = {}
    for scope in scopes:
        for index, position in plans[scope.path].operands if scope.path in plans else ():
            tensor = scope.nodes[index].inputs[position]
            wanted[id(tensor)] = tensor
    leaving = {id(scope.tensor(name)) for scope in scopes for name in scope.outputs}
    renamed: dict[_Place, str] = {}
    waiting: dict[str, int] = {}
    jobs = list[_Job]()
    for key, tensor in wanted.items():
        owner = next(scope for scope in scopes if scope.tensors.get(tensor.name) is tensor)
        by_exponent = _by_exponent(scopes, plans, tensor)
        if key in leaving:
            by_exponent.setdefault(0, [])
        if len(by_exponent) == 1 and (put := _in_place(owner, tensor)) is not None:
            (exponent,) = by_exponent
            if put is _replace and not owner.path:
                waiting[tensor.name] = exponent
            else:
                name = tensor.name if put is _replace else ""
                jobs.append(_Job(put, patches[owner.path], owner, tensor, exponent, name, None))
            continue
        for exponent, places in by_exponent.items():
            if exponent:
                name = names.fresh(f"{tensor.name}/fp16fix/scaled")
                own = None if owner.path else spool
                jobs.append(_Job(_add, patches[owner.path], owner, tensor, exponent, name, own))
                renamed.update(dict.fromkeys(places, name))
        if 0 not in by_exponent:
            _drop(owner, patches[owner.path], tensor)
    for job, made in zip(jobs, scaled_all(job.wanted() for job in jobs), strict=True):
        job.put(job, made)
    return renamed, waiting


def scaled_initializers(
    model: Model, exponents: Mapping[str, int], spool: Spool | None = None
) -> Iterator[onnx.TensorProto]:
    """Those initializers of the main graph times ``2**-exponent``, as FLOAT."""
    found = [tensor for tensor in model.proto.graph.initializer if tensor.name in exponents]
    wanted = (
        Wanted(read_tensor(tensor, model.base_dir), tensor.name, spool, exponents[tensor.name])
        for tensor in found
    )
    for tensor, made in zip(found, scaled_all(wanted), strict=True):
        _keep_notes(tensor, made)
        yield made


def _keep_notes(tensor: onnx.TensorProto, made: onnx.TensorProto) -> None:
    made.doc_string = tensor.doc_string
    if entries := tensor.metadata_props:
        made.metadata_props.extend(entries)


def _by_exponent(
    scopes: Sequence[ScopeView], plans: Mapping[ScopePath, Plan], tensor: gs.Tensor
) -> dict[int, list[_Place]]:
    """The readers of a constant by the exponent at which they read it."""
    found: dict[int, list[_Place]] = {}
    for scope in scopes:
        path, part = scope.path, plans.get(scope.path)
        for node, position in scope.consumers(tensor):
            slot = (node.index, position)
            exponent = 0 if part is None else part.operands.get(slot, 0)
            found.setdefault(exponent, []).append((path, slot))
    return found


class _Job(NamedTuple):
    """A constant to be scaled; ``put`` says where it goes."""

    put: Callable[[_Job, onnx.TensorProto], None]
    patch: Patch
    scope: ScopeView
    tensor: gs.Tensor
    exponent: int
    name: str
    spool: Spool | None

    def wanted(self) -> Wanted:
        values: npt.NDArray[Any] | None = self.scope.constant(self.tensor)
        assert values is not None
        return Wanted(values, self.name, self.spool, self.exponent)


def _in_place(owner: ScopeView, tensor: gs.Tensor) -> Callable[[_Job, onnx.TensorProto], None] | None:
    """What puts other values in the place of a constant; None where it has no place of its own."""
    if isinstance(tensor, ConstantTensor):
        return _replace
    producer = owner.producer(tensor)
    return _into_node if producer is not None and producer.op == "Constant" else None


def _add(job: _Job, made: onnx.TensorProto) -> None:
    job.patch.initializers.append(made)


def _replace(job: _Job, made: onnx.TensorProto) -> None:
    _keep_notes(job.tensor.proto, made)
    job.patch.replaced_initializers[job.tensor.name] = made


def _into_node(job: _Job, made: onnx.TensorProto) -> None:
    producer = job.scope.producer(job.tensor)
    assert producer is not None
    copy = job.patch.replaced[producer.index] = onnx.NodeProto()
    copy.CopyFrom(producer.proto)
    del copy.attribute[:]
    copy.attribute.append(helper.make_attribute("value", made))


def _drop(owner: ScopeView, patch: Patch, tensor: gs.Tensor) -> None:
    """Remove a constant of which every reader took a scaled copy."""
    producer = owner.producer(tensor)
    if producer is not None:
        patch.removed.add(producer.index)
    elif isinstance(tensor, ConstantTensor):
        patch.dropped_initializers.add(tensor.name)
