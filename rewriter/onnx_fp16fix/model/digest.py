"""One number for what a model holds, however its weights are stored."""

from __future__ import annotations

import hashlib
from pathlib import Path

from onnx import TensorProto

from onnx_fp16fix.model.model import Model
from onnx_fp16fix.model.tensors import external_file, is_external

__all__ = ["content_digest", "raw_digest"]

_CHUNK = 1 << 22


def content_digest(model: Model) -> str:
    """SHA-256 of nodes, functions, types and weights; the same for weights inside the file, beside it and in memory.

    Names of data files and what the model says of itself (producer, doc strings of the model) do not count.
    """
    digest = hashlib.sha256(str(model.proto.ir_version).encode())
    graph = model.proto.graph
    # part by part: a proto of 2 GiB cannot be serialised in one go
    for part in (
        *model.proto.opset_import, *model.proto.functions, *graph.input, *graph.output, *graph.value_info,
        *graph.node, *graph.sparse_initializer,
    ):  # fmt: skip
        digest.update(part.SerializeToString(deterministic=True))
    for tensor in graph.initializer:
        _add(digest, tensor, model)
    return digest.hexdigest()


def raw_digest(tensor: TensorProto, base_dir: Path | None) -> bytes:
    """SHA-256 of the elements of a tensor that has them as raw data, here or in a file."""
    digest = hashlib.sha256()
    _add_raw(digest, tensor, base_dir)
    return digest.digest()


def _add(digest: hashlib._Hash, tensor: TensorProto, model: Model) -> None:
    if not is_external(tensor) and not tensor.HasField("raw_data"):
        digest.update(tensor.SerializeToString(deterministic=True))
        return
    digest.update(f"{tensor.name}:{tensor.data_type}:{list(tensor.dims)}".encode())
    _add_raw(digest, tensor, model.base_dir)


def _add_raw(digest: hashlib._Hash, tensor: TensorProto, base_dir: Path | None) -> None:
    if not is_external(tensor):
        digest.update(tensor.raw_data)
        return
    file, offset, length = external_file(tensor, base_dir)
    left = file.stat().st_size - offset if length is None else length
    with file.open("rb") as stream:
        stream.seek(offset)
        while left > 0 and (chunk := stream.read(min(left, _CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
