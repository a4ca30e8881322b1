"""What the tensors of a region ask of exponents when every node keeps the precision it has anyway."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from onnx_fp16fix.operators import Operand, inp, out
from onnx_fp16fix.plan.facts import NodeView
from onnx_fp16fix.plan.plan import Slot
from onnx_fp16fix.plan.problem import Problem
from onnx_fp16fix.plan.rows import typical_bits
from onnx_fp16fix.plan.ties import Ties
from onnx_fp16fix.plan.tolerate import passes_overflow
from onnx_fp16fix.plan.variables import exponent_range

__all__ = ["Demands", "find_demands"]

Bits = tuple[tuple[float, float], ...]
"""Bits that may be lost at such a price each, rising; beyond them none may."""


@dataclass
class Demands:
    """Variables are numbers of ``ties``; number 0 is what cannot move.

    ``least``: (v, weight, bound): weight * v >= bound; ``most``: (v, bound, bits): v <= bound, or bits lost;
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
    most: list[tuple[int, int, Bits]] = field(default_factory=list)
    charges: dict[int, tuple[int, float]] = field(default_factory=dict)
    results: dict[int, int] = field(default_factory=dict)
    """Tensors whose true value is needed outside, by identity."""
    casts: dict[int, float] = field(default_factory=dict)
    stuck: set[int] = field(default_factory=set)
    """Nodes with operands that cannot move but would have to."""

    def at_least(self, node: int, variable: int, weight: int, bound: int) -> None:
        """A demand that shows at the node."""
        self.least.append((variable, weight, bound))
        if not variable and bound > 0:
            self.stuck.add(node)

    def at_most(self, node: int, variable: int, bound: int, bits: Bits) -> None:
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
    return _Collector(problem).collect()


class _Collector:
    def __init__(self, problem: Problem) -> None:
        self.problem, self.facts, self.scope = problem, problem.facts, problem.facts.scope
        self.found = Demands()
        self.found.ties.pin(self.found.variable((0, 0), steps=False))
        self.kept = {view.node.index for view in problem.views if problem.is_fp32(view.node.index)}

    def collect(self) -> Demands:
        tensors: dict[int, gs.Tensor] = {}
        for index in sorted(self.problem.nodes):
            self._node(self.problem.views[index], tensors)
        for tensor in tensors.values():
            self._tensor(tensor)
        return self.found

    def _made(self, tensor: gs.Tensor) -> bool:
        """Whether the tensor is made in FP32."""
        producer = self.scope.producer(tensor)
        if producer is None or producer.index in self.kept:
            return True
        return not self.problem.views[producer.index].is_half(out(producer.output_slot(tensor)))

    def _read(self, view: NodeView, operand: Operand, tensor: gs.Tensor) -> bool:
        """Whether the operand is read as FP32."""
        if view.is_either(operand):
            return self._made(tensor)
        return view.node.index in self.kept or not view.is_half(operand)

    def _node(self, view: NodeView, tensors: dict[int, gs.Tensor]) -> None:
        found, relation, index = self.found, view.relation, view.node.index
        movable = relation.operands()
        variables: dict[Operand, int] = {}
        for operand in view.operands:
            tensor = view.tensor(operand)
            assert tensor is not None
            constant = self.facts.is_constant(tensor)
            if constant and operand[0] == "in":
                variable = self._constant((index, operand[1])) if operand in movable else 0
            else:
                variable = self._exponent(tensor)
            variables[operand] = variable
            if not constant:
                tensors.setdefault(id(tensor), tensor)
            if operand not in movable:
                found.ties.pin(variable)
            if operand[0] == "in" and not self._read(view, operand, tensor):
                self._operand(view, operand[1], tensor, variable, constant)
        for equation in relation.equations:
            found.ties.equate((variables[o], weight) for o, weight in equation if o in variables)
        if index not in self.kept:
            for inner in relation.inner:
                if inner.magnitude > 0:
                    lowest = self.facts.lowest_for(inner.magnitude * self.facts.margin)
                    found.at_least(index, variables.get(inner.operand, 0), inner.coefficient, lowest)

    def _constant(self, slot: Slot) -> int:
        bound = self.problem.bound
        self.found.constant[slot] = variable = self.found.variable((-bound, bound))
        return variable

    def _exponent(self, tensor: gs.Tensor) -> int:
        variable = self.found.exponent.get(id(tensor))
        if variable is not None:
            return variable
        producer, variable = self.scope.producer(tensor), 0
        if not self.problem.encloses(tensor):
            pass
        elif producer is not None:
            variable = self.found.variable(exponent_range(self.problem, tensor))
            if self.scope.outside_uses(tensor):
                self.found.results[id(tensor)] = variable
                self._charge(variable, tensor)
        else:
            least, most = exponent_range(self.problem, tensor)
            variable = self.found.variable((least - most, most - least), steps=False)
            self._charge(variable, tensor)
        self.found.exponent[id(tensor)] = variable
        return variable

    def _charge(self, variable: int, tensor: gs.Tensor) -> None:
        price = self.problem.prices.mul(self.facts.range(tensor).numel)
        self.found.charges[id(tensor)] = (variable, price * self.facts.repeats(tensor))

    def _operand(self, view: NodeView, slot: int, tensor: gs.Tensor, variable: int, constant: bool) -> None:
        """What an operand read as FP16 must satisfy."""
        problem, facts, found = self.problem, self.facts, self.found
        lowest = facts.lowest(tensor)
        if lowest is not None and slot not in view.relation.saturating:
            tolerant = problem.tolerant
            if id(tensor) not in tolerant or not passes_overflow(facts, view.node, slot, tolerant):
                found.at_least(view.node.index, variable, 1, lowest)
        place = (view.node.index, slot)
        if not constant:
            self._needs(view.node.index, tensor, variable)
            if self._made(tensor):
                self._typical(view.node.index, tensor, variable)
        elif place in problem.need.raised:
            pass  # it vanishes at no exponent: emission raises it
        elif (guard := problem.need.guards.get(place)) is not None:
            found.at_most(view.node.index, variable, guard, ())
        else:
            self._typical(view.node.index, tensor, variable)

    def _typical(self, node: int, tensor: gs.Tensor, variable: int) -> None:
        typical = self.facts.typical(tensor)
        if typical is not None:
            self.found.at_most(node, variable, typical, tuple(typical_bits(self.problem, tensor)))

    def _needs(self, node: int, tensor: gs.Tensor, variable: int) -> None:
        need, prices = self.problem.need, self.problem.prices
        highest, guard = need.highest(tensor), need.highest_guard(tensor)
        if highest is not None:
            self.found.at_most(node, variable, highest, ((prices.need_most, prices.need_bit),))
        if guard is not None:
            self.found.at_most(node, variable, guard, ())

    def _tensor(self, tensor: gs.Tensor) -> None:
        """What a tensor must satisfy as it is made, and its casts."""
        made, variable = self._made(tensor), self.found.exponent[id(tensor)]
        producer = self.scope.producer(tensor)
        if not made and producer is not None:
            node = producer.index
            lowest = self.facts.lowest(tensor)
            if lowest is not None and id(tensor) not in self.problem.tolerant:
                self.found.at_least(node, variable, 1, lowest)
            self._typical(node, tensor, variable)
            self._needs(node, tensor, variable)
        if self.kept and producer is not None:
            views = self.problem.views
            reads = {
                self._read(views[node.index], inp(slot), tensor)
                for node, slot in self.scope.consumers(tensor)
            }
            if (not made) in reads:
                price = self.problem.prices.cast(self.facts.range(tensor).numel)
                self.found.casts[id(tensor)] = price * self.facts.repeats(tensor)
