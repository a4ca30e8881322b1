"""What the planner knows of tensors and nodes: calibrated ranges, constants, shapes, all as true (unscaled) values."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy.typing as npt
import onnx_graphsurgeon as gs
from onnx import TensorProto

from onnx_fp16fix import fp16
from onnx_fp16fix.calibrate.ranges import RangeTable, TensorRange, tensor_key
from onnx_fp16fix.graph import ScopeView, ViewNode
from onnx_fp16fix.half import FP16, FloatType
from onnx_fp16fix.operators import FloatSlots, Operand, Relation, float_slots, inp, out, relation_of
from onnx_fp16fix.plan.constants import constant_range
from onnx_fp16fix.plan.edges import Edge, TensorView

__all__ = ["BORDER", "SUMS", "Facts", "NodeView"]

BORDER = "fp16fix.border"
"""Domain of the nodes that stand for what crosses the border of a body; see ``joint``."""

SUMS = frozenset({"Add", "Sub", "Sum"})
_FEW = 64
"""Elements of a constant that is compared with others before it is measured."""
_IN = tuple(inp(slot) for slot in range(64))
_OUT = tuple(out(slot) for slot in range(64))


class NodeView:
    """A node with its relation and convertible slots; implements ``operators.NodeFacts``.

    ``operands``: its float operands, inputs first; ``edges``: the same with their tensors. ``relation``: what it says
    about their exponents.
    """

    __slots__ = (
        "_edges", "_inputs", "_outputs", "_relation", "facts", "node", "op", "operands", "opset", "slots"
    )  # fmt: skip

    def __init__(self, node: ViewNode, facts: Facts, slots: FloatSlots, opset: int) -> None:
        self.node, self.facts, self.slots, self.opset = node, facts, slots, opset
        self.op = node.op
        self._inputs = _filled(node.inputs)
        self._outputs = _filled(node.outputs)
        self._relation: Relation | None = None
        self._edges: dict[Operand, Edge] | None = None
        self.operands: tuple[Operand, ...] = (
            *_floats(self._inputs, _IN, facts),
            *_floats(self._outputs, _OUT, facts),
        )

    @property
    def attrs(self) -> dict[str, Any]:
        return self.node.attrs

    @property
    def relation(self) -> Relation:
        if self._relation is None:
            self._relation = self.facts.relation(self)
        return self._relation

    @property
    def edges(self) -> dict[Operand, Edge]:
        """Float operands, in the order of ``operands``."""
        if self._edges is None:
            movable, view_of = self.relation.movable, self.facts.tensor_view
            inputs, outputs, either = self.slots.inputs, self.slots.outputs, self.slots.either
            self._edges = {}
            for operand in self.operands:
                slot = operand[1]
                if operand[0] == "in":
                    value = view_of(self._inputs[slot])
                    edge = Edge(operand, value, slot in inputs, slot in either, operand in movable)
                else:
                    value = view_of(self._outputs[slot])
                    edge = Edge(operand, value, slot in outputs, False, operand in movable)
                self._edges[operand] = edge
        return self._edges

    def tensor(self, operand: Operand) -> gs.Tensor | None:
        """The tensor in a slot; None if it is absent."""
        tensors = self._inputs if operand[0] == "in" else self._outputs
        return tensors[operand[1]] if operand[1] < len(tensors) else None

    def has(self, operand: Operand) -> bool:
        return operand in self.operands

    def count(self, kind: Literal["in", "out"]) -> int:
        return len(self._inputs if kind == "in" else self._outputs)

    def constant(self, slot: int) -> npt.NDArray[Any] | None:
        tensor = self.tensor(("in", slot))
        return None if tensor is None else self.facts.scope.constant(tensor)

    def absmax(self, operand: Operand) -> float:
        tensor = self.tensor(operand)
        return 0.0 if tensor is None else self.facts.range(tensor).absmax

    def numel(self, operand: Operand) -> int:
        return math.prod(shape) if (shape := self.shape(operand)) or self.has(operand) else 0

    def shape(self, operand: Operand) -> tuple[int, ...]:
        tensor = self.tensor(operand)
        return () if tensor is None else self.facts.range(tensor).shape

    def is_half(self, operand: Operand) -> bool:
        """Whether the slot holds FP16 when the node runs in FP16."""
        return operand[1] in (self.slots.inputs if operand[0] == "in" else self.slots.outputs)


def _filled(tensors: Iterable[gs.Tensor]) -> list[gs.Tensor | None]:
    """The slots, None for absent ones; without absent ones at the end."""
    slots = [tensor if tensor.name else None for tensor in tensors]
    while slots and slots[-1] is None:
        slots.pop()
    return slots


def _floats(tensors: list[gs.Tensor | None], operands: Sequence[Operand], facts: Facts) -> list[Operand]:
    if len(tensors) > len(operands):  # a Concat of very many
        operands = [(operands[0][0], slot) for slot in range(len(tensors))]
    return [
        operands[slot] for slot, tensor in enumerate(tensors) if tensor is not None and facts.is_float(tensor)
    ]


@dataclass
class Facts:
    """Ranges and types of one scope. ``margin`` multiplies calibrated maxima: samples are not bounds. ``half`` is the
    16-bit type that the plan is for; "FP16" in names of the planner stands for it."""

    scope: ScopeView
    ranges: RangeTable
    margin: float = 2.0
    half: FloatType = FP16
    _ranges: dict[int, TensorRange] = field(default_factory=dict)
    _equal: dict[Hashable, TensorRange] = field(default_factory=dict)
    """Of small constants, by their values: graphs hold the same biases and epsilons again and again."""
    _constant: dict[int, bool] = field(default_factory=dict)
    _float: dict[int, bool] = field(default_factory=dict)
    _views: dict[int, NodeView] = field(default_factory=dict)
    _lowest: dict[int, int | None] = field(default_factory=dict)
    _typical: dict[int, int | None] = field(default_factory=dict)
    _tensors: dict[int, TensorView] = field(default_factory=dict)
    _slots_of: dict[tuple[str, str, int, int], tuple[FloatSlots, int]] = field(default_factory=dict)
    _all: list[NodeView] = field(default_factory=list)

    def node_view(self, node: ViewNode) -> NodeView:
        """The node as the operators see it."""
        view = self._views.get(node.index)
        if view is None:
            view = self._views[node.index] = NodeView(node, self, *self._slots(node))
        return view

    def _slots(self, node: ViewNode) -> tuple[FloatSlots, int]:
        """The node's convertible slots and the version of its operator set."""
        key = (node.domain, node.op, len(node.inputs), len(node.outputs))
        found = self._slots_of.get(key)
        if found is None:
            opset = self.scope.model.opset_of(node.domain)
            found = self._slots_of[key] = float_slots(node.domain, node.op, opset, *key[2:], self.half), opset
        if node.op == "Cast" and self._is_exit_cast(node):
            return found[0].border(), found[1]
        return found

    def _is_exit_cast(self, node: ViewNode) -> bool:
        return self.scope.is_exit_cast(node)

    def relation(self, view: NodeView) -> Relation:
        """The node's relation; ``NodeView.relation`` keeps it."""
        return relation_of(view.node.domain, view)

    def views(self) -> list[NodeView]:
        """All nodes of the scope, in file order."""
        if len(self._all) != len(self.scope.nodes):
            self._all = [self.node_view(node) for node in self.scope.nodes]
        return self._all

    def tensor_view(self, tensor: gs.Tensor) -> TensorView:
        """A float tensor as the planner sees it."""
        found = self._tensors.get(id(tensor))
        if found is None:
            found = self._tensors[id(tensor)] = TensorView(tensor, self)
        return found

    def touching(self, key: int) -> frozenset[int]:
        """Nodes that make or read the tensor of this identity, if its view was asked for."""
        view = self._tensors.get(key)
        return frozenset() if view is None else view.nodes

    def is_float(self, tensor: gs.Tensor) -> bool:
        """Whether it is an FP32 tensor: only those are planned."""
        found = self._float.get(id(tensor))
        if found is None:
            owner = self._owner(tensor)
            found = self._float[id(tensor)] = owner.dtype(tensor.name) == TensorProto.FLOAT
        return found

    def _owner(self, tensor: gs.Tensor) -> ScopeView:
        """The scope that the tensor belongs to, or one that knows its type."""
        return self.scope

    def is_constant(self, tensor: gs.Tensor) -> bool:
        """Whether its values are known before the model runs."""
        found = self._constant.get(id(tensor))
        if found is None:
            found = self._constant[id(tensor)] = self.scope.is_constant(tensor)
        return found

    def range(self, tensor: gs.Tensor) -> TensorRange:
        """Range of a tensor: exact for constants, calibrated otherwise; count 0 if nothing is known.

        For constants ``mean_abs`` is the root mean square of the non-zero elements, which is what rounding
        errors of weights are relative to.
        """
        entry = self._ranges.get(id(tensor))
        if entry is None:
            constant = self.is_constant(tensor)
            entry = self._constant_range(tensor) if constant else self._measured(tensor)
            self._ranges[id(tensor)] = entry
        return entry

    def _constant_range(self, tensor: gs.Tensor) -> TensorRange:
        values = self.scope.constant(tensor)
        if values is None or values.size > _FEW:
            return constant_range(values)
        key = values.dtype, values.shape, values.tobytes()
        if (found := self._equal.get(key)) is None:
            found = self._equal[key] = constant_range(values)
        return found

    def key(self, tensor: gs.Tensor) -> str:
        """What plans call the tensor."""
        return str(tensor.name)

    def runs(self, index: int) -> float:
        """How often the node runs per sample."""
        return 1.0

    def repeats(self, tensor: gs.Tensor) -> float:
        """How often the tensor is made per sample, at least 1: a Cast or Mul of it runs as often."""
        return 1.0

    def _measured(self, tensor: gs.Tensor) -> TensorRange:
        return self._measured_in(self.scope.owner(tensor.name) or self.scope, tensor)

    def _measured_in(self, owner: ScopeView, tensor: gs.Tensor) -> TensorRange:
        measured = self.ranges.get(tensor_key(owner.path, tensor.name))
        if measured is not None:
            return measured
        shape = owner.shape(tensor.name) or ()
        sizes = tuple(dim if isinstance(dim, int) else 1 for dim in shape)
        return TensorRange(0.0, 0.0, shape=sizes)

    def lowest_for(self, magnitude: float) -> int:
        """Smallest exponent at which a magnitude other than 0 fits into FP16."""
        return fp16.ceil_log2(magnitude / self.half.max)

    def lowest(self, tensor: gs.Tensor) -> int | None:
        """Smallest exponent at which the tensor fits into FP16; None if that is unknown or every one does."""
        if id(tensor) not in self._lowest:
            factor = 1.0 if self.is_constant(tensor) else self.margin
            absmax = self.range(tensor).absmax
            self._lowest[id(tensor)] = self.lowest_for(absmax * factor) if absmax else None
        return self._lowest[id(tensor)]

    def highest_for(self, smallest: float) -> int:
        """Largest exponent at which a magnitude other than 0 is still normal, so that it loses no bit."""
        return fp16.floor_log2(smallest) - self.half.least

    def typical(self, tensor: gs.Tensor) -> int | None:
        """Largest exponent at which typical magnitudes stay normal, so that no bits are lost; of what only sums read,
        at which no more are lost than the sums themselves lose."""
        if id(tensor) not in self._typical:
            self._typical[id(tensor)] = self._kept_by_sums(tensor, self._normal(tensor))
        return self._typical[id(tensor)]

    def _normal(self, tensor: gs.Tensor) -> int | None:
        mean = self.range(tensor).mean_abs
        return self.highest_for(mean) if mean > 0 and math.isfinite(mean) else None

    def _kept_by_sums(self, tensor: gs.Tensor, own: int | None) -> int | None:
        if own is None or self.is_constant(tensor) or self.scope.outside_uses(tensor):
            return own
        readers = self.scope.consumers(tensor)
        if not readers or any(node.op not in SUMS or node.domain for node, _ in readers):
            return own
        sums = [self._normal(node.outputs[0]) for node, _ in readers]
        return max(own, min(own if kept is None else kept for kept in sums))
