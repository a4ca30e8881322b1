"""Whether two tensors surely hold equal values."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnx_fp16fix.graph import ViewNode
from onnx_fp16fix.language.canonical import Canonical
from onnx_fp16fix.language.terms import Term

__all__ = ["same_value"]

_RANDOM = {
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
}


def same_value(view: Canonical, left: gs.Tensor, right: gs.Tensor, depth: int = 3) -> bool:
    """The same tensor, equal constants, or computed alike in at most ``depth`` ops."""
    left, right = view.strip(left)[0], view.strip(right)[0]
    if left is right:
        return True
    one, two = view.scalar(Term(left)), view.scalar(Term(right))
    if one is not None or two is not None:
        return one == two
    if not depth:
        return False
    first, second = view.scope.producer(left), view.scope.producer(right)
    if first is None or second is None or not _alike(first, second):
        return False
    if first.output_slot(left) != second.output_slot(right):
        return False
    return all(
        (a.is_empty() and b.is_empty())
        or (not a.is_empty() and not b.is_empty() and same_value(view, a, b, depth - 1))
        for a, b in zip(first.inputs, second.inputs, strict=True)
    )


def _alike(first: ViewNode, second: ViewNode) -> bool:
    if (first.op, first.domain, len(first.inputs)) != (second.op, second.domain, len(second.inputs)):
        return False
    if first.domain or first.op in _RANDOM or first.op == "Dropout":
        return False
    return sorted(a.SerializeToString(deterministic=True) for a in first.proto.attribute) == sorted(
        a.SerializeToString(deterministic=True) for a in second.proto.attribute
    )
