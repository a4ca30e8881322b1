"""The variables: an exponent per tensor and constant operand, a shift per operand that may get a Mul, a precision
per node that may need FP32."""

from __future__ import annotations

import numpy as np

from onnx_fp16fix.operators import flops, inp, out, shape
from onnx_fp16fix.plan.known.edges import Edge, TensorView
from onnx_fp16fix.plan.known.facts import BORDER, NodeView
from onnx_fp16fix.plan.known.room import Interval
from onnx_fp16fix.plan.known.table import UNKNOWN
from onnx_fp16fix.plan.pieces.problem import LIMIT, Problem
from onnx_fp16fix.plan.prices import Prices

__all__ = [
    "ROOM",
    "constant_range",
    "exponent_range",
    "largest_exponent",
    "moved_by",
    "node_variables",
    "price_of_fp32",
    "tensor_variables",
]

ROOM = 8
"""Steps beyond the range a tensor itself asks for: room for compromises with its neighbours."""
_MOVERS = frozenset(
    "Reshape Transpose Squeeze Unsqueeze Flatten Slice Gather Expand Tile DepthToSpace SpaceToDepth Identity".split()
)


def largest_exponent(problem: Problem) -> int:
    """No exponent of the region need be larger: twice the largest demand (a square doubles it), and some room."""
    table, need = problem.facts.table(), problem.need
    touched = np.zeros(len(table.values), bool)
    touched[table.value[table.at(problem.nodes)]] = True
    most = 4
    for exponents, sign in ((table.sizes.lowest, 1), (table.sizes.typical, -1)):
        found = exponents[touched & (exponents != UNKNOWN)]
        most = max(most, int((sign * found).max(initial=most)))
    for key, limits in need.limited.items():
        if (number := table.number.get(key)) is not None and touched[number]:
            most = max(most, *(-limit for limit in limits if limit is not None))
    guards = [-guard for (index, _), guard in need.guards.items() if index in problem.nodes]
    return min(LIMIT, 2 * max([most, *guards]) + 4)


def node_variables(problem: Problem, index: int) -> None:
    """Precision of the node, if it has a choice, and exponents or shifts of its inputs."""
    view, program, prices = problem.views[index], problem.program, problem.prices
    if problem.is_fp32(index) or index in problem.half:
        pass  # there is nothing to choose
    elif (maker := moved_by(problem, view)) is not None:
        problem.follows[index] = maker
    elif index in problem.prone:
        price = price_of_fp32(view, prices) * max(1.0, problem.facts.runs(index))
        problem.fp32[index] = program.variable(0, 1, price, integer=True)
    for edge in view.edges.values():
        if not edge.reads:
            continue
        slot = (index, edge.slot)
        if edge.value.constant:
            if edge.movable:
                problem.constant[slot] = _exponent_variable(problem, constant_range(problem, edge, index))
        elif slot in problem.shiftable:
            problem.shift[slot] = _shift_variable(problem, edge.value)


def moved_by(problem: Problem, view: NodeView) -> int | None:
    """The node that made what this node only moves; None where it computes, or reads what no FP16 node makes."""
    if view.op not in _MOVERS or not view.has(inp(0)):
        return None
    producer = problem.facts.scope.producer(view.node.inputs[0])
    if producer is None or producer.index not in problem.nodes or problem.is_fp32(producer.index):
        return None
    place = producer.output_slot(view.node.inputs[0])
    return producer.index if problem.views[producer.index].is_half(out(place)) else None


def price_of_fp32(view: NodeView, prices: Prices) -> float:
    """What one run of the node costs more in FP32."""
    view.facts.views()  # sizes are found for all at once
    numel = sum([value.numel for value in view.floats])
    return prices.fp32(numel, flops(view), _moves_data(view))


def _moves_data(view: NodeView) -> bool:
    """Whether the node computes nothing: it copies elements, or makes no float at all."""
    return (
        view.op in shape.OPS
        or view.op in ("Identity", "Cast")
        or view.node.domain == BORDER
        or not any(o[0] == "out" for o in view.operands)
    )


def exponent_range(problem: Problem, value: TensorView) -> tuple[int, int]:
    """Exponents worth considering: from what range demands to a little beyond where precision is lost, and 0.

    Tight bounds matter: the program's relaxation is as good as they are.
    """
    lowest, bound = value.lowest, problem.bound
    room = problem.rooms.tensors.get(value.key)
    if lowest is None:
        return _within((-bound, bound), room)
    typical = lowest if value.typical is None else value.typical
    least, most = min(lowest, 0, typical) - ROOM, max(lowest, 0, typical) + ROOM
    return _within((max(least, -bound), min(most, bound)), room)


def constant_range(problem: Problem, edge: Edge, index: int) -> tuple[int, int]:
    """Exponents that the constant operand of a node may have."""
    room = problem.rooms.operand((index, edge.slot), edge.value.key)
    return _within((-problem.bound, problem.bound), room)


def _within(bounds: tuple[int, int], room: Interval | None) -> tuple[int, int]:
    return bounds if room is None else (max(bounds[0], room[0]), min(bounds[1], room[1]))


def _exponent_variable(problem: Problem, bounds: tuple[int, int]) -> int:
    program = problem.program
    variable = program.variable(*bounds, integer=True)
    program.magnitude(variable, max(map(abs, bounds)), problem.prices.step)
    return variable


def _shift_variable(problem: Problem, value: TensorView) -> int:
    program = problem.program
    least, most = exponent_range(problem, value)
    bound = most - least
    variable = program.variable(-bound, bound, integer=True)
    price = problem.prices.mul(value.numel) * problem.facts.repeats(value.tensor)
    program.switch(variable, bound, price)
    return variable


def tensor_variables(problem: Problem, value: TensorView) -> None:
    """Exponent of a tensor, and the shift of its true value where that leaves the graph."""
    if not problem.encloses(value):
        return
    if value.maker is None:
        # a graph input keeps its true value; one Mul may scale it for all its readers
        problem.exponent[value.key] = _shift_variable(problem, value)
    else:
        problem.exponent[value.key] = _exponent_variable(problem, exponent_range(problem, value))
        if problem.facts.scope.outside_uses(value.tensor):
            problem.result[value.key] = _shift_variable(problem, value)
