"""One model in which every node has a switch: FP16 or FP32, chosen anew at each run.

    y = Op(x)    becomes    y = If(node.fp16) { round(Op(round(x))) } else { Op(x) }

Opening a session costs far more than running a small one, so a search over sets of nodes opens one session and feeds
other switches. Only the branch that is chosen runs. What a node does in FP16 is not decided here: ``emit.convert``
types a bag of all nodes, each cut off from its neighbours, and ``simulate.rounded_graph`` rounds the result as ever.
So a run computes, bit for bit, what the typed model with the same FP32 nodes computes in simulation.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper, numpy_helper

from onnx_fp16fix.blame.places import Places
from onnx_fp16fix.emit import convert, selecting_inputs
from onnx_fp16fix.graph import ScopeView, ViewNode, build_view
from onnx_fp16fix.half import FP16, FloatType
from onnx_fp16fix.model import Model
from onnx_fp16fix.operators import float_slots
from onnx_fp16fix.runtime import DRAWING
from onnx_fp16fix.simulate import Mode, rounded_graph

__all__ = ["Switched", "build_switched", "drawn"]


@dataclass(frozen=True, slots=True)
class Switched:
    """``proto`` is an FP32 graph to run; ``switches`` has, by number of the node, the bool input that asks for FP16.

    Nodes without a switch always compute in FP32: ops that FP16 models keep so, ops on integers, and random numbers
    (``drawn``), which are the same for all trials.
    """

    proto: onnx.ModelProto
    switches: Mapping[int, str]
    weights: Model
    """Holds the file with the FP16 copies of heavy weights, which the graph refers to."""


def build_switched(
    places: Places, mode: Mode = "default", half: FloatType = FP16, guards: Collection[str] = frozenset()
) -> Switched:
    """The switched twin of a model without local functions; ``mode``: what kernels keep in FP16 inside; ``half``: the
    type that stands for FP16; ``guards``: see ``convert``.

    Raises ModelError where a type is not known.
    """
    model = places.main.model
    prefix = _free_prefix(places)
    fixed = selecting_inputs(places.main, half) | drawn(places.main).keys()
    cells = [
        _Cell(scope, node, f"{prefix}{number}.", number)
        for number, (scope, node) in enumerate(places.nodes)
        if _has_fp16(scope, node, half) and (scope.path or node.index not in fixed)
    ]
    bag = _bag(model, cells)
    guards = {
        *guards,
        *(bagged for cell in cells for bagged, name in cell.constants.items() if name in guards),
    }
    typed = convert(build_view(model.with_proto(bag)).main, (), half=half, guards=guards, select=False)
    groups = _groups(typed.model.proto, prefix)
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    graphs = {scope.path: scope.graph for scope in Model(proto).scopes()}
    constants = _add_constants(typed.model.proto, proto, prefix, half.elem_type)
    switches: dict[int, str] = {}
    for cell in cells:
        group = groups[cell.number]
        if len(group) == 1 and group[0] == cell.bagged:
            continue  # nothing of it is FP16
        switches[cell.number] = f"{cell.prefix}fp16"
        branches = _Branches(cell, group, constants)
        graphs[cell.scope.path].node[cell.node.index].CopyFrom(branches.switch(switches[cell.number]))
        # bodies see it as any tensor of the main graph
        proto.graph.input.append(helper.make_tensor_value_info(switches[cell.number], TensorProto.BOOL, []))
    return Switched(rounded_graph(proto, base_dir=model.base_dir, mode=mode), switches, typed.model)


def drawn(scope: ScopeView) -> dict[int, str]:
    """Results of the random ops of the main graph, by index of the node."""
    return {
        node.index: str(node.outputs[0].name)
        for node in scope.nodes
        if node.op in DRAWING and not node.domain and node.outputs
    }


def _free_prefix(places: Places) -> str:
    prefix = "fp16fix.bisect."
    scopes = [places.main, *places.main.inside()]
    while any(name.startswith(prefix) for scope in scopes for name in scope.tensors):
        prefix += "_."
    return prefix


class _Cell:
    """A node cut off from its neighbours. ``bagged``: with computed inputs and all outputs under names of its own."""

    def __init__(self, scope: ScopeView, node: ViewNode, prefix: str, number: int) -> None:
        self.scope, self.node, self.prefix, self.number = scope, node, prefix, number
        self.constants: dict[str, str] = {}
        """Constants of bodies that it reads, under the names they have in the bag: sibling bodies may share names."""
        self.bagged = onnx.NodeProto()
        self.bagged.CopyFrom(node.proto)
        for slot, tensor in enumerate(node.inputs):
            if tensor.is_empty():
                continue
            owner = scope.owner(tensor.name) or scope
            if not _is_constant(owner, tensor):
                self.bagged.input[slot] = f"{prefix}in{slot}"
            elif owner.path:
                self.bagged.input[slot] = f"fp16fix.{'/'.join(owner.path)}::{tensor.name}"
                self.constants[self.bagged.input[slot]] = tensor.name
        for slot, tensor in enumerate(node.outputs):
            if not tensor.is_empty():
                self.bagged.output[slot] = f"{prefix}out{slot}"


def _has_fp16(scope: ScopeView, node: ViewNode, half: FloatType) -> bool:
    """Whether the node may be worth a place in the bag: a tensor op that reads or makes FLOAT and can be FP16."""
    if node.op == "Constant" and not node.domain:
        return False  # its readers choose the type
    opset = scope.model.opset_of(node.domain)
    if not float_slots(node.domain, node.op, opset, len(node.inputs), len(node.outputs), half).fp16:
        return False
    types = [scope.dtype(t.name) for t in (*node.inputs, *node.outputs) if not t.is_empty()]
    return all(types) and TensorProto.FLOAT in types


def _is_constant(owner: ScopeView, tensor: gs.Tensor) -> bool:
    producer = owner.producer(tensor)
    if producer is not None:
        return bool(producer.op == "Constant" and not producer.domain and owner.is_constant(tensor))
    return owner.is_constant(tensor)


def _bag(model: Model, cells: Sequence[_Cell]) -> onnx.ModelProto:
    source = model.proto
    bag = onnx.ModelProto(ir_version=source.ir_version)
    bag.opset_import.extend(source.opset_import)
    bag.graph.name = "bag"
    needed: set[str] = set()
    of_bodies: dict[str, tuple[ScopeView, str]] = {}
    for cell in cells:
        for before, after in zip(cell.node.proto.input, cell.bagged.input, strict=True):
            if after in cell.constants:
                of_bodies[after] = cell.scope, before
            elif after != before:
                bag.graph.input.append(_info(cell.scope, before, after))
            else:
                needed.add(after)
        for before, after in zip(cell.node.proto.output, cell.bagged.output, strict=True):
            if after:
                bag.graph.output.append(_info(cell.scope, before, after))
        bag.graph.node.append(cell.bagged)
    bag.graph.initializer.extend(tensor for tensor in source.graph.initializer if tensor.name in needed)
    makers = [node for node in source.graph.node if node.op_type == "Constant" and node.output[0] in needed]
    for position, maker in enumerate(makers):
        bag.graph.node.insert(position, maker)
    for name, (scope, tensor) in of_bodies.items():
        values = scope.constant(scope.tensor(tensor))
        assert values is not None
        bag.graph.initializer.append(numpy_helper.from_array(values, name))
    return bag


def _info(scope: ScopeView, name: str, new: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(new, scope.dtype(name), None)


def _groups(typed: onnx.ModelProto, prefix: str) -> dict[int, list[onnx.NodeProto]]:
    """Nodes of the typed bag by the index of the node they came from: its Casts and itself, in order."""
    groups: dict[int, list[onnx.NodeProto]] = {}
    for node in typed.graph.node:
        made = next(filter(None, node.output))
        if made.startswith(prefix):
            groups.setdefault(int(made.removeprefix(prefix).split(".")[0]), []).append(node)
    return groups


def _add_constants(
    typed: onnx.ModelProto, target: onnx.ModelProto, prefix: str, elem_type: int
) -> dict[str, str]:
    """Put the FP16 constants of the bag into the main graph; names there by names in the bag."""
    names: dict[str, str] = {}
    for tensor in _half_constants(typed, elem_type):
        names[tensor.name] = f"{prefix}constant.{tensor.name}"
        stored = target.graph.initializer.add()
        stored.CopyFrom(tensor)
        stored.name = names[tensor.name]
    return names


def _half_constants(typed: onnx.ModelProto, elem_type: int) -> Iterator[TensorProto]:
    for tensor in typed.graph.initializer:
        if tensor.data_type == elem_type:
            yield tensor
    for node in typed.graph.node:
        for attribute in node.attribute if node.op_type == "Constant" and not node.domain else ():
            if attribute.name == "value" and attribute.t.data_type == elem_type:
                copy = TensorProto()
                copy.CopyFrom(attribute.t)
                copy.name = node.output[0]
                yield copy


class _Branches:
    """Both forms of one node as bodies of an If that makes the node's own outputs."""

    def __init__(self, cell: _Cell, group: list[onnx.NodeProto], constants: Mapping[str, str]) -> None:
        self._cell, self._group, self._constants = cell, group, constants
        pairs = zip(cell.bagged.input, cell.node.proto.input, strict=True)
        self._outer = {inside: outside for inside, outside in pairs if inside != outside}
        self._results = [name for name in cell.bagged.output if name]

    def switch(self, condition: str) -> onnx.NodeProto:
        """The If; its branches make names of their own, for not every tool likes two scopes to share one."""
        return helper.make_node(
            "If",
            [condition],
            [name for name in self._cell.node.proto.output if name],
            name=self._cell.node.name,
            then_branch=self._body(self._group, self._constants, ""),
            else_branch=self._body([self._cell.bagged], {}, ".exact"),
        )

    def _body(
        self, nodes: list[onnx.NodeProto], constants: Mapping[str, str], suffix: str
    ) -> onnx.GraphProto:
        body = onnx.GraphProto(name=f"branch{suffix}")
        for node in nodes:
            copy = body.node.add()
            copy.CopyFrom(node)
            # FP16 constants first: the name may be that of the FP32 one, which is read from outside
            copy.input[:] = [constants.get(entry) or self._outer.get(entry, entry) for entry in node.input]
            if suffix:
                copy.output[:] = [f"{name}{suffix}" if name else "" for name in node.output]
        made = (name for name in self._cell.node.proto.output if name)
        for name, result in zip(made, self._results, strict=True):
            body.output.append(_info(self._cell.scope, name, f"{result}{suffix}"))
        return body
