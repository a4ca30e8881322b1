"""``Cast(m) * a + Cast(Not(m)) * b`` is ``Where(m, a, b)`` for finite values: how tf2onnx writes a choice."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx import TensorProto

from onnx_fp16fix.graph import ViewNode
from onnx_fp16fix.language.terms import Reading, Term

if TYPE_CHECKING:
    from onnx_fp16fix.language.canonical import Canonical

__all__ = ["choice"]


@dataclass(slots=True)
class _Chosen:
    """A value where a mask is true (``negated``: where it is false), else 0; ``nodes`` make it."""

    mask: Term
    negated: bool
    value: Term
    nodes: tuple[int, ...]


def choice(node: ViewNode, view: Canonical) -> Iterator[Reading]:
    """The reading of an Add as a Where, if it is one."""
    first, second = _chosen(view.term(node, 0), view), _chosen(view.term(node, 1), view)
    if first is None or second is None or first.negated == second.negated:
        return
    kept, other = (second, first) if first.negated else (first, second)
    if kept.mask.tensor is other.mask.tensor:
        nodes = (node.index, *kept.nodes, *other.nodes)
        yield Reading("Where", "", (kept.mask, kept.value, other.value), {}, nodes, direct=False)


def _chosen(term: Term | None, view: Canonical) -> _Chosen | None:
    product, passed = _made_by("Mul", term, view)
    for slot in (0, 1) if product is not None else ():
        assert product is not None
        cast, above = _made_by("Cast", view.term(product, slot), view)
        value = view.term(product, 1 - slot)
        if cast is None or value is None or view.scope.dtype(cast.inputs[0].name) != TensorProto.BOOL:
            continue
        if (number := view.scalar(value)) is not None and not math.isfinite(number):
            continue  # 0 * inf is no 0
        negation, beyond = _made_by("Not", view.term(cast, 0), view)
        mask = view.term(cast if negation is None else negation, 0)
        if mask is None or mask.tensor is None:
            continue
        nodes = (product.index, *passed, cast.index, *above)
        nodes += () if negation is None else (negation.index, *beyond)
        tensor, between = view.strip(mask.tensor)
        return _Chosen(Term(tensor, mask.uses), negation is not None, value, (*nodes, *between))
    return None


def _made_by(op: str, term: Term | None, view: Canonical) -> tuple[ViewNode | None, tuple[int, ...]]:
    """The node of this op that makes the value, and those after it that do nothing."""
    if term is None:
        return None, ()
    node, passed = view.maker(term)
    return (node, passed) if node is not None and node.op == op and not node.domain else (None, ())
