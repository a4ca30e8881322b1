"""Pieces of a region that ask the same: told alike by all that their programs are made of, before any is built."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from onnx_fp16fix.operators import inp
from onnx_fp16fix.plan.known.edges import Edge, TensorView
from onnx_fp16fix.plan.known.facts import NodeView
from onnx_fp16fix.plan.known.room import Interval
from onnx_fp16fix.plan.known.tolerate import passes_overflow
from onnx_fp16fix.plan.pieces.problem import NEVER, Problem
from onnx_fp16fix.plan.pieces.variables import price_of_fp32
from onnx_fp16fix.plan.plan import Slot

__all__ = ["Kinds", "Piece"]


@dataclass(frozen=True, slots=True)
class Piece:
    """``nodes``: indices, rising; ``tensors``: computed ones that they make and read, in order of appearance.

    ``kind``: equal for pieces whose programs are equal, nodes and tensors in the same places.
    """

    nodes: tuple[int, ...]
    tensors: tuple[TensorView, ...]
    kind: Hashable


class Kinds:
    """Describes pieces of ``region``. Whatever ``build_problem`` asks about a piece has to be in its kind."""

    def __init__(self, region: Problem) -> None:
        self.region = region
        self._numbers: dict[Hashable, int] = {}
        """Of all that was said of a node, an operand or a tensor: kinds made of numbers are small."""
        self._forms: list[int] = region.facts.table().form.tolist()

    def piece(self, nodes: Sequence[int]) -> Piece:
        """The nodes, in rising order, as a piece."""
        region, said = self.region, list[Hashable]()
        place = {index: number for number, index in enumerate(nodes)}
        tensors: dict[int, TensorView] = {}
        numbers: dict[int, int] = {}
        for index in nodes:
            view = region.views[index]
            said.append(self._node(view))
            for edge in view.edges.values():
                value = edge.value
                if value.constant:
                    said.append(self._constant(view, edge, place))
                    continue
                number = numbers.get(value.key)
                if number is None:
                    number = numbers[value.key] = len(numbers)
                    tensors[value.key] = value
                    said.append(self._tensor(value, place))
                said.append((number, *self._read(view, edge)) if edge.reads else number)
        known = self._numbers
        kind = tuple([known.setdefault(what, len(known)) for what in said])
        return Piece(tuple(nodes), tuple(tensors.values()), kind)

    def _node(self, view: NodeView) -> Hashable:
        """What its form does not say of the node and its operands; of values inside the kernel counts the exponent that
        they need."""
        region, facts, index = self.region, self.region.facts, view.node.index
        price = None
        if index in region.prone and not region.is_fp32(index):
            price = price_of_fp32(view, region.prices) * max(1.0, facts.runs(index))
        inner = tuple(
            [
                (entry.operand, entry.coefficient, facts.lowest_for(entry.magnitude * facts.margin))
                for entry in view.relation.inner
                if entry.magnitude > 0
            ]
        )
        return self._forms[index], inner, region.is_fp32(index), index in region.half, price

    def _constant(self, view: NodeView, edge: Edge, place: Mapping[int, int]) -> Hashable:
        """A constant operand; its exponent is the node's own."""
        need, value, slot = self.region.need, edge.value, (view.node.index, edge.slot)
        made = self._maker(value, place) if edge.either else None
        own = need.guards.get(slot), slot in need.raised, self._room(slot, value)
        return made, value.lowest, value.typical, value.numel, *own

    def _read(self, view: NodeView, edge: Edge) -> tuple[Hashable, ...]:
        """How the node reads a computed tensor."""
        region, value, slot = self.region, edge.value, (view.node.index, edge.slot)
        tolerant = value.key in region.tolerant and passes_overflow(
            region.facts, view.node, edge.slot, region.tolerant
        )
        shift = value.numel if slot in region.shiftable else None
        return tolerant, shift, self._room(slot, value), slot in region.need.readers

    def _room(self, slot: Slot, value: TensorView) -> Interval | None:
        rooms = self.region.rooms
        return rooms.operand(slot, value.key) if rooms else None

    def _tensor(self, value: TensorView, place: Mapping[int, int]) -> Hashable:
        region, need = self.region, self.region.need
        inside = value.nodes <= place.keys() and value.key not in region.held
        needs = need.matters(value.key) and need.limits(value.key)
        return (
            None if inside else region.fixed.get(value.key, 0),
            self._maker(value, place),
            value.lowest,
            value.typical,
            value.numel,
            region.rooms.tensors.get(value.key),
            value.key in region.tolerant,
            needs,
            inside and region.facts.scope.outside_uses(value.tensor) > 0,
            region.facts.repeats(value.tensor),
            value.key not in region.seams and tuple([self._reader(slot, place) for slot in value.readers]),
        )

    def _reader(self, slot: Slot, place: Mapping[int, int]) -> Hashable:
        """Where it is in the piece, or whether it is outside and reads FP16 whatever is chosen."""
        index, number = slot
        if index in place:
            return place[index], number
        return self.region.read(index, self.region.views[index].edges[inp(number)]) == NEVER

    def _maker(self, value: TensorView, place: Mapping[int, int]) -> Hashable:
        """The number of the node whose precision it is made in, or the precision itself where that is no choice."""
        if value.maker is None:
            return None
        if value.half and value.maker in place:
            return place[value.maker]
        return "half" if self.region.made(value) == NEVER else "fp32"
