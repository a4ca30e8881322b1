"""What each operator makes of the intervals that its operands lie in.

Sources: ranges of the elementary functions; for normalizations the largest value a standardised element of N can
take, sqrt(N - 1) when a mean is subtracted (all others equal), sqrt(N) when it is not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import onnx

__all__ = ["ALL", "BOOLEAN", "RULES", "UNIT", "Bound", "BoundedNode"]


@dataclass(frozen=True, slots=True)
class Bound:
    """All values lie in ``low`` to ``high`` (either may be infinite); ``shape`` has 1 for unknown sizes."""

    low: float
    high: float
    shape: tuple[int, ...] = ()

    @property
    def finite(self) -> bool:
        """Whether both ends are known."""
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(slots=True)
class BoundedNode:
    """A node with what is known of its inputs."""

    proto: onnx.NodeProto
    bounds: Mapping[str, Bound]
    shapes: Mapping[str, tuple[int | None, ...]]

    def bound(self, slot: int) -> Bound:
        """Bound of an input; of everything if nothing is known."""
        return self.bounds.get(self.name(slot), ALL)

    def name(self, slot: int) -> str:
        """Name of an input; "" if it is absent."""
        return self.proto.input[slot] if slot < len(self.proto.input) else ""

    def attribute(self, name: str, default: Any) -> Any:
        """Value of an attribute."""
        for attribute in self.proto.attribute:
            if attribute.name == name:
                return onnx.helper.get_attribute_value(attribute)
        return default

    def size(self, axes: slice) -> int | None:
        """Elements of the first input along some axes; None if a size is unknown."""
        shape = self.shapes.get(self.name(0))
        if shape is None or None in shape[axes]:
            return None
        return math.prod(size for size in shape[axes] if size is not None)


ALL: Final = Bound(-math.inf, math.inf)
UNIT, _SIGNED, _POSITIVE = Bound(0.0, 1.0), Bound(-1.0, 1.0), Bound(0.0, math.inf)


def _hull(*bounds: Bound) -> Bound:
    return Bound(min(bound.low for bound in bounds), max(bound.high for bound in bounds))


def _inside(bound: Bound, low: float, high: float) -> Bound:
    """Both at once: values of ``bound`` moved into ``low`` to ``high``."""
    return Bound(min(max(bound.low, low), high), min(max(bound.high, low), high))


def _same(node: BoundedNode) -> Bound:
    return node.bound(0)


def _all_inputs(node: BoundedNode) -> Bound:
    return _hull(*(node.bound(slot) for slot in range(len(node.proto.input))))


def _with_zero(node: BoundedNode) -> Bound:
    return _hull(node.bound(0), Bound(0.0, 0.0))


def _add(node: BoundedNode) -> Bound:
    bounds = [node.bound(slot) for slot in range(len(node.proto.input))]
    return Bound(sum(bound.low for bound in bounds), sum(bound.high for bound in bounds))


def _sub(node: BoundedNode) -> Bound:
    one, other = node.bound(0), node.bound(1)
    return Bound(one.low - other.high, one.high - other.low)


def _mul(node: BoundedNode) -> Bound:
    one, other = node.bound(0), node.bound(1)
    if node.name(0) == node.name(1):
        largest = max(abs(one.low), abs(one.high))
        return Bound(0.0, largest * largest)
    ends = [_times(a, b) for a in (one.low, one.high) for b in (other.low, other.high)]
    return Bound(min(ends), max(ends))


def _times(one: float, other: float) -> float:
    return 0.0 if one == 0 or other == 0 else one * other


def _div(node: BoundedNode) -> Bound:
    one, other = node.bound(0), node.bound(1)
    if other.low <= 0 <= other.high:
        return ALL
    ends = [_times(a, 1 / b) for a in (one.low, one.high) for b in (other.low, other.high)]
    return Bound(min(ends), max(ends))


def _pow(node: BoundedNode) -> Bound:
    base, power = node.bound(0), node.bound(1)
    if power.low != power.high or power.low <= 0:
        return ALL
    if power.low % 2 == 0:
        return Bound(0.0, _raised(max(abs(base.low), abs(base.high)), power.low))
    if power.low % 1:  # NaN below 0
        base = _inside(base, 0.0, math.inf)
    return Bound(_raised(base.low, power.low), _raised(base.high, power.low))


def _raised(value: float, power: float) -> float:
    """``value`` to a positive power, which is an integer where the value is negative."""
    try:
        return math.copysign(math.pow(abs(value), power), value)
    except OverflowError:
        return math.copysign(math.inf, value)


def _exp(node: BoundedNode) -> Bound:
    return Bound(_raised(math.e, node.bound(0).low), _raised(math.e, node.bound(0).high))


def _neg(node: BoundedNode) -> Bound:
    return Bound(-node.bound(0).high, -node.bound(0).low)


def _abs(node: BoundedNode) -> Bound:
    bound = node.bound(0)
    low = 0.0 if bound.low <= 0 <= bound.high else min(abs(bound.low), abs(bound.high))
    return Bound(low, max(abs(bound.low), abs(bound.high)))


def _relu(node: BoundedNode) -> Bound:
    return _inside(node.bound(0), 0.0, math.inf)


def _sqrt(node: BoundedNode) -> Bound:
    bound = _relu(node)
    return Bound(math.sqrt(bound.low), math.sqrt(bound.high))


def _clip(node: BoundedNode) -> Bound:
    low, high = node.attribute("min", -math.inf), node.attribute("max", math.inf)
    if node.name(1):
        low = node.bound(1).low
    if node.name(2):
        high = node.bound(2).high
    return _inside(node.bound(0), min(low, high), high)


def _where(node: BoundedNode) -> Bound:
    return _hull(node.bound(1), node.bound(2))


def _maximum(node: BoundedNode) -> Bound:
    bounds = [node.bound(slot) for slot in range(len(node.proto.input))]
    return Bound(max(bound.low for bound in bounds), max(bound.high for bound in bounds))


def _minimum(node: BoundedNode) -> Bound:
    bounds = [node.bound(slot) for slot in range(len(node.proto.input))]
    return Bound(min(bound.low for bound in bounds), min(bound.high for bound in bounds))


def _elu(node: BoundedNode) -> Bound:
    bound, alpha = node.bound(0), float(node.attribute("alpha", 1.0))
    return Bound(max(-alpha, bound.low) if bound.low > 0 else -alpha, max(bound.high, 0.0))


def _thresholded(node: BoundedNode) -> Bound:
    return Bound(min(0.0, float(node.attribute("alpha", 1.0))), max(node.bound(0).high, 0.0))


def _floor(least: float) -> Callable[[BoundedNode], Bound]:
    """Functions that follow x upwards and never pass ``least`` downwards."""

    def bound(node: BoundedNode) -> Bound:
        return Bound(least, max(node.bound(0).high, 0.0))

    return bound


def _fixed(bound: Bound) -> Callable[[BoundedNode], Bound]:
    return lambda node: bound


def _normalized(axes: Callable[[BoundedNode], slice], centred: bool) -> Callable[[BoundedNode], Bound]:
    """``scale * standardised + bias``; input 1 is the scale, input 2 (if any) the bias."""

    def bound(node: BoundedNode) -> Bound:
        count = node.size(axes(node))
        if not count:
            return ALL
        largest = math.sqrt(max(count - 1, 0) if centred else count)
        scale, bias = node.bound(1), node.bound(2) if node.name(2) else Bound(0.0, 0.0)
        reach = _times(max(abs(scale.low), abs(scale.high)), largest)
        return Bound(bias.low - reach, bias.high + reach)

    return bound


def _trailing(node: BoundedNode) -> slice:
    axis = int(node.attribute("axis", -1))
    return slice(axis, None)


def _average_pool(node: BoundedNode) -> Bound:
    return _with_zero(node) if node.attribute("count_include_pad", 0) else node.bound(0)


RULES: Final[Mapping[str, Callable[[BoundedNode], Bound]]] = {
    **dict.fromkeys(["Softmax", "Sigmoid", "HardSigmoid"], _fixed(UNIT)),
    **dict.fromkeys(["Tanh", "Erf", "Sin", "Cos", "Softsign", "Sign"], _fixed(_SIGNED)),
    **dict.fromkeys(
        ["Softplus", "Acosh", "ReduceL1", "ReduceL2", "ReduceSumSquare"], _fixed(_POSITIVE)
    ),
    **dict.fromkeys(
        """Identity Reshape Transpose Squeeze Unsqueeze Flatten Expand Tile Slice Gather GatherElements GatherND Split
        DepthToSpace SpaceToDepth ReduceMean ReduceMax ReduceMin GlobalAveragePool GlobalMaxPool MaxPool""".split(),
        _same,
    ),
    **dict.fromkeys(["Concat"], _all_inputs),
    "LogSoftmax": _fixed(Bound(-math.inf, 0.0)),
    "Atan": _fixed(Bound(-math.pi / 2, math.pi / 2)),
    "Add": _add, "Sum": _add, "Sub": _sub, "Mul": _mul, "Div": _div, "Pow": _pow, "Exp": _exp,
    "Neg": _neg, "Abs": _abs, "Relu": _relu, "Sqrt": _sqrt,
    "Clip": _clip, "Where": _where, "Max": _maximum, "Min": _minimum, "Elu": _elu, "AveragePool": _average_pool,
    "Gelu": _floor(-0.1701), "HardSwish": _floor(-0.375), "Mish": _floor(-0.3089),
    "LpNormalization": _fixed(_SIGNED), "ThresholdedRelu": _thresholded,
    "LayerNormalization": _normalized(_trailing, centred=True),
    "RMSNormalization": _normalized(_trailing, centred=False),
    "InstanceNormalization": _normalized(lambda node: slice(2, None), centred=True),
}  # fmt: skip
BOOLEAN = frozenset("Less LessOrEqual Greater GreaterOrEqual Equal And Or Xor Not IsNaN IsInf".split())
