"""Ranges of what is known before the model runs: initializers and Constant nodes, in every scope."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from onnx_fp16fix.calibrate.ranges import TensorRange, tensor_key
from onnx_fp16fix.calibrate.statistics import measure_array
from onnx_fp16fix.model.model import GraphLike, Model, Scope
from onnx_fp16fix.model.tensors import FLOAT_TYPES, read_tensor

__all__ = ["constant_ranges"]

Array = npt.NDArray[Any]


def constant_ranges(
    proto: onnx.ModelProto,
    base_dir: Path | None = None,
    *,
    histogram: bool = False,
    only: Collection[str] | None = None,
) -> dict[str, TensorRange]:
    """Statistics of every float constant by key, read one at a time; external data are mapped, not loaded.

    ``only``: those of the main graph with these names. Of a sparse initializer the stored values are measured, not
    the zeros between them.
    """
    scopes = Model(proto).scopes() if only is None else [Scope((), proto.graph, None)]
    return {
        tensor_key(scope.path, name): measure_array(values, histogram=histogram)
        for scope in scopes
        for name, values in _constants(scope.graph, base_dir, only)
    }


def _constants(
    graph: GraphLike, base_dir: Path | None, only: Collection[str] | None
) -> Iterator[tuple[str, Array]]:
    if isinstance(graph, onnx.GraphProto):
        for tensor in graph.initializer:
            if tensor.data_type in FLOAT_TYPES and (only is None or tensor.name in only):
                yield tensor.name, read_tensor(tensor, base_dir)
        for sparse in graph.sparse_initializer:
            if sparse.values.data_type in FLOAT_TYPES and (only is None or sparse.values.name in only):
                yield sparse.values.name, numpy_helper.to_array(sparse.values)
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            if only is not None and node.output[0] not in only:
                continue
            yield from ((node.output[0], values) for values in _values(node, base_dir))


def _values(node: onnx.NodeProto, base_dir: Path | None) -> Iterator[Array]:
    for attribute in node.attribute:
        if attribute.name == "value" and attribute.t.data_type in FLOAT_TYPES:
            yield read_tensor(attribute.t, base_dir)
        elif attribute.name in ("value_float", "value_floats"):
            yield np.asarray(onnx.helper.get_attribute_value(attribute), np.float32)
        elif attribute.name == "sparse_value" and attribute.sparse_tensor.values.data_type in FLOAT_TYPES:
            yield numpy_helper.to_array(attribute.sparse_tensor.values)
