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
    from onnx_fp16fix.plan.facts import Facts

__all__ = ["Edge", "NodeView", "TensorView"]

_IN = tuple(inp(slot) for slot in range(64))
_OUT = tuple(out(slot) for slot in range(64))


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
        "constant", "float", "half", "key", "lowest", "maker", "nodes", "numel", "range", "readers", "size", "slot",
        "tensor", "typical",
    )  # fmt: skip
    range: TensorRange
    lowest: int | None
    typical: int | None
    nodes: frozenset[int]
    numel: int
    size: tuple[float, float]

    def __init__(self, tensor: gs.Tensor, is_float: bool) -> None:
        self.tensor, self.key, self.float = tensor, id(tensor), is_float
        self.constant = self.half = False
        self.maker: int | None = None
        self.slot = 0
        self.readers: list[tuple[int, int]] = []


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


class NodeView:
    """A node with its relation and convertible slots; implements ``operators.NodeFacts``.

    ``inputs``, ``outputs``: what is in its slots, None for absent ones, without absent ones at the end. ``operands``:
    its float operands, inputs first; ``edges``: the same with their tensors. ``relation``: what it says about their
    exponents.
    """

    __slots__ = (
        "_edges", "_relation", "facts", "inputs", "node", "op", "operands", "opset", "outputs", "slots"
    )  # fmt: skip

    def __init__(self, node: ViewNode, facts: Facts, slots: FloatSlots, opset: int) -> None:
        self.node, self.facts, self.slots, self.opset = node, facts, slots, opset
        self.op = node.op
        self.inputs, inputs = _filled(node.inputs, _IN, facts)
        self.outputs, outputs = _filled(node.outputs, _OUT, facts)
        self.operands: tuple[Operand, ...] = (*inputs, *outputs)
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
            movable, slots, inputs, outputs = self.relation.movable, self.slots, self.inputs, self.outputs
            self._edges = {}
            for operand in self.operands:
                kind, slot = operand
                reads = kind == "in"
                value = inputs[slot] if reads else outputs[slot]
                assert value is not None
                half, either = (
                    slot in (slots.inputs if reads else slots.outputs),
                    reads and slot in slots.either,
                )
                self._edges[operand] = Edge(operand, value, reads, half, either, operand in movable)
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


def _filled(
    tensors: Sequence[gs.Tensor], operands: Sequence[Operand], facts: Facts
) -> tuple[list[TensorView | None], list[Operand]]:
    """The slots, without absent ones at the end, and those that hold floats."""
    if len(tensors) > len(operands):  # a Concat of very many
        operands = [(operands[0][0], slot) for slot in range(len(tensors))]
    filled: list[TensorView | None] = []
    floats, known = [], facts.tensors
    for operand, tensor in zip(operands, tensors, strict=False):
        if tensor.name:
            value = known.get(id(tensor)) or facts.tensor_view(tensor)
            filled.append(value)
            if value.float:
                floats.append(operand)
        else:
            filled.append(None)
    while filled and filled[-1] is None:
        filled.pop()
    return filled, floats
