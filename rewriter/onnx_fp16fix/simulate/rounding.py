"""FP16 on a CPU, exactly: an FP32 graph in which every FP16 tensor is rounded after the op that makes it.

    y = Op(x)            becomes    y.wide = Op(x);  y.half = Cast(y.wide, FLOAT16);  y = Cast(y.half, FLOAT)

Rounded tensors keep their names, so that both graphs compare by name. BF16 tensors are rounded to BF16 alike. ONNX
Runtime keeps such pairs at every optimization level; it would drop them under the session option
``optimization.enable_cast_chain_elimination`` and Casts named ``InsertedPrecisionFreeCast_...``, so neither is used
here, and a Cast of the model's own that bears such a name gets another. Running the FP16 model itself on the CPU is
no test: ONNX Runtime computes most FP16 ops there in FP32 and drops its own casts.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.inliner
from onnx import TensorProto

from onnx_fp16fix.calibrate.shapes import tensor_types
from onnx_fp16fix.half import HALF_TYPES, Half
from onnx_fp16fix.model.infer import infer_types
from onnx_fp16fix.model.model import Model, ScopePath
from onnx_fp16fix.simulate.kernels import Mode, kernels_of
from onnx_fp16fix.simulate.scope import Rounder

__all__ = ["Half", "rounded_graph", "rounded_model"]


def rounded_graph(
    proto: onnx.ModelProto,
    *,
    assume_fp16: bool = False,
    base_dir: Path | None = None,
    mode: Mode = "default",
    half: Half = "fp16",
) -> onnx.ModelProto:
    """The FP32 graph that computes what the model does in FP16 and BF16, to be run on the CPU.

    Without ``assume_fp16`` the model's types say which tensors are FP16 or BF16. With it every FLOAT tensor is taken
    as FP16, weights, graph inputs and outputs included, as in a naive conversion of an FP32 model; what a schema
    wants as FLOAT only (the scales of Resize) is left as it is where it is a constant. ``half="bf16"`` takes them as
    BF16 instead.

    FP16 graph inputs and outputs become FLOAT. Weights are rounded to nearest, to infinity on overflow. Local
    functions are inlined, bodies of If, Loop and Scan are treated like the main graph. ``mode``: what kernels keep in
    FP16 inside, see ``kernels``. Raises ModelError (MODEL-TYPE) where a tensor's type cannot be known.
    """
    return rounded_model(proto, assume_fp16=assume_fp16, base_dir=base_dir, mode=mode, half=half)[0]


def rounded_model(
    proto: onnx.ModelProto,
    *,
    assume_fp16: bool = False,
    base_dir: Path | None = None,
    mode: Mode = "default",
    half: Half = "fp16",
) -> tuple[onnx.ModelProto, dict[str, int]]:
    """``rounded_graph`` with the element types of the main graph's tensors in it, helpers of the rounding left out."""
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    model = Model(proto)
    types, ranks = _types(model, base_dir)
    rounder = Rounder(model, types, ranks, HALF_TYPES[half].elem_type if assume_fp16 else 0, kernels_of(mode))
    rounded = onnx.ModelProto(ir_version=proto.ir_version)
    rounded.opset_import.extend(proto.opset_import)
    if not model.opset:
        rounded.opset_import.add(domain="", version=13)
    rounder.graph(proto.graph, rounded.graph, ())
    widened = {name: TensorProto.FLOAT if rounder.half(kind) else kind for name, kind in types[()].items()}
    return rounded, widened


def _types(
    model: Model, base_dir: Path | None
) -> tuple[dict[ScopePath, dict[str, int]], dict[ScopePath, dict[str, int]]]:
    """Element types, and ranks where known, by scope and name.

    A tensor of the main graph whose type inference misses is asked of ONNX Runtime.
    """
    table = infer_types(model).scopes
    types = {path: {name: entry.elem_type for name, entry in scope.items()} for path, scope in table.items()}
    ranks = {
        path: {name: len(entry.shape) for name, entry in scope.items() if entry.shape is not None}
        for path, scope in table.items()
    }
    if any(not types[()].get(name) for node in model.proto.graph.node for name in node.output if name):
        types[()].update(tensor_types(model.proto, base_dir))
    return types, ranks
