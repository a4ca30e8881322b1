"""What the opset of a model lets a 16-bit type do: it stays what it is, so a form that came later is out of reach."""

from __future__ import annotations

from onnx import TensorProto

from onnx_fp16fix.errors import Problem, UsageError
from onnx_fp16fix.graph import ScopeView
from onnx_fp16fix.half import FloatType
from onnx_fp16fix.model import Model
from onnx_fp16fix.operators import first_opset, float_slots

__all__ = ["late_forms", "refuse_old_opset"]


_OLDEST = 7
"""ONNX Runtime, which measures and simulates, has kernels from here on."""


def refuse_old_opset(model: Model, half: FloatType) -> None:
    """Raise UsageError (USAGE-OPSET) where not even a Cast knows the type, and where nothing can run the model."""
    runs = not model.proto.graph.node or not model.opset or model.opset >= _OLDEST
    if not (runs and float_slots("", "Cast", model.opset, 1, 1, half).fp16):
        since = max(_OLDEST, first_opset("", "Cast", half) or 0)
        begins = half.label if runs else "what ONNX Runtime can run"
        found = f"{begins} begins with opset {since}, and this model has opset {model.opset}"
        hint = f"export it with a newer opset, or convert it: onnx.version_converter.convert_version(model, {since})"
        raise UsageError(
            Problem("USAGE-OPSET", found, file=str(model.path) if model.path else None, hint=hint)
        )


def late_forms(scope: ScopeView, half: FloatType) -> str | None:
    """A sentence about nodes that stay FP32 because the model's opset is too old for them; None if there are none."""
    late: dict[str, int] = {}
    since = {key: first_opset(*key, half) for key in {(node.domain, node.op) for node in scope.nodes}}
    newer = {key: n for key, n in since.items() if n is not None and n > scope.model.opset_of(key[0])}
    for node in scope.nodes if newer else ():
        if (node.domain, node.op) in newer and any(
            scope.dtype(tensor.name) == TensorProto.FLOAT for tensor in node.outputs
        ):
            late[node.op] = newer[node.domain, node.op]
    if not late:
        return None
    ops = ", ".join(f"{op} (opset {since})" for op, since in sorted(late.items()))
    what = f"opset {scope.model.opset} has no {half.label} form of {ops}"
    return f"{what}: these nodes stay in FP32, unless you raise the opset first"
