"""Element-wise ops: homogeneous, additive, quotients and powers, saturating functions."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import lru_cache

from onnx_fp16fix.operators.relation import (
    PINNED,
    SAME,
    AttributeScale,
    InnerBound,
    NodeFacts,
    Relation,
    RelationOf,
    always,
    equal,
    inp,
    out,
    power,
)

__all__ = ["OPS"]

_SATURATING = Relation(saturating=frozenset({0}))
_GELU_TANH_LIMIT = 40.0
"""x**3 leaves FP16 beyond 40.3: the FP16 kernel of Gelu(approximate=tanh) was wrong for large x on an H200."""


def _all_equal(node: NodeFacts) -> Relation:
    return Relation(equal(node, [out(), *(inp(slot) for slot in range(node.count("in")))]))


def _max_min(node: NodeFacts) -> Relation:
    """What overflows is either not chosen, or the result overflows as well and asks for room itself."""
    slots = range(node.count("in"))
    return Relation(equal(node, [out(), *(inp(slot) for slot in slots)]), saturating=frozenset(slots))


def _where(node: NodeFacts) -> Relation:
    return Relation(equal(node, (out(), inp(1), inp(2))))


def _compare(node: NodeFacts) -> Relation:
    return Relation(equal(node, (inp(0), inp(1))))


def _clip(node: NodeFacts) -> Relation:
    equations = equal(node, (out(), inp(0), inp(1), inp(2)))
    bounds = tuple(
        AttributeScale(name, inp(0), -1) for name in ("min", "max") if abs(node.attrs.get(name, 0.0)) < 1e38
    )
    return Relation(equations, attributes=bounds, saturating=frozenset({0, 1, 2}))


def _pow(node: NodeFacts) -> Relation:
    exponent = node.constant(1)
    if exponent is None or exponent.size != 1:
        return Relation()
    return _power_of(float(exponent.reshape(-1)[0]))


@lru_cache(maxsize=256)
def _power_of(exponent: float) -> Relation:
    """That of ``x ** exponent``."""
    if not math.isfinite(exponent):
        return Relation()
    degree = Fraction(exponent).limit_denominator(4)
    if float(degree) != exponent or degree == 0:
        return Relation()
    sensitive = frozenset({0}) if degree < 0 or degree.denominator > 1 else frozenset[int]()
    return Relation((power(out(), inp(0), degree.numerator, degree.denominator),), sensitive=sensitive)


def _thresholded(node: NodeFacts) -> Relation:
    equation = ((out(), 1), (inp(0), -1))
    return Relation((equation,), attributes=(AttributeScale("alpha", inp(0), -1, default=1.0),))


def _gelu(node: NodeFacts) -> Relation:
    if node.attrs.get("approximate", b"none") != b"tanh":
        return Relation()
    magnitude = node.absmax(inp(0)) / _GELU_TANH_LIMIT * 65504.0
    return Relation(inner=(InnerBound("the cube inside Gelu(tanh)", magnitude, inp(0)),))


def _cast(node: NodeFacts) -> Relation:
    """Between float types a Cast is linear; integers have no exponent."""
    return SAME if node.has(inp(0)) and node.has(out()) else PINNED


OPS: dict[str, RelationOf] = {
    **dict.fromkeys(("Relu", "LeakyRelu", "Abs", "Neg", "Identity", "Dropout"), always(SAME)),
    **dict.fromkeys(("Add", "Sub", "Sum", "Mean"), _all_equal),
    **dict.fromkeys(("Max", "Min"), _max_min),
    **dict.fromkeys(("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal"), _compare),
    **dict.fromkeys(("Sigmoid", "Tanh", "Erf", "HardSigmoid", "Atan"), always(_SATURATING)),
    **dict.fromkeys(("Sin", "Cos", "Tan"), always(Relation(precise=frozenset({0})))),
    **dict.fromkeys(
        ("Softplus", "Elu", "Selu", "Celu", "HardSwish", "Mish", "Swish", "Round"), always(PINNED)
    ),
    "PRelu": always(SAME),
    "ThresholdedRelu": _thresholded,
    "Where": _where,
    "Clip": _clip,
    "Div": always(Relation((((out(), 1), (inp(0), -1), (inp(1), 1)),), sensitive=frozenset({1}))),
    "Pow": _pow,
    "Sqrt": always(Relation((power(out(), inp(0), 1, 2),), sensitive=frozenset({0}))),
    "Reciprocal": always(Relation((((out(), 1), (inp(0), 1)),), sensitive=frozenset({0}))),
    "Log": always(Relation(sensitive=frozenset({0}))),
    # exp(-inf) = 0 is right; towards +inf the output overflows long before the input
    "Exp": always(_SATURATING),
    "Sign": always(Relation(free=frozenset({inp(0)}))),
    "Gelu": _gelu,
    "Cast": _cast,
    "CastLike": always(SAME),
}
