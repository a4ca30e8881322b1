"""What ``convert`` knows of each scope while it types it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto

from onnx_fp16fix.emit.weights import Halved
from onnx_fp16fix.graph import ConstantTensor, ScopeView
from onnx_fp16fix.half import FloatType
from onnx_fp16fix.model import Names, Patch, ScopePath, Spool
from onnx_fp16fix.operators import FloatSlots

__all__ = ["Shared", "State", "as_half", "noted"]


@dataclass
class Shared:
    """What all scopes have in common. ``promised``: tensors that leave a scope under their name."""

    half: FloatType
    names: Names
    promised: frozenset[int]
    guards: Collection[str]
    borders: Mapping[ScopePath, Collection[str]]
    spool: Spool | None
    unscaled: Mapping[str, int]
    """Initializers of the main graph with the exponents that they are still to be scaled by."""
    casts: int = 0
    overflowed: list[str] = field(default_factory=list)
    raised: list[str] = field(default_factory=list)
    rename: dict[str, str] = field(default_factory=dict)
    """Constants that keep their name after all."""
    floats: set[int] = field(default_factory=set)
    """Tensors that are FLOAT, by identity."""
    constants: set[int] = field(default_factory=set)
    """Initializers and what Constant nodes make, sparse ones aside."""
    untyped: bool = False
    """Whether there are tensors whose type is not known."""

    def survey(self, scopes: Iterable[ScopeView]) -> None:
        """Note what can be told of all tensors at once; ``scopes`` with those around them."""
        for scope in scopes:
            kinds = scope.dtypes()
            self.floats.update(key for key, kind in kinds.items() if kind == TensorProto.FLOAT)
            self.untyped = self.untyped or 0 in kinds.values()
            self.constants.update(
                id(tensor) for tensor in scope.tensors.values() if isinstance(tensor, ConstantTensor)
            )
            made = (n for n in scope.nodes if n.op == "Constant" and not n.domain and n.outputs)
            self.constants.update(id(node.outputs[0]) for node in made if scope.is_constant(node.outputs[0]))


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
    handed: dict[int, tuple[gs.Tensor, str]] = field(default_factory=dict)
    """Constants that a body hands out in FP16, with the name of a copy as they are."""

    def owner(self, tensor: gs.Tensor) -> State:
        """The scope, this or an outer one, that the tensor belongs to."""
        state = self
        while state.outer is not None and state.scope.tensors.get(tensor.name) is not tensor:
            state = state.outer
        return state


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
