"""From plan to models: the rescaled FP32 model, and the typed FP16 model made from it."""

from onnx_fp16fix.emit.convert import Converted, convert
from onnx_fp16fix.emit.edit import half_borders
from onnx_fp16fix.emit.rescale import Rescaled, rescale
from onnx_fp16fix.emit.select import selecting_inputs

__all__ = [
    "Converted",
    "Rescaled",
    "convert",
    "half_borders",
    "rescale",
    "selecting_inputs",
]
