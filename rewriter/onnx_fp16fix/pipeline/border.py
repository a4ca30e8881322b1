"""FP16 inputs and outputs (``io``) that cannot hold what crosses the model's border."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from onnx_fp16fix.calibrate import RangeTable
from onnx_fp16fix.document import Finding
from onnx_fp16fix.errors import Problem, UsageError
from onnx_fp16fix.graph import ScopeView
from onnx_fp16fix.half import FloatType
from onnx_fp16fix.pipeline.prepare import Run
from onnx_fp16fix.pipeline.state import Io
from onnx_fp16fix.wording import spelled

__all__ = ["check_half_io"]


def check_half_io(
    run: Run, main: ScopeView, ranges: RangeTable, half: FloatType, io: Io, *, force: bool
) -> None:
    """Refuse an output that is to be 16-bit and overflows there: raises UsageError (USAGE-CONTRADICTION), or notes with
    ``force`` what is left at risk. An input that does is a warning: an infinite mask may be what its reader wants.
    """
    if io == "fp32":
        return
    reads, wish = (
        _beyond(main, ranges, half, main.inputs),
        f"{spelled('io', half.name)} makes it {half.label}",
    )
    for name, found in reads.items():
        run.warn(
            f"input '{name}' {found}, and {wish}, which ends at {half.max:.6g}: larger values become infinite"
        )
    makes = {
        name: why for name, why in _beyond(main, ranges, half, main.outputs).items() if name not in reads
    }
    texts = {
        name: f"output '{name}' {found}, and {wish}, which ends at {half.max:.6g}"
        for name, found in makes.items()
    }
    if texts and not force:
        hint = f"leave {spelled('io')} out: a Cast costs little; or obey at your own risk: {spelled('force', True)}"
        raise UsageError(
            [Problem("USAGE-CONTRADICTION", text, tensor=name, hint=hint) for name, text in texts.items()]
        )
    run.forced |= bool(texts) or (force and bool(reads))
    run.document.findings += [
        Finding(
            name=f"{half.name}-forced", kind="overflow", severity="error", status="left",
            message=f"{text}: what is larger becomes infinite", tensor=name,
        )
        for name, text in texts.items()
    ]  # fmt: skip


def _beyond(main: ScopeView, ranges: RangeTable, half: FloatType, names: tuple[str, ...]) -> dict[str, str]:
    """How far FP32 tensors go that round to infinity; a constant that leaves the graph stays FP32."""
    found = {}
    for name in names:
        entry, tensor = ranges.get(name), main.tensors.get(name)
        if (
            entry is None
            or tensor is None
            or main.dtype(name) != TensorProto.FLOAT
            or main.is_constant(tensor)
        ):
            continue
        if half.encode(np.array(entry.absmax, np.float32)) >= half.infinity:
            found[name] = entry.reach()
    return found
