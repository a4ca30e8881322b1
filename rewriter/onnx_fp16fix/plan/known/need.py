"""How small a value may matter: the magnitude down to which each tensor must stay accurate.

A denominator, or what a logarithm or a square root reads, must be accurate relative to its smallest value. Storing it
at exponent s rounds with an absolute error of 2**(s - 25) in FP16 once values are subnormal. So the smallest value that
matters is propagated backwards through the ops that build the operand: through a sum unchanged, through a square as
its root, through a product with a constant divided by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_graphsurgeon as gs

from onnx_fp16fix import fp16
from onnx_fp16fix.half import FloatType
from onnx_fp16fix.operators import inp, out
from onnx_fp16fix.plan.known.edges import NodeView, TensorView
from onnx_fp16fix.plan.known.facts import BORDER, Facts

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
_MAY_RAISE = _GUARDED | _SHAPE | {"Sqrt"}
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
    limited: dict[int, tuple[int | None, int | None]] = field(default_factory=dict)
    """``limits`` of all tensors that have any."""

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
        return self.limited.get(key, (None, None))

    def _limits(self, value: float | None, guard: float | None) -> tuple[int | None, int | None]:
        return (
            None if value is None else fp16.floor_log2(value) - self.half.least,
            None if guard is None else self.highest_held(guard),
        )

    def settle(self) -> None:
        """Nothing changes from now on."""
        smallest, guarded = self.smallest, self.guarded
        self.limited = {
            key: self._limits(smallest.get(key), guarded.get(key)) for key in smallest.keys() | guarded.keys()
        }


def needs(facts: Facts) -> Need:
    """Needs of all tensors of the scope, from calibrated smallest magnitudes; nodes in reverse order."""
    need = Need(facts.half)
    _find_raised(need, facts)
    smallest, views = need.smallest, facts.views()
    # what a loop hands back to its body is known after one pass
    passes = 2 if any(view.node.domain == BORDER for view in views) else 1
    for view in (view for _ in range(passes) for view in reversed(views)):
        for slot in view.relation.sensitive:
            if (value := view.value(inp(slot))) is not None and value.float:
                need.readers.add((view.node.index, slot))
                _lower(need, value, _smallest(need, value))
        least = math.inf
        for made in view.outputs:
            if made is not None and (found := smallest.get(made.key, math.inf)) < least:
                least = found
        if least < math.inf:
            _propagate(view, least, need)
    _follow_guards(need, views)
    need.settle()
    return need


def _follow_guards(need: Need, views: Sequence[NodeView]) -> None:
    """Carry lower bounds forward to the denominators that need them; nodes in file order."""
    if not need.guards:
        return
    guarding, guarded = {index for index, _ in need.guards}, need.guarded
    for view in views:
        if view.node.index not in guarding and not (
            guarded and any(v and v.key in guarded for v in view.inputs)
        ):
            continue
        bounds = []
        for slot, value in enumerate(view.inputs):
            if value is not None and value.key in need.guarded:
                bounds.append(need.guarded[value.key])
            if value is not None and (view.node.index, slot) in need.guards:
                bounds.append(value.range.smallest)
        result = view.value(out())
        if not bounds or result is None:
            continue
        if view.op in _SHAPE or (view.op in _GUARDED and result.key in need.smallest):
            need.guarded[result.key] = max(bounds)
        elif view.op == "Sqrt":
            need.guarded[result.key] = math.sqrt(max(bounds))


def _find_raised(need: Need, facts: Facts) -> None:
    """Guards that keep a denominator from zero and do nothing else.

    In FP16 their exact value is lost wherever it matters: next to data that small, which FP16 rounds to the same
    grid. What counts is that they are not zero, and how small the data themselves get.
    """
    for view in facts.views():
        op = view.op
        if op not in _MAY_RAISE or (result := view.value(out())) is None:
            continue
        if op in _GUARDED and not view.node.domain:
            filled = [(slot, value) for slot, value in enumerate(view.inputs) if value is not None]
            constants = [slot for slot, value in filled if _is_guard(value)]
            data = [value for _, value in filled if not value.constant]
            lowest = op == "Clip" and constants != [1]  # only the lower bound guards
            if len(constants) != 1 or len(data) != 1 or lowest or not _only_divides(facts, result):
                continue
            need.raised.add((view.node.index, constants[0]))
            need.floors[result.key] = max(
                facts.range(result.tensor).smallest, facts.range(data[0].tensor).smallest
            )
        elif op not in _GUARDED and need.floors:
            data_in = view.value(inp(0))
            floor = 0.0 if data_in is None else need.floors.get(data_in.key, 0.0)
            if floor:
                need.floors[result.key] = math.sqrt(floor) if op == "Sqrt" else floor


def _is_guard(value: TensorView) -> bool:
    return value.constant and value.float and value.range.minimum > 0 and value.range.absmax < _GUARD_BELOW


def _only_divides(facts: Facts, value: TensorView, rooted: bool = False) -> bool:
    """Whether all uses end as a denominator; a reciprocal needs a root before it to stay in range."""
    if not value.readers or facts.scope.outside_uses(value.tensor):
        return False
    for index, slot in value.readers:
        view = facts.views()[index]
        if view.op == "Div" and slot == 1:
            continue
        if view.op == "Reciprocal" and rooted:
            continue
        if (view.op not in _SHAPE and view.op != "Sqrt") or slot:
            return False
        result = view.value(out())
        if result is None or not _only_divides(facts, result, rooted or view.op == "Sqrt"):
            return False
    return True


def _smallest(need: Need, value: TensorView) -> float:
    return need.floors.get(value.key, value.range.smallest)


def _lower(need: Need, tensor: TensorView, value: float) -> None:
    if 0 < value < math.inf:
        need.smallest[tensor.key] = min(value, need.smallest.get(tensor.key, math.inf))


def _propagate(view: NodeView, value: float, need: Need) -> None:
    if view.op in _FACTORS:
        value = _FACTORS[view.op](view, value)
    elif view.op not in _SAME and view.node.domain != BORDER:
        return
    for slot, operand in enumerate(view.inputs):
        if operand is None or not operand.float:
            continue
        own, place = _smallest(need, operand), (view.node.index, slot)
        if operand.constant:
            if place not in need.raised and view.op in _GUARDED and operand.range.minimum > 0:
                need.guards[place] = need.highest_held(own)
        elif own < math.inf:
            # an element is zero (exact), or at least ``own``: then relative accuracy is all it takes
            need.readers.add(place)
            _lower(need, operand, max(value, own))


def _square(view: NodeView, value: float) -> float:
    if view.op == "Mul" and view.inputs[0] is not view.inputs[1]:
        return _factor(view, value)
    if view.op == "Pow":
        exponent = view.constant(1)
        if exponent is None or exponent.size != 1 or float(exponent.reshape(-1)[0]) != 2.0:
            return 0.0
    return math.sqrt(value)


def _factor(view: NodeView, value: float) -> float:
    constants = [v.range.absmax if v.float else 0.0 for v in view.inputs if v is not None and v.constant]
    if len(constants) != 1 or not constants[0]:
        return 0.0
    return value * constants[0] if view.op == "Div" else value / constants[0]


def _reduced(view: NodeView) -> float:
    return max(1.0, view.numel(inp(0)) / max(1, view.numel(out())))


_FACTORS: Mapping[str, Callable[[NodeView, float], float]] = {
    "Mul": _square,
    "Pow": _square,
    "Div": _factor,
    "ReduceSum": lambda view, value: value / _reduced(view),
    "ReduceL1": lambda view, value: value / _reduced(view),
    "ReduceSumSquare": lambda view, value: math.sqrt(value / _reduced(view)),
    "ReduceL2": lambda view, value: value / math.sqrt(_reduced(view)),
}
