"""The program of a region with what its variables stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np

from onnx_fp16fix.operators import out
from onnx_fp16fix.plan.known.edges import Edge, TensorView
from onnx_fp16fix.plan.known.facts import Facts, NodeView
from onnx_fp16fix.plan.known.need import Need
from onnx_fp16fix.plan.known.room import LIMIT, Rooms
from onnx_fp16fix.plan.pieces.shifts import may_shift
from onnx_fp16fix.plan.plan import Slot
from onnx_fp16fix.plan.prices import Prices
from onnx_fp16fix.plan.solver.program import Program

__all__ = ["ALWAYS", "LIMIT", "NEVER", "Problem"]

ALWAYS, NEVER = -1, -2
"""Precisions that are no choice: FP32 and FP16."""


@dataclass
class Problem:
    """The program and which variable stands for what (missing = fixed at 0)."""

    facts: Facts
    views: Sequence[NodeView]
    need: Need
    nodes: Set[int]
    forced: Mapping[int, str]
    prices: Prices
    program: Program = field(default_factory=Program)
    exponent: dict[int, int] = field(default_factory=dict)
    """By tensor identity."""
    fp32: dict[int, int] = field(default_factory=dict)
    """By node index."""
    follows: dict[int, int] = field(default_factory=dict)
    """Nodes that only move data take the precision of the node that made it."""
    constant: dict[Slot, int] = field(default_factory=dict)
    """Exponent of a constant operand."""
    shift: dict[Slot, int] = field(default_factory=dict)
    """d_e of a computed operand."""
    result: dict[int, int] = field(default_factory=dict)
    """d of a tensor whose true value is needed outside, by tensor identity."""
    bound: int = LIMIT
    half: Set[int] = frozenset()
    """Nodes without a choice: they run in FP16."""
    tolerant: frozenset[int] = frozenset()
    """Tensors whose overflow does no harm, by identity."""
    rooms: Rooms = field(default_factory=Rooms)
    """Where FP32 itself ends."""
    fixed: Mapping[int, int] = field(default_factory=dict)
    """Exponents other than 0 of tensors that nodes outside make or read too, by identity."""
    held: Set[int] = frozenset()
    """Tensors, by identity, that keep the exponent of ``fixed`` though all around them is free; see ``streams``."""
    prone: Set[int] = frozenset()
    """Nodes that may become FP32."""
    beside: Set[int] = frozenset()
    """Where ``nodes`` are a piece of a region: all nodes of that."""
    seams: Set[int] = frozenset()
    """Tensors, by identity, of which no casts are counted; see ``seams``."""
    _shiftable: frozenset[Slot] | None = field(default=None, init=False)

    def blank(self, piece: Set[int] | None = None) -> Problem:
        """The same region, or a piece of it, without variables."""
        blank = Problem(
            self.facts, self.views, self.need, self.nodes if piece is None else piece, self.forced, self.prices,
            bound=self.bound, half=self.half, tolerant=self.tolerant, rooms=self.rooms, fixed=self.fixed,
            held=self.held, prone=self.prone, beside=self.beside if piece is None else self.nodes, seams=self.seams,
        )  # fmt: skip
        if piece is None or not self.beside:
            blank._shiftable = self.shiftable  # what is beside a piece counts as well
        return blank

    @property
    def region(self) -> Set[int]:
        """Nodes of the region that this is, or is a piece of."""
        return self.nodes | self.beside

    @property
    def shiftable(self) -> frozenset[Slot]:
        """Operands that may get a Mul."""
        if self._shiftable is None:
            table = self.facts.table()
            found = np.flatnonzero(may_shift(table, self.region) & table.at(self.region))
            self._shiftable = frozenset(
                zip(table.node[found].tolist(), table.slot[found].tolist(), strict=True)
            )
        return self._shiftable

    def encloses(self, value: TensorView) -> bool:
        """Whether the exponent of the tensor is free: all that makes and reads it is in the region (what is outside
        would not know of an exponent), and it is not held."""
        if value.key in self.held:
            return False
        if not value.constant:
            return value.nodes <= self.nodes
        made_inside = value.maker is None or value.maker in self.nodes
        return made_inside and all(index in self.nodes for index, _ in value.readers)

    def made_at(self, value: TensorView) -> Edge:
        """The tensor as an operand of the node that makes it."""
        assert value.maker is not None
        return self.views[value.maker].edges[out(value.slot)]

    def precision(self, node: int) -> int:
        """The variable that is 1 if the node is FP32, or ``ALWAYS`` or ``NEVER``."""
        while node in self.follows:
            node = self.follows[node]
        if (variable := self.fp32.get(node)) is not None:
            return variable
        return ALWAYS if self.is_fp32(node) else NEVER

    def is_fp32(self, node: int) -> bool:
        """Whether the node is FP32 whatever the plan says."""
        return node in self.forced or not self.views[node].slots.fp16

    def read(self, index: int, edge: Edge) -> int:
        """The precision that the node reads the operand in: its own, or FP32 where the slot is never FP16."""
        if edge.either:
            return self.made(edge.value)
        return self.precision(index) if edge.half else ALWAYS

    def made(self, value: TensorView) -> int:
        """The precision that the tensor is made in."""
        return ALWAYS if value.maker is None or not value.half else self.precision(value.maker)
