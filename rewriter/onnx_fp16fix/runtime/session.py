"""Sessions of ONNX Runtime on the CPU.

Inputs that initializers fill keep the values of these unless a feed has others.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx_fp16fix.runtime.extract import Array, extract, one_folder
from onnx_fp16fix.runtime.failure import failure
from onnx_fp16fix.runtime.seeds import draw_alike

__all__ = ["Session", "as_value", "open_session"]


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
            raise failure("MODEL-RUN", "ONNX Runtime could not run the model", error) from None
        return dict(zip(wanted, values, strict=True))

    def run_values(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """All outputs as ``onnxruntime.OrtValue``, from OrtValues: of any type, and without a copy on either side.

        Raises ModelError (MODEL-RUN) with ONNX Runtime's own words.
        """
        known = {name: value for name, value in feeds.items() if name in self._fed}
        try:
            values = self._session.run_with_ort_values(list(self.outputs), known, _quiet_run())
        except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
            raise failure("MODEL-RUN", "ONNX Runtime could not run the model", error) from None
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
    percent of the time of large products. Random ops draw the same numbers in every session.
    Raises ModelError (MODEL-LOAD) with ONNX Runtime's own words.
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
    light, shared = extract(proto, None if outputs is None else list(outputs), given or {}, nodes)
    folder = one_folder(light, base_dir)
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(value) for name, value in shared.items()}
    if values:
        options.add_external_initializers(list(values), list(values.values()))
    try:
        session = onnxruntime.InferenceSession(
            draw_alike(light, light.SerializeToString()), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
        raise failure("MODEL-LOAD", "ONNX Runtime cannot load the model", error) from None
    return Session(session, [shared, values])


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


def _to_type(value: Array, ort_type: str) -> Array:
    """``value`` as the float type an input declares, ``tensor(float16)`` for instance; other types unchanged."""
    target = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}.get(
        ort_type
    )
    if target is None or not np.issubdtype(value.dtype, np.floating):
        return value
    with np.errstate(over="ignore"):
        return value.astype(target, copy=False)
