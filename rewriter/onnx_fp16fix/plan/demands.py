"""What the tensors of a region ask of exponents when every node keeps the precision it has anyway."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

from onnx_fp16fix.operators import Operand, inp
from onnx_fp16fix.plan.edges import Edge, TensorView
from onnx_fp16fix.plan.facts import NodeView
from onnx_fp16fix.plan.plan import Slot
from onnx_fp16fix.plan.problem import Problem
from onnx_fp16fix.plan.rows import typical_bits
from onnx_fp16fix.plan.ties import Ties
from onnx_fp16fix.plan.tolerate import passes_overflow
from onnx_fp16fix.plan.variables import constant_range, exponent_range, may_shift

__all__ = ["Bits", "Collector", "Demands", "find_demands", "find_linked"]

Bits = tuple[tuple[float, float], ...]
"""Bits that may be lost at such a price each, rising; beyond them none may."""


@dataclass
class Demands:
    """Variables are numbers of ``ties``; number 0 is what cannot move.

    ``least``: (v, weight, bound): weight * v >= bound; ``most``: (v, bound, number in ``bits``): v <= bound,
    or bits lost;
    ``charges``: (v, price) by tensor: a Mul unless v is 0; ``casts``: prices of those that precisions ask for, by
    tensor.
    """

    ties: Ties = field(default_factory=Ties)
    bounds: list[tuple[int, int]] = field(default_factory=list)
    steps: list[bool] = field(default_factory=list)
    """Whether each step of the variable has a price."""
    exponent: dict[int, int] = field(default_factory=dict)
    """By tensor identity."""
    constant: dict[Slot, int] = field(default_factory=dict)
    least: list[tuple[int, int, int]] = field(default_factory=list)
    most: list[tuple[int, int, int]] = field(default_factory=list)
    bits: list[Bits] = field(default_factory=list)
    charges: dict[int, tuple[int, float]] = field(default_factory=dict)
    results: dict[int, int] = field(default_factory=dict)
    """Tensors whose true value is needed outside, by identity."""
    casts: dict[int, float] = field(default_factory=dict)
    stuck: set[int] = field(default_factory=set)
    """Nodes with operands that cannot move but would have to."""
    links: list[tuple[int, int, float]] = field(default_factory=list)
    """Of a tensor and an operand that reads it, equal but for a Mul at such a price."""
    operands: dict[int, dict[Operand, int]] = field(default_factory=dict)
    """Variables of the operands of each node, where such links are asked for."""

    def at_least(self, node: int, variable: int, weight: int, bound: int) -> None:
        """A demand that shows at the node."""
        self.least.append((variable, weight, bound))
        if not variable and bound > 0:
            self.stuck.add(node)

    def at_most(self, node: int, variable: int, bound: int, bits: int) -> None:
        """A demand that shows at the node."""
        self.most.append((variable, bound, bits))
        if not variable and bound < 0:
            self.stuck.add(node)

    def variable(self, bounds: tuple[int, int], *, steps: bool = True) -> int:
        """A new variable."""
        self.bounds.append(bounds)
        self.steps.append(steps)
        return self.ties.variable()


def find_demands(problem: Problem) -> Demands:
    """Demands of the region of ``problem``, which needs no variables yet."""
    return Collector(problem, linked=False).collect(problem.nodes)


def find_linked(problem: Problem, nodes: Set[int]) -> Demands:
    """Demands of some nodes of the region, where operands that may get a Mul have a variable of their own, linked to
    that of the tensor."""
    return Collector(problem, linked=True).collect(nodes)


class Collector:
    """Adds node by node what the region of ``problem`` asks for to ``found``."""

    def __init__(self, problem: Problem, linked: bool) -> None:
        self.linked = linked
        self.problem, self.facts, self.scope = problem, problem.facts, problem.facts.scope
        self.found = Demands()
        self.found.ties.pin(self.found.variable((0, 0), steps=False))
        self.kept = {index for index in range(len(problem.views)) if problem.is_fp32(index)}
        prices, need = problem.prices, problem.need
        self.found.bits = [(), ((prices.need_most, prices.need_bit),)]
        self.seen: dict[tuple[int, int], int] = {}
        """Variables of operands, by node and tensor."""
        self.typical_of: dict[int, int] = {}
        """Number of the bits that a tensor of so many elements may lose."""
        self.values: list[TensorView] = []
        """Computed tensors of the region."""
        self.limits = need.limited

    def collect(self, nodes: Set[int]) -> Demands:
        for index in sorted(nodes):
            self._node(self.problem.views[index])
        for value in self.values:
            self._tensor(value)
        return self.found

    def _made(self, value: TensorView) -> bool:
        """Whether the tensor is made in FP32."""
        return value.maker is None or value.maker in self.kept or not value.half

    def _read(self, index: int, edge: Edge) -> bool:
        """Whether the operand is read as FP32."""
        return self._made(edge.value) if edge.either else index in self.kept or not edge.half

    def _node(self, view: NodeView) -> None:
        found, relation, index = self.found, view.relation, view.node.index
        exponent, rooms = found.exponent, self.problem.rooms.slots
        variables: dict[Operand, int] = {}
        for operand, edge in view.edges.items():
            value, reads = edge.value, edge.reads
            if reads and value.constant:
                variable = self._constant(index, edge) if edge.movable else 0
            else:
                variable = exponent[value.key] if value.key in exponent else self._exponent(value)
                if self.linked and reads and may_shift(self.problem, view, edge):
                    variable = self._link(variable, view, edge)
            variables[operand] = variable
            if variable and not edge.movable:
                found.ties.pin(variable)
            if reads:
                if (room := rooms.get((index, edge.slot))) is not None:
                    least, most = found.bounds[variable]
                    found.bounds[variable] = max(least, room[0]), min(most, room[1])
                if not self._read(index, edge):
                    self._operand(view, edge, variable)
        if self.linked:
            found.operands[index] = variables
        for equation in relation.equations:
            found.ties.equate([(variables[o], weight) for o, weight in equation if o in variables])
        if index not in self.kept:
            self._inner(view, variables)

    def _inner(self, view: NodeView, variables: Mapping[Operand, int]) -> None:
        """What values inside the kernel ask for."""
        for inner in view.relation.inner:
            if inner.magnitude > 0:
                lowest = self.facts.lowest_for(inner.magnitude * self.facts.margin)
                variable = variables.get(inner.operand, 0)
                self.found.at_least(view.node.index, variable, inner.coefficient, lowest)

    def _constant(self, index: int, edge: Edge) -> int:
        variable = self.found.variable(constant_range(self.problem, edge, index))
        self.found.constant[index, edge.slot] = variable
        return variable

    def _link(self, variable: int, view: NodeView, edge: Edge) -> int:
        """The variable of an operand that may get a Mul; one for all that the node reads of the same tensor."""
        value, slot = edge.value, (view.node.index, edge.value.key)
        if slot not in self.seen:
            bounds = constant_range(self.problem, edge, view.node.index)
            self.seen[slot] = self.found.variable(bounds, steps=False)
            price = self.problem.prices.mul(view.numel(edge.operand)) * self.facts.repeats(value.tensor)
            self.found.links.append((variable, self.seen[slot], price))
        return self.seen[slot]

    def _exponent(self, value: TensorView) -> int:
        """A new variable, or 0 where what is outside of the region knows of none."""
        variable = 0
        if not self._encloses(value):
            if fixed := self.problem.fixed.get(value.key, 0):
                variable = self.found.variable((fixed, fixed), steps=False)
        elif value.maker is not None:
            variable = self.found.variable(exponent_range(self.problem, value))
            if self.linked and not self.problem.made_at(value).movable:
                self.found.ties.pin(variable)  # its maker may be none of the nodes
            if self.scope.outside_uses(value.tensor):
                self.found.results[value.key] = variable
                self._charge(variable, value)
        else:
            least, most = exponent_range(self.problem, value)
            variable = self.found.variable((least - most, most - least), steps=False)
            self._charge(variable, value)
        self.found.exponent[value.key] = variable
        if not value.constant:
            self.values.append(value)
        return variable

    def _encloses(self, value: TensorView) -> bool:
        """Whether the exponent of the tensor is free."""
        return self.problem.encloses(value)

    def _charge(self, variable: int, value: TensorView) -> None:
        price = self.problem.prices.mul(value.range.numel)
        self.found.charges[value.key] = (variable, price * self.facts.repeats(value.tensor))

    def _operand(self, view: NodeView, edge: Edge, variable: int) -> None:
        """What an operand read as FP16 must satisfy."""
        problem, found, value, index = self.problem, self.found, edge.value, view.node.index
        slot, need = (index, edge.slot), problem.need
        if value.lowest is not None and edge.slot not in view.relation.saturating:
            tolerant = problem.tolerant
            if value.key not in tolerant or not passes_overflow(self.facts, view.node, edge.slot, tolerant):
                found.at_least(index, variable, 1, value.lowest)
        if not value.constant:
            if value.key in self.limits and slot in need.readers:
                self._needs(index, value, variable)
            if self._made(value):
                self._typical(index, value, variable)
        elif slot in need.raised:
            pass  # it vanishes at no exponent: emission raises it
        elif (guard := need.guards.get(slot)) is not None:
            found.at_most(index, variable, guard, 0)
        else:
            self._typical(index, value, variable)

    def _typical(self, node: int, value: TensorView, variable: int) -> None:
        if value.typical is None:
            return
        numel = value.numel
        bits = self.typical_of.get(numel)
        if bits is None:
            bits = self.typical_of[numel] = len(self.found.bits)
            self.found.bits.append(tuple(typical_bits(self.problem.prices, numel)))
        self.found.at_most(node, variable, value.typical, bits)

    def _needs(self, node: int, value: TensorView, variable: int) -> None:
        highest, guard = self.limits[value.key]
        if highest is not None:
            self.found.at_most(node, variable, highest, 1)
        if guard is not None:
            self.found.at_most(node, variable, guard, 0)

    def _tensor(self, value: TensorView) -> None:
        """What a tensor must satisfy as it is made, and its casts."""
        made, variable, maker = self._made(value), self.found.exponent[value.key], value.maker
        if not made and maker is not None:
            if value.lowest is not None and value.key not in self.problem.tolerant:
                self.found.at_least(maker, variable, 1, value.lowest)
            self._typical(maker, value, variable)
            if value.key in self.limits:
                self._needs(maker, value, variable)
        if self.kept and maker is not None:
            views = self.problem.views
            if any(made != self._read(index, views[index].edges[inp(slot)]) for index, slot in value.readers):
                price = self.problem.prices.cast(value.range.numel)
                self.found.casts[value.key] = price * self.facts.repeats(value.tensor)
