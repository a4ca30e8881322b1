"""The rows: relations between exponents, what FP16 can hold, where small values matter, and casts."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from onnx_fp16fix.operators import out
from onnx_fp16fix.plan.facts import NodeView
from onnx_fp16fix.plan.problem import LIMIT, ZERO, Problem
from onnx_fp16fix.plan.program import Terms, combine
from onnx_fp16fix.plan.tolerate import passes_overflow

__all__ = ["operand_rows", "relation_rows", "tensor_rows", "typical_bits"]

_SUMS = frozenset({"Add", "Sub", "Sum"})
_BIASED = frozenset(
    """Conv ConvTranspose Gemm LayerNormalization GroupNormalization InstanceNormalization
    BatchNormalization""".split()
)
"""Ops whose third input is added to the result."""


def relation_rows(problem: Problem, index: int) -> None:
    """The node's equations, its pinned operands, and the values inside its kernel."""
    relation, view, program = problem.relations[index], problem.views[index], problem.program
    for equation in relation.equations:
        program.row(combine((problem.operand(index, o), weight) for o, weight in equation), 0, 0)
    movable = relation.operands()
    for operand in view.operands:
        if operand not in movable:
            program.row(problem.operand(index, operand), 0, 0)
    for inner in relation.inner:
        if inner.magnitude > 0:
            lowest = problem.facts.lowest_for(inner.magnitude * problem.facts.margin)
            exponent = problem.operand(index, inner.operand)
            _at_least(problem, exponent, inner.coefficient, lowest, problem.precision(index))


def _at_least(problem: Problem, exponent: Terms, weight: int, lowest: int, escape: Terms) -> None:
    """weight * exponent >= lowest, unless escape = 1."""
    slack = lowest - problem.program.least(exponent, weight)
    if slack > 0:
        problem.program.row(combine([(exponent, weight), (escape, slack)]), lower=lowest)


def _at_most(
    problem: Problem, exponent: Terms, highest: int, escape: Terms, lost: Sequence[tuple[int, float]]
) -> None:
    """exponent <= highest + bits lost, unless escape = 1; ``lost``: so many bits at such a price each, rising."""
    slack = -problem.program.least(exponent, -1) - highest
    if slack <= 0:
        return
    terms = combine([(exponent, 1.0), (escape, -slack)])
    for bits, price in lost:
        terms[problem.program.variable(0, bits, price)] = -1.0
    problem.program.row(terms, upper=highest)


def typical_bits(problem: Problem, tensor: gs.Tensor) -> list[tuple[int, float]]:
    """Bits that a tensor of typical magnitudes may lose, with the price of each, rising."""
    prices, numel = problem.prices, problem.facts.range(tensor).numel
    return [
        (prices.bits_cheap, prices.bit(numel)),
        (prices.bits_most - prices.bits_cheap, prices.bit_more(numel)),
        (2 * LIMIT, 4 * prices.bit_more(numel)),
    ]


def _need_rows(problem: Problem, tensor: gs.Tensor, exponent: Terms, escape: Terms) -> None:
    """Small values that matter, and guards that must not vanish."""
    need, prices = problem.need, problem.prices
    highest = need.highest(tensor)
    if highest is not None:
        _at_most(problem, exponent, highest, escape, [(prices.need_most, prices.need_bit)])
    guard = need.highest_guard(tensor)
    if guard is not None:
        _at_most(problem, exponent, guard, escape, [])


def operand_rows(problem: Problem, index: int) -> None:
    """What an FP16 operand must satisfy as this node sees it."""
    view, facts = problem.views[index], problem.facts
    relation = problem.relations[index]
    for operand in view.operands:
        slot, tensor = (index, operand[1]), view.tensor(operand)
        if operand[0] == "out" or tensor is None:
            continue
        exponent, escape = problem.operand(index, operand), problem.read(slot)
        lowest = facts.lowest(tensor)
        harmless = operand[1] in relation.saturating or (
            id(tensor) in problem.tolerant and passes_overflow(facts, view.node, operand[1], problem.tolerant)
        )
        if lowest is not None and not harmless:
            _at_least(problem, exponent, 1, lowest, escape)
        if not facts.is_constant(tensor):
            _need_rows(problem, tensor, exponent, escape)
            # where the tensor's own rows do not see this exponent: behind a Mul, or read from an FP32 maker
            own = slot not in problem.shift and problem.made(tensor) == ZERO
            if not own and (typical := facts.typical(tensor)) is not None:
                _at_most(problem, exponent, typical, escape, typical_bits(problem, tensor))
        elif slot in problem.need.raised:
            continue  # it vanishes at no exponent: emission raises it
        elif (guard := problem.need.guards.get(slot)) is not None:
            _at_most(problem, exponent, guard, escape, [])
        elif (typical := _typical_constant(view, operand[1], tensor)) is not None:
            _at_most(problem, exponent, typical, escape, typical_bits(problem, tensor))


def _typical_constant(view: NodeView, slot: int, tensor: gs.Tensor) -> int | None:
    """Largest exponent at which a constant loses no bits that show: of a summand those that the sum keeps."""
    typical, result = view.facts.typical(tensor), view.tensor(out())
    if typical is None or result is None or not (view.op in _SUMS or (view.op in _BIASED and slot == 2)):
        return typical
    return max(typical, view.facts.typical(result) or typical)


def tensor_rows(problem: Problem, tensor: gs.Tensor) -> None:
    """What a tensor made in FP16 must satisfy, its true value outside, and its casts."""
    facts, program = problem.facts, problem.program
    made = problem.made(tensor)
    exponent = problem.stored(tensor)
    lowest = facts.lowest(tensor)
    if lowest is not None and id(tensor) not in problem.tolerant:
        _at_least(problem, exponent, 1, lowest, made)
    typical = facts.typical(tensor)
    if typical is not None:
        _at_most(problem, exponent, typical, made, typical_bits(problem, tensor))
    _need_rows(problem, tensor, exponent, made)
    if id(tensor) in problem.result:
        program.row({**exponent, problem.result[id(tensor)]: 1.0}, 0, 0)
    _cast_rows(problem, tensor, made)


def _cast_rows(problem: Problem, tensor: gs.Tensor, made: Terms) -> None:
    """Casts inside the graph; those at its border are there whatever the plan, and must not make FP32 attractive."""
    program, scope = problem.program, problem.facts.scope
    if scope.producer(tensor) is None:
        return
    price = problem.prices.cast(problem.facts.range(tensor).numel) * problem.facts.repeats(tensor)
    reads = [problem.read((node.index, slot)) for node, slot in scope.consumers(tensor)]
    if all(read == made for read in reads):
        return
    down, up = program.variable(0, 1, price), program.variable(0, 1, price)
    for read in reads:
        program.row(combine([({down: 1.0}, 1), (made, -1), (read, 1)]), lower=0)
        program.row(combine([({up: 1.0}, 1), (read, -1), (made, 1)]), lower=0)
