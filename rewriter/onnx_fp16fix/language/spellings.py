"""The table of spellings: how each ONNX op reads as a product, a sum, an extremum, or as another op.

One entry of a table is one spelling, tested one by one in ``tests/language/test_spellings.py``. What is *not* an
equivalence is as important: ``Sqrt(x ** 2)`` is ``abs(x)`` and is never flattened (see ``combine.may_nest``).

    product   Mul(a, b) = a b          Div(a, b) = a b^-1       Reciprocal(a) = a^-1     Sqrt(a) = a^(1/2)
              Pow(a, c) = a^c          Neg(a) = -1 a            ReduceL2(a) = ReduceSum(a^2)^(1/2)
              Pow(Abs(a), 2) = a^2
    sum       Add(a, b), Sum(...)      Sub(a, b) = a + -1 b     Neg(a) = -1 a            Mul(a, -1) = -1 a
    Max, Min  Relu(a) = Max(a, 0)      Clip(a, lo, hi) = Min(Max(a, lo), hi)
    op        ReduceSumSquare(a) = ReduceSum(a^2)    ReduceSum(a) / N = ReduceMean(a)    GlobalAveragePool(a) =
              ReduceMean(a, axes=2..)  Unsqueeze or Reshape(Reduce(a, keepdims=0)) = Reduce(a, keepdims=1)
              Cast(m) * a + Cast(Not(m)) * b = Where(m, a, b)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onnx_fp16fix.graph import ViewNode
from onnx_fp16fix.language.operations import INPUT_SINCE
from onnx_fp16fix.language.terms import Parts, Reading, Term, Weight, whole

if TYPE_CHECKING:
    from onnx_fp16fix.language.canonical import Canonical

__all__ = [
    "DERIVED_FROM",
    "INPUT_ATTRIBUTES",
    "MOVERS",
    "SPLITS",
    "normalise",
    "split",
    "without_sign",
]

Items = tuple[tuple[Term, Weight], ...]
Splitter = Callable[[ViewNode, "Canonical"], Items | None]

RELATIVE = 1e-6
"""Constants are equal within this relative difference: float32 rounds at 6e-8, an epsilon of 1e-6 is not 1e-5."""

INPUT_ATTRIBUTES: Final = {
    op: tuple(name for (other, name) in INPUT_SINCE if other == op)
    for op, _ in INPUT_SINCE
    if op.startswith("Reduce") or op in ("Squeeze", "Unsqueeze", "Split")
}
"""Attributes read back from their inputs; Clip, Dropout and the rest keep theirs as operands."""

MOVERS: Final = frozenset(
    (
        "Reshape",
        "Unsqueeze",
        "Squeeze",
        "Expand",
        "Transpose",
        "Slice",
        "Flatten",
        "Tile",
        "Gather",
        "Identity",
    )
)
"""Ops whose first input's elements are moved, repeated or dropped, never changed."""


def _all(weight: int) -> Splitter:
    def splitter(node: ViewNode, view: Canonical) -> Items | None:
        terms = [view.term(node, slot) for slot in range(len(node.inputs))]
        return tuple((term, weight) for term in terms if term is not None)

    return splitter


def _weights(*weights: Weight) -> Splitter:
    def splitter(node: ViewNode, view: Canonical) -> Items | None:
        terms = [view.term(node, slot) for slot in range(len(weights))]
        return tuple((term, w) for term, w in zip(terms, weights, strict=True) if term is not None)

    return splitter


def _pow(node: ViewNode, view: Canonical) -> Items | None:
    base, exponent = view.term(node, 0), view.term(node, 1)
    if base is None or exponent is None or (value := view.scalar(exponent)) is None:
        return None
    weight = Fraction(value).limit_denominator(64) if math.isfinite(value) else Fraction(0)
    if not weight or abs(float(weight) - value) > RELATIVE * abs(value):
        return None
    return ((base, whole(weight)),)


def _neg_product(node: ViewNode, view: Canonical) -> Items | None:
    base = view.term(node, 0)
    return None if base is None else ((constant_term(-1.0), 1), (base, 1))


def _mul_sum(node: ViewNode, view: Canonical) -> Items | None:
    for slot in (0, 1):
        factor, base = view.term(node, slot), view.term(node, 1 - slot)
        if factor is not None and base is not None and view.scalar(factor) == -1:
            return ((base, -1),)
    return None


def _reduce_l2(node: ViewNode, view: Canonical) -> Items | None:
    reading = view.direct(node)
    if reading is None or reading.args[0] is None:
        return None
    inner = Reading("ReduceSum", "", (square(reading.args[0]),), reading.attributes, (), direct=False)
    return ((Term(reading=inner), Fraction(1, 2)),)


def _relu(node: ViewNode, view: Canonical) -> Items | None:
    base = view.term(node, 0)
    return None if base is None else ((base, 1), (constant_term(0.0), 1))


def clip_bounds(node: ViewNode, view: Canonical) -> tuple[Term | None, Term | None]:
    """Lower and upper bound of a Clip, None where it has none (absent, or the type's own limit)."""
    bounds: list[Term | None] = []
    for slot, name in ((1, "min"), (2, "max")):
        if view.opset >= INPUT_SINCE["Clip", name][0]:
            term = view.term(node, slot)
        else:
            term = constant_term(float(node.attrs[name])) if name in node.attrs else None
        value = None if term is None else view.scalar(term)
        # exporters write "no bound" as infinity or as float32's limit
        bounds.append(None if value is not None and abs(value) > 3.4e38 else term)
    return bounds[0], bounds[1]


def _clip(kind: str) -> Splitter:
    def splitter(node: ViewNode, view: Canonical) -> Items | None:
        base, (low, high) = view.term(node, 0), clip_bounds(node, view)
        if base is None:
            return None
        if kind == "Max":
            return ((base, 1), (low, 1)) if low is not None and high is None else None
        if high is None:
            return None
        if low is None:
            return ((base, 1), (high, 1))
        inner = Term(parts=Parts("Max", ((base, 1), (low, 1))))
        return ((inner, 1), (high, 1))

    return splitter


SPLITS: Final[dict[str, dict[str, Splitter]]] = {
    "*": {
        "Mul": _weights(1, 1),
        "Div": _weights(1, -1),
        "Reciprocal": _weights(-1),
        "Sqrt": _weights(Fraction(1, 2)),
        "Pow": _pow,
        "Neg": _neg_product,
        "ReduceL2": _reduce_l2,
    },
    "+": {
        "Add": _weights(1, 1),
        "Sub": _weights(1, -1),
        "Sum": _all(1),
        "Neg": _weights(-1),
        "Mul": _mul_sum,
    },
    "Max": {"Max": _all(1), "Relu": _relu, "Clip": _clip("Max")},
    "Min": {"Min": _all(1), "Clip": _clip("Min")},
    "And": {"And": _all(1)},
    "Or": {"Or": _all(1)},
}
"""kind of combination -> op -> its parts and their weights."""

DERIVED_FROM: Final[dict[str, tuple[str, ...]]] = {
    "ReduceMean": ("GlobalAveragePool", "Mul", "Div", "Unsqueeze", "Reshape"),
    "ReduceSum": ("ReduceSumSquare", "Unsqueeze", "Reshape"),
    "Where": ("Add",),
    "ReduceMax": ("Unsqueeze", "Reshape"),
    "ReduceMin": ("Unsqueeze", "Reshape"),
    "ReduceSumSquare": ("Unsqueeze", "Reshape"),
}
"""Ops a reading of the key can start from; kept in step with ``derived``."""


def split(kind: str, node: ViewNode, view: Canonical) -> Parts | None:
    """The node as a combination of ``kind``, one level deep."""
    splitter = SPLITS[kind].get(node.op)
    items = splitter(node, view) if splitter is not None else None
    return Parts(kind, items, (node.index,)) if items else None


def without_sign(term: Term, view: Canonical) -> Parts | None:
    """What an Abs is taken of: under an even power the two are equal."""
    node = None if term.tensor is None else view.scope.producer(view.strip(term.tensor)[0])
    if node is None or node.domain or node.op != "Abs" or (base := view.term(node, 0)) is None:
        return None
    return Parts("*", ((base, 1),), (node.index, *view.strip(term.tensor)[1]))


def constant_term(value: float) -> Term:
    """A number that no tensor holds."""
    return Term(value=np.asarray(value, np.float64))


def square(term: Term) -> Term:
    """The square of a term, as a value without a tensor."""
    return Term(parts=Parts("*", ((term, 2),)))


def normalise(node: ViewNode, attributes: dict[str, Any], view: Canonical) -> bool:
    """Bring axes into one form: sorted and not negative where the rank is known. False: the node has no reading."""
    if node.domain:
        return True
    if node.op.startswith("Reduce") or node.op in ("Squeeze", "Unsqueeze"):
        return _normalise_axes(node, attributes, view)
    if node.op == "Split":
        return _normalise_parts(node, attributes, view)
    if node.op in ("Softmax", "LogSoftmax", "Hardmax") and not _is_function(view):
        shape = view.scope.shape(node.inputs[0].name)
        axis = int(attributes.get("axis", -1))
        if shape is not None and axis < 0:
            attributes["axis"] = axis + len(shape)
        # before opset 13 everything from the axis on is one row; the same only for the last axis
        return view.opset >= 13 or (shape is not None and attributes["axis"] == len(shape) - 1)
    return True


def _normalise_parts(node: ViewNode, attributes: dict[str, Any], view: Canonical) -> bool:
    """Equal parts are told by their number alone, as before opset 18 and without ``split``."""
    shape, axis = view.scope.shape(node.inputs[0].name), int(attributes.get("axis", 0))
    size = shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None
    parts = attributes.get("split")
    if parts is not None and len(set(parts)) == 1:
        del attributes["split"]
    if attributes.pop("num_outputs", None) is None:
        return True
    return isinstance(size, int) and size % len(node.outputs) == 0  # else the last part is smaller


def _is_function(view: Canonical) -> bool:
    return bool(view.scope.path) and view.scope.path[0].startswith("function:")


def _normalise_axes(node: ViewNode, attributes: dict[str, Any], view: Canonical) -> bool:
    axes = attributes.get("axes")
    noop = attributes.pop("noop_with_empty_axes", 0)  # of no meaning once the axes are known
    tensor = node.outputs[0] if node.op == "Unsqueeze" else node.inputs[0]
    shape = view.scope.shape(tensor.name)
    if axes is None or (node.op.startswith("Reduce") and len(axes) == 0):
        if node.op == "Squeeze" or noop or shape is None:
            attributes.pop("axes", None)
            return node.op == "Squeeze"
        attributes["axes"] = tuple(range(len(shape)))
        return True
    if not isinstance(axes, list | tuple):
        return False  # a reference to an attribute of the function
    if shape is not None:
        axes = [axis + len(shape) if axis < 0 else axis for axis in axes]
    attributes["axes"] = tuple(sorted(int(axis) for axis in axes))
    return True
