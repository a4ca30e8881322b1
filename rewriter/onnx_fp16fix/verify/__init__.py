"""Does the result hold: FP32 against FP32, simulated FP16 against FP32, ONNX Runtime, TensorRT."""

from onnx_fp16fix.verify.checks import (
    Tolerances,
    Verified,
    simulation_check,
    usual_tolerance,
    verify_models,
)

__all__ = ["Tolerances", "Verified", "simulation_check", "usual_tolerance", "verify_models"]
