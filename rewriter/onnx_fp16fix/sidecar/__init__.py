"""What an engine that decides types by itself must be told beside an FP32 model: which layers stay in FP32."""

from onnx_fp16fix.sidecar.layers import Layer, named_layers
from onnx_fp16fix.sidecar.texts import sidecar_texts

__all__ = ["Layer", "named_layers", "sidecar_texts"]
