"""Where a model is not finite first, by what calibration saw."""

from __future__ import annotations

from onnx_fp16fix.calibrate.ranges import RangeTable, tensor_key
from onnx_fp16fix.model.model import Model

__all__ = ["first_nonfinite"]


def first_nonfinite(table: RangeTable, model: Model) -> str | None:
    """Key of the first tensor, in the order of computation, that held a NaN or an infinity.

    What a body is fed has been made elsewhere, in a loop by a later node of the same body.
    """
    found = [key for key, entry in table.tensors.items() if entry.nonfinite]
    fed = {
        tensor_key(scope.path, item if isinstance(item, str) else item.name)
        for scope in (model.scopes() if found else ())
        for item in (scope.graph.input if scope.path else ())
    }
    return next((key for key in found if key not in fed), found[0] if found else None)
