"""Tensors and operands with what the planner asks of them again and again, looked up once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx_graphsurgeon as gs

from onnx_fp16fix.operators import Operand, out

if TYPE_CHECKING:
    from onnx_fp16fix.plan.facts import Facts

__all__ = ["Edge", "TensorView"]


class TensorView:
    """A float tensor.

    ``key``: its identity. ``range``, ``lowest``, ``typical``: see ``Facts``. ``maker``: index of the node that
    makes it, ``slot``: at which output, ``half``: whether it is made in FP16 where that node runs in FP16.
    ``readers``: (index, slot) of the nodes that read it. ``nodes``: indices of all these; none of a constant, whose
    exponent is the reader's own.
    """

    __slots__ = (
        "constant", "half", "key", "lowest", "maker", "nodes", "range", "readers", "slot", "tensor", "typical"
    )  # fmt: skip

    def __init__(self, tensor: gs.Tensor, facts: Facts) -> None:
        scope = facts.scope
        self.tensor, self.key = tensor, id(tensor)
        self.constant = facts.is_constant(tensor)
        self.range, self.lowest, self.typical = (
            facts.range(tensor),
            facts.lowest(tensor),
            facts.typical(tensor),
        )
        producer = scope.producer(tensor)
        self.maker: int | None = None
        self.half, self.slot = False, 0
        if producer is not None:
            self.maker = producer.index
            self.slot = producer.output_slot(tensor)
            self.half = facts.node_view(producer).is_half(out(self.slot))
        self.readers = [(node.index, slot) for node, slot in scope.consumers(tensor)]
        self.nodes: frozenset[int] = frozenset()
        if not self.constant:
            made = () if producer is None else (producer.index,)
            self.nodes = frozenset((*made, *(index for index, _ in self.readers)))


class Edge:
    """A float operand of a node.

    ``reads``: whether it is an input. ``half``: whether the slot holds FP16 when the node runs in FP16; ``either``:
    whether it reads FP16 and FP32 alike. ``movable``: whether its exponent need not be 0.
    """

    __slots__ = ("either", "half", "movable", "operand", "reads", "slot", "value")

    def __init__(self, operand: Operand, value: TensorView, half: bool, either: bool, movable: bool) -> None:
        self.operand, self.value = operand, value
        self.reads, self.slot = operand[0] == "in", operand[1]
        self.half, self.either, self.movable = half, either, movable
