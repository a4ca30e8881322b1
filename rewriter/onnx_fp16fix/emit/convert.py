"""The typed model: FLOAT16 or BFLOAT16 wherever schema and plan allow, one Cast per tensor and type, FP32 at the
border. Names here say FP16 and half for either.

Who needs which type is read from the ONNX schemas (``operators.float_slots``). Every tensor keeps its name for the
type its producer makes, except where its name is promised as FP32: graph outputs, inputs and outputs of bodies.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper, numpy_helper

from onnx_fp16fix.emit.weights import halved, spool_for, with_spool
from onnx_fp16fix.graph import ConstantTensor, ScopeView, ViewNode, border_slots
from onnx_fp16fix.half import FP16, FloatType
from onnx_fp16fix.model import Model, Names, Patch, ScopePath, Spool, apply_patches
from onnx_fp16fix.model.tensors import read_tensor
from onnx_fp16fix.operators import FloatSlots, float_slots

__all__ = ["Converted", "convert"]

_DTYPE_ATTRIBUTES = {"Cast": "to", "Bernoulli": "dtype", "DequantizeLinear": "output_dtype"}
"""Where an attribute names the type of the output; absent, the output follows an operand."""


@dataclass(frozen=True, slots=True)
class Converted:
    """The typed model, the number of Casts added, and constants that left FP16's range or lost bits."""

    model: Model
    casts: int
    overflowed: tuple[str, ...]
    raised: tuple[str, ...]
    """Guards against zero that grew to the type's smallest value."""


@dataclass
class _Shared:
    """What all scopes have in common. ``promised``: tensors that leave a scope under their name."""

    half: FloatType
    names: Names
    promised: frozenset[int]
    guards: frozenset[str]
    borders: Mapping[ScopePath, Collection[str]]
    spool: Spool | None
    casts: int = 0
    overflowed: list[str] = field(default_factory=list)
    raised: list[str] = field(default_factory=list)
    rename: dict[str, str] = field(default_factory=dict)
    """Constants that keep their name after all."""


@dataclass
class _State:
    """One scope. ``half_io``: its border is FP16 too; ``outer``: the scope around it."""

    scope: ScopeView
    shared: _Shared
    half_io: bool
    outer: _State | None
    infos: Mapping[str, onnx.ValueInfoProto]
    patch: Patch
    slots: list[FloatSlots] = field(default_factory=list)
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

    def owner(self, tensor: gs.Tensor) -> _State:
        """The scope, this or an outer one, that the tensor belongs to."""
        state = self
        while state.outer is not None and state.scope.tensors.get(tensor.name) is not tensor:
            state = state.outer
        return state


def convert(
    scope: ScopeView,
    fp32: Collection[int],
    *,
    half: FloatType = FP16,
    half_io: bool = False,
    guards: frozenset[str] = frozenset(),
    bodies: Mapping[ScopePath, Collection[int]] | None = None,
    half_borders: Mapping[ScopePath, Collection[str]] | None = None,
) -> Converted:
    """Type the main graph and the bodies inside it.

    ``fp32``: indices of nodes that compute in FP32; all others run in ``half`` where their schema admits it. Opset,
    names, order and shapes of inputs and outputs stay; their types too unless ``half_io``. ``guards``: constants that
    keep denominators from zero; they become at least the type's smallest value. ``bodies``: the FP32 nodes of each
    body that may run in FP16; bodies not named stay as they are. ``half_borders``: inputs and outputs of bodies that
    become FP16; what they are one value with (``graph.borders``) must be named in all bodies of a node, or in none.
    """
    scopes = [scope, *scope.inside()]
    outputs = (view.tensor(name) for view in scopes for name in view.outputs)
    promised = frozenset(id(tensor) for tensor in outputs if tensor is not None)
    shared = _Shared(half, Names(scope.model), promised, guards, half_borders or {}, spool_for(scope.model))
    states: dict[ScopePath, _State] = {}
    for view in scopes:
        whole = view is scope
        outer = None if view.parent is None or whole else states[view.parent.path]
        infos = {info.name: info for info in view.graph.value_info}
        state = _State(view, shared, half_io and whole, outer, infos, Patch(view.path))
        states[view.path] = state
        _choose_slots(state, fp32 if whole else (bodies or {}).get(view.path))
        _classify(state)
    for state in states.values():
        for node in state.scope.nodes:
            _type_node(state, node)
    for state in states.values():
        _finish_constants(state)
    for state in states.values():
        _rename_operands(state)
    made = apply_patches(scope.model, [state.patch for state in states.values()])
    return Converted(
        with_spool(made, shared.spool),
        shared.casts,
        tuple(shared.overflowed),
        tuple(shared.raised),
    )


def _choose_slots(state: _State, fp32: Collection[int] | None) -> None:
    """The operands of each node that become FP16; none if ``fp32`` is None."""
    scope = state.scope
    for node in scope.nodes:
        opset = scope.model.opset_of(node.domain)
        found = float_slots(
            node.domain, node.op, opset, len(node.inputs), len(node.outputs), state.shared.half
        )
        if node.index in scope.bodies:
            found = FloatSlots(True, *border_slots(scope, node, state.shared.borders))
            state.slots.append(found)
            continue
        if found.either:
            state.either[node.index] = found.either
        stays = (
            fp32 is None
            or node.index in fp32
            or node.op == "Constant"
            or scope.is_exit_cast(node)
            or _reads_unknown(state, node, found)
        )
        state.slots.append(FloatSlots(False, frozenset(), frozenset()) if stays else found)


def _is_float(state: _State, tensor: gs.Tensor) -> bool:
    return not tensor.is_empty() and state.scope.dtype(tensor.name) == TensorProto.FLOAT


def _reads_unknown(state: _State, node: ViewNode, slots: FloatSlots) -> bool:
    """Whether the type of an operand is not known: then that of the result is not either."""
    return any(
        slot in slots.inputs and not tensor.is_empty() and not state.scope.dtype(tensor.name)
        for slot, tensor in enumerate(node.inputs)
    )


def _is_constant(state: _State, tensor: gs.Tensor) -> bool:
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


def _classify(state: _State) -> None:
    """Which tensors are made in FP16, and which must give up their name because it is promised in the other type."""
    scope = state.scope
    for name in scope.inputs:
        tensor = scope.tensors[name]
        if _is_float(state, tensor) and _promised_half(state, tensor):
            state.half.add(id(tensor))
            _retype_border(state, name)
    _hand_out(state)
    for node in scope.nodes:
        for slot, tensor in enumerate(node.outputs):
            if not _is_float(state, tensor) or _is_constant(state, tensor):
                continue
            half = slot in state.slots[node.index].outputs
            if half:
                state.half.add(id(tensor))
            if id(tensor) in state.shared.promised:
                promised = _promised_half(state, tensor)
                if promised:
                    _retype_border(state, tensor.name)
                if promised != half:
                    suffix = state.shared.half.suffix if half else "float32"
                    state.stored[id(tensor)] = state.shared.names.fresh(f"{tensor.name}/fp16fix/{suffix}")


def _hand_out(state: _State) -> None:
    """Constants that a body hands out in FP16 keep their name in that type."""
    for name in state.scope.outputs if state.scope.path in state.shared.borders else ():
        tensor = state.scope.tensors.get(name)
        if tensor is None or not (_is_float(state, tensor) and _is_constant(state, tensor)):
            continue
        if _promised_half(state, tensor):
            state.handed[id(tensor)] = tensor, state.shared.names.fresh(f"{name}/fp16fix/float32")
            _retype_border(state, name)


def _promised_half(state: _State, tensor: gs.Tensor) -> bool:
    """Whether the name belongs to an FP16 value outside."""
    if state.scope.path in state.shared.borders:
        return tensor.name in state.shared.borders[state.scope.path]
    return state.half_io and (tensor.name in state.scope.outputs or state.scope.producer(tensor) is None)


def _retype_border(state: _State, name: str) -> None:
    graph = state.scope.graph
    assert isinstance(graph, onnx.GraphProto)
    for info in (*graph.input, *graph.output):
        if info.name == name:
            state.patch.border[name] = _as_half(state, info)
    for tensor in graph.initializer if name in state.scope.inputs else ():
        if tensor.name == name:  # the default of an input
            values = read_tensor(tensor, state.scope.model.base_dir)
            state.patch.replaced_initializers[name] = _to_half(state, name, values, name)


def _as_half(state: _State, info: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(info)
    copy.type.tensor_type.elem_type = state.shared.half.elem_type
    return copy


def _type_node(state: _State, node: ViewNode) -> None:
    slots = state.slots[node.index]
    inputs = list(node.proto.input)
    for slot, tensor in enumerate(node.inputs):
        if _is_float(state, tensor):
            either = slot in state.either.get(node.index, ())
            half = id(tensor) in state.half if either else slot in slots.inputs
            inputs[slot] = _operand(state, tensor, half=half)
    outputs = [state.stored.get(id(tensor), tensor.name) for tensor in node.outputs]
    made = [tensor for tensor in node.outputs if id(tensor) in state.half]
    copy = onnx.NodeProto()
    copy.CopyFrom(node.proto)
    copy.input[:] = inputs
    copy.output[:] = outputs
    if made:
        _retype_maker(copy, state.shared.half)
    if node.index in state.scope.bodies:
        state.patch.rewired[node.index] = (inputs, outputs)
    elif copy != node.proto:
        state.patch.replaced[node.index] = copy
    for tensor in made:
        _update_value_info(state, tensor)
    for tensor in node.outputs:
        if id(tensor) in state.stored:
            promised = TensorProto.FLOAT if id(tensor) in state.half else state.shared.half.elem_type
            _add_cast(state, state.stored[id(tensor)], tensor.name, promised, node.index + 1)


def _operand(state: _State, tensor: gs.Tensor, *, half: bool) -> str:
    """The name under which a node reads the tensor; casts and copies are made in the scope that it belongs to, so that
    a body does not repeat them."""
    state = state.owner(tensor)
    if _is_constant(state, tensor):
        return _constant_operand(state, tensor, half=half)
    name = str(tensor.name)
    if half == (id(tensor) in state.half):
        return state.stored.get(id(tensor), name)
    if id(tensor) in state.stored:  # the promised name has the other type
        return name
    target = state.shared.half.elem_type if half else TensorProto.FLOAT
    key = (id(tensor), target)
    if key not in state.cast:
        suffix = state.shared.half.suffix if half else "float32"
        state.cast[key] = state.shared.names.fresh(f"{name}/fp16fix/{suffix}")
        producer = state.scope.producer(tensor)
        source = state.stored.get(id(tensor), name)
        _add_cast(state, source, state.cast[key], target, 0 if producer is None else producer.index + 1)
    return state.cast[key]


def _add_cast(state: _State, source: str, result: str, to: int, index: int) -> None:
    name = state.shared.names.fresh(f"{result}/fp16fix/Cast")
    state.patch.insert(index, helper.make_node("Cast", [source], [result], name=name, to=to))
    state.shared.casts += 1


def _constant_operand(state: _State, tensor: gs.Tensor, *, half: bool) -> str:
    if not half:
        state.kept.add(id(tensor))
        return state.handed[id(tensor)][1] if id(tensor) in state.handed else str(tensor.name)
    if id(tensor) in state.handed:
        return str(tensor.name)
    if id(tensor) not in state.constants:
        name = state.shared.names.fresh(f"{tensor.name}/fp16fix/{state.shared.half.suffix}")
        state.constants[id(tensor)] = (tensor, name)
    return state.constants[id(tensor)][1]


def _finish_constants(state: _State) -> None:
    """A constant used in FP16 alone keeps its name; one used in both types exists twice."""
    for key, (tensor, fresh) in {**state.constants, **state.handed}.items():
        both = key in state.kept or key in state.shared.promised
        producer = state.scope.producer(tensor)
        values = state.scope.constant(tensor)
        assert values is not None
        if key in state.handed:
            if key in state.kept:
                state.patch.initializers.append(numpy_helper.from_array(values, fresh))
            both = False
        name = fresh if both else tensor.name
        spool = state.shared.spool if not state.scope.path and (both or producer is None) else None
        half = _to_half(state, tensor.name, values, name, spool)
        if both:
            state.patch.initializers.append(half)
            continue
        if key not in state.handed:
            state.shared.rename[fresh] = tensor.name
        _update_value_info(state, tensor)
        if producer is not None:
            state.patch.replaced[producer.index] = _constant_node(producer, half)
        else:
            state.patch.replaced_initializers[tensor.name] = half


def _rename_operands(state: _State) -> None:
    rename = state.shared.rename
    for node in state.patch.replaced.values():
        node.input[:] = [rename.get(name, name) for name in node.input]
    for inputs, _ in state.patch.rewired.values():
        inputs[:] = [rename.get(name, name) for name in inputs]


def _to_half(
    state: _State, label: str, values: npt.NDArray[Any], name: str, spool: Spool | None = None
) -> TensorProto:
    shared = state.shared
    made = halved(values, shared.half, name, guard=label in shared.guards, spool=spool)
    if made.overflowed:
        shared.overflowed.append(label)
    if made.raised:
        shared.raised.append(label)
    return made.tensor


def _constant_node(producer: ViewNode, half: TensorProto) -> onnx.NodeProto:
    node = onnx.NodeProto()
    node.CopyFrom(producer.proto)
    del node.attribute[:]
    half.name = ""
    node.attribute.append(helper.make_attribute("value", half))
    return node


def _retype_maker(node: onnx.NodeProto, half: FloatType) -> None:
    """Nodes whose output type is an attribute."""
    if node.op_type == "ConstantOfShape":
        found = next((a for a in node.attribute if a.name == "value"), None)
        filler = numpy_helper.to_array(found.t) if found is not None else np.zeros(1, np.float32)
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("value", halved(filler, half).tensor))
        return
    for attribute in node.attribute:
        if attribute.name == _DTYPE_ATTRIBUTES.get(node.op_type) and attribute.i == TensorProto.FLOAT:
            attribute.i = half.elem_type


def _update_value_info(state: _State, tensor: gs.Tensor) -> None:
    if id(tensor) not in state.stored and tensor.name in state.infos:
        state.patch.value_info[tensor.name] = _as_half(state, state.infos[tensor.name])
