"""The table of spellings, second part: readings of a node as another op than the one written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from onnx_fp16fix.graph import ViewNode
from onnx_fp16fix.language.choice import choice
from onnx_fp16fix.language.sizes import Size
from onnx_fp16fix.language.spellings import RELATIVE, square
from onnx_fp16fix.language.terms import Reading, Term

if TYPE_CHECKING:
    from onnx_fp16fix.language.canonical import Canonical

__all__ = ["derived"]


def derived(node: ViewNode, direct: Reading | None, view: Canonical) -> Iterator[Reading]:
    """Readings of a node as another op than the one written. They look a few nodes up, never along a chain."""
    if node.op == "ReduceSumSquare":
        yield from _sum_of_squares(direct)
    elif node.op == "GlobalAveragePool":
        shape = view.scope.shape(node.inputs[0].name)
        if shape is not None:
            attributes = {"axes": tuple(range(2, len(shape))), "keepdims": 1}
            yield Reading("ReduceMean", "", (view.term(node, 0),), attributes, (node.index,), direct=False)
    elif node.op in ("Mul", "Div"):
        yield from _mean_of_sum(node, view)
    elif node.op in ("Unsqueeze", "Reshape"):
        yield from _keep_dims(node, direct, view, of_means=True)
    elif node.op == "Add":
        yield from choice(node, view)


def _sum_of_squares(direct: Reading | None) -> Iterator[Reading]:
    if direct is not None and direct.args and direct.args[0] is not None:
        inner = square(direct.args[0])
        yield Reading("ReduceSum", "", (inner,), direct.attributes, direct.nodes, direct=False)


def _reductions(term: Term, view: Canonical) -> Iterator[Reading]:
    """What a value is as the result of a Reduce node."""
    node, passed = view.maker(term)
    if node is None or node.domain or not node.op.startswith("Reduce"):
        return
    direct = view.direct(node)
    readings = [direct] if direct is not None else []
    if node.op == "ReduceSumSquare":
        readings += _sum_of_squares(direct)
    yield from (reading.after(passed) for reading in readings)


def _sums(term: Term, view: Canonical) -> Iterator[Reading]:
    """What a value is as a ReduceSum; the dimensions it dropped may be back."""
    yield from _reductions(term, view)
    node, passed = view.maker(term)
    if node is not None and not node.domain and node.op in ("Unsqueeze", "Reshape"):
        kept = _keep_dims(node, view.direct(node), view, of_means=False)
        yield from (reading.after(passed) for reading in kept)


def _mean_of_sum(node: ViewNode, view: Canonical) -> Iterator[Reading]:
    """ReduceSum(a) * c and ReduceSum(a) / d where c = 1/N and d = N are constants, or computed from shapes."""
    for slot in (0, 1) if node.op == "Mul" else (0,):
        total, other = view.term(node, slot), view.term(node, 1 - slot)
        if total is None or other is None:
            continue
        for reading in _sums(total, view):
            if reading.op != "ReduceSum" or reading.domain:
                continue
            count = _count(other, view, inverse=node.op == "Mul")
            if count is not None and _counts(reading, count, view):
                nodes = (node.index, *reading.nodes)
                yield Reading("ReduceMean", "", reading.args, reading.attributes, nodes, direct=False)


def _count(term: Term, view: Canonical, inverse: bool) -> float | Size | None:
    """The N that a value is, or is the inverse of: a number, or a size that the graph computes."""
    value = view.scalar(term)
    if value is not None:
        return (1 / value if inverse else value) if value > 0 else None
    if not inverse:
        return view.sizes.size(term)
    parts = view.parts("*", term)
    below = [part for part, weight in parts.items if weight == -1] if parts is not None else []
    others = [part for part, weight in parts.items if weight != -1] if parts is not None else []
    if len(below) != 1 or any(view.scalar(part) != 1 for part in others):
        return None
    return view.sizes.size(below[0])


def _counts(reading: Reading, count: float | Size, view: Canonical) -> bool:
    """Whether so many elements are added up."""
    term, axes = reading.args[0] if reading.args else None, reading.attributes.get("axes")
    if term is None or axes is None:
        return False
    size = view.sizes.along(term, axes)
    if size is None or isinstance(count, tuple):
        return size == count
    number, symbols = size
    return not symbols and abs(count - number) <= RELATIVE * number


def _keep_dims(node: ViewNode, direct: Reading | None, view: Canonical, of_means: bool) -> Iterator[Reading]:
    """Unsqueeze, or a Reshape of known effect, that puts back the dimensions a reduction dropped; ``of_means``: also
    one of a sum that has been divided since."""
    source = view.term(node, 0)
    if source is None:
        return
    readings = list(_reductions(source, view))
    maker, passed = view.maker(source)
    if of_means and maker is not None and not maker.domain and maker.op in ("Mul", "Div"):
        readings += (reading.after(passed) for reading in _mean_of_sum(maker, view))
    for reading in readings:
        if reading.attributes.get("keepdims") != 0:
            continue
        axes = reading.attributes.get("axes")
        if axes is None or any(axis < 0 for axis in axes):
            continue
        if node.op == "Unsqueeze":
            restored = direct is not None and direct.attributes.get("axes") == axes
        else:
            restored = _reshape_keeps(node, reading, axes, view)
        if restored:
            attributes = {**reading.attributes, "keepdims": 1}
            yield Reading(
                reading.op, "", reading.args, attributes, (node.index, *reading.nodes), direct=False
            )


def _reshape_keeps(node: ViewNode, reading: Reading, axes: tuple[int, ...], view: Canonical) -> bool:
    before = view.shape(reading.args[0]) if reading.args and reading.args[0] is not None else None
    after = view.scope.shape(node.outputs[0].name)
    if before is None or after is None or len(before) != len(after):
        return False
    expected = [1 if axis in axes else size for axis, size in enumerate(before)]
    return all(size is not None and size == wanted for size, wanted in zip(after, expected, strict=True))
