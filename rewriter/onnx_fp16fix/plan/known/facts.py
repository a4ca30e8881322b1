"""What the planner knows of tensors and nodes: calibrated ranges, constants, shapes, all as true (unscaled) values."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto

from onnx_fp16fix import fp16
from onnx_fp16fix.calibrate.ranges import RangeTable, TensorRange, tensor_key
from onnx_fp16fix.graph import ScopeView, ViewNode
from onnx_fp16fix.graph.nodes import ConstantTensor
from onnx_fp16fix.half import FP16, FloatType
from onnx_fp16fix.operators import (
    BY_OPERANDS,
    FloatSlots,
    InnerBound,
    Operand,
    Relation,
    float_slots,
    out,
    relation_of,
)
from onnx_fp16fix.plan.known.constants import constant_range, small_ranges
from onnx_fp16fix.plan.known.edges import Kind, NodeView, TensorView
from onnx_fp16fix.plan.known.table import UNKNOWN, Sizes, Table

__all__ = ["BORDER", "SUMS", "Facts", "NodeView"]

BORDER = "fp16fix.border"
"""Domain of the nodes that stand for what crosses the border of a body; see ``joint``."""

SUMS = frozenset({"Add", "Sub", "Sum"})
_FEW = 64
"""Elements of a constant that is compared with others before it is measured."""


@dataclass
class Facts:
    """Ranges and types of one scope. ``margin`` multiplies calibrated maxima: samples are not bounds. ``half`` is the
    16-bit type that the plan is for; "FP16" in names of the planner stands for it."""

    scope: ScopeView
    ranges: RangeTable
    margin: float = 2.0
    half: FloatType = FP16
    _ranges: dict[int, TensorRange] = field(default_factory=dict, init=False)
    _equal: dict[Hashable, TensorRange] = field(default_factory=dict, init=False)
    """Of small constants, by their values: graphs hold the same biases and epsilons again and again."""
    _constant: dict[int, bool] = field(default_factory=dict, init=False)
    _whole: dict[int, TensorRange] = field(default_factory=dict, init=False)
    """Of constants without a zero, or of zeros alone, by identity."""
    _nonzero: dict[int, bool] = field(default_factory=dict, init=False)
    tensors: dict[int, TensorView] = field(default_factory=dict, init=False)
    """By identity, those asked for."""
    _nodes: dict[int, NodeView] = field(default_factory=dict, init=False)
    _slots_of: dict[tuple[str, str, int, int], tuple[FloatSlots, int]] = field(
        default_factory=dict, init=False
    )
    _relations: dict[tuple[str, tuple[Operand, ...], int], Relation] = field(default_factory=dict, init=False)
    _kinds: dict[Hashable, Kind] = field(default_factory=dict, init=False)
    _all: list[NodeView] = field(default_factory=list, init=False)
    _measured: tuple[list[TensorView], Sizes] | None = field(default=None, init=False)
    _table: Table | None = field(default=None, init=False)

    def node_view(self, node: ViewNode) -> NodeView:
        """The node as the operators see it."""
        view = self._nodes.get(node.index)
        if view is None:
            view = self._nodes[node.index] = NodeView(node, self)
        return view

    def kind(self, node: ViewNode, floats: tuple[bool, ...]) -> Kind:
        """Its kind, given which of its slots, inputs first, hold floats."""
        inputs = len(node.inputs)
        leaves = node.op == "Cast" and self._is_exit_cast(node)
        key = node.domain, node.op, inputs, floats, leaves
        if (found := self._kinds.get(key)) is None:
            found = self._kinds[key] = Kind(floats, inputs, *self._slots(node))
        return found

    def half_slots(self, node: ViewNode) -> FloatSlots:
        """The node's slots that hold FP16 where it runs in FP16."""
        return self._slots(node)[0]

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
        if view.node.domain or view.op not in BY_OPERANDS:
            return relation_of(view.node.domain, view)
        key = view.op, view.operands, view.count("in")
        if (found := self._relations.get(key)) is None:
            found = self._relations[key] = relation_of("", view)
        return found

    def views(self) -> list[NodeView]:
        """All nodes of the scope, in file order."""
        if self._measured is None:
            self._all = [self.node_view(node) for node in self.scope.nodes]
            self._connect()
            self._measure([value for value in self.tensors.values() if value.float])
        return self._all

    def table(self) -> Table:
        """All float operands of the scope."""
        if self._table is None:
            views = self.views()
            assert self._measured is not None
            self._table = Table(views, *self._measured)
        return self._table

    def _connect(self) -> None:
        """Who makes and who reads each tensor, and which are constant."""
        for index, view in enumerate(self._all):
            for slot, value in enumerate(view.outputs):
                if value is not None:
                    value.maker, value.slot, value.half = index, slot, slot in view.slots.outputs
            for slot, value in enumerate(view.inputs):
                if value is not None:
                    value.readers.append((index, slot))
        for value in self.tensors.values():
            value.constant = self.is_constant(value.tensor)

    def _measure(self, values: list[TensorView]) -> None:
        """What is known of float tensors, of all at once."""
        self._whole = small_ranges(v.tensor for v in values if isinstance(v.tensor, ConstantTensor))
        self._ranges |= self._whole
        entries = [self._ranges.get(value.key) or self.range(value.tensor) for value in values]
        for value, entry in zip(values, entries, strict=True):
            value.range, value.numel = entry, entry.numel
        least = np.array([entry.minimum for entry in entries], float)
        most = np.array([entry.maximum for entry in entries], float)
        mean = np.array([entry.mean_abs for entry in entries], float)
        smallest = np.array([entry.smallest for entry in entries], float)
        absmax = np.where(least > most, 0.0, np.maximum(np.abs(least), np.abs(most)))
        margins = np.array([1.0 if value.constant else self.margin for value in values])
        with np.errstate(over="ignore"):
            mantissa, exponent = np.frexp(absmax * margins / self.half.max)
        lowest = np.where(absmax > 0, exponent - (mantissa == 0.5), UNKNOWN)
        known = (mean > 0) & np.isfinite(mean)
        normal = np.where(known, np.frexp(mean)[1] - 1 - self.half.least, UNKNOWN)
        sized = (absmax > 0) & np.isfinite(smallest)
        mantissa, exponent = np.frexp(absmax)
        floor = np.where(sized, np.frexp(smallest)[1] - 1.0, math.inf)
        ceil = np.where(sized, exponent - (mantissa == 0.5), -math.inf)
        sizes = zip(floor.tolist(), ceil.tolist(), strict=True)
        for value, fits, keeps, size in zip(values, lowest.tolist(), normal.tolist(), sizes, strict=True):
            value.lowest = None if fits == UNKNOWN else fits
            value.typical = None if keeps == UNKNOWN else keeps
            value.size = size
        kept = [self._kept_by_sums(value) for value in values]
        for value, keeps in zip(values, kept, strict=True):
            value.typical = keeps
        typical = np.array([UNKNOWN if keeps is None else keeps for keeps in kept], np.int64)
        self._measured = values, Sizes(lowest, typical, floor, ceil)

    def _kept_by_sums(self, value: TensorView) -> int | None:
        """Its typical exponent, or a larger one at which sums, if they alone read it, lose no more themselves."""
        own, most = value.typical, math.inf
        if own is None or value.constant or not value.readers:
            return own
        for index, _ in value.readers:
            view = self._all[index]
            if view.op not in SUMS or view.node.domain:
                return own
            made = view.value(out())
            most = min(most, own if made is None or made.typical is None else made.typical)
        return own if self.scope.outside_uses(value.tensor) else max(own, int(most))

    def tensor_view(self, tensor: gs.Tensor) -> TensorView:
        """A tensor as the planner sees it."""
        found = self.tensors.get(id(tensor))
        if found is None:
            is_float = self._owner(tensor).dtype(tensor.name) == TensorProto.FLOAT
            found = self.tensors[id(tensor)] = TensorView(tensor, is_float)
        return found

    def touching(self, key: int) -> frozenset[int]:
        """Nodes that make or read the float tensor of this identity."""
        return self.tensors[key].nodes

    def is_float(self, tensor: gs.Tensor) -> bool:
        """Whether it is an FP32 tensor: only those are planned."""
        return self.tensor_view(tensor).float

    def _owner(self, tensor: gs.Tensor) -> ScopeView:
        """The scope that the tensor belongs to, or one that knows its type."""
        return self.scope

    def is_constant(self, tensor: gs.Tensor) -> bool:
        """Whether its values are known before the model runs."""
        found = self._constant.get(id(tensor))
        if found is None:
            found = self._constant[id(tensor)] = self.scope.is_constant(tensor)
        return found

    def is_nonzero(self, tensor: gs.Tensor) -> bool:
        """Whether its values are known, and none is zero."""
        if (entry := self._whole.get(id(tensor))) is not None:
            return entry.absmax > 0
        found = self._nonzero.get(id(tensor))
        if found is None:
            values = self.scope.constant(tensor) if self.is_constant(tensor) else None
            found = self._nonzero[id(tensor)] = values is not None and bool(values.all())
        return found

    def range(self, tensor: gs.Tensor) -> TensorRange:
        """Range of a tensor: exact for constants, calibrated otherwise; count 0 if nothing is known.

        For constants ``mean_abs`` is the root mean square of the non-zero elements, which is what rounding
        errors of weights are relative to.
        """
        entry = self._ranges.get(id(tensor))
        if entry is None:
            constant = self.is_constant(tensor)
            entry = self._constant_range(tensor) if constant else self._calibrated(tensor)
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

    def _calibrated(self, tensor: gs.Tensor) -> TensorRange:
        return self._calibrated_in(self.scope.owner(tensor.name) or self.scope, tensor)

    def _calibrated_in(self, owner: ScopeView, tensor: gs.Tensor) -> TensorRange:
        measured = self.ranges.get(tensor_key(owner.path, tensor.name))
        if measured is not None:
            return measured
        shape = owner.shape(tensor.name) or ()
        sizes = tuple(dim if isinstance(dim, int) else 1 for dim in shape)
        return TensorRange(0.0, 0.0, shape=sizes)

    def outgrows(self, inner: InnerBound) -> bool:
        """Whether FP16 does not hold a value inside a kernel."""
        return inner.magnitude * self.margin > self.half.max

    def lowest_for(self, magnitude: float) -> int:
        """Smallest exponent at which a magnitude other than 0 fits into FP16."""
        return fp16.ceil_log2(magnitude / self.half.max)
