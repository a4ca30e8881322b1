"""Values of TensorProtos, wherever they are stored, without keeping copies."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper
from onnx.external_data_helper import ExternalDataInfo

from onnx_fp16fix.errors import ModelError, Problem
from onnx_fp16fix.wording import counted

__all__ = [
    "FLOAT_TYPES",
    "OWN_FILES",
    "external_file",
    "is_external",
    "linked_file",
    "nbytes",
    "open_links",
    "read_tensor",
    "stored_wrong",
]

FLOAT_TYPES = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16})

OWN_FILES: set[Path] = set()
"""Temporary files of ours that hold weights; they may lie outside a model's folder (``spool``)."""
_LINKED: set[Path] = set()
"""Data files behind links that lead out of a model's folder to where the model itself lies (``open_links``)."""

_BITS: dict[int, int] = {
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.FLOAT4E2M1: 4,
}
_AS_STORED: dict[int, np.dtype[Any]] = {
    kind: onnx.helper.tensor_dtype_to_np_dtype(kind)
    for kind in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.INT32)
    if sys.byteorder == "little"
}
"""Types whose raw data are read in place, which ``numpy_helper.to_array`` does too, ten times slower."""


def is_external(tensor: TensorProto) -> bool:
    """Whether the bytes lie in another file."""
    return tensor.data_location == TensorProto.EXTERNAL


def nbytes(tensor: TensorProto) -> int | None:
    """Bytes of the raw form, from dims and type; None for strings and types numpy has no size for."""
    if tensor.data_type in (TensorProto.STRING, TensorProto.UNDEFINED):
        return None
    elements: int = math.prod(tensor.dims[:])
    if (kind := tensor.data_type) in _BITS:
        return -(-elements * _BITS[kind] // 8)
    itemsize = _itemsize(kind)
    return None if itemsize is None else elements * itemsize


@cache
def _itemsize(elem_type: int) -> int | None:
    try:
        return int(onnx.helper.tensor_dtype_to_np_dtype(elem_type).itemsize)
    except KeyError:
        return None


def stored_wrong(tensor: TensorProto) -> str | None:
    """What is wrong with the size of an inline tensor's values; None if they fill its shape."""
    if tensor.HasField("raw_data"):
        needed, held, what = nbytes(tensor), len(tensor.raw_data), "bytes"
    elif tensor.data_type in _BITS or tensor.data_type not in onnx.helper.get_all_tensor_dtypes():
        return None  # several elements to a stored value, or a type the checker refuses
    elif tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
        return None  # two stored values to an element
    else:
        needed, what = math.prod(tensor.dims), "values"
        held = len(getattr(tensor, onnx.helper.tensor_dtype_to_field(tensor.data_type)))
    return None if needed is None or held == needed else f"holds {held} {what}; its shape needs {needed}"


def open_links(path: Path, tensors: Iterable[TensorProto]) -> None:
    """Let a model that is a link have data files that are links too, into the folder that its own link leads to.

    Caches keep files under their hashes in one folder and link to them from another (``blobs`` and ``snapshots`` of
    Hugging Face). Places that leave the model's folder by their text stay closed.
    """
    if not path.is_symlink():
        return
    store, folder = Path(os.path.realpath(path)).parent, path.parent.resolve()
    for location in {_location(tensor) for tensor in tensors if is_external(tensor)}:
        named = Path(os.path.normpath(folder / location))
        file = Path(os.path.realpath(named))
        if named.is_relative_to(folder) and file.is_relative_to(store):
            _LINKED.add(file)


def linked_file(location: str, base_dir: Path) -> Path | None:
    """The data file that ``open_links`` let in at this place; None where it lies in the folder itself."""
    file = Path(os.path.realpath(base_dir / location)) if _LINKED else None
    return file if file in _LINKED else None


def _location(tensor: TensorProto) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def external_file(tensor: TensorProto, base_dir: Path | None) -> tuple[Path, int, int | None]:
    """File, offset and length of an external tensor.

    Raises ModelError when the file is missing, lies outside the model's folder, or is too short.
    """
    try:
        info = ExternalDataInfo(tensor)
    except ValueError as error:  # an offset or length that is no number
        raise _external_problem(tensor, f"has external data without a place: {error}", base_dir) from error
    if (own := Path(info.location)) in OWN_FILES:
        return own, _number(info.offset) or 0, _number(info.length)
    if base_dir is None:
        raise _external_problem(tensor, "has external data, but the model has no folder to look in", None)
    root = base_dir.resolve()
    file = (root / info.location).resolve()
    if not file.is_relative_to(root) and file not in _LINKED:
        raise _outside(tensor, info.location, root, file)
    if not file.is_file():
        raise _external_problem(
            tensor, f"needs the external data file '{info.location}', which is missing", base_dir
        )
    offset = _number(info.offset) or 0
    needed = nbytes(tensor)
    length = _number(info.length) or needed
    if length is not None and needed is not None and length < needed:
        raise _external_problem(
            tensor, f"has {counted(length, 'byte')} of external data; its shape needs {needed}", base_dir
        )
    if length is not None and offset + length > file.stat().st_size:
        raise _external_problem(tensor, f"reaches beyond the end of '{info.location}'", base_dir)
    return file, offset, length


def _number(value: object) -> int | None:
    # onnx declares these fields as None and fills them with ints
    return value if isinstance(value, int) else None


def read_tensor(tensor: TensorProto, base_dir: Path | None) -> npt.NDArray[Any]:
    """Values with the tensor's shape. External data of ordinary types are mapped, not read."""
    if not is_external(tensor):
        if (dtype := _AS_STORED.get(tensor.data_type)) is not None and tensor.HasField("raw_data"):
            return np.frombuffer(tensor.raw_data, dtype).reshape(tuple(tensor.dims[:]))
        return numpy_helper.to_array(tensor)
    file, offset, _ = external_file(tensor, base_dir)
    if tensor.data_type in _BITS or 0 in tensor.dims:
        return numpy_helper.to_array(_read_whole(tensor, file, offset))
    stored = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    mapped = np.memmap(file, dtype=stored, mode="r", offset=offset, shape=(math.prod(tensor.dims),))
    return mapped.reshape(tuple(tensor.dims))


def _read_whole(tensor: TensorProto, file: Path, offset: int) -> TensorProto:
    whole = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    with file.open("rb") as stream:
        stream.seek(offset)
        whole.raw_data = stream.read(nbytes(tensor) or 0)
    return whole


def _outside(tensor: TensorProto, location: str, root: Path, file: Path) -> ModelError:
    if not (root / location).is_symlink():
        return _external_problem(tensor, f"points outside the model's folder: '{location}'", root)
    message = f"needs '{location}', a link that leads out of the model's folder, to '{file}'"
    hint = "put the data file itself here, or make the model a link into the same folder too"
    return _external_problem(tensor, message, root, hint)


def _external_problem(
    tensor: TensorProto,
    message: str,
    base_dir: Path | None,
    hint: str = "keep the model and its data file together, in one folder",
) -> ModelError:
    return ModelError(
        Problem(
            "MODEL-EXTERNAL",
            f"initializer '{tensor.name}' {message}",
            file=str(base_dir) if base_dir else None,
            tensor=tensor.name,
            hint=hint,
        )
    )
