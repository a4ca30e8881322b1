"""The variables: an exponent per tensor and constant operand, a shift per operand that may get a Mul, a precision
per node that may need FP32."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnx_fp16fix.operators import Operand, flops, inp, out, shape
from onnx_fp16fix.plan.facts import BORDER, NodeView
from onnx_fp16fix.plan.problem import LIMIT, Problem

__all__ = ["exponent_range", "largest_exponent", "node_variables", "tensor_variables"]

_ROOM = 8
"""Steps beyond the range a tensor itself asks for: room for compromises with its neighbours."""
_MOVERS = frozenset(
    "Reshape Transpose Squeeze Unsqueeze Flatten Slice Gather Expand Tile DepthToSpace SpaceToDepth Identity".split()
)


def largest_exponent(problem: Problem) -> int:
    """No exponent of the region need be larger: twice the largest demand (a square doubles it), and some room."""
    demands = [4]
    for index in problem.nodes:
        view = problem.views[index]
        for operand in view.operands:
            tensor = view.tensor(operand)
            if tensor is not None:
                demands.append(problem.facts.lowest(tensor) or 0)
                typical = problem.facts.typical(tensor)
                demands.append(-typical if typical is not None else 0)
                demands.append(-(problem.need.highest(tensor) or 0))
                demands.append(-(problem.need.highest_guard(tensor) or 0))
        for guard in (problem.need.guards.get((index, slot)) for slot in range(view.count("in"))):
            demands.append(-guard if guard is not None else 0)
    return min(LIMIT, 2 * max(demands) + 4)


def node_variables(problem: Problem, index: int, prone: bool) -> None:
    """Precision of the node, if it has a choice, and exponents or shifts of its inputs."""
    view, program, prices = problem.views[index], problem.program, problem.prices
    if problem.is_fp32(index) or index in problem.half:
        pass  # there is nothing to choose
    elif (maker := _moves_data_of(problem, view)) is not None:
        problem.follows[index] = maker
    elif prone:
        numel = sum(view.numel(operand) for operand in view.operands)
        problem.fp32[index] = program.variable(
            0,
            1,
            prices.fp32(numel, flops(view), _moves_data(view)) * max(1.0, problem.facts.runs(index)),
            integer=True,
        )
    movable = problem.relations[index].operands()
    for operand in view.operands:
        tensor = view.tensor(operand)
        if operand[0] == "out" or tensor is None:
            continue
        slot = (index, operand[1])
        if problem.facts.is_constant(tensor):
            if operand in movable:
                problem.constant[slot] = _exponent_variable(problem, (-problem.bound, problem.bound))
        elif _may_shift(problem, view, operand):
            problem.shift[slot] = _shift_variable(problem, tensor, view.numel(operand))


def _may_shift(problem: Problem, view: NodeView, operand: Operand) -> bool:
    """Whether a Mul on this operand can do what no Mul behind the node does as well.

    Not where the node passes the scale on to its result, or absorbs it: a constant weight or a Mul further up or down
    then serves (for the joins of a residual stream this keeps the program five times smaller to solve). Except behind
    a node whose result has a fixed scale, where there is no other place.
    """
    facts, relation = problem.facts, problem.relations[view.node.index]
    tensor = view.tensor(operand)
    assert tensor is not None
    producer = facts.scope.producer(tensor)
    if producer is None:
        return True
    place = producer.output_slot(tensor)
    if producer.index not in problem.nodes or out(place) not in problem.relations[producer.index].operands():
        return True
    if operand in relation.free:
        return False
    equations = [equation for equation in relation.equations if any(o == operand for o, _ in equation)]
    if not equations:
        return True  # pinned
    for equation in equations:
        others = [o for o, _ in equation if o != operand and o[0] == "in"]
        variable = [o for o in others if (t := view.tensor(o)) is not None and not facts.is_constant(t)]
        if variable or any(abs(weight) != 1 for _, weight in equation):
            return True
    return False


def _moves_data_of(problem: Problem, view: NodeView) -> int | None:
    """The node that made what this node only moves; None where it computes, or reads what no FP16 node makes."""
    if view.op not in _MOVERS or not view.has(inp(0)):
        return None
    producer = problem.facts.scope.producer(view.node.inputs[0])
    if producer is None or producer.index not in problem.nodes or problem.is_fp32(producer.index):
        return None
    place = producer.output_slot(view.node.inputs[0])
    return producer.index if problem.views[producer.index].is_half(out(place)) else None


def _moves_data(view: NodeView) -> bool:
    """Whether the node computes nothing: it copies elements, or makes no float at all."""
    return (
        view.op in shape.OPS
        or view.op in ("Identity", "Cast")
        or view.node.domain == BORDER
        or not any(o[0] == "out" for o in view.operands)
    )


def exponent_range(problem: Problem, tensor: gs.Tensor) -> tuple[int, int]:
    """Exponents worth considering: from what range demands to a little beyond where precision is lost, and 0.

    Tight bounds matter: the program's relaxation is as good as they are.
    """
    lowest, typical = problem.facts.lowest(tensor), problem.facts.typical(tensor)
    if lowest is None:
        return -problem.bound, problem.bound
    least = min(lowest, 0, lowest if typical is None else typical) - _ROOM
    most = max(lowest, 0, lowest if typical is None else typical) + _ROOM
    return max(least, -problem.bound), min(most, problem.bound)


def _exponent_variable(problem: Problem, bounds: tuple[int, int]) -> int:
    program = problem.program
    variable = program.variable(*bounds, integer=True)
    size = program.variable(0, max(map(abs, bounds)), problem.prices.step)
    program.row({size: 1, variable: -1}, lower=0)
    program.row({size: 1, variable: 1}, lower=0)
    return variable


def _shift_variable(problem: Problem, tensor: gs.Tensor, numel: int) -> int:
    program = problem.program
    least, most = exponent_range(problem, tensor)
    bound = most - least
    variable = program.variable(-bound, bound, integer=True)
    price = problem.prices.mul(numel) * problem.facts.repeats(tensor)
    used = program.variable(0, 1, price, integer=True)
    program.row({variable: 1, used: -bound}, upper=0)
    program.row({variable: 1, used: bound}, lower=0)
    return variable


def tensor_variables(problem: Problem, tensor: gs.Tensor) -> None:
    """Exponent of a tensor, and the shift of its true value where that leaves the graph."""
    scope = problem.facts.scope
    producer = scope.producer(tensor)
    if not problem.encloses(tensor):
        return
    if producer is None:
        # a graph input keeps its true value; one Mul may scale it for all its readers
        problem.exponent[id(tensor)] = _shift_variable(problem, tensor, problem.facts.range(tensor).numel)
    else:
        problem.exponent[id(tensor)] = _exponent_variable(problem, exponent_range(problem, tensor))
        if scope.outside_uses(tensor):
            numel = problem.facts.range(tensor).numel
            problem.result[id(tensor)] = _shift_variable(problem, tensor, numel)
