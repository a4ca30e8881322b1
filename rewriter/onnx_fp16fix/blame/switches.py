"""One model in which every node has a switch: FP16 or FP32, chosen anew at each run.

    y = Op(x)    becomes    y = If(node.fp16) { round(Op(round(x))) } else { Op(x) }

Opening a session costs far more than running a small one, so a search over sets of nodes opens one session and feeds
other switches. Only the branch that is chosen runs. What a node does in FP16 is not decided here: ``emit.convert``
types a bag of all nodes, each cut off from its neighbours, and ``simulate.rounded_graph`` rounds the result as ever.
So a run computes, bit for bit, what the typed model with the same FP32 nodes computes in simulation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from onnx_fp16fix.emit import convert
from onnx_fp16fix.graph import ScopeView, ViewNode, build_view
from onnx_fp16fix.operators import float_slots
from onnx_fp16fix.simulate import Mode, rounded_graph

__all__ = ["Switched", "build_switched"]


@dataclass(frozen=True, slots=True)
class Switched:
    """``proto`` is an FP32 graph to run; ``switches`` has, by node index, the bool input that asks for FP16.

    Nodes without a switch always compute in FP32: bodies, ops that FP16 models keep so, ops on integers.
    """

    proto: onnx.ModelProto
    switches: Mapping[int, str]


def build_switched(scope: ScopeView, mode: Mode = "default") -> Switched:
    """The switched twin of a main graph without local functions; ``mode``: what kernels keep in FP16 inside.

    Raises ModelError where a type is not known.
    """
    prefix = _free_prefix(scope)
    nodes = [node for node in scope.nodes if _has_fp16(scope, node)]
    bag = _bag(scope, nodes, prefix)
    typed = convert(build_view(scope.model.with_proto(bag)).main, ())
    groups = _groups(typed.model.proto, prefix)
    proto = onnx.ModelProto()
    proto.CopyFrom(scope.model.proto)
    constants = _add_constants(typed.model.proto, proto, prefix)
    switches: dict[int, str] = {}
    for node in nodes:
        group = groups[node.index]
        if len(group) == 1 and group[0] == _bag_node(scope, node, prefix):
            continue  # nothing of it is FP16
        switches[node.index] = f"{prefix}{node.index}.fp16"
        branches = _Branches(scope, node, prefix, group, constants)
        proto.graph.node[node.index].CopyFrom(branches.switch(switches[node.index]))
        proto.graph.input.append(helper.make_tensor_value_info(switches[node.index], TensorProto.BOOL, []))
    return Switched(rounded_graph(proto, base_dir=scope.model.base_dir, mode=mode), switches)


def _free_prefix(scope: ScopeView) -> str:
    prefix = "fp16fix.bisect."
    while any(name.startswith(prefix) for name in scope.tensors):
        prefix += "_."
    return prefix


def _has_fp16(scope: ScopeView, node: ViewNode) -> bool:
    """Whether the node may be worth a place in the bag: a tensor op that reads or makes FLOAT and can be FP16."""
    if node.op == "Constant" and not node.domain:
        return False  # its readers choose the type
    opset = scope.model.opset_of(node.domain)
    if not float_slots(node.domain, node.op, opset, len(node.inputs), len(node.outputs)).fp16:
        return False
    types = [scope.dtype(t.name) for t in (*node.inputs, *node.outputs) if not t.is_empty()]
    return all(types) and TensorProto.FLOAT in types


def _bag_node(scope: ScopeView, node: ViewNode, prefix: str) -> onnx.NodeProto:
    """The node with computed inputs and all outputs under names of its own, so that no other node meets it."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node.proto)
    for slot, tensor in enumerate(node.inputs):
        if not tensor.is_empty() and not _is_constant(scope, node, slot):
            copy.input[slot] = f"{prefix}{node.index}.in{slot}"
    for slot, tensor in enumerate(node.outputs):
        if not tensor.is_empty():
            copy.output[slot] = f"{prefix}{node.index}.out{slot}"
    return copy


def _is_constant(scope: ScopeView, node: ViewNode, slot: int) -> bool:
    tensor = node.inputs[slot]
    producer = scope.producer(tensor)
    if producer is not None:
        return bool(producer.op == "Constant" and not producer.domain)
    return scope.is_constant(tensor)


def _bag(scope: ScopeView, nodes: list[ViewNode], prefix: str) -> onnx.ModelProto:
    source = scope.model.proto
    bag = onnx.ModelProto(ir_version=source.ir_version)
    bag.opset_import.extend(source.opset_import)
    bag.graph.name = "bag"
    needed: set[str] = set()
    for node in nodes:
        copy = _bag_node(scope, node, prefix)
        for before, after in zip(node.proto.input, copy.input, strict=True):
            if after != before:
                bag.graph.input.append(_info(scope, before, after))
            else:
                needed.add(after)
        for before, after in zip(node.proto.output, copy.output, strict=True):
            if after:
                bag.graph.output.append(_info(scope, before, after))
        bag.graph.node.append(copy)
    bag.graph.initializer.extend(tensor for tensor in source.graph.initializer if tensor.name in needed)
    makers = [node for node in source.graph.node if node.op_type == "Constant" and node.output[0] in needed]
    for position, maker in enumerate(makers):
        bag.graph.node.insert(position, maker)
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


def _add_constants(typed: onnx.ModelProto, target: onnx.ModelProto, prefix: str) -> dict[str, str]:
    """Put the FP16 constants of the bag into the main graph; names there by names in the bag."""
    names: dict[str, str] = {}
    for tensor in _half_constants(typed):
        names[tensor.name] = f"{prefix}constant.{tensor.name}"
        stored = target.graph.initializer.add()
        stored.CopyFrom(tensor)
        stored.name = names[tensor.name]
    return names


def _half_constants(typed: onnx.ModelProto) -> Iterator[TensorProto]:
    for tensor in typed.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            yield tensor
    for node in typed.graph.node:
        for attribute in node.attribute if node.op_type == "Constant" and not node.domain else ():
            if attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT16:
                copy = TensorProto()
                copy.CopyFrom(attribute.t)
                copy.name = node.output[0]
                yield copy


class _Branches:
    """Both forms of one node as bodies of an If that makes the node's own outputs."""

    def __init__(
        self,
        scope: ScopeView,
        node: ViewNode,
        prefix: str,
        group: list[onnx.NodeProto],
        constants: Mapping[str, str],
    ) -> None:
        self._scope, self._node, self._group, self._constants = scope, node, group, constants
        bag = _bag_node(scope, node, prefix)
        pairs = zip(bag.input, node.proto.input, strict=True)
        self._outer = {inside: outside for inside, outside in pairs if inside != outside}
        self._results = [name for name in bag.output if name]
        self._plain = bag

    def switch(self, condition: str) -> onnx.NodeProto:
        """The If; its branches make names of their own, for not every tool likes two scopes to share one."""
        return helper.make_node(
            "If",
            [condition],
            [name for name in self._node.proto.output if name],
            name=self._node.name,
            then_branch=self._body(self._group, self._constants, ""),
            else_branch=self._body([self._plain], {}, ".exact"),
        )

    def _body(
        self, nodes: list[onnx.NodeProto], constants: Mapping[str, str], suffix: str
    ) -> onnx.GraphProto:
        body = onnx.GraphProto(name=f"branch{suffix}")
        for node in nodes:
            copy = body.node.add()
            copy.CopyFrom(node)
            copy.input[:] = [self._outer.get(entry) or constants.get(entry, entry) for entry in node.input]
            if suffix:
                copy.output[:] = [f"{name}{suffix}" if name else "" for name in node.output]
        made = (name for name in self._node.proto.output if name)
        for name, result in zip(made, self._results, strict=True):
            body.output.append(_info(self._scope, name, f"{result}{suffix}"))
        return body
