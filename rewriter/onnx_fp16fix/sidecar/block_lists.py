"""Arguments for the FP16 converters of the ONNX Runtime world, as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from onnx_fp16fix import fp16
from onnx_fp16fix.sidecar.layers import Layer

__all__ = ["block_lists"]


def block_lists(layers: Sequence[Layer]) -> str:
    """Keyword arguments of ``convert_float_to_float16`` in ``onnxconverter_common.float16`` and
    ``onnxruntime.transformers.float16``.

    Both put constants within limits of their own; those given here are FP16's. ``op_block_list`` stays theirs: it
    names what their engine cannot run, and ours are nodes.
    """
    arguments = {
        "keep_io_types": True,
        "min_positive_val": fp16.TINY,
        "max_finite_val": fp16.MAX,
        "node_block_list": [layer.name for layer in layers],
    }
    return json.dumps(arguments, indent=2) + "\n"
