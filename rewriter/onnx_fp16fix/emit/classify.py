"""Which operands and tensors of a scope become FP16: what ``convert`` writes follows from it."""

from __future__ import annotations

from collections.abc import Collection

import onnx
import onnx_graphsurgeon as gs

from onnx_fp16fix.emit.state import State, as_half, noted
from onnx_fp16fix.emit.weights import halved
from onnx_fp16fix.graph import ViewNode, border_slots
from onnx_fp16fix.model.tensors import read_tensor
from onnx_fp16fix.operators import FloatSlots, float_slots

__all__ = ["choose_slots", "classify"]

_AS_IT_IS = FloatSlots(False, frozenset(), frozenset())


def choose_slots(state: State, fp32: Collection[int] | None) -> None:
    """The operands of each node that become FP16; none if ``fp32`` is None."""
    scope = state.scope
    known: dict[tuple[str, str, int, int], FloatSlots] = {}
    for node in scope.nodes:
        key = (node.domain, node.op, len(node.inputs), len(node.outputs))
        if (found := known.get(key)) is None:
            opset = scope.model.opset_of(node.domain)
            found = known[key] = float_slots(key[0], key[1], opset, *key[2:], state.shared.half)
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
            or (node.op == "Cast" and scope.is_exit_cast(node))
            or (state.shared.untyped and _reads_unknown(state, node, found))
        )
        state.slots.append(_AS_IT_IS if stays else found)


def _reads_unknown(state: State, node: ViewNode, slots: FloatSlots) -> bool:
    """Whether the type of an operand is not known: then that of the result is not either."""
    return any(
        slot in slots.inputs and not tensor.is_empty() and not state.scope.dtype(tensor.name)
        for slot, tensor in enumerate(node.inputs)
    )


def classify(state: State) -> None:
    """Which tensors are made in FP16, and which must give up their name because it is promised in the other type."""
    scope, shared, made_half = state.scope, state.shared, state.half
    variable = shared.floats - shared.constants
    for name in scope.inputs:
        tensor = scope.tensors[name]
        if id(tensor) in shared.floats and _promised_half(state, tensor):
            state.half.add(id(tensor))
            _retype_border(state, name)
    _hand_out(state)
    for node, slots in zip(scope.nodes, state.slots, strict=True):
        for slot, tensor in enumerate(node.outputs):
            if (key := id(tensor)) not in variable:
                continue
            half = slot in slots.outputs
            if half:
                made_half.add(key)
            if key in shared.promised:
                promised = _promised_half(state, tensor)
                if promised:
                    _retype_border(state, tensor.name)
                if promised != half:
                    suffix = shared.half.suffix if half else "float32"
                    state.stored[key] = shared.names.fresh(f"{tensor.name}/fp16fix/{suffix}")


def _hand_out(state: State) -> None:
    """Constants that a body hands out in FP16 keep their name in that type."""
    for name in state.scope.outputs if state.scope.path in state.shared.borders else ():
        tensor = state.scope.tensors.get(name)
        if (
            tensor is None
            or (key := id(tensor)) not in state.shared.constants
            or key not in state.shared.floats
        ):
            continue
        if _promised_half(state, tensor):
            state.handed[key] = tensor, state.shared.names.fresh(f"{name}/fp16fix/float32")
            _retype_border(state, name)


def _promised_half(state: State, tensor: gs.Tensor) -> bool:
    """Whether the name belongs to an FP16 value outside."""
    if state.scope.path in state.shared.borders:
        return tensor.name in state.shared.borders[state.scope.path]
    return state.half_io and (tensor.name in state.scope.outputs or state.scope.producer(tensor) is None)


def _retype_border(state: State, name: str) -> None:
    graph = state.scope.graph
    assert isinstance(graph, onnx.GraphProto)
    for info in (*graph.input, *graph.output):
        if info.name == name:
            state.patch.border[name] = as_half(state, info)
    for tensor in graph.initializer if name in state.scope.inputs else ():
        if tensor.name == name:  # the default of an input
            values = read_tensor(tensor, state.scope.model.base_dir)
            made = halved(values, state.shared.half, name, guard=name in state.shared.guards)
            state.patch.replaced_initializers[name] = noted(state.shared, name, made)
