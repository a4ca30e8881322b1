"""Chains of tensors whose channels can be scaled each by its own power of two, at no cost.

A linear op with constant weights makes its output channels independently, and the next one reads them through
weights of its own. Between the two, ops that keep channels apart and commute with positive factors carry any factor
per channel: rows of the first weights take 2**-s[c], columns of the next 2**s[c], and every product, and so every
bit of the FP32 result, stays what it was. Quantization knows this as cross-layer equalization (Nagel et al. 2019,
Data-Free Quantization Through Weight Equalization and Bias Correction); with powers of two it is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_graphsurgeon as gs
from onnx import TensorProto

from onnx_fp16fix.graph import ScopeView, ViewNode

__all__ = ["Chain", "ConstantEdit", "factors", "find_chains"]

_CARRIERS = frozenset(
    {"Relu", "LeakyRelu", "PRelu", "Identity", "Dropout", "MaxPool", "AveragePool", "GlobalAveragePool",
     "GlobalMaxPool", "Resize", "Upsample", "Mul", "Div"}
)  # fmt: skip
"""Ops that keep channels apart and commute with positive factors of input 0, as they are."""
_READERS = _CARRIERS | {
    "Add", "Sub", "Transpose", "Conv", "ConvTranspose", "MatMul", "Gemm", "BatchNormalization",
}  # fmt: skip
"""Ops that a chain may go through or end at."""


@dataclass(frozen=True, slots=True)
class ConstantEdit:
    """Input ``slot`` of ``node`` is multiplied by ``2**(sign * s[c])``.

    ``axis`` is where the constant has the channels; ``rank`` the rank it is broadcast to first (0: its own);
    ``group`` that of a Conv which reads the channels, whose weights hold C / group of them on axis 1.
    """

    node: int
    slot: int
    axis: int
    sign: Literal[-1, 1]
    rank: int = 0
    group: int = 1


@dataclass(frozen=True, slots=True)
class Chain:
    """What shares one vector of exponents: the tensors between ``maker`` and the ops that read it through weights.

    ``tensors`` are given with their channel axis; the first is the maker's output.
    """

    maker: ViewNode
    channels: int
    tensors: tuple[tuple[gs.Tensor, int], ...]
    edits: tuple[ConstantEdit, ...]


def find_chains(scope: ScopeView) -> Iterator[Chain]:
    """All chains of one scope, in node order. A tensor lies in one chain at most."""
    for node in scope.nodes:
        if node.domain or node.op not in _MAKERS:
            continue
        readers = scope.consumers(
            node.outputs[0]
        )  # most chains end there: the first look is at what is cheap to see
        if (
            all(reader.op in _READERS for reader, _ in readers)
            and (chain := _follow(scope, node)) is not None
        ):
            yield chain


def _follow(scope: ScopeView, maker: ViewNode) -> Chain | None:
    made = _MAKERS[maker.op](scope, maker)
    if made is None:
        return None
    axis, edits = made
    shape = scope.shape(maker.outputs[0].name)
    channels = shape[axis] if shape is not None else None
    if not isinstance(channels, int) or channels < 2:
        return None
    tensors, at, read = [(maker.outputs[0], axis)], 0, False
    while at < len(tensors):
        tensor, axis = tensors[at]
        at += 1
        shape = scope.shape(tensor.name)
        if scope.outside_uses(tensor) or shape is None or shape[axis] != channels:
            return None
        for node, slot in scope.consumers(tensor):
            through = None if node.domain else _through(scope, node, slot, axis, len(shape))
            if through is None:
                return None
            more, onward = through
            edits += more
            if onward is None:
                read = True
            else:
                tensors.append((node.outputs[0], onward))
    return Chain(maker, channels, tuple(tensors), tuple(edits)) if read else None


Edits = list[ConstantEdit]


def _constant(scope: ScopeView, node: ViewNode, slot: int) -> tuple[int, ...] | None:
    """Shape of a constant FP32 input."""
    tensor = node.input(slot)
    if tensor is None or not scope.is_constant(tensor) or scope.dtype(tensor.name) != TensorProto.FLOAT:
        return None
    shape = scope.shape(tensor.name)
    if shape is None or not all(isinstance(size, int) for size in shape):
        values = scope.constant(tensor)
        return None if values is None else values.shape
    return tuple(size for size in shape if isinstance(size, int))


def _rows(scope: ScopeView, node: ViewNode, axis: int, rank: int | None = None) -> Edits | None:
    """Weights in slot 1 with the made channels on ``axis``, and a bias in slot 2 if there is one."""
    shape = _constant(scope, node, 1)
    if shape is None or (rank is not None and len(shape) != rank):
        return None
    edits = [ConstantEdit(node.index, 1, axis, -1)]
    if node.input(2) is not None:
        bias = _constant(scope, node, 2)
        if bias is None:
            return None
        edits.append(ConstantEdit(node.index, 2, 1, -1, 2) if node.op == "Gemm"
                     else ConstantEdit(node.index, 2, 0, -1))  # fmt: skip
    return edits


def _conv(scope: ScopeView, node: ViewNode) -> tuple[int, Edits] | None:
    edits = _rows(scope, node, 0)
    return None if edits is None else (1, edits)


def _conv_transpose(scope: ScopeView, node: ViewNode) -> tuple[int, Edits] | None:
    if node.attrs.get("group", 1) != 1:  # output channels are spread over two axes of the weights
        return None
    edits = _rows(scope, node, 1)
    return None if edits is None else (1, edits)


def _gemm(scope: ScopeView, node: ViewNode) -> tuple[int, Edits] | None:
    edits = _rows(scope, node, 0 if node.attrs.get("transB", 0) else 1)
    return None if edits is None else (1, edits)


def _matmul(scope: ScopeView, node: ViewNode) -> tuple[int, Edits] | None:
    edits = _rows(scope, node, 1, rank=2)
    shape = scope.shape(node.outputs[0].name)
    return None if edits is None or not shape else (len(shape) - 1, edits)


def _norm(scope: ScopeView, node: ViewNode) -> tuple[int, Edits] | None:
    """Scale and bias of a norm that gives one per channel."""
    shape = scope.shape(node.outputs[0].name)
    if (
        not shape
        or sum(not tensor.is_empty() for tensor in node.outputs) != 1
        or node.attrs.get("training_mode")
    ):
        return None
    axis = 1
    if node.op == "LayerNormalization":
        axis = len(shape) - 1
        if node.attrs.get("axis", -1) % len(shape) != axis:
            return None
    edits = []
    for slot in (1, 2):
        if node.input(slot) is None:
            continue
        if (constant := _constant(scope, node, slot)) is None or len(constant) != 1:
            return None
        edits.append(ConstantEdit(node.index, slot, 0, -1))
    return axis, edits


_MAKERS = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _norm,
    "InstanceNormalization": _norm,
    "LayerNormalization": _norm,
}


def _through(
    scope: ScopeView, node: ViewNode, slot: int, axis: int, rank: int
) -> tuple[Edits, int | None] | None:
    """Edits of a reader and the channel axis of its output, None there if its weights end the chain."""
    if node.op in ("Add", "Sub"):
        other = 1 - slot
        shape = _constant(scope, node, other)
        if shape is None or len(shape) > rank:
            return None
        return [ConstantEdit(node.index, other, axis, -1, rank)], axis
    if node.op == "Mul" and slot == 1:
        return ([], axis) if _constant(scope, node, 0) is not None else None
    if slot != 0:
        return None
    if node.op == "Transpose":
        perm = node.attrs.get("perm", list(range(rank))[::-1])
        return [], list(perm).index(axis)
    if node.op in _CARRIERS:
        known = node.op not in ("Mul", "Div") or _constant(scope, node, 1) is not None
        alone = all(tensor.is_empty() for tensor in list(node.outputs)[1:])
        return ([], axis) if known and alone else None
    edits = _columns(scope, node, axis, rank)
    return None if edits is None else (edits, None)


def _columns(scope: ScopeView, node: ViewNode, axis: int, rank: int) -> Edits | None:
    """Weights of an op that reads the channels in slot 0."""
    shape = _constant(scope, node, 1)
    if shape is None:
        return None
    last, group = axis == rank - 1, int(node.attrs.get("group", 1))
    match node.op:
        case "Conv" if axis == 1:
            return [ConstantEdit(node.index, 1, 1, 1, group=group)]
        case "ConvTranspose" if axis == 1:
            return [ConstantEdit(node.index, 1, 0, 1)]
        case "MatMul" if last and len(shape) == 2:
            return [ConstantEdit(node.index, 1, 0, 1)]
        case "Gemm" if last and not node.attrs.get("transA", 0):
            return [ConstantEdit(node.index, 1, 1 if node.attrs.get("transB", 0) else 0, 1)]
        case "BatchNormalization" if axis == 1 and not node.attrs.get("training_mode"):
            if _constant(scope, node, 3) is None:
                return None
            return [ConstantEdit(node.index, 1, 0, 1), ConstantEdit(node.index, 3, 0, -1)]
    return None


def factors(
    edit: ConstantEdit, exponents: npt.NDArray[np.int64], shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    """``2**(sign * s[c])`` in a shape that broadcasts over the constant's."""
    powers: npt.NDArray[np.float32] = np.ldexp(1.0, edit.sign * exponents).astype(np.float32)
    if edit.group > 1:
        per_group = powers.reshape(edit.group, -1)
        rows = np.repeat(per_group, shape[0] // edit.group, axis=0)
        return rows.reshape(shape[0], shape[1], *[1] * (len(shape) - 2))
    target = [1] * (edit.rank or len(shape))
    target[edit.axis] = powers.size
    return powers.reshape(target)
