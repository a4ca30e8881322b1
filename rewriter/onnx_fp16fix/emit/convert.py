"""The typed model: FLOAT16 or BFLOAT16 wherever schema and plan allow, one Cast per tensor and type, FP32 at the
border. Names here say FP16 and half for either.

Who needs which type is read from the ONNX schemas (``operators.float_slots``). Every tensor keeps its name for the
type its producer makes, except where its name is promised as FP32: graph outputs, inputs and outputs of bodies.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper, numpy_helper

from onnx_fp16fix.emit.classify import choose_slots, classify
from onnx_fp16fix.emit.dedup import share_constants
from onnx_fp16fix.emit.scaled import scaled_initializers
from onnx_fp16fix.emit.select import selecting_inputs
from onnx_fp16fix.emit.state import Shared, State, as_half, noted
from onnx_fp16fix.emit.weights import Wanted, halved, halved_all, spool_for, with_spool
from onnx_fp16fix.graph import ScopeView, ViewNode
from onnx_fp16fix.half import FP16, FloatType
from onnx_fp16fix.model import Model, Patch, ScopePath, apply_patches

__all__ = ["Converted", "convert"]

_DTYPE_ATTRIBUTES = {"Cast": "to", "Bernoulli": "dtype", "DequantizeLinear": "output_dtype"}
"""Where an attribute names the type of the output; absent, the output follows an operand."""
_TYPED_BY_ATTRIBUTE = frozenset({*_DTYPE_ATTRIBUTES, "ConstantOfShape"})


@dataclass(frozen=True, slots=True)
class Converted:
    """The typed model, the number of Casts added, and constants that left FP16's range or lost bits."""

    model: Model
    casts: int
    overflowed: tuple[str, ...]
    raised: tuple[str, ...]
    """Guards against zero that grew to the type's smallest value."""


def convert(
    scope: ScopeView,
    fp32: Collection[int],
    *,
    half: FloatType = FP16,
    half_io: bool = False,
    guards: Collection[str] = frozenset(),
    bodies: Mapping[ScopePath, Collection[int]] | None = None,
    half_borders: Mapping[ScopePath, Collection[str]] | None = None,
    select: bool = True,
    forced: Collection[int] = (),
    share: bool = False,
    unscaled: Mapping[str, int] | None = None,
) -> Converted:
    """Type the main graph and the bodies inside it.

    ``fp32``: indices of nodes that compute in FP32; all others run in ``half`` where their schema admits it. Opset,
    names, order and shapes of inputs and outputs stay; their types too unless ``half_io``. ``guards``: constants that
    keep denominators from zero; they become at least the type's smallest value. ``bodies``: the FP32 nodes of each
    body that may run in FP16; bodies not named stay as they are. ``half_borders``: inputs and outputs of bodies that
    become FP16; what they are one value with (``graph.borders``) must be named in all bodies of a node, or in none.
    ``select``: what selects reads FP32 inputs of the graph as they are (``selecting_inputs``), but for
    the nodes of ``forced``. ``share``: equal constants are stored once (``share_constants``). ``unscaled``:
    initializers of the main graph that are to be multiplied by ``2**-exponent`` first, in whatever type they end
    (``Rescaled.unscaled``).
    """
    scopes = [scope, *scope.inside()]
    outputs = (view.tensor(name) for view in scopes for name in view.outputs)
    promised = frozenset(id(tensor) for tensor in outputs if tensor is not None)
    shared = Shared(
        half,
        scope.fresh_names(),
        promised,
        guards,
        half_borders or {},
        spool_for(scope.model),
        unscaled or {},
    )
    shared.survey(scopes)
    states: dict[ScopePath, State] = {}
    if select and not half_io:
        fp32 = {*fp32, *selecting_inputs(scope, half, forced)}
    for view in scopes:
        whole = view is scope
        outer = None if view.parent is None or whole else states[view.parent.path]
        infos = {info.name: info for info in view.graph.value_info}
        state = State(view, shared, half_io and whole, outer, infos, Patch(view.path))
        states[view.path] = state
        choose_slots(state, fp32 if whole else (bodies or {}).get(view.path))
        classify(state)
    for state in states.values():
        _type_nodes(state)
    for state in states.values():
        _finish_constants(state)
    main = states[scope.path].patch.replaced_initializers
    left = {name: exponent for name, exponent in shared.unscaled.items() if name not in main}
    if left:
        main.update((made.name, made) for made in scaled_initializers(scope.model, left, shared.spool))
    equal = share_constants(list(states.values())) if share else {}
    for state in states.values():
        _rewrite_nodes(state, {} if state.scope.path else equal)
    made = apply_patches(scope.model, [state.patch for state in states.values()])
    return Converted(
        with_spool(made, shared.spool),
        shared.casts,
        tuple(shared.overflowed),
        tuple(shared.raised),
    )


def _type_nodes(state: State) -> None:
    """What each node reads and makes, with the Casts that takes."""
    floats, constants, made_half, stored = (
        state.shared.floats, state.shared.constants, state.half, state.stored,
    )  # fmt: skip
    own = state.outer is None
    for node, slots in zip(state.scope.nodes, state.slots, strict=True):
        either, read = state.either.get(node.index, ()), slots.inputs
        inputs = [tensor.name for tensor in node.inputs]
        for slot, tensor in enumerate(node.inputs):
            if (key := id(tensor)) in floats:
                made = key in made_half
                half = made if slot in either else slot in read
                if own and half == made and key not in constants and key not in stored:
                    continue  # most operands: read as they are made
                inputs[slot] = _operand(state, tensor, half=half)
        outputs = [tensor.name for tensor in node.outputs]
        state.names.append((inputs, outputs))
        for slot, tensor in enumerate(node.outputs) if state.infos or stored else ():
            if (key := id(tensor)) in made_half:
                _update_value_info(state, tensor)
            if key in stored:
                outputs[slot] = stored[key]
                promised = TensorProto.FLOAT if key in made_half else state.shared.half.elem_type
                _add_cast(state, stored[key], tensor.name, promised, node.index + 1)


def _operand(state: State, tensor: gs.Tensor, *, half: bool) -> str:
    """The name under which a node reads the tensor; casts and copies are made in the scope that it belongs to, so that
    a body does not repeat them."""
    if state.outer is not None:
        state = state.owner(tensor)
    place = id(tensor)
    if place in state.shared.constants:
        return _constant_operand(state, tensor, half=half)
    name = str(tensor.name)
    if half == (place in state.half):
        return state.stored.get(place, name)
    if place in state.stored:  # the promised name has the other type
        return name
    target = state.shared.half.elem_type if half else TensorProto.FLOAT
    key = (place, target)
    if key not in state.cast:
        suffix = state.shared.half.suffix if half else "float32"
        state.cast[key] = state.shared.names.fresh(f"{name}/fp16fix/{suffix}")
        producer = state.scope.producer(tensor)
        source = state.stored.get(place, name)
        _add_cast(state, source, state.cast[key], target, 0 if producer is None else producer.index + 1)
    return state.cast[key]


def _add_cast(state: State, source: str, result: str, to: int, index: int) -> None:
    name = state.shared.names.fresh(f"{result}/fp16fix/Cast")
    state.patch.insert(index, helper.make_node("Cast", [source], [result], name=name, to=to))
    state.shared.casts += 1


def _constant_operand(state: State, tensor: gs.Tensor, *, half: bool) -> str:
    key = id(tensor)
    if not half:
        state.kept.add(key)
        return state.handed[key][1] if key in state.handed else str(tensor.name)
    if key in state.handed:
        return str(tensor.name)
    if (known := state.constants.get(key)) is None:
        name = state.shared.names.fresh(f"{tensor.name}/fp16fix/{state.shared.half.suffix}")
        known = state.constants[key] = (tensor, name)
    return known[1]


def _finish_constants(state: State) -> None:
    """A constant used in FP16 alone keeps its name; one used in both types exists twice."""
    found = [(key, *entry) for key, entry in {**state.constants, **state.handed}.items()]
    wanted = (_half(state, *entry) for entry in found)
    for (key, tensor, fresh), made in zip(found, halved_all(wanted, state.shared.half), strict=True):
        half = noted(state.shared, tensor.name, made)
        producer = state.scope.producer(tensor)
        if key in state.handed and key in state.kept:
            values = state.scope.constant(tensor)
            assert values is not None
            state.patch.initializers.append(numpy_helper.from_array(values, fresh))
        if _is_apart(state, key):
            state.patch.initializers.append(half)
            continue
        if key not in state.handed:
            state.shared.rename[fresh] = tensor.name
        _update_value_info(state, tensor)
        if producer is not None:
            state.patch.replaced[producer.index] = _constant_node(producer, half)
        else:
            state.patch.replaced_initializers[tensor.name] = half


def _is_apart(state: State, key: int) -> bool:
    """Whether the FP16 constant stands beside the other one, under a new name."""
    return (key in state.kept or key in state.shared.promised) and key not in state.handed


def _half(state: State, key: int, tensor: gs.Tensor, fresh: str) -> Wanted:
    apart, values = _is_apart(state, key), state.scope.constant(tensor)
    assert values is not None
    own = not state.scope.path and (apart or state.scope.producer(tensor) is None)
    return Wanted(
        values,
        fresh if apart else tensor.name,
        state.shared.spool if own else None,
        exponent=0 if state.scope.path else state.shared.unscaled.get(tensor.name, 0),
        guard=tensor.name in state.shared.guards,
    )


def _rewrite_nodes(state: State, equal: Mapping[str, str]) -> None:
    """Nodes that read or make other names than before, or whose type is an attribute."""
    patch, bodies = state.patch, state.scope.bodies
    final = {old: equal.get(new, new) for old, new in state.shared.rename.items()} | dict(equal)
    for node, (inputs, outputs) in zip(state.scope.nodes, state.names, strict=True):
        inputs = [final.get(name, name) for name in inputs]
        if node.index in bodies:
            patch.rewired[node.index] = (inputs, outputs)
            continue
        typed = node.op in _TYPED_BY_ATTRIBUTE and any(id(tensor) in state.half for tensor in node.outputs)
        same_inputs = inputs == [tensor.name for tensor in node.inputs]
        same_outputs = outputs == [tensor.name for tensor in node.outputs]
        if node.index in patch.replaced or (same_inputs and same_outputs and not typed):
            continue
        copy = patch.replaced[node.index] = onnx.NodeProto()
        copy.CopyFrom(node.proto)
        if not same_inputs:
            copy.input[:] = inputs
        if not same_outputs:
            copy.output[:] = outputs
        if typed:
            _retype_maker(copy, state.shared.half)


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


def _update_value_info(state: State, tensor: gs.Tensor) -> None:
    if id(tensor) not in state.stored and tensor.name in state.infos:
        state.patch.value_info[tensor.name] = as_half(state, state.infos[tensor.name])
