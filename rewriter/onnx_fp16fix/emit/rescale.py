"""The rescaled FP32 model: constants, attributes and, where the plan says so, Muls by powers of two.

The graph computes what it did: every change is a multiplication by a power of two that another one undoes, so FP32
outputs keep their bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import helper, numpy_helper

from onnx_fp16fix import fp16
from onnx_fp16fix.calibrate.ranges import tensor_key
from onnx_fp16fix.emit.scaled import scale_constants
from onnx_fp16fix.graph import ScopeView, ViewNode
from onnx_fp16fix.half import FloatType
from onnx_fp16fix.model import Model, Names, Patch, ScopePath, apply_patches
from onnx_fp16fix.model.model import GraphLike
from onnx_fp16fix.operators import AttributeScale, inp, out
from onnx_fp16fix.plan import Plan
from onnx_fp16fix.plan.facts import Facts
from onnx_fp16fix.plan.plan import Slot

__all__ = ["Rescaled", "rescale"]


@dataclass(frozen=True, slots=True)
class Rescaled:
    """The FP32 model, its FP32-only nodes by index in *this* model's main graph, the exponents of its tensors by
    name, the constants that must not vanish in FP16, how many Muls were inserted, and the FP32-only nodes of the
    bodies that the plan covers, by scope in this model."""

    model: Model
    fp32_nodes: frozenset[int]
    exponents: Mapping[str, int]
    raised: frozenset[str]
    inserted_muls: int
    bodies: Mapping[ScopePath, frozenset[int]] = field(default_factory=dict)


@dataclass
class _Edit:
    scope: ScopeView
    plan: Plan
    facts: Facts
    names: Names
    patch: Patch
    inputs: dict[Slot, str] = field(default_factory=dict)
    """New tensor names of operands."""
    made: dict[tuple[str, int, bool], str] = field(default_factory=dict)
    """Scaled tensors by (name, shift, FP32)."""
    fp32_outputs: set[str] = field(default_factory=set)
    """Outputs of inserted Muls that run in FP32."""
    renamed: dict[str, str] = field(default_factory=dict)
    factors: dict[int, str] = field(default_factory=dict)
    """Constants 2**-shift by shift."""
    muls: int = 0


def rescale(scope: ScopeView, facts: Facts, plan: Plan) -> Rescaled:
    """Apply a plan's exponents to the main graph and the bodies that it covers."""
    scopes, names = [scope, *scope.inside()], Names(scope.model)
    patches = {view.path: Patch(view.path) for view in scopes}
    constants = scale_constants(scopes, plan, patches, names)
    edits = []
    for view in scopes:
        part = plan if view is scope else plan.bodies.get(view.path, Plan())
        own = facts if view is scope else Facts(view, facts.ranges, facts.margin, facts.half)
        edits.append(_Edit(view, part, own, names, patches[view.path]))
    by_path = {edit.scope.path: edit for edit in edits}
    for (path, slot), name in constants.items():
        by_path[path].inputs[slot] = name
    for edit in edits:
        _edit_scope(edit)
    model = apply_patches(scope.model, patches.values())
    # bodies stay in order, but the indices in their paths move with the nodes inserted before them
    after = {old.path: new for old, new in zip(scope.model.scopes(), model.scopes(), strict=True)}
    fp32 = {after[edit.scope.path].path: _fp32_indices(edit, after[edit.scope.path].graph) for edit in edits}
    main = after[scope.path].path
    return Rescaled(
        model,
        fp32[main],
        {name: exponent for edit in edits for name, exponent in _new_exponents(edit)},
        frozenset(name for edit in edits for name in _raised(edit)),
        sum(edit.muls for edit in edits),
        {after[path].path: fp32[after[path].path] for path in plan.bodies},
    )


def _edit_scope(edit: _Edit) -> None:
    _rename_results(edit)
    _scale_entries(edit)
    for slot in sorted(edit.plan.muls):
        _insert_mul(edit, slot)
    for node in edit.scope.nodes:
        if node.index not in edit.patch.removed:
            _rewrite_node(edit, node)


def _new_exponents(edit: _Edit) -> Iterator[tuple[str, int]]:
    for name, exponent in edit.plan.exponents.items():
        yield tensor_key(edit.scope.path, edit.renamed.get(name, name)), exponent


def _raised(edit: _Edit) -> Iterator[str]:
    for index, slot in edit.plan.raised:
        yield edit.inputs.get((index, slot), edit.scope.nodes[index].inputs[slot].name)


def _rename_results(edit: _Edit) -> None:
    """A scaled tensor whose true value leaves the graph: the true value keeps the name, the scaled one gets another."""
    for name, shift in edit.plan.results.items():
        tensor = edit.scope.tensor(name)
        assert tensor is not None
        producer = edit.scope.producer(tensor)
        assert producer is not None
        scaled = edit.names.fresh(f"{name}/fp16fix/scaled")
        edit.renamed[name] = scaled
        _insert(edit, producer.index + 1, scaled, name, shift, fp32=True)


def _scale_entries(edit: _Edit) -> None:
    for name, shift in edit.plan.entries.items():
        scaled = edit.renamed[name] = edit.names.fresh(f"{name}/fp16fix/scaled")
        _insert(edit, 0, name, scaled, shift, fp32=True)


def _insert_mul(edit: _Edit, slot: Slot) -> None:
    index, position = slot
    node, shift = edit.scope.nodes[index], edit.plan.muls[slot]
    tensor = node.inputs[position]
    source = edit.renamed.get(tensor.name, tensor.name)
    fp32 = _is_fp32(edit, tensor, slot) or not _is_normal(edit.facts.half, -shift)
    key = (source, shift, fp32)
    if key not in edit.made:
        edit.made[key] = edit.names.fresh(f"{tensor.name}/fp16fix/shifted")
        producer = edit.scope.producer(tensor)
        index = 0 if producer is None else producer.index + 1
        _insert(edit, index, source, edit.made[key], shift, fp32)
    edit.inputs[slot] = edit.made[key]


def _is_normal(half: FloatType, exponent: int) -> bool:
    """Whether 2**exponent is a normal value of the type."""
    return half.least <= exponent <= fp16.floor_log2(half.max)


def _is_fp32(edit: _Edit, tensor: gs.Tensor, slot: Slot) -> bool:
    """A Mul between an FP32 and an FP16 side runs in FP32: there it neither overflows nor rounds."""
    index, position = slot
    reader = edit.facts.node_view(edit.scope.nodes[index])
    producer = edit.scope.producer(tensor)
    if producer is None or index in edit.plan.fp32 or not reader.is_half(inp(position)):
        return True
    maker = edit.facts.node_view(producer)
    place = producer.output_slot(tensor)
    return producer.index in edit.plan.fp32 or not maker.is_half(out(place))


def _insert(edit: _Edit, index: int, source: str, result: str, shift: int, fp32: bool) -> None:
    """Multiply ``source`` by 2**-shift before node ``index``."""
    if shift not in edit.factors:
        factor = edit.factors[shift] = edit.names.fresh(f"fp16fix/two_to_{-shift}")
        edit.patch.initializers.append(numpy_helper.from_array(np.ldexp(np.float32(1), -shift), factor))
    name = edit.names.fresh(f"{result}/fp16fix/Mul")
    edit.patch.insert(index, helper.make_node("Mul", [source, edit.factors[shift]], [result], name=name))
    if fp32:
        edit.fp32_outputs.add(result)
    edit.muls += 1


def _rewrite_node(edit: _Edit, node: ViewNode) -> None:
    view = edit.facts.node_view(node)
    inputs = [
        edit.inputs.get((node.index, slot), edit.renamed.get(name, name))
        for slot, name in enumerate(node.proto.input)
    ]
    outputs = [edit.renamed.get(name, name) for name in node.proto.output]
    attributes: dict[str, float] = {}
    for scale in edit.facts.relation(view).attributes:
        exponent = _exponent(edit, node, scale)
        if exponent:
            value = attributes.get(scale.name, node.attrs.get(scale.name, scale.default))
            if value is not None:
                attributes[scale.name] = float(np.ldexp(value, scale.coefficient * exponent))
    if not attributes and inputs == list(node.proto.input) and outputs == list(node.proto.output):
        return
    if node.index in edit.scope.bodies:
        edit.patch.rewired[node.index] = (inputs, outputs)
        return
    copy = onnx.NodeProto()
    copy.CopyFrom(edit.patch.replaced.get(node.index, node.proto))
    copy.input[:] = inputs
    copy.output[:] = outputs
    for name, number in attributes.items():
        _set_float(copy, name, number)
    edit.patch.replaced[node.index] = copy


def _exponent(edit: _Edit, node: ViewNode, scale: AttributeScale) -> int:
    kind, position = scale.operand
    tensors = node.inputs if kind == "in" else node.outputs
    if position >= len(tensors):
        return 0
    slot = (node.index, position)
    name = tensors[position].name
    stored = edit.plan.exponents.get(name, edit.plan.entries.get(name, 0))
    if kind == "out":
        return stored
    return edit.plan.operands.get(slot, stored + edit.plan.muls.get(slot, 0))


def _set_float(node: onnx.NodeProto, name: str, value: float) -> None:
    for attribute in node.attribute:
        if attribute.name == name:
            attribute.f = value
            return
    node.attribute.append(helper.make_attribute(name, value))


def _fp32_indices(edit: _Edit, graph: GraphLike) -> frozenset[int]:
    """Where the FP32 nodes of the plan and the FP32 Muls are in the new node list."""
    outputs = set(edit.fp32_outputs)
    for index in edit.plan.fp32:
        outputs.update(edit.renamed.get(name, name) for name in edit.scope.nodes[index].proto.output if name)
    return frozenset(
        index for index, node in enumerate(graph.node) if any(name in outputs for name in node.output)
    )
