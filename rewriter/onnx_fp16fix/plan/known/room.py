"""Where FP32 itself ends: exponents at which the rescaled FP32 model keeps every bit.

A power of two commutes with rounding as long as what is rounded is a normal number of FP32, stored and as it was. So
the smallest and the largest result of each product, and what an op squares inside, bound the exponent. What is too
small to change a bit of the sum it ends in needs no room (``_levels``): tails of gates and masks are full of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs

from onnx_fp16fix import fp16
from onnx_fp16fix.operators import Equation, Operand, inp, out
from onnx_fp16fix.plan.known.edges import Slot
from onnx_fp16fix.plan.known.facts import BORDER, Facts, NodeView

__all__ = ["LIMIT", "Interval", "Rooms", "find_rooms"]

LIMIT = 64
"""Largest exponent considered: beyond it FP32 itself would run out of range for tensors of ordinary size."""
Interval = tuple[int, int]
"""Least and largest exponent; 0 is always within."""

_LEAST, _MOST = -126, 127
"""Exponents of FP32's normal numbers."""
_UNSEEN = 24
"""Other samples hold values so many powers of two smaller than those measured."""
_DROWNED = 25 + _UNSEEN
"""What is so many powers of two smaller than a sum does not change it: FP32 has 24 bits."""
_SUMMANDS = 32
"""Sums have at most 2**32 terms."""
_SUMS = frozenset(
    """Add Sub Sum Mean ReduceSum ReduceMean ReduceL1 AveragePool GlobalAveragePool CumSum Resize Upsample MatMul Gemm
    Conv ConvTranspose Einsum FusedMatMul FusedConv FusedGemm BatchNormalization LayerNormalization GroupNormalization
    InstanceNormalization ReduceL2 ReduceSumSquare LpPool GlobalLpPool""".split()
)
"""Ops whose results are sums, in which small terms drown."""
_SQUARES = frozenset(
    """LayerNormalization GroupNormalization InstanceNormalization RMSNormalization SimplifiedLayerNormalization
    LpNormalization ReduceL2 ReduceSumSquare LpPool GlobalLpPool LRN""".split()
)
"""Ops that square their first input inside."""
_NOTHING = -60.0
"""Logarithm of what is no different from 0 next to 1, for other samples too."""
_ANY_ATTRIBUTE = 30
"""At exponents up to here an epsilon stays normal."""
_NEAR_ONE = frozenset("Exp Sigmoid Softmax LogSoftmax Cos Softplus".split())
"""Functions that are constant for operands close to 0."""


@dataclass(frozen=True, slots=True)
class Rooms:
    """Exponents that tensors may be stored at, by identity, and operands read at, by slot; missing: any."""

    tensors: dict[int, Interval] = field(default_factory=dict)
    slots: dict[Slot, Interval] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.tensors or self.slots)

    def operand(self, slot: Slot, key: int) -> Interval | None:
        """Of what a slot reads, the tensor with this identity."""
        own, tensor = self.slots.get(slot), self.tensors.get(key)
        return tensor if own is None else own if tensor is None else _meet(own, tensor)


def find_rooms(facts: Facts, bound: int) -> Rooms:
    """Rooms that end within ``bound`` of 0."""
    return _Finder(facts, bound).find()


def _meet(one: Interval, other: Interval) -> Interval:
    return max(one[0], other[0]), min(one[1], other[1])


class _Finder:
    def __init__(self, facts: Facts, bound: int) -> None:
        self.facts, self.bound, self.spare = facts, bound, max(0, fp16.ceil_log2(facts.margin))
        self.rooms = Rooms()
        self.level: dict[int, float] = {}
        """Elements of a tensor below two to this power change no bit of an output; by identity."""

    def find(self) -> Rooms:
        views = self.facts.views()
        tight = self._tight()
        if not tight or not self._limits(tight):
            return Rooms()
        # what a loop hands back to its body is known after one pass
        for _ in range(2 if any(view.node.domain == BORDER for view in views) else 1):
            for view in reversed(views):
                self._levels(view)
        return self._limits(tight)

    def _limits(self, views: list[NodeView]) -> Rooms:
        self.rooms = Rooms()
        for view in views:
            self._results(view)
            self._insides(view)
        return self.rooms

    def _tight(self) -> list[NodeView]:
        """Nodes where a product, a square or an epsilon could come near an end of FP32, as far as sizes alone tell."""
        views, table = self.facts.views(), self.facts.table()
        sizes, filled = table.sizes, np.diff(table.starts) > 0
        starts, nodes = table.starts[:-1][filled], np.flatnonzero(filled)
        if not len(nodes):
            return []
        least = np.minimum(np.minimum.reduceat(sizes.floor[table.value], starts), 0.0)
        most = np.maximum(np.maximum.reduceat(sizes.ceil[table.value], starts), 0.0)
        some = [views[index] for index in nodes.tolist()]
        degree = np.array([4.0 if view.op == "Pow" else 2.0 for view in some])
        bound = np.array([self.bound * 2 if view.op in _SQUARES else self.bound for view in some])
        tight = np.minimum(degree * least, least - most) - _UNSEEN - _LEAST < bound
        tight |= degree * (most + self.spare) + _SUMMANDS - _MOST > -bound
        tight |= (bound > _ANY_ATTRIBUTE) & np.array([bool(view.relation.attributes) for view in some])
        return [some[place] for place in np.flatnonzero(tight).tolist()]

    def _size(self, tensor: gs.Tensor) -> tuple[float, float]:
        """``TensorView.size``; of what is no float tensor as if it had no elements."""
        value = self.facts.tensors.get(id(tensor))
        return value.size if value is not None and value.float else (math.inf, -math.inf)

    # -- from readers to makers: what is too small to matter

    def _levels(self, view: NodeView) -> None:
        """Lower the levels of what the node reads."""
        floats = [tensor for tensor in view.node.outputs if not tensor.is_empty()]
        level = min((self._level(tensor) for tensor in floats), default=-math.inf)
        for slot, tensor in enumerate(view.node.inputs):
            if view.has(inp(slot)):
                passed = self._passed(view, slot, level)
                lower = min(passed, self.level.get(id(tensor), math.inf))
                self.level[id(tensor)] = -math.inf if math.isnan(passed) else lower  # inf - inf

    def _level(self, tensor: gs.Tensor) -> float:
        if not self.level or self.facts.scope.outside_uses(tensor):
            return -math.inf
        return self.level.get(id(tensor), math.inf)

    def _passed(self, view: NodeView, slot: int, level: float) -> float:
        """Elements of the operand below two to this power change nothing in the result above ``level``."""
        if view.op in _NEAR_ONE:
            return _NOTHING
        if view.node.domain == BORDER or view.op == "Where":
            return level
        if view.op in _SUMS:
            level = max(level, self._sum(view))
        epsilon = self._epsilon(view)
        if epsilon and slot in (0, 2):
            return level - (0.0 if slot else self._size(view.node.inputs[1])[1] - epsilon / 2)
        found = math.inf
        for equation in view.relation.equations:
            weight = self._weight(equation, inp(slot))
            made = [self._weight(equation, operand) for operand, _ in equation if operand[0] == "out"]
            if weight and len(made) == 1:
                if weight * made[0] > 0:
                    return -math.inf  # a denominator
                gain = self._gain(equation, view, inp(slot)) * math.copysign(1, made[0])
                found = min(found, (level * abs(made[0]) - gain) / abs(weight))
        return found if math.isfinite(found) else -math.inf

    def _epsilon(self, view: NodeView) -> float:
        """Logarithm of what a norm adds to its square mean; 0 if that is nothing, or the op none."""
        for scale in view.relation.attributes:
            if scale.name == "epsilon" and len(view.node.inputs) > 1:
                value = view.attrs.get(scale.name, scale.default)
                return float(fp16.floor_log2(value)) if value else 0.0
        return 0.0

    def _sum(self, view: NodeView) -> float:
        """What drowns in the smallest result of a sum."""
        least = self._size(view.node.outputs[0])[0]
        return least - _DROWNED if math.isfinite(least) else -math.inf

    @staticmethod
    def _weight(equation: Equation, wanted: Operand) -> int:
        return sum(weight for operand, weight in equation if operand == wanted)

    def _gain(self, equation: Equation, view: NodeView, besides: Operand) -> float:
        """Sum of -weight * logarithm of the other inputs, each at the end that makes the product largest."""
        total = 0.0
        for operand, weight in equation:
            if operand[0] == "in" and operand != besides and (tensor := view.tensor(operand)) is not None:
                least, most = self._size(tensor)
                total += -weight * (most if weight < 0 else least)
        return total if math.isfinite(total) else 0.0

    # -- what each exponent is bounded by

    def _results(self, view: NodeView) -> None:
        """What the node reads and makes must be normal, stored; so must the products that its results consist of."""
        for operand in view.operands:
            tensor = view.tensor(operand)
            assert tensor is not None
            least, most = self._size(tensor)
            if operand[0] == "in" and self.facts.is_constant(tensor):
                level = self.level.get(id(tensor), -math.inf)
                self._slot((view.node.index, operand[1]), max(least, level), most, 1)
            else:
                self._tensor(tensor, max(least, self._level(tensor)) - _UNSEEN, most + self.spare)
        if view.op in _SQUARES or not view.has(out()):
            return
        tensor = view.node.outputs[0]
        for equation in view.relation.equations:
            if self._weight(equation, out()) != 1:
                continue
            least = most = 0.0
            for operand, weight in equation:
                if operand[0] == "in" and (factor := view.tensor(operand)) is not None:
                    small, large = self._size(factor)
                    least -= weight * (small if weight < 0 else large)
                    most -= weight * (large if weight < 0 else small)
            if math.isfinite(least) and math.isfinite(most):
                drowned = self._sum(view) if view.op in _SUMS else -math.inf
                summands = _SUMMANDS if view.op in _SUMS else 0
                least = max(least - _UNSEEN, drowned, self._level(tensor))
                self._tensor(tensor, least, most + self.spare + summands)

    def _insides(self, view: NodeView) -> None:
        """Squares, and attributes that take up exponents."""
        index, names = view.node.index, [scale.name for scale in view.relation.attributes]
        for scale in view.relation.attributes:
            value = view.attrs.get(scale.name, scale.default)
            if value and math.isfinite(value) and scale.operand[0] == "in":
                size = float(fp16.floor_log2(abs(value)))
                # where several operands share an attribute each gets its part of the way
                self._slot((index, scale.operand[1]), size, size, -scale.coefficient, names.count(scale.name))
        if view.op in _SQUARES and view.has(inp(0)):
            least, most = self._size(view.node.inputs[0])
            degree = max(2, int(view.attrs.get("p", 2)))
            if math.isfinite(least):
                sums = [degree * least - _UNSEEN]
                if epsilon := self._epsilon(view):
                    sums.append(epsilon - _DROWNED)
                elif view.op in _SUMS:  # what it returns, or its root
                    sums.append(min(self._sum(view), 2 * self._sum(view) + _DROWNED))
                if degree * (most - 1) >= _MOST:  # it overflows there as it is, and no result shows it
                    sums = [-math.inf]
                self._slot((index, 0), max(sums), degree * (most + self.spare) + _SUMMANDS, degree)

    def _tensor(self, tensor: gs.Tensor, least: float, most: float) -> None:
        room = self._room(least, most, 1, 1)
        if room is not None:
            self.rooms.tensors[id(tensor)] = _meet(room, self.rooms.tensors.get(id(tensor), room))

    def _slot(self, slot: Slot, least: float, most: float, degree: int, shared: int = 1) -> None:
        room = self._room(least, most, degree, shared)
        if room is not None:
            self.rooms.slots[slot] = _meet(room, self.rooms.slots.get(slot, room))

    def _room(self, least: float, most: float, degree: int, shared: int) -> Interval | None:
        """Exponents s at which values between 2**least and 2**most are normal times 2**(-degree * s); None if that
        leaves all that are considered. Where they are not normal as they are, none but 0."""
        if least < _LEAST:
            return (0, 0)
        down, up = (most - _MOST) / abs(degree) / shared, (least - _LEAST) / abs(degree) / shared
        room = (math.ceil(max(min(down, 0), -LIMIT)), math.floor(min(up, LIMIT)))
        if degree < 0:
            room = (-room[1], -room[0])
        return None if room[0] <= -self.bound and room[1] >= self.bound else room
