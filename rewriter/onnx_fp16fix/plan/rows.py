"""The rows: relations between exponents, what FP16 can hold, where small values matter, and casts."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_fp16fix.operators import out
from onnx_fp16fix.plan.edges import Edge, TensorView
from onnx_fp16fix.plan.facts import SUMS, NodeView
from onnx_fp16fix.plan.prices import Prices
from onnx_fp16fix.plan.problem import LIMIT, ZERO, Problem
from onnx_fp16fix.plan.program import Terms, combine
from onnx_fp16fix.plan.tolerate import passes_overflow

__all__ = ["operand_rows", "relation_rows", "tensor_rows", "typical_bits"]

_BIASED = frozenset(
    """Conv ConvTranspose Gemm LayerNormalization GroupNormalization InstanceNormalization
    BatchNormalization""".split()
)
"""Ops whose third input is added to the result."""


def relation_rows(problem: Problem, index: int) -> None:
    """The node's equations, its pinned operands, and the values inside its kernel."""
    view, program = problem.views[index], problem.program
    relation = view.relation
    for equation in relation.equations:
        program.row(combine((problem.operand(index, o), weight) for o, weight in equation), 0, 0)
    for edge in view.edges.values():
        if not edge.movable:
            program.row(problem.operand(index, edge.operand), 0, 0)
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


def typical_bits(prices: Prices, numel: int) -> list[tuple[int, float]]:
    """Bits that so many elements of typical magnitudes may lose, with the price of each, rising."""
    return [
        (prices.bits_cheap, prices.bit(numel)),
        (prices.bits_most - prices.bits_cheap, prices.bit_more(numel)),
        (2 * LIMIT, 4 * prices.bit_more(numel)),
    ]


def _need_rows(problem: Problem, value: TensorView, exponent: Terms, escape: Terms) -> None:
    """Small values that matter, and guards that must not vanish."""
    need, prices, tensor = problem.need, problem.prices, value.tensor
    if not need.matters(value.key):
        return
    highest = need.highest(tensor)
    if highest is not None:
        _at_most(problem, exponent, highest, escape, [(prices.need_most, prices.need_bit)])
    guard = need.highest_guard(tensor)
    if guard is not None:
        _at_most(problem, exponent, guard, escape, [])


def operand_rows(problem: Problem, index: int) -> None:
    """What an FP16 operand must satisfy as this node sees it."""
    view, facts, tolerant = problem.views[index], problem.facts, problem.tolerant
    for edge in view.edges.values():
        if not edge.reads:
            continue
        slot, value = (index, edge.slot), edge.value
        exponent, escape = problem.operand(index, edge.operand), problem.read(index, edge.slot)
        if (room := problem.rooms.operand(slot, value.key)) is not None:
            problem.program.row(exponent, *room)
        harmless = edge.slot in view.relation.saturating or (
            value.key in tolerant and passes_overflow(facts, view.node, edge.slot, tolerant)
        )
        if value.lowest is not None and not harmless:
            _at_least(problem, exponent, 1, value.lowest, escape)
        if not value.constant:
            if slot in problem.need.readers:
                _need_rows(problem, value, exponent, escape)
            # where the tensor's own rows do not see this exponent: behind a Mul, or read from an FP32 maker
            own = slot not in problem.shift and problem.made(value) == ZERO
            if not own and value.typical is not None:
                _lose_bits(problem, value, value.typical, exponent, escape)
        elif slot in problem.need.raised:
            continue  # it vanishes at no exponent: emission raises it
        elif (guard := problem.need.guards.get(slot)) is not None:
            _at_most(problem, exponent, guard, escape, [])
        elif (typical := _typical_constant(view, edge)) is not None:
            _lose_bits(problem, value, typical, exponent, escape)


def _lose_bits(problem: Problem, value: TensorView, typical: int, exponent: Terms, escape: Terms) -> None:
    _at_most(problem, exponent, typical, escape, typical_bits(problem.prices, value.range.numel))


def _typical_constant(view: NodeView, edge: Edge) -> int | None:
    """Largest exponent at which a constant loses no bits that show: of a summand those that the sum keeps."""
    typical, result = edge.value.typical, view.edges.get(out())
    if typical is None or result is None or not (view.op in SUMS or (view.op in _BIASED and edge.slot == 2)):
        return typical
    return max(typical, result.value.typical or typical)


def tensor_rows(problem: Problem, value: TensorView) -> None:
    """What a tensor made in FP16 must satisfy, its true value outside, and its casts."""
    made, exponent = problem.made(value), problem.stored(value)
    if value.lowest is not None and value.key not in problem.tolerant:
        _at_least(problem, exponent, 1, value.lowest, made)
    if value.typical is not None:
        _lose_bits(problem, value, value.typical, exponent, made)
    _need_rows(problem, value, exponent, made)
    if value.key in problem.result:
        problem.program.row({**exponent, problem.result[value.key]: 1.0}, 0, 0)
    _cast_rows(problem, value, made)


def _cast_rows(problem: Problem, value: TensorView, made: Terms) -> None:
    """Casts inside the graph; those at its border are there whatever the plan, and must not make FP32 attractive."""
    if value.maker is None or value.key in problem.seams:
        return
    program = problem.program
    price = problem.prices.cast(value.range.numel) * problem.facts.repeats(value.tensor)
    reads = [problem.read(index, slot) for index, slot in value.readers]
    if all(read == made for read in reads):
        return
    down, up = program.variable(0, 1, price), program.variable(0, 1, price)
    for read in reads:
        program.row(combine([({down: 1.0}, 1), (made, -1), (read, 1)]), lower=0)
        program.row(combine([({up: 1.0}, 1), (read, -1), (made, 1)]), lower=0)
