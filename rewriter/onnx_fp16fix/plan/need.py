"""How small a value may matter: the magnitude down to which each tensor must stay accurate.

A denominator, or what a logarithm or a square root reads, must be accurate relative to its smallest value. Storing it
at exponent s rounds with an absolute error of 2**(s - 25) in FP16 once values are subnormal. So the smallest value that
matters is propagated backwards through the ops that build the operand: through a sum unchanged, through a square as
its root, through a product with a constant divided by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from onnx_fp16fix import fp16
from onnx_fp16fix.graph import ViewNode
from onnx_fp16fix.half import FloatType
from onnx_fp16fix.operators import inp, out
from onnx_fp16fix.plan.facts import BORDER, Facts

__all__ = ["Need", "needs"]

_SAME = frozenset(
    """Add Sub Sum Max Min Clip Where Concat ReduceMax ReduceMin ReduceMean GlobalAveragePool AveragePool MaxPool Abs
    Neg Relu Identity Dropout Cast Reshape Transpose Squeeze Unsqueeze Flatten Expand Tile Slice Gather Split
    Pad""".split()
)
"""Ops through which an absolute error passes unchanged (or smaller)."""
_SHAPE = frozenset("Identity Reshape Squeeze Unsqueeze Flatten Expand Tile Cast Dropout".split())
_GUARDED = frozenset({"Add", "Sum", "Max", "Clip"})
"""Ops by which a positive constant keeps a value away from zero."""
_GUARD_BELOW = 2.0**-8
"""A constant that is larger is a summand in its own right."""
_GUARD_STEPS = 4
"""A guard such as epsilon stays within 12.5 % of its value: at least so many steps of the subnormal grid."""


@dataclass(slots=True)
class Need:
    """``smallest``: magnitudes by tensor identity. ``guarded``: values that a positive constant keeps above zero, and
    that must stay so whatever the data. ``guards``: exponents above which such a constant would vanish, by
    (node, slot). ``raised``: slots of constants that may grow to FP16's smallest value instead of vanishing."""

    half: FloatType
    smallest: dict[int, float] = field(default_factory=dict)
    raised: set[tuple[int, int]] = field(default_factory=set)
    floors: dict[int, float] = field(default_factory=dict)
    """Smallest magnitude that matters of values behind a raised constant: where the data are zero, so is the
    numerator, and any positive denominator gives the right quotient."""
    guarded: dict[int, float] = field(default_factory=dict)
    guards: dict[tuple[int, int], int] = field(default_factory=dict)
    readers: set[tuple[int, int]] = field(default_factory=set)
    """Slots (node, slot) through which small values matter: other readers of the same tensor may lose them."""

    def matters(self, key: int) -> bool:
        """Whether small values of the tensor with this identity matter, or must not vanish."""
        return key in self.smallest or key in self.guarded

    def guarding(self, slot: tuple[int, int]) -> bool:
        """Whether the constant there keeps a value from zero."""
        return slot in self.raised or slot in self.guards

    def highest_guard(self, tensor: gs.Tensor) -> int | None:
        """Largest exponent at which the tensor's lower bound does not vanish; None if it has none."""
        return self.limits(id(tensor))[1]

    def highest_held(self, guard: float) -> int:
        """Largest exponent at which a guard of this size does not vanish."""
        return fp16.floor_log2(guard) - fp16.floor_log2(_GUARD_STEPS * self.half.tiny)

    def highest(self, tensor: gs.Tensor) -> int | None:
        """Largest exponent at which the tensor loses no bit that matters; None if small values do not matter."""
        return self.limits(id(tensor))[0]

    def limits(self, key: int) -> tuple[int | None, int | None]:
        """``highest`` and ``highest_guard`` of the tensor with this identity."""
        value, guard = self.smallest.get(key), self.guarded.get(key)
        return (
            None if value is None else fp16.floor_log2(value) - self.half.least,
            None if guard is None else self.highest_held(guard),
        )


def needs(facts: Facts) -> Need:
    """Needs of all tensors of the scope, from calibrated smallest magnitudes; nodes in reverse order."""
    need = Need(facts.half)
    _find_raised(need, facts)
    # what a loop hands back to its body is known after one pass
    passes = 2 if any(node.domain == BORDER for node in facts.scope.nodes) else 1
    for view in (view for _ in range(passes) for view in reversed(facts.views())):
        node = view.node
        for slot in view.relation.sensitive:
            if view.has(inp(slot)):
                need.readers.add((node.index, slot))
                _lower(need, node.inputs[slot], _smallest(need, facts, node.inputs[slot]))
        values = [need.smallest[id(tensor)] for tensor in node.outputs if id(tensor) in need.smallest]
        if values:
            _propagate(node, min(values), need, facts)
    _follow_guards(need, facts)
    return need


def _follow_guards(need: Need, facts: Facts) -> None:
    """Carry lower bounds forward to the denominators that need them; nodes in file order."""
    if not need.guards:
        return
    for node in facts.scope.nodes:
        bounds = [need.guarded[id(tensor)] for tensor in node.inputs if id(tensor) in need.guarded]
        for slot, tensor in enumerate(node.inputs):
            if (node.index, slot) in need.guards:
                bounds.append(facts.range(tensor).smallest)
        if not bounds or not node.outputs:
            continue
        if node.op in _SHAPE or (node.op in _GUARDED and id(node.outputs[0]) in need.smallest):
            need.guarded[id(node.outputs[0])] = max(bounds)
        elif node.op == "Sqrt":
            need.guarded[id(node.outputs[0])] = math.sqrt(max(bounds))


def _find_raised(need: Need, facts: Facts) -> None:
    """Guards that keep a denominator from zero and do nothing else.

    In FP16 their exact value is lost wherever it matters: next to data that small, which FP16 rounds to the same
    grid. What counts is that they are not zero, and how small the data themselves get.
    """
    for node in facts.scope.nodes:
        if node.op in _GUARDED and not node.domain and node.outputs:
            constants = [slot for slot, tensor in enumerate(node.inputs) if _is_guard(facts, tensor)]
            data = [t for t in node.inputs if not t.is_empty() and not facts.is_constant(t)]
            lowest = node.op == "Clip" and constants != [1]  # only the lower bound guards
            if len(constants) != 1 or len(data) != 1 or lowest or not _only_divides(facts, node.outputs[0]):
                continue
            need.raised.add((node.index, constants[0]))
            floor = max(facts.range(node.outputs[0]).smallest, facts.range(data[0]).smallest)
            need.floors[id(node.outputs[0])] = floor
        elif node.op in _SHAPE or node.op == "Sqrt":
            floor = need.floors.get(id(node.inputs[0]), 0.0) if node.inputs else 0.0
            if floor:
                need.floors[id(node.outputs[0])] = math.sqrt(floor) if node.op == "Sqrt" else floor


def _is_guard(facts: Facts, tensor: gs.Tensor) -> bool:
    if tensor.is_empty() or not facts.is_float(tensor) or not facts.is_constant(tensor):
        return False
    return facts.range(tensor).minimum > 0 and facts.range(tensor).absmax < _GUARD_BELOW


def _only_divides(facts: Facts, tensor: gs.Tensor, rooted: bool = False) -> bool:
    """Whether all uses end as a denominator; a reciprocal needs a root before it to stay in range."""
    scope = facts.scope
    readers = scope.consumers(tensor)
    if not readers or scope.outside_uses(tensor):
        return False
    for node, slot in readers:
        if node.op == "Div" and slot == 1:
            continue
        if node.op == "Reciprocal" and rooted:
            continue
        if (node.op not in _SHAPE and node.op != "Sqrt") or slot:
            return False
        if not _only_divides(facts, node.outputs[0], rooted or node.op == "Sqrt"):
            return False
    return True


def _smallest(need: Need, facts: Facts, tensor: gs.Tensor) -> float:
    return need.floors.get(id(tensor), facts.range(tensor).smallest)


def _lower(need: Need, tensor: gs.Tensor, value: float) -> None:
    if 0 < value < math.inf:
        need.smallest[id(tensor)] = min(value, need.smallest.get(id(tensor), math.inf))


def _propagate(node: ViewNode, value: float, need: Need, facts: Facts) -> None:
    if node.op in _FACTORS:
        value = _FACTORS[node.op](node, value, facts)
    elif node.op not in _SAME and node.domain != BORDER:
        return
    for slot, tensor in enumerate(node.inputs):
        if tensor.is_empty() or not facts.is_float(tensor):
            continue
        own = _smallest(need, facts, tensor)
        if facts.is_constant(tensor):
            if (
                (node.index, slot) not in need.raised
                and node.op in _GUARDED
                and facts.range(tensor).minimum > 0
            ):
                need.guards[(node.index, slot)] = need.highest_held(own)
        elif own < math.inf:
            # an element is zero (exact), or at least ``own``: then relative accuracy is all it takes
            need.readers.add((node.index, slot))
            _lower(need, tensor, max(value, own))


def _square(node: ViewNode, value: float, facts: Facts) -> float:
    if node.op == "Mul" and node.inputs[0] is not node.inputs[1]:
        return _factor(node, value, facts)
    if node.op == "Pow":
        exponent = facts.scope.constant(node.inputs[1])
        if exponent is None or exponent.size != 1 or float(exponent.reshape(-1)[0]) != 2.0:
            return 0.0
    return math.sqrt(value)


def _factor(node: ViewNode, value: float, facts: Facts) -> float:
    constants = [facts.range(tensor).absmax for tensor in node.inputs if facts.is_constant(tensor)]
    if len(constants) != 1 or not constants[0]:
        return 0.0
    return value * constants[0] if node.op == "Div" else value / constants[0]


def _reduced(node: ViewNode, facts: Facts) -> float:
    view = facts.node_view(node)
    return max(1.0, view.numel(inp(0)) / max(1, view.numel(out())))


_FACTORS: Mapping[str, Callable[[ViewNode, float, Facts], float]] = {
    "Mul": _square,
    "Pow": _square,
    "Div": _factor,
    "ReduceSum": lambda node, value, facts: value / _reduced(node, facts),
    "ReduceL1": lambda node, value, facts: value / _reduced(node, facts),
    "ReduceSumSquare": lambda node, value, facts: math.sqrt(value / _reduced(node, facts)),
    "ReduceL2": lambda node, value, facts: value / math.sqrt(_reduced(node, facts)),
}
