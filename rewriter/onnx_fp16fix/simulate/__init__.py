"""FP16 on a CPU, exactly: the rounded graph and what it does to each tensor."""

from onnx_fp16fix.simulate.bodies import matching_bodies
from onnx_fp16fix.simulate.compare import compare_fp32, compare_outputs, compare_simulated
from onnx_fp16fix.simulate.kernels import Mode
from onnx_fp16fix.simulate.report import Fp32Report, SimulationReport, TensorError
from onnx_fp16fix.simulate.rounding import Half, rounded_graph

__all__ = [
    "Fp32Report",
    "Half",
    "Mode",
    "SimulationReport",
    "TensorError",
    "compare_fp32",
    "compare_outputs",
    "compare_simulated",
    "matching_bodies",
    "rounded_graph",
]
