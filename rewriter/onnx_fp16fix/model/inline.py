"""Writes a model with its weights inside, each read from where it lies and written in turn.

The bytes are those that protobuf makes of the same model held in memory: fields in order of their numbers, a key before
each and its length (protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import onnx
from onnx import TensorProto

from onnx_fp16fix.model.lean import fields_of
from onnx_fp16fix.model.model import Model
from onnx_fp16fix.model.tensors import external_file, is_external, nbytes

__all__ = ["copy_range", "inlined_size", "with_weights", "write_inline"]

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9
_CHUNK = 1 << 24


def write_inline(
    slim: onnx.ModelProto, weights: list[TensorProto], stream: BinaryIO, base_dir: Path | None
) -> None:
    """``slim``: the model without its initializers, ``weights``."""
    model = slim.SerializeToString()
    _, start, begin, end = next(field for field in fields_of(model, 0, len(model)) if field[0] == _GRAPH)
    graph = model[begin:end]
    place = _place(graph, _INITIALIZER)
    size = len(graph) + sum(len(_key(_INITIALIZER, inner := inlined_size(t))) + inner for t in weights)
    stream.write(model[:start] + _key(_GRAPH, size) + graph[:place])
    for tensor in weights:
        stream.write(_key(_INITIALIZER, inlined_size(tensor)))
        if not is_external(tensor):
            stream.write(tensor.SerializeToString())
            continue
        light, length = _without_place(tensor), nbytes(tensor) or 0
        middle = _place(light, _RAW_DATA)
        stream.write(light[:middle] + _key(_RAW_DATA, length))
        file, offset, _ = external_file(tensor, base_dir)
        copy_range(file, offset, length, stream)
        stream.write(light[middle:])
    stream.write(graph[place:] + model[end:])


def with_weights(model: Model) -> onnx.ModelProto:
    """The model in memory, with all weights inside that belong there; the very proto where they are."""
    inside = [is_external(tensor) and model.is_inside(tensor) for tensor in model.proto.graph.initializer]
    if not any(inside):
        return model.proto
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for tensor, moves in zip(proto.graph.initializer, inside, strict=True):
        if moves:
            file, offset, _ = external_file(tensor, model.base_dir)
            with file.open("rb") as stream:
                stream.seek(offset)
                tensor.raw_data = stream.read(nbytes(tensor) or 0)
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    return proto


def inlined_size(tensor: TensorProto) -> int:
    """Bytes of the message with its weights inside."""
    if not is_external(tensor):
        return int(tensor.ByteSize())
    length = nbytes(tensor) or 0
    return len(_without_place(tensor)) + len(_key(_RAW_DATA, length)) + length


def copy_range(file: Path, offset: int, size: int, stream: BinaryIO) -> None:
    """Copy bytes of a file in chunks. Raises OSError where it ends early."""
    with file.open("rb") as source:
        source.seek(offset)
        while size:
            chunk = source.read(min(size, _CHUNK))
            if not chunk:
                raise OSError(5, f"'{file.name}' ended early")
            stream.write(chunk)
            size -= len(chunk)


def _without_place(tensor: TensorProto) -> bytes:
    light = TensorProto()
    light.CopyFrom(tensor)
    light.ClearField("external_data")
    light.ClearField("data_location")
    data: bytes = light.SerializeToString()
    return data


def _place(message: bytes, number: int) -> int:
    """Where a field of this number goes: after all with smaller ones. Fields unknown to protobuf come last."""
    for found, start, _, _ in fields_of(message, 0, len(message)):
        if found >= number:
            return start
    return len(message)


def _key(number: int, size: int) -> bytes:
    """The key of a field with a length, and the length."""
    parts = bytearray([number << 3 | 2])
    while size > 0x7F:
        parts.append(size & 0x7F | 0x80)
        size >>= 7
    parts.append(size)
    return bytes(parts)
