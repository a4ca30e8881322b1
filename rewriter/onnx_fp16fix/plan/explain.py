"""Why a node stays FP32 or an operand gets a Mul: the constraint that forced it, in words."""

from __future__ import annotations

from collections.abc import Mapping

from onnx_fp16fix.half import FloatType
from onnx_fp16fix.operators import first_opset, has_kernel, inp, out
from onnx_fp16fix.plan.known.facts import NodeView
from onnx_fp16fix.plan.pieces.problem import Problem
from onnx_fp16fix.plan.plan import Slot

__all__ = ["reason_for_fp32", "reason_for_mul"]


def reason_for_fp32(
    problem: Problem,
    index: int,
    exponents: Mapping[str, int],
    operands: Mapping[Slot, int],
    muls: Mapping[Slot, int],
) -> str:
    """One sentence: what FP16 could not hold at this node."""
    view = problem.views[index]
    if index in problem.forced:
        return problem.forced[index]
    if not view.slots.fp16:
        return _no_form(view, problem.facts.half)
    facts = problem.facts
    for slot in range(view.count("out")):
        tensor = view.tensor(out(slot))
        if tensor is None or not view.has(out(slot)):
            continue
        lowest = facts.tensor_view(tensor).lowest
        if lowest is not None and lowest > exponents.get(facts.key(tensor), 0):
            return f"its output '{tensor.name}' {facts.range(tensor).reach()}"
        highest = problem.need.highest(tensor)
        if highest is not None and highest < exponents.get(facts.key(tensor), 0):
            smallest = problem.need.smallest[id(tensor)]
            return f"its output '{tensor.name}' must stay accurate down to {smallest:.4g}"
        guard = problem.need.highest_guard(tensor)
        if guard is not None and guard < exponents.get(facts.key(tensor), 0):
            return f"its output '{tensor.name}' may be as small as {problem.need.guarded[id(tensor)]:.4g}"
    for slot in range(view.count("in")):
        if (reason := _operand_reason(problem, index, slot, exponents, operands, muls)) is not None:
            return reason
    for inner in view.relation.inner:
        if inner.magnitude * facts.margin > facts.half.max:
            return f"{inner.what} reaches {inner.magnitude:.4g}"
    lost = _lost(problem, index, exponents, operands, muls)
    return lost or "its neighbours are FP32: staying with them saves casts"


def _no_form(view: NodeView, half: FloatType) -> str:
    """Why the op cannot run in the type at all."""
    if half.target and not has_kernel(view.op, view.opset, half):
        return f"{half.target} has no {half.label} kernel of {view.op} in opset {view.opset}"
    since = first_opset(view.node.domain, view.op, half)
    later = f" before opset {since}" if since is not None and since > view.opset else ""
    return f"{view.op} has no {half.label} form{later}"


def _lost(
    problem: Problem,
    index: int,
    exponents: Mapping[str, int],
    operands: Mapping[Slot, int],
    muls: Mapping[Slot, int],
) -> str | None:
    """What would lose too many bits at the exponents that the plan has."""
    view, facts = problem.views[index], problem.facts
    for operand in view.operands:
        tensor, slot, reads = view.tensor(operand), (index, operand[1]), operand[0] == "in"
        typical = None if tensor is None else facts.tensor_view(tensor).typical
        if tensor is None or typical is None:
            continue
        stored = exponents.get(facts.key(tensor), 0)
        exponent = operands.get(slot, stored + muls.get(slot, 0)) if reads else stored
        if exponent - typical > problem.prices.bits_most:
            return f"it {'reads' if reads else 'makes'} '{tensor.name}', typically {facts.range(tensor).mean_abs:.4g}"
    return None


def _operand_reason(
    problem: Problem,
    index: int,
    slot: int,
    exponents: Mapping[str, int],
    operands: Mapping[Slot, int],
    muls: Mapping[Slot, int],
) -> str | None:
    view, facts = problem.views[index], problem.facts
    tensor = view.tensor(inp(slot))
    if tensor is None or not view.has(inp(slot)):
        return None
    exponent = operands.get((index, slot), exponents.get(facts.key(tensor), 0) + muls.get((index, slot), 0))
    guard = problem.need.guards.get((index, slot))
    if guard is not None and guard < exponent:
        return f"the constant {facts.range(tensor).absmax:.4g} that guards against zero would vanish"
    lowest = facts.tensor_view(tensor).lowest
    if lowest is not None and lowest > exponent and slot not in view.relation.saturating:
        return f"it reads '{tensor.name}', which {facts.range(tensor).reach()}"
    highest = problem.need.highest(tensor)
    if highest is not None and highest < exponent:
        return f"it reads '{tensor.name}', which must stay accurate down to {problem.need.smallest[id(tensor)]:.4g}"
    least = problem.need.highest_guard(tensor)
    if least is not None and least < exponent:
        return f"it reads '{tensor.name}', which may be as small as {problem.need.guarded[id(tensor)]:.4g}"
    return None


def reason_for_mul(problem: Problem, slot: Slot) -> str:
    """One sentence: why the operand's scale could not be absorbed."""
    index, position = slot
    view = problem.views[index]
    tensor = view.tensor(inp(position))
    name = tensor.name if tensor is not None else ""
    if inp(position) not in view.relation.movable:
        return f"{view.op} needs the true value of '{name}'"
    if sum(edge.reads and not edge.value.constant for edge in view.edges.values()) > 1:
        return f"{view.op} takes '{name}' together with what is stored at another power of two"
    return f"what {view.op} makes of '{name}' is stored at another power of two, and others read '{name}' as it is"
