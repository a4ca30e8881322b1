"""A model that is not finite in FP32 already: no precision mends that, and comparisons say little."""

from __future__ import annotations

from onnx_fp16fix.calibrate import RangeTable
from onnx_fp16fix.calibrate import calibrate as measure
from onnx_fp16fix.calibrate.nonfinite import first_nonfinite
from onnx_fp16fix.model import Model
from onnx_fp16fix.pipeline.prepare import Run

__all__ = ["measured_nonfinite", "nonfinite_text"]


def nonfinite_text(table: RangeTable, model: Model) -> str | None:
    """The first tensor with a NaN or an infinity, in a sentence; None where there is none."""
    name = first_nonfinite(table, model)
    if name is None:
        return None
    entry = table.tensors[name]
    kinds = [f"{entry.nan} NaN"] if entry.nan else []
    if entry.nonfinite > entry.nan:
        kinds.append(f"{entry.nonfinite - entry.nan} Inf")
    return (
        f"the model is not finite in FP32 already: '{name}' is the first tensor, with {' and '.join(kinds)} from "
        f"sample {entry.nonfinite_sample} on"
    )


def measured_nonfinite(run: Run, model: Model) -> str | None:
    """``nonfinite_text`` by a calibration made for it, where outputs have shown that there is something to find."""
    table = measure(model.proto, run.dataset, base_dir=model.base_dir, progress=run.progress)
    return nonfinite_text(table, model)
