"""The rows: relations between exponents, what FP16 can hold, where small values matter, and casts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf

from onnx_fp16fix.operators import Operand, out
from onnx_fp16fix.plan.edges import Edge, TensorView
from onnx_fp16fix.plan.facts import SUMS, NodeView
from onnx_fp16fix.plan.prices import Prices
from onnx_fp16fix.plan.problem import LIMIT, ZERO, Problem
from onnx_fp16fix.plan.program import Program, Terms, combine
from onnx_fp16fix.plan.tolerate import passes_overflow

__all__ = ["node_rows", "tensor_rows", "typical_bits"]

_BIASED = frozenset(
    """Conv ConvTranspose Gemm LayerNormalization GroupNormalization InstanceNormalization
    BatchNormalization""".split()
)
"""Ops whose third input is added to the result."""


def node_rows(problem: Problem, index: int) -> None:
    """The node's equations, its pinned operands, the values inside its kernel, and what it asks of its operands."""
    view, program = problem.views[index], problem.program
    exponents = {operand: problem.operand(index, operand) for operand in view.edges}
    relation, precision = view.relation, problem.precision(index)
    for equation in relation.equations:
        program.row(combine((exponents.get(o, ZERO), weight) for o, weight in equation), 0, 0)
    for edge in view.edges.values():
        if not edge.movable:
            program.row(exponents[edge.operand], 0, 0)
    for inner in relation.inner:
        if inner.magnitude > 0:
            lowest = problem.facts.lowest_for(inner.magnitude * problem.facts.margin)
            _at_least(problem, exponents.get(inner.operand, ZERO), inner.coefficient, lowest, precision)
    _operand_rows(problem, index, exponents)


def _at_least(problem: Problem, exponent: Terms, weight: int, lowest: int, escape: Terms) -> None:
    """weight * exponent >= lowest, unless escape = 1."""
    program = problem.program
    slack = lowest - program.least(exponent, weight)
    if slack <= 0 or Program.ONE in escape:
        return
    columns, values, constant = _parts(exponent)
    if weight != 1:
        values = [weight * value for value in values]
    for variable, value in escape.items():
        columns.append(variable)
        values.append(slack * value)
    program.add(columns, values, lowest - weight * constant, inf)


def _at_most(
    problem: Problem, exponent: Terms, highest: int, escape: Terms, lost: Sequence[tuple[int, float]]
) -> None:
    """exponent <= highest + bits lost, unless escape = 1; ``lost``: so many bits at such a price each, rising."""
    program = problem.program
    slack = -program.least(exponent, -1) - highest
    if slack <= 0 or Program.ONE in escape:
        return
    columns, values, constant = _parts(exponent)
    for variable, value in escape.items():
        columns.append(variable)
        values.append(-slack * value)
    columns += program.chain(lost)
    values += (-1.0,) * len(lost)
    program.add(columns, values, -inf, highest - constant)


def _parts(terms: Terms) -> tuple[list[int], list[float], float]:
    """Variables, their coefficients, and the constant."""
    if Program.ONE not in terms:
        return list(terms), list(terms.values()), 0.0
    rest = {variable: value for variable, value in terms.items() if variable != Program.ONE}
    return list(rest), list(rest.values()), terms[Program.ONE]


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


def _operand_rows(problem: Problem, index: int, exponents: Mapping[Operand, Terms]) -> None:
    """What an FP16 operand must satisfy as this node sees it."""
    view, facts, tolerant = problem.views[index], problem.facts, problem.tolerant
    for edge in view.edges.values():
        if not edge.reads:
            continue
        slot, value = (index, edge.slot), edge.value
        exponent, escape = exponents[edge.operand], problem.read(index, edge.slot)
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
    others = {tuple(read): read for read in reads if read != made}  # a precision is one variable, 1 or 0
    if not others:
        return
    down, up = program.variable(0, 1, price), program.variable(0, 1, price)
    for read in others.values():
        program.row({down: 1.0, **dict.fromkeys(made, -1.0), **read}, lower=0)
        program.row({up: 1.0, **made, **dict.fromkeys(read, -1.0)}, lower=0)
