"""ONNX Runtime on the CPU: the only place that opens sessions.

Weights are not serialised with the graph. Inline initializers above ``_SHARED_BYTES`` are handed to ONNX Runtime as
values, so models beyond protobuf's 2 GiB need no temporary file; beside the proto's own, a session then holds copies of
them. External ones are mapped from their file, found through the model's folder, and cost none: ``model.lean`` makes
the weights inside an .onnx file external to it. Inputs that initializers fill keep the values of these
unless a feed has others.
"""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_fp16fix.errors import ModelError, Problem
from onnx_fp16fix.model.tensors import linked_file

__all__ = ["Array", "Session", "as_value", "node_reads", "open_session"]

Array = npt.NDArray[Any]

_SHARED_BYTES = 1024
_MESSAGE_LENGTH = 400
_PLACEHOLDER = "held-in-memory"
# numpy has these types of its own, so their bytes can be shared without a copy.
_SHAREABLE = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT32,
     TensorProto.INT8, TensorProto.UINT8}
)  # fmt: skip


class Session:
    """One model, ready to run. ``inputs`` must be fed, those that initializers fill may be."""

    def __init__(self, session: Any, shared: Sequence[Any]) -> None:
        self._session = session
        self._shared = shared  # ONNX Runtime reads these in place: they must live as long as the session
        self.inputs: Mapping[str, str] = {item.name: item.type for item in session.get_inputs()}
        filled = session.get_overridable_initializers()
        self._fed = {**self.inputs, **{item.name: item.type for item in filled}}
        self.outputs: Mapping[str, str] = {item.name: item.type for item in session.get_outputs()}
        self.shapes: Mapping[str, list[int | str | None]] = {
            item.name: item.shape for item in session.get_outputs()
        }
        """Shapes of the outputs as ONNX Runtime infers them."""

    def run(self, feeds: Mapping[str, Array], names: Sequence[str] | None = None) -> dict[str, Any]:
        """Values of the outputs by name; feeds the graph does not have are left out.

        Floats are cast to the float type the input declares: FP16 graph inputs take FP32 data.
        Raises ModelError (MODEL-RUN) with ONNX Runtime's own words.
        """
        wanted = list(self.outputs if names is None else names)
        known = {name: _to_type(value, self._fed[name]) for name, value in feeds.items() if name in self._fed}
        try:
            values = self._session.run(wanted, known, _quiet_run())
        except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
            raise _failure("MODEL-RUN", "ONNX Runtime could not run the model", error) from None
        return dict(zip(wanted, values, strict=True))

    def run_values(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """All outputs as ``onnxruntime.OrtValue``, from OrtValues: of any type, and without a copy on either side.

        Raises ModelError (MODEL-RUN) with ONNX Runtime's own words.
        """
        known = {name: value for name, value in feeds.items() if name in self._fed}
        try:
            values = self._session.run_with_ort_values(list(self.outputs), known, _quiet_run())
        except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
            raise _failure("MODEL-RUN", "ONNX Runtime could not run the model", error) from None
        return dict(zip(self.outputs, values, strict=True))


def as_value(array: Array) -> Any:
    """The array as an ``onnxruntime.OrtValue`` that reads its memory in place."""
    import onnxruntime

    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array) if array.ndim else array)


def open_session(
    proto: onnx.ModelProto,
    base_dir: Path | None = None,
    *,
    optimize: bool = False,
    outputs: Iterable[str] | None = None,
    given: Mapping[str, int] | None = None,
    nodes: Sequence[onnx.NodeProto] | None = None,
    arena: bool = True,
    prepack: bool = True,
) -> Session:
    """A CPU session of the model, whose graph outputs are ``outputs`` where given (any tensors of the main graph).

    Only what the outputs need is run. ``given``: tensors of the main graph, with their element types, that are fed
    instead of computed. ``nodes``: those the outputs need, in an order that runs, where the caller knows them
    already. Without ``optimize`` ONNX Runtime runs the graph as written: no fusion, no constant folding.
    Without ``arena`` it takes memory from one arena that all such sessions share: many arenas would add up, and without
    any ONNX Runtime 1.31 gives memory back late (outputs of 16 MB piled up to 1.3 GB).
    Without ``prepack`` weights are read as they are: no second copy of them in a kernel's own layout, for a few
    percent of the time of large products. Raises ModelError (MODEL-LOAD) with ONNX Runtime's own words.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    options.log_severity_level = 4  # its errors reach us as exceptions; printed as well they are noise
    options.intra_op_num_threads = _threads()
    # Among the nodes that can run, the first in the file: a tensor's statistics come right after its producer and
    # free it. The default order runs such nodes last and keeps every tensor until then.
    options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    # Threads that wait in a loop take the processor from numpy between two runs, and from other sessions.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if not arena:
        _share_arena()
        options.add_session_config_entry("session.use_env_allocators", "1")
    # Keeps what a pattern of sizes cost once; with sizes that change it only holds memory.
    options.enable_mem_pattern = False
    light, shared = _without_weights(proto, None if outputs is None else list(outputs), given or {}, nodes)
    folder = _one_folder(light, base_dir)
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in shared.items()}
    if values:
        options.add_external_initializers(list(values), list(values.values()))
    try:
        session = onnxruntime.InferenceSession(
            light.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
        raise _failure("MODEL-LOAD", "ONNX Runtime cannot load the model", error) from None
    return Session(session, [shared, values])


def _one_folder(light: onnx.ModelProto, base_dir: Path | None) -> Path | None:
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


@functools.cache
def _share_arena() -> None:
    """Make the arena that sessions without one of their own share; it grows by what is asked for, not in doubles."""
    import onnxruntime

    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    info = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    settings = onnxruntime.OrtArenaCfg({"arena_extend_strategy": 1})
    with suppress(Exception):  # the program we are part of may have registered one, which then serves
        onnxruntime.create_and_register_allocator(info, settings)


def _threads() -> int:
    """Processors this process may use; ONNX Runtime's own default counts those of the whole machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _quiet_run() -> Any:
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    return options


def _without_weights(
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


def _failure(code: str, what: str, error: Exception) -> ModelError:
    """ONNX Runtime's message without its source places, shortened."""
    text = " ".join(str(error).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"(?:/[\w.+-]+)+/([\w.-]+\.(?:cc|h)):\d+ ?", r"\1: ", text)
    if len(text) > _MESSAGE_LENGTH:
        text = f"{text[:_MESSAGE_LENGTH]}..."
    return ModelError(Problem(code, f"{what}: {text}", node=_named_node(text)))


def _named_node(text: str) -> str | None:
    found = re.search(r"Name:'([^']+)'|In Node, \(\"([^\"]+)\"", text)
    return next(filter(None, found.groups()), None) if found else None


def _to_type(value: Array, ort_type: str) -> Array:
    """``value`` as the float type an input declares, ``tensor(float16)`` for instance; other types unchanged."""
    target = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}.get(
        ort_type
    )
    if target is None or not np.issubdtype(value.dtype, np.floating):
        return value
    with np.errstate(over="ignore"):
        return value.astype(target, copy=False)
