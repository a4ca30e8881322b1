"""The rescaled FP32 model: constants, attributes and, where the plan says so, Muls by powers of two.

The graph computes what it did: every change is a multiplication by a power of two that another one undoes, so FP32
outputs keep their bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_fp16fix import fp16
from onnx_fp16fix.calibrate.ranges import tensor_key
from onnx_fp16fix.emit.edit import Edit, half_borders
from onnx_fp16fix.emit.scaled import scale_constants, scaled_initializers
from onnx_fp16fix.emit.weights import spool_for, with_spool
from onnx_fp16fix.graph import ScopeView, ViewNode
from onnx_fp16fix.half import FloatType
from onnx_fp16fix.model import Model, Patch, ScopePath, TypeTable, apply_patches
from onnx_fp16fix.model.infer import TensorType
from onnx_fp16fix.model.model import GraphLike
from onnx_fp16fix.operators import SCALED_ATTRIBUTES, AttributeScale
from onnx_fp16fix.plan import Place, Plan
from onnx_fp16fix.plan.known.facts import Facts
from onnx_fp16fix.plan.plan import Slot

__all__ = ["Rescaled", "rescale"]

_FLOAT = TensorType(onnx.TensorProto.FLOAT)


@dataclass(frozen=True)
class Rescaled:
    """The FP32 model but for initializers that are still to be scaled (``unscaled``), its FP32-only nodes by index in
    *this* model's main graph, the exponents of its tensors by name, the constants that must not vanish in FP16 with
    their exponents, how many Muls were inserted, and the FP32-only nodes of the bodies that the plan covers, by scope
    in this model."""

    frame: Model
    fp32_nodes: frozenset[int]
    exponents: Mapping[str, int]
    raised: Mapping[str, int]
    inserted_muls: int
    bodies: Mapping[ScopePath, frozenset[int]] = field(default_factory=dict)
    half_borders: Mapping[ScopePath, frozenset[str]] = field(default_factory=dict)
    """Inputs and outputs of bodies that are FP16, by name."""
    renamed: Mapping[ScopePath, Mapping[str, str]] = field(default_factory=dict)
    """What tensors of the planned model are called here, by its scopes, where they bear another name."""
    types: TypeTable | None = None
    """Types in this model, where they are known already; shapes of what was added are left out."""
    unscaled: Mapping[str, int] = field(default_factory=dict)
    """Initializers of the main graph that ``frame`` holds as they were, with the exponents to scale them by."""

    @cached_property
    def model(self) -> Model:
        """The FP32 model, made when it is asked for: the typed one comes from ``frame`` directly."""
        if not self.unscaled:
            return self.frame
        patch, spool = Patch(), spool_for(self.frame)
        for tensor in scaled_initializers(self.frame, self.unscaled, spool):
            patch.replaced_initializers[tensor.name] = tensor
        return with_spool(apply_patches(self.frame, [patch]), spool)

    def origins(self, planned: Model) -> dict[Place, Place]:
        """Which node of the planned model each one is; the inserted Muls are none."""
        found: dict[Place, Place] = {}
        for old, new in zip(planned.scopes(), self.frame.scopes(), strict=True):
            names = self.renamed.get(old.path, {})
            made = {
                names.get(name, name): (old.path, index)
                for index, node in enumerate(old.graph.node)
                for name in node.output
                if name
            }
            for index, node in enumerate(new.graph.node):
                if (source := next((made[name] for name in node.output if name in made), None)) is not None:
                    found[new.path, index] = source
        return found


def rescale(scope: ScopeView, facts: Facts, plan: Plan) -> Rescaled:
    """Apply a plan's exponents to the main graph and the bodies that it covers."""
    scopes, names = [scope, *scope.inside()], scope.fresh_names()
    patches = {view.path: Patch(view.path) for view in scopes}
    spool = spool_for(scope.model)
    constants, unscaled = scale_constants(scopes, plan, patches, names, spool)
    half, by_path = half_borders(scope, plan), dict[ScopePath, Edit]()
    for view in scopes:
        part = plan if view is scope else plan.bodies.get(view.path, Plan(whole=True))
        own = facts if view is scope else Facts(view, facts.ranges, facts.margin, facts.half)
        outer = None if view is scope or view.parent is None else by_path[view.parent.path]
        by_path[view.path] = Edit(view, part, own, names, patches[view.path], outer, half)
    edits = list(by_path.values())
    for (path, slot), name in constants.items():
        by_path[path].inputs[slot] = name
    for edit in edits:
        _edit_scope(edit)
    model = with_spool(apply_patches(scope.model, patches.values()), spool)
    # bodies stay in order, but the indices in their paths move with the nodes inserted before them
    after = {old.path: new for old, new in zip(scope.model.scopes(), model.scopes(), strict=True)}
    fp32 = {after[edit.scope.path].path: _fp32_indices(edit, after[edit.scope.path].graph) for edit in edits}
    main = after[scope.path].path
    return Rescaled(
        model,
        fp32[main],
        {name: exponent for edit in edits for name, exponent in _new_exponents(edit)},
        {name: exponent for edit in edits for name, exponent in _raised(edit)},
        sum(edit.muls for edit in edits),
        {after[path].path: fp32[after[path].path] for path in plan.bodies},
        {after[path].path: names for path, names in half.items()},
        {edit.scope.path: edit.renamed for edit in edits},
        TypeTable({after[path].path: types for path, types in _types(scope.types, edits)}),
        unscaled,
    )


def _types(types: TypeTable, edits: Sequence[Edit]) -> Iterator[tuple[ScopePath, Mapping[str, TensorType]]]:
    """Types by scope, with those of what the edits add: it is all FLOAT."""
    added: dict[ScopePath, dict[str, TensorType]] = {}
    for edit in edits:
        patch = edit.patch
        names = [tensor.name for tensor in patch.initializers] + list(edit.renamed.values())
        names += [node.output[0] for nodes in patch.inserted.values() for node in nodes]
        added[edit.scope.path] = dict.fromkeys(names, _FLOAT)
    for path, known in types.scopes.items():
        yield path, {**added.get(path, {}), **known}


def _edit_scope(edit: Edit) -> None:
    _rename_results(edit)
    _scale_entries(edit)
    for slot in sorted(edit.plan.muls):
        _insert_mul(edit, slot)
    read, renamed = {index for index, _ in edit.inputs}, edit.all_renamed()
    scaled, slots = edit.all_scaled(), {index for index, _ in (*edit.plan.operands, *edit.plan.muls)}
    for node in edit.scope.nodes:
        scales = node.op in SCALED_ATTRIBUTES
        if node.index in edit.patch.removed or not (scales or renamed or node.index in read):
            continue
        names = [tensor.name for tensor in (*node.inputs, *node.outputs)]
        attributes = {}
        if scales and (node.index in slots or not scaled.isdisjoint(names)):
            attributes = _attributes(edit, node)
        if attributes or node.index in read or not renamed.isdisjoint(names):
            _rewrite_node(edit, node, attributes)


def _new_exponents(edit: Edit) -> Iterator[tuple[str, int]]:
    for name, exponent in edit.plan.exponents.items():
        yield tensor_key(edit.scope.path, edit.renamed.get(name, name)), exponent
    for name, shift in edit.plan.results.items():  # 0 but for what a body hands out
        if exponent := edit.plan.exponents.get(name, 0) + shift:
            yield tensor_key(edit.scope.path, name), exponent


def _raised(edit: Edit) -> Iterator[tuple[str, int]]:
    for index, slot in edit.plan.raised:
        name = edit.inputs.get((index, slot), edit.scope.nodes[index].inputs[slot].name)
        yield name, edit.plan.operands.get((index, slot), 0)


def _rename_results(edit: Edit) -> None:
    """A scaled tensor whose true value leaves the graph: the true value keeps the name, the scaled one gets another."""
    for name, shift in edit.plan.results.items():
        tensor = edit.scope.tensor(name)
        assert tensor is not None
        producer = edit.scope.producer(tensor)
        assert producer is not None
        scaled = edit.names.fresh(f"{name}/fp16fix/scaled")
        edit.renamed[name] = scaled
        # the output of a body may leave it in FP16; the true value that an output or a whole body needs is FP32
        half = name in edit.half.get(edit.scope.path, ()) and edit.made_half(tensor)
        half = half and _is_normal(edit.facts.half, -shift)
        _insert(edit, producer.index + 1, scaled, name, shift, fp32=not half)


def _scale_entries(edit: Edit) -> None:
    for name, shift in edit.plan.entries.items():
        scaled = edit.renamed[name] = edit.names.fresh(f"{name}/fp16fix/scaled")
        _insert(edit, 0, name, scaled, shift, fp32=True)


def _insert_mul(edit: Edit, slot: Slot) -> None:
    """In the scope that the operand belongs to: a body need not repeat it."""
    index, position = slot
    node, shift = edit.scope.nodes[index], edit.plan.muls[slot]
    tensor = node.inputs[position]
    owner, source = edit.owner(tensor), edit.name_of(tensor)
    # between an FP32 and an FP16 side it runs in FP32: there it neither overflows nor rounds
    normal = _is_normal(edit.facts.half, -shift)
    fp32 = not (owner.made_half(tensor) and edit.read_half(node, position) and normal)
    key = (source, shift, fp32)
    if key not in owner.made:
        owner.made[key] = owner.names.fresh(f"{tensor.name}/fp16fix/shifted")
        producer = owner.scope.producer(tensor)
        _insert(owner, 0 if producer is None else producer.index + 1, source, owner.made[key], shift, fp32)
    edit.inputs[slot] = owner.made[key]


def _is_normal(half: FloatType, exponent: int) -> bool:
    """Whether 2**exponent is a normal value of the type."""
    return half.least <= exponent <= fp16.floor_log2(half.max)


def _insert(edit: Edit, index: int, source: str, result: str, shift: int, fp32: bool) -> None:
    """Multiply ``source`` by 2**-shift before node ``index``."""
    if shift not in edit.factors:
        factor = edit.factors[shift] = edit.names.fresh(f"fp16fix/two_to_{-shift}")
        edit.patch.initializers.append(numpy_helper.from_array(np.ldexp(np.float32(1), -shift), factor))
    name = edit.names.fresh(f"{result}/fp16fix/Mul")
    edit.patch.insert(index, helper.make_node("Mul", [source, edit.factors[shift]], [result], name=name))
    if fp32:
        edit.fp32_outputs.add(result)
    edit.muls += 1


def _attributes(edit: Edit, node: ViewNode) -> dict[str, float]:
    """Attributes that take up exponents, with their new values."""
    attributes: dict[str, float] = {}
    for scale in edit.facts.node_view(node).relation.attributes:
        exponent = _exponent(edit, node, scale)
        if exponent:
            value = attributes.get(scale.name, node.attrs.get(scale.name, scale.default))
            if value is not None:
                attributes[scale.name] = float(np.ldexp(value, scale.coefficient * exponent))
    return attributes


def _rewrite_node(edit: Edit, node: ViewNode, attributes: Mapping[str, float]) -> None:
    inputs = [
        edit.inputs.get((node.index, slot), edit.name_of(tensor)) for slot, tensor in enumerate(node.inputs)
    ]
    outputs = [edit.renamed.get(tensor.name, tensor.name) for tensor in node.outputs]
    same_inputs = inputs == [tensor.name for tensor in node.inputs]
    same_outputs = outputs == [tensor.name for tensor in node.outputs]
    if not attributes and same_inputs and same_outputs:
        return
    if node.index in edit.scope.bodies:
        edit.patch.rewired[node.index] = (inputs, outputs)
        return
    copy = onnx.NodeProto()
    copy.CopyFrom(edit.patch.replaced.get(node.index, node.proto))
    if not same_inputs:
        copy.input[:] = inputs
    if not same_outputs:
        copy.output[:] = outputs
    for name, number in attributes.items():
        _set_float(copy, name, number)
    edit.patch.replaced[node.index] = copy


def _exponent(edit: Edit, node: ViewNode, scale: AttributeScale) -> int:
    kind, position = scale.operand
    tensors = node.inputs if kind == "in" else node.outputs
    if position >= len(tensors):
        return 0
    slot, stored = (node.index, position), edit.exponent_of(tensors[position])
    if kind == "out":
        return stored
    return edit.plan.operands.get(slot, stored + edit.plan.muls.get(slot, 0))


def _set_float(node: onnx.NodeProto, name: str, value: float) -> None:
    for attribute in node.attribute:
        if attribute.name == name:
            attribute.f = value
            return
    node.attribute.append(helper.make_attribute(name, value))


def _fp32_indices(edit: Edit, graph: GraphLike) -> frozenset[int]:
    """Where the FP32 nodes of the plan and the FP32 Muls are in the new node list."""
    outputs = set(edit.fp32_outputs)
    for index in edit.plan.fp32:
        names = (tensor.name for tensor in edit.scope.nodes[index].outputs)
        outputs.update(edit.renamed.get(name, name) for name in names if name)
    if not outputs:
        return frozenset()
    return frozenset(index for index, node in enumerate(graph.node) if not outputs.isdisjoint(node.output[:]))
