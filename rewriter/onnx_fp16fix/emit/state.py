"""What ``convert`` knows of each scope while it types it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto

from onnx_fp16fix.emit.weights import Halved
from onnx_fp16fix.graph import ConstantTensor, ScopeView
from onnx_fp16fix.half import FloatType
from onnx_fp16fix.model import Names, Patch, ScopePath, Spool
from onnx_fp16fix.operators import FloatSlots

__all__ = ["Shared", "State", "as_half", "is_constant", "is_float", "noted"]


@dataclass
class Shared:
    """What all scopes have in common. ``promised``: tensors that leave a scope under their name."""

    half: FloatType
    names: Names
    promised: frozenset[int]
    guards: Collection[str]
    borders: Mapping[ScopePath, Collection[str]]
    spool: Spool | None
    casts: int = 0
    overflowed: list[str] = field(default_factory=list)
    raised: list[str] = field(default_factory=list)
    rename: dict[str, str] = field(default_factory=dict)
    """Constants that keep their name after all."""


@dataclass
class State:
    """One scope. ``half_io``: its border is FP16 too; ``outer``: the scope around it."""

    scope: ScopeView
    shared: Shared
    half_io: bool
    outer: State | None
    infos: Mapping[str, onnx.ValueInfoProto]
    patch: Patch
    slots: list[FloatSlots] = field(default_factory=list)
    names: list[tuple[list[str], list[str]]] = field(default_factory=list)
    """What each node reads and makes in the typed model; constants by the names that ``Shared.rename`` may undo."""
    either: dict[int, frozenset[int]] = field(default_factory=dict)
    """Slots that read any type, by node."""
    stored: dict[int, str] = field(default_factory=dict)
    """Name under which the producer's result is stored, where it is not the tensor's own."""
    half: set[int] = field(default_factory=set)
    """Tensors that their producer makes in FP16, by identity."""
    cast: dict[tuple[int, int], str] = field(default_factory=dict)
    """Casted copies by (tensor, type)."""
    constants: dict[int, tuple[gs.Tensor, str]] = field(default_factory=dict)
    """FP16 copies of constants by tensor."""
    kept: set[int] = field(default_factory=set)
    """Constants that are also needed as they are."""
    floats: dict[int, bool] = field(default_factory=dict)
    """Whether a tensor is FLOAT, by identity."""
    handed: dict[int, tuple[gs.Tensor, str]] = field(default_factory=dict)
    """Constants that a body hands out in FP16, with the name of a copy as they are."""

    def owner(self, tensor: gs.Tensor) -> State:
        """The scope, this or an outer one, that the tensor belongs to."""
        state = self
        while state.outer is not None and state.scope.tensors.get(tensor.name) is not tensor:
            state = state.outer
        return state


def is_float(state: State, tensor: gs.Tensor) -> bool:
    found = state.floats.get(id(tensor))
    if found is None:
        found = bool(tensor.name) and state.scope.dtype(tensor.name) == TensorProto.FLOAT
        state.floats[id(tensor)] = found
    return found


def is_constant(state: State, tensor: gs.Tensor) -> bool:
    if isinstance(tensor, ConstantTensor):
        return True
    scope = state.owner(tensor).scope
    producer = scope.producer(tensor)
    return (
        producer is not None
        and producer.op == "Constant"
        and not producer.domain
        and scope.is_constant(tensor)  # sparse ones are not
    )


def noted(shared: Shared, label: str, made: Halved) -> TensorProto:
    """The constant; what became of it is noted under its name in the planned model."""
    if made.overflowed:
        shared.overflowed.append(label)
    if made.raised:
        shared.raised.append(label)
    return made.tensor


def as_half(state: State, info: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(info)
    copy.type.tensor_type.elem_type = state.shared.half.elem_type
    return copy
