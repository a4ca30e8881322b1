"""A network script for Polygraphy: ``polygraphy run MODEL --trt --fp16 --precision-constraints obey
--trt-network-postprocess-script THIS_FILE``."""

from __future__ import annotations

import json
from collections.abc import Sequence

from onnx_fp16fix.sidecar.layers import Layer

__all__ = ["polygraphy_script"]

_TEXT = '''"""Keeps the layers below in FP32; for TensorRT up to 10, made by onnx-fp16fix.

polygraphy run MODEL --trt --fp16 --precision-constraints obey --trt-network-postprocess-script THIS_FILE
"""

import json

import tensorrt as trt

FP32 = set(json.loads(r"""@NAMES@"""))


def postprocess(network):
    """Set the types of every layer that the parser made for a node in FP32."""
    kept = set()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        # the parser notes the ONNX node in the metadata; older versions have the layer's name alone
        metadata = getattr(layer, "metadata", "")
        found = [name for name in FP32 if layer.name == name or f"[ONNX Layer: {name}]" in metadata]
        if not found or layer.type in (trt.LayerType.CONSTANT, trt.LayerType.SHAPE):
            continue
        kept.update(found)
        outputs = [layer.get_output(place) for place in range(layer.num_outputs)]
        floats = [tensor.dtype in (trt.float32, trt.float16) for tensor in outputs]
        if any(floats):
            layer.precision = trt.float32
        for place, is_float in enumerate(floats):
            if is_float:
                layer.set_output_type(place, trt.float32)
    for name in sorted(FP32 - kept):
        print(f"fp16fix: no layer of the network was made for node {name}")
'''


def polygraphy_script(layers: Sequence[Layer]) -> str:
    """The script's text; its function has the name that Polygraphy looks for, ``postprocess``."""
    return _TEXT.replace("@NAMES@", json.dumps([layer.name for layer in layers], indent=4))
