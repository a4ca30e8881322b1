"""Does the result hold: FP32 against FP32, simulated FP16 against FP32, ONNX Runtime, TensorRT.

Names are looked up on first use: the process that TensorRT builds in needs none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx_fp16fix.verify.checks import (
        Tolerances,
        Verified,
        simulation_check,
        usual_tolerance,
        verify_models,
    )

__all__ = ["Tolerances", "Verified", "simulation_check", "usual_tolerance", "verify_models"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.checks"), name)
