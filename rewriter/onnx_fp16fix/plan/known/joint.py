"""One scope made of many: the main graph and the bodies inside it, for one program over all of them.

The nodes of a body stand before the node that holds it, under new indices. What crosses a body's border is one value
(what a loop carries: the initial value, the body's input, its output, the result), so it gets a node of its own after
those: it reads the tensors that are handed over and makes those received, all at one exponent, and computes in the
type that the value has on its way. Casts and Muls beside it are those of the border.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

import onnx
import onnx_graphsurgeon as gs

from onnx_fp16fix.calibrate.ranges import TensorRange, tensor_key
from onnx_fp16fix.graph import Border, ScopeView, ViewNode, borders
from onnx_fp16fix.model import ScopePath
from onnx_fp16fix.operators import FloatSlots, Relation, inp, out
from onnx_fp16fix.operators.relation import equal
from onnx_fp16fix.plan.known.facts import BORDER, Facts, NodeView

__all__ = ["Crossing", "JointFacts", "JointScope", "join"]


@dataclass(frozen=True)
class Crossing:
    """A border in the joint scope. ``sources``: where each tensor that its node reads comes from, an input slot of
    the holder or (body, position of the output). ``pinned``: its exponent is 0."""

    holder: ViewNode
    border: Border
    sources: tuple[int | tuple[ScopeView, int], ...]
    pinned: bool


@dataclass(eq=False)
class JointScope(ScopeView):
    """``places``: scope and index there by joint index (of the holder for a crossing)."""

    places: list[tuple[ScopeView, int]] = field(default_factory=list)
    indices: dict[tuple[ScopePath, int], int] = field(default_factory=dict)
    crossings: dict[int, Crossing] = field(default_factory=dict)
    owners: dict[int, ScopeView] = field(default_factory=dict)
    """Scopes by the identity of their tensors."""
    _consumers: dict[int, list[tuple[ViewNode, int]]] = field(default_factory=dict)
    whole: dict[ScopePath, str] = field(default_factory=dict)
    """Bodies that stay as they are, with the reason."""

    def add(self, node: ViewNode, place: tuple[ScopeView, int]) -> ViewNode:
        """A copy of the node at the end; tensors that are absent are told by ``is_empty``."""
        copy = ViewNode.__new__(ViewNode)
        copy.__dict__.update(node.__dict__)  # graphsurgeon's own lists stay those of the original
        copy.__dict__["index"] = len(self.nodes)
        self.nodes.append(copy)
        self.places.append(place)
        for slot, tensor in enumerate(copy.inputs):
            if not tensor.is_empty():
                self._consumers.setdefault(id(tensor), []).append((copy, slot))
        for tensor in copy.outputs:
            if not tensor.is_empty():
                self._producers[id(tensor)] = copy
        return copy


@dataclass
class JointFacts(Facts):
    """Facts of a joint scope. ``per_sample``: how often each scope runs."""

    per_sample: Mapping[ScopePath, float] = field(default_factory=dict)

    @property
    def joint(self) -> JointScope:
        """The scope."""
        assert isinstance(self.scope, JointScope)
        return self.scope

    def _slots(self, node: ViewNode) -> tuple[FloatSlots, int]:
        if node.index not in self.joint.crossings:
            return super()._slots(node)
        return FloatSlots(True, frozenset(range(len(node.inputs))), frozenset(range(len(node.outputs)))), 1

    def _is_exit_cast(self, node: ViewNode) -> bool:
        scope, index = self.joint.places[node.index]
        return scope.is_exit_cast(scope.nodes[index])

    def relation(self, view: NodeView) -> Relation:
        crossing = self.joint.crossings.get(view.node.index)
        if crossing is None:
            return super().relation(view)
        if crossing.pinned:
            return Relation()
        return Relation(
            equal(view, [*map(inp, range(view.count("in"))), *map(out, range(view.count("out")))])
        )

    def _owner(self, tensor: gs.Tensor) -> ScopeView:
        return self.joint.owners[id(tensor)]

    def key(self, tensor: gs.Tensor) -> str:
        return tensor_key(self.joint.owners[id(tensor)].path, tensor.name)

    def runs(self, index: int) -> float:
        return self.per_sample.get(self.joint.places[index][0].path, 1.0)

    def repeats(self, tensor: gs.Tensor) -> float:
        return max(1.0, self.per_sample.get(self.joint.owners[id(tensor)].path, 1.0))

    def _calibrated(self, tensor: gs.Tensor) -> TensorRange:
        return self._calibrated_in(self.joint.owners[id(tensor)], tensor)


def join(
    facts: Facts,
    whole: Mapping[ScopePath, str],
    per_sample: Mapping[ScopePath, float],
    left_out: Set[tuple[ScopePath, int]] = frozenset(),
) -> JointFacts:
    """The main graph, of which ``facts`` are, with all bodies inside but those of ``whole``, and without the nodes
    ``left_out``, which nothing reads."""
    scope = facts.scope
    joint = JointScope(scope.path, scope.model, scope.types, None, scope.graph, whole=dict(whole))
    for view in (scope, *scope.inside()):
        joint.owners.update((id(tensor), view) for tensor in view.tensors.values())
    _add_scope(joint, scope, left_out)
    for name in scope.outputs:
        _leaves(joint, scope, name)
    return JointFacts(joint, facts.ranges, facts.margin, facts.half, per_sample=per_sample)


def _leaves(joint: JointScope, scope: ScopeView, name: str) -> None:
    tensor = scope.tensor(name)
    if tensor is not None:
        joint._outside[id(tensor)] = joint._outside.get(id(tensor), 0) + 1


def _add_scope(joint: JointScope, scope: ScopeView, left_out: Set[tuple[ScopePath, int]]) -> None:
    for node in scope.nodes:
        if (scope.path, node.index) in left_out:
            continue
        bodies = scope.bodies.get(node.index, {}).values()
        inside = [body for body in bodies if body.path not in joint.whole]
        for body in inside:
            _add_scope(joint, body, left_out)
        for body in bodies:
            if body.path in joint.whole:
                _stays(joint, body)
        found = borders(scope, node) if len(inside) == len(bodies) else []
        if inside and not found:
            for body in inside:
                for name in body.outputs:
                    _leaves(joint, body, name)
        crossing = [border for border in found if _is_float(border)]
        _add_holder(joint, scope, node, crossing)
        for border in crossing:
            _add_crossing(joint, scope, node, border)


def _stays(joint: JointScope, body: ScopeView) -> None:
    """What a body that stays as it is reads from outside is needed there as it is."""
    for view in (body, *body.inside()):
        for node in view.nodes:
            for tensor in node.inputs:
                if not tensor.is_empty():
                    joint._outside[id(tensor)] = joint._outside.get(id(tensor), 0) + 1


def _is_float(border: Border) -> bool:
    bodies = [(body, body.inputs[place]) for body, place in border.entries]
    bodies += [(body, body.outputs[place]) for body, place in border.exits]
    return all(body.dtype(name) == onnx.TensorProto.FLOAT for body, name in bodies)


def _add_holder(joint: JointScope, scope: ScopeView, node: ViewNode, crossing: list[Border]) -> None:
    """The If, Loop or Scan, or any other node; without the operands that cross a border."""
    place = (scope, node.index)
    if crossing:
        operands = {slot for border in crossing for slot in border.operands}
        results = {slot for border in crossing for slot in border.results}
        bare = ViewNode.__new__(ViewNode)
        bare.__dict__.update(node.__dict__)
        bare.__dict__["inputs"] = [
            gs.Variable.empty() if slot in operands else tensor for slot, tensor in enumerate(node.inputs)
        ]
        bare.__dict__["outputs"] = [
            gs.Variable.empty() if slot in results else tensor for slot, tensor in enumerate(node.outputs)
        ]
        node = bare
    added = joint.add(node, place)
    joint.indices[scope.path, node.index] = added.index
    if place[1] in scope.bodies:
        joint.bodies[added.index] = scope.bodies[place[1]]


def _add_crossing(joint: JointScope, scope: ScopeView, holder: ViewNode, border: Border) -> None:
    inputs: list[gs.Tensor] = []
    sources: list[int | tuple[ScopeView, int]] = []
    entries = [body.tensors[body.inputs[place]] for body, place in border.entries]
    received = {id(tensor) for tensor in entries}
    pinned = False
    for slot in border.operands:
        if slot < len(holder.inputs):
            inputs.append(holder.inputs[slot])
            sources.append(slot)
    for body, place in border.exits:
        tensor = body.tensors[body.outputs[place]]
        if id(tensor) in received:
            continue  # handed on as it came, or handed out twice
        received.add(id(tensor))
        if body.is_constant(tensor):
            values = body.constant(tensor)
            pinned |= values is None or bool(values.any())  # zeros have any exponent
            continue
        pinned |= bool(joint.outside_uses(tensor))
        inputs.append(tensor)
        sources.append((body, place))
    pinned |= any(joint.outside_uses(tensor) for tensor in entries)
    results = [holder.outputs[slot] for slot in border.results if not holder.outputs[slot].is_empty()]
    node = ViewNode.__new__(ViewNode)
    node.__dict__.update(
        proto=onnx.NodeProto(op_type=holder.op, domain=BORDER, name=holder.label),
        scope=scope.path,
        op=holder.op,
        name=holder.label,
        domain=BORDER,
        inputs=inputs,
        outputs=[*entries, *results],
    )
    added = joint.add(node, (scope, holder.index))
    joint.crossings[added.index] = Crossing(holder, border, tuple(sources), pinned)
