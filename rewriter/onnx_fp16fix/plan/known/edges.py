"""Nodes, tensors and operands with what the planner asks of them again and again, looked up once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy.typing as npt
import onnx_graphsurgeon as gs

from onnx_fp16fix.calibrate.ranges import TensorRange
from onnx_fp16fix.graph import ViewNode
from onnx_fp16fix.operators import FloatSlots, Operand, Relation, inp, out

if TYPE_CHECKING:
    from onnx_fp16fix.plan.known.facts import Facts

__all__ = ["Edge", "Kind", "NodeView", "Slot", "TensorView"]

Slot = tuple[int, int]
"""(index of the node in its scope, input slot)."""


class TensorView:
    """A tensor. ``key``: its identity; ``float``: whether it is FP32: only those are planned.

    Known once ``Facts.views`` was asked for: ``constant``; ``maker``: index of the node that makes it, ``slot``: at
    which output, ``half``: whether it is made in FP16 where that node runs in FP16. ``readers``: (index, slot) of the
    nodes that read it. Of floats: ``range`` (see ``Facts``) and ``numel``; ``lowest``: smallest exponent at which it
    fits into FP16, None if that is unknown or every one does; ``typical``: largest exponent at which typical magnitudes
    stay normal, so that no bits are lost, of what only sums read, at which no more are lost than the sums themselves
    lose; ``size``: binary logarithms of its smallest magnitude other than 0, rounded down (inf: there is none), and the
    largest, rounded up (-inf); ``nodes``: indices of what makes and reads it; none of a constant, whose exponent is
    the reader's own.
    """

    __slots__ = (
        "_nodes", "constant", "float", "half", "key", "lowest", "maker", "numel", "range", "readers", "size", "slot",
        "tensor", "typical",
    )  # fmt: skip
    range: TensorRange
    lowest: int | None
    typical: int | None
    numel: int
    size: tuple[float, float]

    def __init__(self, tensor: gs.Tensor, is_float: bool) -> None:
        self.tensor, self.key, self.float = tensor, id(tensor), is_float
        self.constant = self.half = False
        self.maker: int | None = None
        self.slot = 0
        self.readers: list[tuple[int, int]] = []
        self._nodes: frozenset[int] | None = None

    @property
    def nodes(self) -> frozenset[int]:
        """See above."""
        if self._nodes is None:
            maker = () if self.maker is None else (self.maker,)
            self._nodes = frozenset(() if self.constant else (*(index for index, _ in self.readers), *maker))
        return self._nodes


class Edge:
    """A float operand of a node.

    ``reads``: whether it is an input. ``half``: whether the slot holds FP16 when the node runs in FP16; ``either``:
    whether it reads FP16 and FP32 alike. ``movable``: whether its exponent need not be 0.
    """

    __slots__ = ("either", "half", "movable", "operand", "reads", "slot", "value")

    def __init__(
        self, operand: Operand, value: TensorView, reads: bool, half: bool, either: bool, movable: bool
    ) -> None:
        self.operand, self.value, self.reads, self.slot = operand, value, reads, operand[1]
        self.half, self.either, self.movable = half, either, movable


class Kind:
    """What nodes of one op with the same slots filled share. ``parts``: of each float operand, inputs first: itself,
    and what ``Edge`` calls ``reads``, ``half`` and ``either``."""

    __slots__ = ("operands", "opset", "parts", "slots")

    def __init__(self, floats: Sequence[bool], inputs: int, slots: FloatSlots, opset: int) -> None:
        """``floats``: whether a slot holds a float, by slot, the ``inputs`` first."""
        self.slots, self.opset = slots, opset
        self.operands: tuple[Operand, ...] = tuple(
            inp(place) if place < inputs else out(place - inputs)
            for place, is_float in enumerate(floats)
            if is_float
        )
        self.parts = tuple(
            (operand, True, operand[1] in slots.inputs, operand[1] in slots.either)
            if operand[0] == "in"
            else (operand, False, operand[1] in slots.outputs, False)
            for operand in self.operands
        )


class NodeView:
    """A node with its relation and convertible slots; implements ``operators.NodeFacts``.

    ``inputs``, ``outputs``: what is in its slots, None for absent ones, without absent ones at the end. ``operands``:
    its float operands, inputs first; ``floats``: what is in them; ``edges``: both together. ``relation``: what it says
    about their exponents.
    """

    __slots__ = (
        "_edges", "_relation", "facts", "floats", "inputs", "kind", "node", "op", "operands", "opset", "outputs",
        "slots",
    )  # fmt: skip

    def __init__(self, node: ViewNode, facts: Facts) -> None:
        self.node, self.facts, self.op = node, facts, node.op
        known, make = facts.tensors, facts.tensor_view
        inputs = [(known.get(id(t)) or make(t)) if t.name else None for t in node.inputs]
        outputs = [(known.get(id(t)) or make(t)) if t.name else None for t in node.outputs]
        filled = inputs + outputs
        floats = tuple([value is not None and value.float for value in filled])
        self.floats = [value for value in filled if value is not None and value.float]
        self.kind = kind = facts.kind(node, floats)
        self.operands, self.slots, self.opset = kind.operands, kind.slots, kind.opset
        for values in (inputs, outputs):
            while values and values[-1] is None:
                values.pop()
        self.inputs, self.outputs = inputs, outputs
        self._relation: Relation | None = None
        self._edges: dict[Operand, Edge] | None = None

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
            self.facts.views()  # what edges tell of tensors is found for all at once
            movable = self.relation.movable
            self._edges = {
                operand: Edge(operand, value, reads, half, either, operand in movable)
                for (operand, reads, half, either), value in zip(self.kind.parts, self.floats, strict=True)
            }
        return self._edges

    def value(self, operand: Operand) -> TensorView | None:
        """What is in a slot; None if it is absent."""
        values = self.inputs if operand[0] == "in" else self.outputs
        return values[operand[1]] if operand[1] < len(values) else None

    def tensor(self, operand: Operand) -> gs.Tensor | None:
        """The tensor in a slot; None if it is absent."""
        value = self.value(operand)
        return None if value is None else value.tensor

    def has(self, operand: Operand) -> bool:
        return operand in self.operands

    def count(self, kind: Literal["in", "out"]) -> int:
        return len(self.inputs if kind == "in" else self.outputs)

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
