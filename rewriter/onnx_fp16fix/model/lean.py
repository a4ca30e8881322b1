"""Reads an .onnx file without its weights: each stays where it is in the file, as external data.

``raw_data`` is a run of bytes in the file like any other, so its place may serve as location, offset and length of
external data. ONNX Runtime and numpy then map the file, and the weights are held once, by the operating system, however
many sessions read them. The wire format: a key (field number and type) before each field, a length before strings and
messages (protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto

__all__ = ["fields_of", "read_lean"]

_GRAPH, _INITIALIZER, _RAW_DATA = (
    message.DESCRIPTOR.fields_by_name[name].number
    for message, name in (
        (onnx.ModelProto, "graph"),
        (onnx.GraphProto, "initializer"),
        (TensorProto, "raw_data"),
    )
)
_LIGHT = 4096
"""Tensors of at most so many bytes are read: shapes and axes are looked at, and a mapping costs a page."""
_MAPPED = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT32,
     TensorProto.INT8, TensorProto.UINT8}
)  # fmt: skip
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5

_Field = tuple[int, int, int, int]
"""Number, start of the key, start of the value, end. The value of what has no length starts at its key."""


def read_lean(path: Path) -> onnx.ModelProto | None:
    """The model with its heavy weights left in the file; None where only an ordinary read can tell what is wrong.

    The result is good while the file stays as it is; ``save_model`` puts the weights inside again.
    """
    try:
        if not path.is_file():  # a pipe would be read up
            return None
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _model(data, path.name)
    except (OSError, ValueError, IndexError, DecodeError):
        return None


def _model(data: mmap.mmap, location: str) -> onnx.ModelProto | None:
    fields = list(fields_of(data, 0, len(data)))
    graphs = [field for field in fields if field[0] == _GRAPH]
    if len(graphs) != 1:
        return None
    model: onnx.ModelProto = onnx.ModelProto.FromString(_rest(data, fields, _GRAPH))
    _, _, start, end = graphs[0]
    inner = list(fields_of(data, start, end))
    model.graph.ParseFromString(_rest(data, inner, _INITIALIZER))
    for number, _, begin, stop in inner:
        if number == _INITIALIZER:
            _tensor(data, begin, stop, location, model.graph.initializer.add())
    return model


def _tensor(data: mmap.mmap, start: int, end: int, location: str, tensor: TensorProto) -> None:
    fields = list(fields_of(data, start, end)) if end - start > _LIGHT else []
    raw = [field for field in fields if field[0] == _RAW_DATA]
    if len(raw) == 1 and raw[0][3] - raw[0][2] > _LIGHT:
        tensor.ParseFromString(_rest(data, fields, _RAW_DATA))
        if tensor.data_type in _MAPPED and tensor.data_location != TensorProto.EXTERNAL:
            tensor.data_location = TensorProto.EXTERNAL
            _, _, begin, stop = raw[0]
            for key, value in (("location", location), ("offset", begin), ("length", stop - begin)):
                tensor.external_data.add(key=key, value=str(value))
            return
    tensor.ParseFromString(data[start:end])


def _rest(data: mmap.mmap, fields: list[_Field], number: int) -> bytes:
    return b"".join(data[start:end] for found, start, _, end in fields if found != number)


def fields_of(data: mmap.mmap | bytes, at: int, end: int) -> Iterator[_Field]:
    """The fields of the message in ``data[at:end]``. Raises ValueError or IndexError where it is none."""
    while at < end:
        start = at
        key, at = _varint(data, at)
        begin = start
        kind = key & 7
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _LENGTH:
            size, begin = _varint(data, at)
            at = begin + size
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind}")
        if at > end:
            raise ValueError("a field reaches beyond its message")
        yield key >> 3, start, begin, at


def _varint(data: mmap.mmap | bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
