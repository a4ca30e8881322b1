"""Sizes that a graph computes from shapes: Shape, Gather, ReduceProd, Cast, ... as exporters write N for a mean.

A size is a product of a number and of symbols. A fixed dimension is a number, a named one its name, and one that
nothing is known of the place it is read at; so ``ReduceProd(Gather(Shape(x), [2, 3]))`` is the number of elements that
a sum over the axes 2 and 3 of ``x`` adds up, whether the sizes are fixed or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

from onnx_fp16fix.graph import ConstantTensor, ViewNode
from onnx_fp16fix.language.terms import Term

if TYPE_CHECKING:
    from onnx_fp16fix.language.constants import Constants

__all__ = ["SIZE_OPS", "Size", "Sizes"]

Symbol = str | tuple[int, int]
"""A named dimension; or the identity of a tensor and an axis."""
Size = tuple[int, tuple[Symbol, ...]]
Vector = tuple[Size, ...]
NUMBERS: Final[dict[int, type[np.generic]]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.INT32: np.int32,
    TensorProto.INT64: np.int64,
    TensorProto.DOUBLE: np.float64,
}
"""Types that hold sizes without rounding."""
_DEPTH = 12
"""Ops from a shape to N; exporters need five or six."""
_MOST = 64


def _times(sizes: Iterable[Size]) -> Size:
    number, symbols = 1, list[Symbol]()
    for factor, more in sizes:
        number *= factor
        symbols += more
    return number, tuple(sorted(symbols, key=repr))


class Sizes:
    """Sizes of one scope, kept by tensor."""

    def __init__(self, view: Constants) -> None:
        self.view = view
        self._known: dict[int, Vector | None] = {}

    def along(self, term: Term, axes: Sequence[int]) -> Size | None:
        """How many elements a reduction of the value over these axes takes together."""
        shape = self.view.shape(term)
        if shape is None or any(not 0 <= axis < len(shape) for axis in axes):
            return None
        tensor = self._base(term)
        return None if tensor is None else _times(self._dimension(tensor, shape, axis) for axis in axes)

    def size(self, term: Term) -> Size | None:
        """The value as one size, None where it is not known to be one."""
        vector = None if term.tensor is None else self.vector(term.tensor, 0)
        return vector[0] if vector is not None and len(vector) == 1 else None

    def numbers(self, tensor: gs.Tensor) -> npt.NDArray[Any] | None:
        """The sizes as a constant where all are fixed, a single one as a scalar."""
        vector, dtype = self.vector(tensor, 0), NUMBERS.get(self.view.scope.dtype(tensor.name))
        if vector is None or dtype is None or any(symbols for _, symbols in vector):
            return None
        sizes = np.asarray([number for number, _ in vector], dtype)
        return sizes.reshape(()) if sizes.size == 1 else sizes

    def vector(self, tensor: gs.Tensor, depth: int) -> Vector | None:
        """The tensor as a list of sizes; a scalar is a list of one."""
        if depth > _DEPTH:
            return None
        if id(tensor) not in self._known:
            self._known[id(tensor)] = None  # against circles in broken graphs
            self._known[id(tensor)] = self._vector(tensor, depth)
        return self._known[id(tensor)]

    def _vector(self, tensor: gs.Tensor, depth: int) -> Vector | None:
        node = self.view.scope.producer(tensor)
        if node is not None and not node.domain and node.op in _RULES:
            inputs = [None if source.is_empty() else source for source in node.inputs]
            if not inputs or inputs[0] is None:
                return None
            if node.op in ("Shape", "Size"):
                return self._shape(node, inputs[0])
            vectors = [None if source is None else self.vector(source, depth + 1) for source in inputs]
            found = None if vectors[0] is None else _RULES[node.op](node, vectors)
            return found if found is not None and len(found) <= _MOST else None
        if isinstance(tensor, ConstantTensor) and math.prod(tensor.shape) > _MOST:
            return None
        dtype = self.view.scope.dtype(tensor.name)
        if dtype and helper.tensor_dtype_to_np_dtype(dtype).kind != "i":
            return None
        values = self.view.scope.constant(tensor) if node is None or node.op == "Constant" else None
        if values is None or values.size > _MOST or values.dtype.kind != "i":
            return None
        return tuple((int(value), ()) for value in values.reshape(-1))

    def _shape(self, node: ViewNode, source: gs.Tensor) -> Vector | None:
        shape = self.view.scope.shape(source.name)
        if shape is None:
            return None
        base = self.view.strip(source)[0]
        sizes = tuple(self._dimension(base, shape, axis) for axis in range(len(shape)))
        if node.op == "Size":
            return (_times(sizes),)
        return sizes[slice(node.attrs.get("start", 0), node.attrs.get("end"))]

    def _dimension(self, tensor: gs.Tensor, shape: Sequence[int | str | None], axis: int) -> Size:
        size = shape[axis]
        if isinstance(size, int):
            return size, ()
        return 1, (size if size else (id(tensor), axis),)

    def _base(self, term: Term) -> gs.Tensor | None:
        """The tensor whose shape the value has: a power has that of its base."""
        while term.tensor is None:
            if term.parts is None or len(term.parts.items) != 1:
                return None
            term = term.parts.items[0][0]
        return self.view.strip(term.tensor)[0]


def _cast(node: ViewNode, vectors: Sequence[Vector | None]) -> Vector | None:
    return vectors[0] if node.attrs.get("to") in NUMBERS else None


def _single(node: ViewNode, vectors: Sequence[Vector | None]) -> Vector | None:
    """Another shape: of one element only, because a list of several does not say in which axis they lie."""
    return vectors[0] if vectors[0] is not None and len(vectors[0]) == 1 else None


def _fixed(vector: Vector | None) -> list[int] | None:
    return (
        None if vector is None or any(symbols for _, symbols in vector) else [number for number, _ in vector]
    )


def _gather(node: ViewNode, vectors: Sequence[Vector | None]) -> Vector | None:
    data, indices = vectors[0], _fixed(vectors[1]) if len(vectors) > 1 else None
    if data is None or indices is None or node.attrs.get("axis", 0) != 0:
        return None
    return tuple(data[i] for i in indices) if all(-len(data) <= i < len(data) for i in indices) else None


def _slice(node: ViewNode, vectors: Sequence[Vector | None]) -> Vector | None:
    if len(vectors) > 1:
        parts = [_fixed(vector) for vector in vectors[1:]]
    else:  # before opset 10
        parts = [node.attrs.get("starts"), node.attrs.get("ends"), node.attrs.get("axes", [0])]
    parts += [[0], [1]][len(parts) - 2 :]
    if vectors[0] is None or parts[0] is None or parts[1] is None or parts[2:] != [[0], [1]]:
        return None
    return vectors[0][parts[0][0] : parts[1][0]]


def _concat(node: ViewNode, vectors: Sequence[Vector | None]) -> Vector | None:
    known = [vector for vector in vectors if vector is not None]
    return tuple(size for vector in known for size in vector) if len(known) == len(vectors) else None


def _product(node: ViewNode, vectors: Sequence[Vector | None]) -> Vector | None:
    return None if vectors[0] is None else (_times(vectors[0]),)


def _multiply(node: ViewNode, vectors: Sequence[Vector | None]) -> Vector | None:
    left, right = vectors[0], vectors[1] if len(vectors) > 1 else None
    if left is None or right is None or len(left) != 1 or len(right) != 1:
        return None
    return (_times((left[0], right[0])),)


_RULES: Final[dict[str, Callable[[ViewNode, Sequence[Vector | None]], Vector | None]]] = {
    **dict.fromkeys(("Shape", "Size", "Identity"), lambda node, vectors: vectors[0]),
    **dict.fromkeys(("Unsqueeze", "Squeeze", "Reshape"), _single),
    "Cast": _cast,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "ReduceProd": _product,
    "Mul": _multiply,
}
SIZE_OPS: Final = frozenset(_RULES) - {"Cast", "Mul"}
"""Ops whose result is a constant where the sizes are fixed; those left out fold like any arithmetic."""
