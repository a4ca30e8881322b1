"""The part of a model that a session is opened with: what its outputs need, without the weights in memory.

Weights are not serialised with the graph. Inline initializers above ``_SHARED_BYTES`` are handed to ONNX Runtime as
values, so models beyond protobuf's 2 GiB need no temporary file; beside the proto's own, a session then holds copies of
them. External ones are mapped from their file, found through the model's folder, and cost none: ``model.lean`` makes
the weights inside an .onnx file external to it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_fp16fix.model.tensors import linked_file

__all__ = ["Array", "extract", "node_reads", "one_folder"]

Array = npt.NDArray[Any]

_SHARED_BYTES = 1024
_PLACEHOLDER = "held-in-memory"
# numpy has these types of its own, so their bytes can be shared without a copy.
_SHAREABLE = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT32,
     TensorProto.INT8, TensorProto.UINT8}
)  # fmt: skip


def extract(
    proto: onnx.ModelProto,
    outputs: list[str] | None,
    given: Mapping[str, int],
    nodes: Sequence[onnx.NodeProto] | None,
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The model with its big weights taken out and its inputs and outputs set, and the weights by name."""
    light = onnx.ModelProto(ir_version=proto.ir_version)
    light.opset_import.extend(proto.opset_import)
    light.functions.extend(proto.functions)
    graph, source = light.graph, proto.graph
    graph.name = source.name or "graph"
    graph.input.extend(source.input)
    graph.input.extend(helper.make_tensor_value_info(name, kind, None) for name, kind in given.items())
    graph.sparse_initializer.extend(source.sparse_initializer)
    if outputs is None:
        graph.node.extend(source.node)
        graph.output.extend(source.output)
    else:
        graph.node.extend(_needed(source, outputs, given) if nodes is None else nodes)
        # Without a type: ONNX Runtime knows it, and a wrong guess would be an error.
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    # ONNX Runtime drops what no node reads, and then does not find the place for its value.
    read = {name for node in graph.node for name in node_reads(node)}
    kept = read.union((info.name for info in graph.output), (info.name for info in graph.input))
    shared = {}
    for tensor in source.initializer:
        if tensor.name not in kept:
            continue
        if tensor.name in read and _is_shared(tensor):
            shared[tensor.name] = numpy_helper.to_array(tensor)
            graph.initializer.append(_placeholder(tensor))
        else:
            graph.initializer.append(tensor)
    return light, shared


def one_folder(light: onnx.ModelProto, base_dir: Path | None) -> Path | None:
    """The folder of all weights that lie in files, whose places in ``light`` become relative to it.

    ONNX Runtime takes places below one folder only; weights that we made lie in files of our own, told by full paths,
    and those behind links (``open_links``) are told by what the links lead to.
    """
    root = None if base_dir is None else base_dir.resolve()
    places = [
        entry
        for tensor in light.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location" and entry.value != _PLACEHOLDER
    ]
    for entry in places:
        if root is not None and (linked := linked_file(entry.value, root)) is not None:
            entry.value = str(linked)
    own = {Path(entry.value).parent for entry in places if os.path.isabs(entry.value)}
    if not own:
        return root
    folder = Path(os.path.commonpath([*own, *([root] if root else [])]))
    for entry in places:
        entry.value = Path(root or folder, entry.value).relative_to(folder).as_posix()
    return folder


def _needed(graph: onnx.GraphProto, outputs: Sequence[str], given: Mapping[str, int]) -> list[onnx.NodeProto]:
    """Nodes the outputs depend on, in the file's order, as far back as what is given."""
    nodes = enumerate(graph.node)
    producer = {name: index for index, node in nodes for name in node.output if name and name not in given}
    pending = [producer[name] for name in outputs if name in producer]
    kept = set(pending)
    while pending:
        for name in node_reads(graph.node[pending.pop()]):
            index = producer.get(name)
            if index is not None and index not in kept:
                kept.add(index)
                pending.append(index)
    return [node for index, node in enumerate(graph.node) if index in kept]


def node_reads(node: onnx.NodeProto) -> Iterable[str]:
    """Names a node reads, those its subgraphs may take from outside included (inner names do no harm)."""
    reads: Iterable[str] = node.input
    # Asked hundreds of thousands of times, mostly of nodes without any.
    return [*reads, *_body_reads(node)] if node.attribute else reads


def _body_reads(node: onnx.NodeProto) -> Iterator[str]:
    for attribute in node.attribute:
        for body in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
            yield from (item.name for item in body.output)
            for inner in body.node:
                yield from node_reads(inner)


def _is_shared(tensor: TensorProto) -> bool:
    if tensor.data_location == TensorProto.EXTERNAL or tensor.data_type not in _SHAREABLE:
        return False
    # From dims: reading raw_data copies it, and even ByteSize() takes time in proportion to it.
    return bool(tensor.HasField("raw_data") and _item_bytes(tensor) * math.prod(tensor.dims) > _SHARED_BYTES)


def _item_bytes(tensor: TensorProto) -> int:
    return int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _placeholder(tensor: TensorProto) -> TensorProto:
    empty = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    empty.data_location = TensorProto.EXTERNAL
    empty.external_data.add(key="location", value=_PLACEHOLDER)
    return empty
