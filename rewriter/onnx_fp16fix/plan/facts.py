"""What the planner knows of tensors and nodes: calibrated ranges, constants, shapes, all as true (unscaled) values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs
from onnx import TensorProto

from onnx_fp16fix import fp16
from onnx_fp16fix.calibrate.ranges import RangeTable, TensorRange, tensor_key
from onnx_fp16fix.graph import ScopeView, ViewNode
from onnx_fp16fix.half import FP16, FloatType
from onnx_fp16fix.operators import FloatSlots, Operand, Relation, float_slots, relation_of

__all__ = ["BORDER", "Facts", "NodeView"]

BORDER = "fp16fix.border"
"""Domain of the nodes that stand for what crosses the border of a body; see ``joint``."""

_BLOCK = 1 << 22
"""Elements of a constant looked at in one go, so that mapped weights pass through memory block by block."""


@dataclass(frozen=True)
class NodeView:
    """A node with its relation and convertible slots; implements ``operators.NodeFacts``."""

    node: ViewNode
    facts: Facts
    slots: FloatSlots
    opset: int

    @property
    def op(self) -> str:
        return self.node.op

    @property
    def attrs(self) -> dict[str, Any]:
        return self.node.attrs

    def tensor(self, operand: Operand) -> gs.Tensor | None:
        """The tensor in a slot; None if it is absent."""
        tensors = self.node.inputs if operand[0] == "in" else self.node.outputs
        if operand[1] >= len(tensors) or tensors[operand[1]].is_empty():
            return None
        return tensors[operand[1]]

    def has(self, operand: Operand) -> bool:
        tensor = self.tensor(operand)
        return tensor is not None and self.facts.is_float(tensor)

    def count(self, kind: Literal["in", "out"]) -> int:
        tensors = self.node.inputs if kind == "in" else self.node.outputs
        return max((slot + 1 for slot, tensor in enumerate(tensors) if not tensor.is_empty()), default=0)

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

    def is_either(self, operand: Operand) -> bool:
        """Whether the slot reads FP16 and FP32 alike."""
        return operand[0] == "in" and operand[1] in self.slots.either

    def is_half(self, operand: Operand) -> bool:
        """Whether the slot holds FP16 when the node runs in FP16."""
        return operand[1] in (self.slots.inputs if operand[0] == "in" else self.slots.outputs)


@dataclass
class Facts:
    """Ranges and types of one scope. ``margin`` multiplies calibrated maxima: samples are not bounds. ``half`` is the
    16-bit type that the plan is for; "FP16" in names of the planner stands for it."""

    scope: ScopeView
    ranges: RangeTable
    margin: float = 2.0
    half: FloatType = FP16
    _ranges: dict[int, TensorRange] = field(default_factory=dict)
    _constant: dict[int, bool] = field(default_factory=dict)

    def node_view(self, node: ViewNode) -> NodeView:
        """The node as the operators see it."""
        opset = self.scope.model.opset_of(node.domain)
        slots = float_slots(node.domain, node.op, opset, len(node.inputs), len(node.outputs), self.half)
        if self.scope.is_exit_cast(node):
            slots = FloatSlots(False, frozenset(), frozenset(), slots.either)
        return NodeView(node, self, slots, opset)

    def relation(self, view: NodeView) -> Relation:
        """The node's relation."""
        return relation_of(view.node.domain, view)

    def is_float(self, tensor: gs.Tensor) -> bool:
        """Whether it is an FP32 tensor: only those are planned."""
        return self.scope.dtype(tensor.name) == TensorProto.FLOAT

    def is_constant(self, tensor: gs.Tensor) -> bool:
        """Whether its values are known before the model runs."""
        if id(tensor) not in self._constant:
            self._constant[id(tensor)] = self.scope.is_constant(tensor)
        return self._constant[id(tensor)]

    def range(self, tensor: gs.Tensor) -> TensorRange:
        """Range of a tensor: exact for constants, calibrated otherwise; count 0 if nothing is known.

        For constants ``mean_abs`` is the root mean square of the non-zero elements, which is what rounding
        errors of weights are relative to.
        """
        key = id(tensor)
        if key not in self._ranges:
            if self.is_constant(tensor):
                self._ranges[key] = _constant_range(self.scope.constant(tensor))
            else:
                self._ranges[key] = self._measured(tensor)
        return self._ranges[key]

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
        entry = self.range(tensor)
        if not entry.absmax:
            return None
        factor = 1.0 if self.is_constant(tensor) else self.margin
        return self.lowest_for(entry.absmax * factor)

    def highest_for(self, smallest: float) -> int:
        """Largest exponent at which a magnitude other than 0 is still normal, so that it loses no bit."""
        return fp16.floor_log2(smallest) - self.half.least

    def typical(self, tensor: gs.Tensor) -> int | None:
        """Largest exponent at which typical magnitudes stay normal, so that no bits are lost."""
        mean = self.range(tensor).mean_abs
        return self.highest_for(mean) if mean > 0 and math.isfinite(mean) else None


def _constant_range(values: npt.NDArray[Any] | None) -> TensorRange:
    if values is None or not np.issubdtype(values.dtype, np.floating) or not values.size:
        return TensorRange(0.0, 0.0, shape=() if values is None else values.shape)
    low, high, smallest = math.inf, -math.inf, math.inf
    squares, nonzero, nonfinite = 0.0, 0, 0
    flat = values.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        finite = np.isfinite(block)
        if not finite.all():
            nonfinite += int(block.size - np.count_nonzero(finite))
            block = block[finite]
        magnitudes = np.abs(block[block != 0])
        if magnitudes.size:
            low, high = min(low, float(block.min())), max(high, float(block.max()))
            smallest = min(smallest, float(magnitudes.min()))
            squares += float(np.square(magnitudes, dtype=np.float64).sum())
            nonzero += magnitudes.size
    rms = math.sqrt(squares / nonzero) if nonzero else 0.0
    if not nonzero:
        low = high = 0.0
    return TensorRange(low, high, smallest, rms, int(flat.size), nonfinite, values.shape)
