"""Whether ONNX Runtime loads and runs the model.

No more than that: on a CPU it computes most FP16 ops in FP32, so its numbers prove nothing. Where it has an FP16
kernel that overflows, though, what comes out says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnx_fp16fix.calibrate import Dataset
from onnx_fp16fix.document import OrtCheck
from onnx_fp16fix.errors import ModelError
from onnx_fp16fix.model import Model
from onnx_fp16fix.runtime import open_session

__all__ = ["OrtResult", "nonfinite_in_fp32", "run_once"]

_NO_KERNEL = (
    "not_implemented",
    "not implemented",
    "could not find an implementation",
    "mlfloat16 data type is not supported",
)
"""A gap of ONNX Runtime's CPU provider in FP16 says nothing of the GPU providers the model is for."""


@dataclass(frozen=True, slots=True)
class OrtResult:
    """The document's entry, and what it means for the verdict: at most one of both lists has an element."""

    check: OrtCheck
    not_checked: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    nonfinite: tuple[str, ...] = ()
    """Outputs that are not all finite."""


def run_once(model: Model, data: Dataset) -> OrtResult:
    """Load the model with all graph optimizations, as users do, and run one sample."""
    check = OrtCheck(provider="CPUExecutionProvider", loads=False)
    try:
        session = open_session(model.proto, model.base_dir, optimize=True)
        check.loads = True
        if "tensor(bfloat16)" in session.inputs.values():
            return OrtResult(check, ("onnxruntime: it loads, and was not run: numpy has no BF16 to feed it",))
        made = session.run(next(iter(data)))
        check.runs = True
    except ModelError as error:
        check.message = error.problems[0].message
        check.runs = False if check.loads else None
    if check.message is None:
        return OrtResult(check, nonfinite=_nonfinite(made))
    if any(words in check.message.lower() for words in _NO_KERNEL):
        return OrtResult(check, (f"onnxruntime: its CPU provider lacks a kernel ({check.message})",))
    if _runs_as_written(model, data):
        # The CPU provider puts Casts around FP16 nodes, and fusions trip over these (1.31: a LayerNorm with a Mul
        # before its Pow). No GPU does that, and the model is right as it is written.
        check.loads = check.runs = True
        check.message = (
            f"runs with graph optimizations off; with them its CPU provider fails ({check.message})"
        )
        return OrtResult(check, (f"onnxruntime: the model {check.message}",))
    return OrtResult(check, failures=(f"ONNX Runtime: {check.message}",))


def nonfinite_in_fp32(model: Model, data: Dataset) -> tuple[str, ...]:
    """Outputs of the FP32 model that are not all finite for the same sample."""
    return _nonfinite(open_session(model.proto, model.base_dir).run(next(iter(data))))


def _nonfinite(outputs: Mapping[str, Any]) -> tuple[str, ...]:
    arrays = {name: value for name, value in outputs.items() if isinstance(value, np.ndarray)}
    return tuple(n for n, value in arrays.items() if value.dtype.kind == "f" and not np.isfinite(value).all())


def _runs_as_written(model: Model, data: Dataset) -> bool:
    try:
        open_session(model.proto, model.base_dir).run(next(iter(data)))
    except ModelError:
        return False
    return True
