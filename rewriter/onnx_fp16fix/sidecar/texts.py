"""All sidecar files of a model."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_fp16fix.sidecar.block_lists import block_lists
from onnx_fp16fix.sidecar.layers import Layer
from onnx_fp16fix.sidecar.polygraphy import polygraphy_script
from onnx_fp16fix.sidecar.trtexec import trtexec_arguments

__all__ = ["sidecar_texts"]


def sidecar_texts(layers: Sequence[Layer]) -> dict[str, str]:
    """Texts by the ending that the file's name gets after the model's."""
    return {
        ".trtexec.txt": trtexec_arguments(layers),
        ".polygraphy.py": polygraphy_script(layers),
        ".float16.json": block_lists(layers),
    }
