"""Writing a model: whole or not at all, weights streamed one tensor at a time."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import onnx
from google.protobuf.unknown_fields import UnknownFieldSet
from onnx import TensorProto
from onnx.external_data_helper import ExternalDataInfo

from onnx_fp16fix.errors import ModelError, Problem
from onnx_fp16fix.model.inline import copy_range, inlined_size, write_inline
from onnx_fp16fix.model.lean import read_lean
from onnx_fp16fix.model.model import Model
from onnx_fp16fix.model.tensors import external_file, is_external
from onnx_fp16fix.staging import staged

__all__ = ["external_locations", "save_model"]

_PROTOBUF_LIMIT = 2**31 - 2**20
"""Protobuf refuses messages of 2 GiB; the rest of the graph gets one MiB of that."""
_EXTERNAL_FROM = 1024
"""Tensors of at least this many bytes move to the data file, once there is one."""
_PAGE = 4096
"""Alignment of big tensors in the data file, so that runtimes can map them."""


def save_model(model: Model, path: Path) -> None:
    """Write the model to ``path``; a file appears whole (written beside, then renamed) or not at all.

    A pristine model is copied byte for byte. Weights stay inside the file unless the model had external data or
    would pass protobuf's 2 GiB; then they go to ``<file name>.data`` beside it (or a
    numbered name, where that file holds another model's weights). Raises ModelError when the folder cannot be written
    or ``path`` is the file that holds the model's own weights.
    """
    path = Path(path)
    try:
        if path.exists() and path.resolve() in _weight_files(model):
            message = "this file holds the model's own weights"
            raise ModelError(Problem("MODEL-WRITE", message, file=str(path), hint="write elsewhere"))
        if model.pristine and model.path is not None and path.exists() and path.samefile(model.path):
            return
        if model.pristine and model.path is not None and not _has_external(model):
            with staged(path) as temporary:
                shutil.copyfile(model.path, temporary)
        elif _has_external(model) or _weight_bytes(model.proto) > _PROTOBUF_LIMIT:
            _save_with_data(model, path)
        elif any(map(is_external, model.proto.graph.initializer)):
            slim = onnx.ModelProto()
            _copy_without_weights(model.proto, slim)
            with staged(path) as temporary, temporary.open("wb") as stream:
                write_inline(slim, list(model.proto.graph.initializer), stream, model.base_dir)
        else:
            with staged(path) as temporary:
                temporary.write_bytes(model.proto.SerializeToString())
    except OSError as error:
        problem = Problem("MODEL-WRITE", f"cannot be written: {error.strerror}", file=str(path))
        raise ModelError(problem) from error


def _has_external(model: Model) -> bool:
    return not all(map(model.is_inside, model.proto.graph.initializer))


def _weight_bytes(proto: onnx.ModelProto) -> int:
    # ByteSize of the whole message raises beyond 2 GiB
    return sum(map(inlined_size, proto.graph.initializer))


def _weight_files(model: Model) -> set[Path]:
    """Files that the model reads its weights from."""
    tensors = model.proto.graph.initializer
    return {external_file(tensor, model.base_dir)[0] for tensor in tensors if not model.is_inside(tensor)}


def _data_path(model: Model, path: Path) -> Path:
    """``<file name>.data``, or a numbered name where that file holds the weights of another model.

    A file of that name is ours to replace only if the model at ``path``, which is replaced as well, refers to it, and
    the model being written does not read it from elsewhere.
    """
    read = _weight_files(model)
    replaced = external_locations(path) if path.exists() else frozenset[str]()
    in_place = model.path is not None and path.exists() and path.samefile(model.path)
    for number in itertools.count():
        candidate = path.with_name(f"{path.name}.{number}.data" if number else f"{path.name}.data")
        ours = candidate.name in replaced and (in_place or candidate.resolve() not in read)
        if ours or not candidate.exists():
            return candidate
    raise AssertionError("unreachable")


def external_locations(path: Path) -> frozenset[str]:
    """Names of the data files that the model at ``path`` refers to; none if it is no model."""
    try:
        # lean: weights inside the file, which may be gigabytes, are left there, and refer to the file itself
        proto = read_lean(path) or onnx.load(str(path), load_external_data=False)
    except Exception:  # whatever is there, it is no model with weights elsewhere
        return frozenset()
    found = (ExternalDataInfo(tensor).location for tensor in proto.graph.initializer if is_external(tensor))
    return frozenset(found) - {path.name}


def _save_with_data(model: Model, path: Path) -> None:
    data_path = _data_path(model, path)
    slim = onnx.ModelProto()
    with staged(path) as temporary, staged(data_path) as data:
        with data.open("wb") as stream:
            _copy_without_weights(model.proto, slim)
            for tensor in model.proto.graph.initializer:
                _write_tensor(tensor, slim.graph.initializer.add(), stream, data_path.name, model.base_dir)
        temporary.write_bytes(slim.SerializeToString())


def _copy_without_weights(proto: onnx.ModelProto, slim: onnx.ModelProto) -> None:
    for target, source, skip in ((slim, proto, "graph"), (slim.graph, proto.graph, "initializer")):
        for field, value in source.ListFields():
            if field.name == skip:
                continue
            if field.is_repeated:
                getattr(target, field.name).extend(value)
            elif field.message_type is not None:
                getattr(target, field.name).CopyFrom(value)
            else:
                setattr(target, field.name, value)
        target.MergeFromString(_unknown_fields(UnknownFieldSet(source)))


def _unknown_fields(fields: Iterable[Any]) -> bytes:
    """Fields of a newer ONNX, as they were read: varint, fixed, bytes or group."""
    parts = []
    for field in fields:
        parts.append(_varint(field.field_number << 3 | field.wire_type))
        if field.wire_type == 0:
            parts.append(_varint(field.data))
        elif field.wire_type == 2:
            parts += [_varint(len(field.data)), field.data]
        elif field.wire_type == 3:
            parts += [_unknown_fields(field.data), _varint(field.field_number << 3 | 4)]
        else:
            parts.append(field.data.to_bytes(8 if field.wire_type == 1 else 4, "little"))
    return b"".join(parts)


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _write_tensor(
    tensor: TensorProto, slim: TensorProto, stream: BinaryIO, location: str, base_dir: Path | None
) -> None:
    if is_external(tensor):
        file, offset, length = external_file(tensor, base_dir)
        size = length if length is not None else file.stat().st_size - offset
    elif tensor.HasField("raw_data") and len(tensor.raw_data) >= _EXTERNAL_FROM:
        file, offset, size = None, 0, len(tensor.raw_data)
    else:
        slim.CopyFrom(tensor)
        return
    start = stream.tell()
    start += -start % (_PAGE if size >= _PAGE else 16)
    stream.seek(start)
    if file is None:
        stream.write(tensor.raw_data)
    else:
        copy_range(file, offset, size, stream)
    for field, value in tensor.ListFields():
        if field.name == "dims":
            slim.dims.extend(value)
        elif field.name == "metadata_props":
            slim.metadata_props.extend(value)
        elif field.name not in ("raw_data", "external_data", "data_location"):
            setattr(slim, field.name, value)
    slim.MergeFromString(_unknown_fields(UnknownFieldSet(tensor)))
    slim.data_location = TensorProto.EXTERNAL
    for key, text in (("location", location), ("offset", str(start)), ("length", str(size))):
        slim.external_data.add(key=key, value=text)
