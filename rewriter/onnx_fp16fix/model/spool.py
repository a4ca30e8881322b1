"""A temporary file for weights that are made: each goes there as it is computed, block by block, and is read from there
like any external data, so that no more than a block of them is held in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from onnx_fp16fix.model.tensors import OWN_FILES

__all__ = ["Spool", "is_heavy", "is_heavy_file"]

_HEAVY_BYTES = 64 << 20
"""Models with weights of so many bytes are worth a file; lighter ones are changed in memory."""
_PAGE = 4096


class Spool:
    """The file, deleted with the last model that refers to it (``Model.spools``)."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="onnx-fp16fix-", ignore_cleanup_errors=True)
        self._file = Path(self._folder.name).resolve() / "weights"
        self._file.touch()
        OWN_FILES.add(self._file)

    def add(
        self, name: str, elem_type: int, shape: Sequence[int], blocks: Iterable[npt.NDArray[Any]]
    ) -> TensorProto:
        """Write the elements, little-endian and in row order; the tensor that stands for them."""
        with self._file.open("ab") as stream:
            start = stream.tell() + -stream.tell() % _PAGE
            stream.truncate(start)
            stream.seek(start)
            for block in blocks:
                stream.write(np.ascontiguousarray(block).data)
            size = stream.tell() - start
        tensor = TensorProto(name=name, data_type=elem_type, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", self._file), ("offset", start), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
        return tensor

    def __del__(self) -> None:
        OWN_FILES.discard(self._file)


def is_heavy(weight_bytes: int) -> bool:
    """Whether the weights are worth a spool."""
    return weight_bytes >= _HEAVY_BYTES


def is_heavy_file(path: Path) -> bool:
    """Whether the weights inside an .onnx file had better stay there."""
    return path.is_file() and path.stat().st_size >= _HEAVY_BYTES
