"""Type of every tensor and size of it for one feed: inferred, or asked of ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from onnx_fp16fix.model.infer import light_copy
from onnx_fp16fix.runtime import open_session

__all__ = [
    "MEASURED_TYPES",
    "Description",
    "Inferred",
    "computed_names",
    "describe",
    "infer_elements",
    "tensor_bytes",
    "tensor_types",
]

_BYTES: Mapping[int, int] = {TensorProto.FLOAT: 4, TensorProto.FLOAT16: 2, TensorProto.DOUBLE: 8}
_LARGEST = 8
"""Bytes of an element of any other type: labels and indices are INT64 at most."""
MEASURED_TYPES = frozenset(_BYTES)
"""Element types that calibration measures."""

Inferred = Mapping[str, tuple[int, int | None]]
"""Element type and number of elements (None where it is not known) by name; type 0 for what is no tensor."""

_ORT_TYPES = {
    "tensor(float)": TensorProto.FLOAT,
    "tensor(float16)": TensorProto.FLOAT16,
    "tensor(double)": TensorProto.DOUBLE,
}


@dataclass(frozen=True, slots=True)
class Description:
    """What is known of a graph's tensors for inputs of one size.

    ``types``: element types; ``bytes`` of float tensors; ``untensored``: names that hold a sequence or an optional.
    """

    types: Mapping[str, int]
    bytes: Mapping[str, int]
    untensored: frozenset[str]


def describe(
    proto: onnx.ModelProto,
    base_dir: Path | None,
    shapes: Mapping[str, Sequence[int]],
    values: Mapping[str, Any],
) -> Description:
    """Types and sizes for inputs of these shapes; ``values`` (OrtValues) are run where inference is silent."""
    graph = _inferred(proto, shapes).graph
    infos = (*graph.value_info, *graph.input, *graph.output)
    untensored = frozenset(
        info.name for info in infos if info.type.WhichOneof("value") not in (None, "tensor_type")
    )
    found = _table(graph)
    types = {name: elem_type for name, (elem_type, _) in found.items()}
    names = computed_names(proto.graph)
    unknown = [name for name in names if not types.get(name) and name not in untensored]
    if unknown:
        # Operators of other domains: ONNX has no inference for them, ONNX Runtime knows those it can run.
        known = open_session(proto, base_dir, outputs=unknown).outputs
        types.update((name, _ORT_TYPES.get(known[name], 0)) for name in unknown)
        untensored |= {name for name in unknown if not known[name].startswith("tensor(")}
    floats = [name for name in names if types.get(name) in MEASURED_TYPES]
    sizes = {name: found[name][1] for name in floats if name in found}
    silent = [name for name in floats if sizes.get(name) is None]
    if silent:
        sizes.update(_learn(proto, base_dir, values, silent))
    return Description(types, {name: (sizes[name] or 0) * _BYTES[types[name]] for name in floats}, untensored)


def computed_names(graph: onnx.GraphProto) -> list[str]:
    """Outputs of the main graph's nodes, in the file's order."""
    return [name for node in graph.node for name in node.output if name]


def tensor_types(
    proto: onnx.ModelProto, base_dir: Path | None, inferred: Inferred | None = None
) -> dict[str, int]:
    """Element type of every tensor of the main graph; 0 for what is no tensor or is neither float nor known.

    ``inferred``: from ``infer_elements``, where it is at hand.
    """
    found = infer_elements(proto, {}) if inferred is None else inferred
    types = {name: elem_type for name, (elem_type, _) in found.items()}
    unknown = [name for name in computed_names(proto.graph) if name not in types]
    if unknown:
        # Operators of other domains: ONNX has no inference for them, ONNX Runtime knows those it can run.
        known = open_session(proto, base_dir, outputs=unknown).outputs
        types.update((name, _ORT_TYPES.get(known[name], 0)) for name in unknown)
    return types


def tensor_bytes(
    proto: onnx.ModelProto,
    base_dir: Path | None,
    feed: Mapping[str, npt.NDArray[Any]],
    types: Mapping[str, int],
    names: Collection[str],
    inferred: Inferred,
) -> dict[str, int]:
    """Bytes of the named tensors with this feed, for which ``inferred`` was made.

    Where inference is silent they are learnt in a run that keeps sizes only.
    """
    sizes: dict[str, int] = {}
    unknown = []
    for name in names:
        elements = inferred.get(name, (0, None))[1]
        if elements is None:
            unknown.append(name)
        else:
            sizes[name] = elements * _BYTES.get(types[name], _LARGEST)
    if unknown:
        sizes.update(
            (name, count * _BYTES.get(types[name], _LARGEST))
            for name, count in _learn(proto, base_dir, feed, unknown)
        )
    return sizes


def _learn(
    proto: onnx.ModelProto, base_dir: Path | None, feed: Mapping[str, Any], names: list[str]
) -> list[tuple[str, int]]:
    outputs = [f"fp16fix.size.{index}" for index in range(len(names))]
    asked = dict(zip(names, outputs, strict=True))
    sized = light_shell(proto)
    for node in proto.graph.node:
        sized.graph.node.append(node)
        for name in node.output:
            if name in asked:
                sized.graph.node.append(helper.make_node("Size", [name], [asked[name]]))
    session = open_session(sized, base_dir, outputs=outputs)
    arrays = all(isinstance(value, np.ndarray) for value in feed.values())
    values = session.run(feed) if arrays else session.run_values(feed)
    return [(name, int(_number(values[asked[name]]))) for name in names]


def _number(value: Any) -> Any:
    return value if isinstance(value, np.ndarray | np.generic | int) else value.numpy()


def light_shell(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with everything but its nodes, to put a list of nodes of one's own in."""
    shell = onnx.ModelProto(ir_version=proto.ir_version)
    shell.opset_import.extend(proto.opset_import)
    if not any(entry.domain in ("", "ai.onnx") for entry in shell.opset_import):
        shell.opset_import.add(domain="", version=13)
    shell.functions.extend(proto.functions)
    shell.graph.name = proto.graph.name
    for field in ("initializer", "sparse_initializer", "input", "output"):
        getattr(shell.graph, field).extend(getattr(proto.graph, field))
    return shell


def infer_elements(proto: onnx.ModelProto, sizes: Mapping[str, Sequence[int]]) -> Inferred:
    """Element type and number of elements by name, with the shapes of the inputs set to ``sizes``."""
    return _table(_inferred(proto, sizes).graph)


def _inferred(proto: onnx.ModelProto, sizes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    light = light_copy(proto)
    for info in light.graph.input:
        if info.name in sizes:
            shape = info.type.tensor_type.shape
            shape.Clear()
            for size in sizes[info.name]:
                shape.dim.add(dim_value=size)
    with suppress(Exception):  # inference of broken or custom nodes raises many kinds; the run will tell
        light = onnx.shape_inference.infer_shapes(light, data_prop=True)
    return light


def _table(graph: onnx.GraphProto) -> Inferred:
    found: dict[str, tuple[int, int | None]] = {}
    for info in (*graph.value_info, *graph.input, *graph.output):
        if info.type.tensor_type.elem_type:
            found[info.name] = info.type.tensor_type.elem_type, _elements(info.type.tensor_type)
        elif info.type.WhichOneof("value") not in (None, "tensor_type"):
            found[info.name] = 0, None
    return found


def _elements(tensor: onnx.TypeProto.Tensor) -> int | None:
    if not tensor.HasField("shape"):
        return None
    dims = tensor.shape.dim
    if not all(dim.HasField("dim_value") for dim in dims):
        return None
    elements: int = math.prod(dim.dim_value for dim in dims)
    return elements
