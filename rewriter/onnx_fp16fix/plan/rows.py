"""The rows: relations between exponents, what FP16 can hold, where small values matter, and casts."""

from __future__ import annotations

from onnx_fp16fix.operators import inp, out
from onnx_fp16fix.plan.edges import Edge, TensorView
from onnx_fp16fix.plan.facts import SUMS, NodeView
from onnx_fp16fix.plan.prices import Prices
from onnx_fp16fix.plan.problem import LIMIT, ZERO, Problem
from onnx_fp16fix.plan.tableau import Terms, combine
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
    edges, relation, precision = view.edges, view.relation, problem.precision(index)
    exponents = {operand: problem.seen(index, edge) for operand, edge in edges.items()}
    for equation in relation.equations:
        program.row(combine([(exponents.get(o, ZERO), weight) for o, weight in equation]), 0, 0)
    for operand, edge in edges.items():
        if not edge.movable and exponents[operand]:
            program.row(exponents[operand], 0, 0)
    for inner in relation.inner:
        if inner.magnitude > 0:
            lowest = problem.facts.lowest_for(inner.magnitude * problem.facts.margin)
            terms = combine([(exponents.get(inner.operand, ZERO), inner.coefficient)])
            program.at_least(terms, lowest, precision)
    for operand, edge in edges.items():
        if edge.reads:
            _operand_rows(problem, view, edge, exponents[operand])


def _operand_rows(problem: Problem, view: NodeView, edge: Edge, exponent: Terms) -> None:
    """What an FP16 operand must satisfy as this node sees it."""
    index, value, program, need = view.node.index, edge.value, problem.program, problem.need
    slot, escape = (index, edge.slot), problem.read(index, edge)
    if problem.rooms and (room := problem.rooms.operand(slot, value.key)) is not None:
        program.row(exponent, *room)
    if value.lowest is not None and not _overflows_harmlessly(problem, view, edge):
        program.at_least(exponent, value.lowest, escape)
    if not value.constant:
        if slot in need.readers:
            _need_rows(problem, value, exponent, escape)
        # where the tensor's own rows do not see this exponent: behind a Mul, or read from an FP32 maker
        if value.typical is not None and (slot in problem.shift or problem.made(value) != ZERO):
            _lose_bits(problem, value, value.typical, exponent, escape)
    elif slot in need.raised:
        pass  # it vanishes at no exponent: emission raises it
    elif (guard := need.guards.get(slot)) is not None:
        program.at_most(exponent, guard, escape)
    elif (typical := _typical_constant(view, edge)) is not None:
        _lose_bits(problem, value, typical, exponent, escape)


def _overflows_harmlessly(problem: Problem, view: NodeView, edge: Edge) -> bool:
    """Whether the node may read an infinity here."""
    if edge.slot in view.relation.saturating:
        return True
    tolerant = problem.tolerant
    return edge.value.key in tolerant and passes_overflow(problem.facts, view.node, edge.slot, tolerant)


def _typical_constant(view: NodeView, edge: Edge) -> int | None:
    """Largest exponent at which a constant loses no bits that show: of a summand those that the sum keeps."""
    typical, result = edge.value.typical, view.edges.get(out())
    if typical is None or result is None or not (view.op in SUMS or (view.op in _BIASED and edge.slot == 2)):
        return typical
    return max(typical, result.value.typical or typical)


def _lose_bits(problem: Problem, value: TensorView, typical: int, exponent: Terms, escape: Terms) -> None:
    lost = problem.bits.get(value.numel)
    if lost is None:
        lost = problem.bits[value.numel] = typical_bits(problem.prices, value.numel)
    problem.program.at_most(exponent, typical, escape, lost)


def typical_bits(prices: Prices, numel: int) -> list[tuple[int, float]]:
    """Bits that so many elements of typical magnitudes may lose, with the price of each, rising."""
    return [
        (prices.bits_cheap, prices.bit(numel)),
        (prices.bits_most - prices.bits_cheap, prices.bit_more(numel)),
        (2 * LIMIT, 4 * prices.bit_more(numel)),
    ]


def _need_rows(problem: Problem, value: TensorView, exponent: Terms, escape: Terms) -> None:
    """Small values that matter, and guards that must not vanish."""
    need, prices, program = problem.need, problem.prices, problem.program
    if not need.matters(value.key):
        return
    highest, guard = need.limits(value.key)
    if highest is not None:
        program.at_most(exponent, highest, escape, [(prices.need_most, prices.need_bit)])
    if guard is not None:
        program.at_most(exponent, guard, escape)


def tensor_rows(problem: Problem, value: TensorView) -> None:
    """What a tensor made in FP16 must satisfy, its true value outside, and its casts."""
    made, exponent = problem.made(value), problem.stored(value)
    if value.lowest is not None and value.key not in problem.tolerant:
        problem.program.at_least(exponent, value.lowest, made)
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
    price = problem.prices.cast(value.numel) * problem.facts.repeats(value.tensor)
    views = problem.views
    reads = [problem.read(index, views[index].edges[inp(slot)]) for index, slot in value.readers]
    others = {tuple(read): read for read in reads if read != made}  # a precision is one variable, 1 or 0
    if not others:
        return
    down, up = program.variable(0, 1, price), program.variable(0, 1, price)
    for read in others.values():
        program.row({down: 1.0, **dict.fromkeys(made, -1.0), **read}, lower=0)
        program.row({up: 1.0, **made, **dict.fromkeys(read, -1.0)}, lower=0)
