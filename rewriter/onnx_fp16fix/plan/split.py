"""The plan of a joint scope, taken apart into one plan per scope."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnx import TensorProto

from onnx_fp16fix.calibrate.ranges import tensor_key
from onnx_fp16fix.graph import ScopeView, body_values
from onnx_fp16fix.model import ScopePath
from onnx_fp16fix.operators import flops
from onnx_fp16fix.plan.known.facts import Facts, NodeView
from onnx_fp16fix.plan.known.joint import JointFacts, JointScope
from onnx_fp16fix.plan.known.risk import Risk
from onnx_fp16fix.plan.plan import Plan, Slot

__all__ = ["split"]


@dataclass
class _Part:
    """What one scope gets; the fields of ``Plan``."""

    exponents: dict[str, int] = field(default_factory=dict)
    entries: dict[str, int] = field(default_factory=dict)
    operands: dict[Slot, int] = field(default_factory=dict)
    muls: dict[Slot, int] = field(default_factory=dict)
    results: dict[str, int] = field(default_factory=dict)
    raised: set[Slot] = field(default_factory=set)
    fp32: dict[int, str] = field(default_factory=dict)
    muls_why: dict[Slot, str] = field(default_factory=dict)
    lost_bits: dict[str, int] = field(default_factory=dict)
    float_borders: dict[str, str] = field(default_factory=dict)
    whole: bool = False
    risks: list[Risk] = field(default_factory=list)
    flops: float = 0.0
    fp32_flops: float = 0.0

    def plan(self) -> Plan:
        """As a plan of its own."""
        return Plan(
            exponents=self.exponents,
            entries=self.entries,
            operands=self.operands,
            muls=self.muls,
            results=self.results,
            raised=frozenset(self.raised),
            fp32=self.fp32,
            muls_why=self.muls_why,
            lost_bits=self.lost_bits,
            float_borders=self.float_borders,
            whole=self.whole,
            risks=tuple(self.risks),
            flops=self.flops,
            fp32_flops_share=self.fp32_flops / self.flops if self.flops else 0.0,
        )


def split(scope: ScopeView, facts: JointFacts, views: Sequence[NodeView], plan: Plan) -> Plan:
    """The plan of ``scope`` with those of its bodies, from the one over all of them.

    ``views``: the nodes of the joint scope. Bodies left out of it are FP32 as a whole.
    """
    joint = facts.joint
    parts = {view.path: _Part() for view in (scope, *scope.inside())}
    _split_tensors(joint, parts, plan)
    _split_nodes(joint, parts, plan)
    for view in views:
        part = parts[joint.places[view.node.index][0].path]
        part.flops += flops(view)
        part.fp32_flops += flops(view) if view.node.index in plan.fp32 else 0.0
    crossing = {value for entry in joint.crossings.values() for value in body_values(entry.border)}
    for body in scope.inside():
        if body.path in joint.whole:
            _whole_fp32(facts, body, joint.whole[body.path], parts[body.path])
            continue
        for name in (*body.inputs, *body.outputs):
            if (body.path, name) not in crossing and body.dtype(name) == TensorProto.FLOAT:
                parts[body.path].float_borders[name] = "the other branch stays in FP32"
    total = sum(part.flops * _runs(facts, path) for path, part in parts.items())
    fp32 = sum(part.fp32_flops * _runs(facts, path) for path, part in parts.items())
    main = parts.pop(scope.path)
    return replace(
        main.plan(),
        bodies={path: part.plan() for path, part in parts.items()},
        flops=total,
        fp32_flops_share=fp32 / total if total else 0.0,
        cost=plan.cost,
        optimal=plan.optimal,
    )


def _runs(facts: JointFacts, path: ScopePath) -> float:
    return facts.per_sample.get(path, 1.0)


def _split_tensors(joint: JointScope, parts: Mapping[ScopePath, _Part], plan: Plan) -> None:
    places = {
        tensor_key(scope.path, tensor.name): (parts[scope.path], str(tensor.name))
        for node in joint.nodes
        for tensor in (*node.inputs, *node.outputs)
        if not tensor.is_empty() and (scope := joint.owners[id(tensor)]) is not None
    }
    for key, exponent in plan.exponents.items():
        part, name = places[key]
        part.exponents[name] = exponent
    for key, exponent in plan.entries.items():
        part, name = places[key]
        part.entries[name] = exponent
    for key, shift in plan.results.items():
        part, name = places[key]
        part.results[name] = shift
    for key, bits in plan.lost_bits.items():
        part, name = places[key]
        part.lost_bits[name] = bits


def _split_nodes(joint: JointScope, parts: Mapping[ScopePath, _Part], plan: Plan) -> None:
    def place(index: int) -> tuple[_Part, int]:
        scope, own = joint.places[index]
        return parts[scope.path], own

    for (index, position), shift in plan.muls.items():
        part, own = place(index)
        slot = position
        if index in joint.crossings:
            source = joint.crossings[index].sources[position]
            if not isinstance(source, int):
                body, output = source
                parts[body.path].results[body.outputs[output]] = shift
                continue
            slot = source
        part.muls[own, slot] = shift
        part.muls_why[own, slot] = plan.muls_why[index, position]
    for (index, position), exponent in plan.operands.items():
        part, own = place(index)
        source = joint.crossings[index].sources[position] if index in joint.crossings else position
        assert isinstance(source, int)  # constants that bodies hand out are not operands
        part.operands[own, source] = exponent
    for index, position in plan.raised:
        part, own = place(index)
        part.raised.add((own, position))
    for index, why in plan.fp32.items():
        part, own = place(index)
        if index not in joint.crossings:
            part.fp32[own] = why
            continue
        for path, name in body_values(joint.crossings[index].border):
            parts[path].float_borders[name] = why
    for risk in plan.risks:
        part, own = place(risk.node)
        if risk.node not in joint.crossings:  # what crosses a border is at risk where it is made and read
            part.risks.append(replace(risk, node=own))


def _whole_fp32(facts: JointFacts, body: ScopeView, why: str, part: _Part) -> None:
    """A body that stays as it is."""
    own = Facts(body, facts.ranges, facts.margin, facts.half)
    for node in body.nodes:
        view = own.node_view(node)
        if view.operands:
            part.fp32[node.index] = why
            part.fp32_flops += flops(view)
        part.flops += flops(view)
    part.whole = True
    names = (*body.inputs, *body.outputs)
    part.float_borders = {name: why for name in names if body.dtype(name) == TensorProto.FLOAT}
