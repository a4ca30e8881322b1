"""What a model wants to be fed, and made-up feeds when there are no data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto

from onnx_fp16fix.errors import DataError, Problem

__all__ = ["Input", "Shape", "filled_inputs", "model_inputs", "random_feed"]

Dim = int | str | None
Shape = tuple[Dim, ...] | None

# Sizes for dimensions that the model leaves open. 64 halves six times, as U-Nets do; a batch of 1 is what models
# with sizes baked into their Reshapes still take.
_BATCH, _IMAGE_SIDE, _LENGTH = 1, 64, 16
_SMALL_INTEGERS = 2
"""Random integers are below this where no table tells more: 0 and 1 are valid ids, masks and segment numbers."""


@dataclass(frozen=True, slots=True)
class Input:
    """A graph input that must be fed: name, numpy type, and shape (None: any rank; a str or None dim: any size)."""

    name: str
    dtype: np.dtype[Any]
    shape: Shape

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape fits all fixed sizes."""
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            not isinstance(dim, int) or dim == size for dim, size in zip(self.shape, shape, strict=True)
        )

    def shape_text(self) -> str:
        """``[batch, 3, ?]``, or ``any shape``."""
        if self.shape is None:
            return "any shape"
        return f"[{', '.join('?' if dim is None else str(dim) for dim in self.shape)}]"

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape_text()}"


def model_inputs(proto: onnx.ModelProto) -> tuple[Input, ...]:
    """Graph inputs that no initializer fills, in order. Raises DataError for what cannot be fed: strings, sequences,
    maps, complex numbers, BF16 and narrower types."""
    filled = filled_inputs(proto)
    found = [_input(info) for info in proto.graph.input if info.name not in filled]
    if problems := [item for item in found if isinstance(item, Problem)]:
        raise DataError(problems)
    return tuple(item for item in found if isinstance(item, Input))


def filled_inputs(proto: onnx.ModelProto) -> frozenset[str]:
    """Graph inputs with an initializer, their default: every stage runs with this value."""
    defaults = {tensor.name for tensor in proto.graph.initializer}
    defaults |= {tensor.values.name for tensor in proto.graph.sparse_initializer}
    return frozenset(info.name for info in proto.graph.input if info.name in defaults)


def _input(info: onnx.ValueInfoProto) -> Input | Problem:
    if not info.type.HasField("tensor_type"):
        kind = (info.type.WhichOneof("value") or "untyped").removesuffix("_type")
        return Problem("DATA-TYPE", f"the model's input '{info.name}' is {kind}: only tensors can be fed",
                       tensor=info.name)  # fmt: skip
    tensor = info.type.tensor_type
    if tensor.elem_type == TensorProto.STRING:
        return Problem(
            "DATA-STRING", f"the model's input '{info.name}' holds strings, which cannot be calibrated",
            tensor=info.name, hint="cut the model after its string operators (tokenizer)",
        )  # fmt: skip
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    if dtype.isbuiltin != 1 or dtype.kind == "c":
        kind = TensorProto.DataType.Name(tensor.elem_type)
        return Problem(
            "DATA-TYPE", f"the model's input '{info.name}' is {kind}: ONNX Runtime takes no numpy array of this type",
            tensor=info.name, hint="declare it FLOAT and make that type inside the model",
        )  # fmt: skip
    dims = tuple(_dim(dim) for dim in tensor.shape.dim) if tensor.HasField("shape") else None
    return Input(info.name, dtype, dims)


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value"):
        return dim.dim_value if dim.dim_value >= 0 else None
    return dim.dim_param or None


def random_feed(
    proto: onnx.ModelProto, inputs: tuple[Input, ...], rng: np.random.Generator
) -> dict[str, npt.NDArray[Any]]:
    """Floats from the normal distribution (0, 1), small integers, booleans; one size per symbolic name."""
    feed = {}
    for item in inputs:
        shape = tuple(_size(dim, axis, len(item.shape or ())) for axis, dim in enumerate(item.shape or ()))
        try:
            feed[item.name] = _random_array(proto, item, shape, rng)
        except (MemoryError, ValueError) as error:  # numpy has both for arrays that are too large
            found = f"the model's input '{item.name}' of shape {list(shape)} is too large for random numbers"
            raise DataError(
                Problem("DATA-RANDOM", found, tensor=item.name, hint="give samples of your own")
            ) from error
    return feed


def _random_array(
    proto: onnx.ModelProto, item: Input, shape: tuple[int, ...], rng: np.random.Generator
) -> npt.NDArray[Any]:
    if np.issubdtype(item.dtype, np.integer):
        bound = _table_rows(proto, item.name) or _SMALL_INTEGERS
        return rng.integers(0, min(bound, np.iinfo(item.dtype).max), shape).astype(item.dtype)
    if item.dtype == np.bool_:
        return rng.integers(0, 2, shape).astype(np.bool_)
    return np.asarray(rng.standard_normal(shape)).astype(item.dtype)


def _size(dim: Dim, axis: int, rank: int) -> int:
    if isinstance(dim, int):
        return dim
    if dim is not None:
        if " + " in dim:  # exporters write past_length + length: the parts keep their own sizes
            return sum(int(part) if part.isdigit() else _named_size(part) for part in dim.split(" + "))
        return _named_size(dim)
    if axis == 0:
        return _BATCH
    return _IMAGE_SIDE if rank >= 4 and axis >= 2 else _LENGTH


def _named_size(name: str) -> int:
    """By the name alone, so that one name has one size whatever input and axis it stands at."""
    lower = name.lower()
    if lower in {"n", "b"} or "batch" in lower:
        return _BATCH
    if lower in {"h", "w"} or any(word in lower for word in ("height", "width")):
        return _IMAGE_SIDE
    return _LENGTH


def _table_rows(proto: onnx.ModelProto, name: str) -> int | None:
    """Rows of the smallest table that a Gather looks this input up in, through Casts; None if there is none."""
    tables = {tensor.name: tuple(tensor.dims) for tensor in proto.graph.initializer}
    names, rows = {name}, math.inf
    for node in proto.graph.node:
        if node.op_type in {"Cast", "Identity"} and node.input[0] in names:
            names.add(node.output[0])
        elif node.op_type == "Gather" and node.input[1] in names and node.input[0] in tables:
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)
            dims = tables[node.input[0]]
            rows = min(rows, dims[axis]) if dims else rows
    return int(rows) if rows < math.inf else None
