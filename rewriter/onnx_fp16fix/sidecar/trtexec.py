"""Arguments for ``trtexec`` of TensorRT up to 10, which chooses types layer by layer unless told."""

from __future__ import annotations

from collections.abc import Sequence

from onnx_fp16fix.sidecar.layers import Layer

__all__ = ["trtexec_arguments"]


def trtexec_arguments(layers: Sequence[Layer]) -> str:
    """One line for ``trtexec --onnx=MODEL $(cat THIS_FILE)``. A type per output: ``name:fp32+fp32``."""
    arguments = ["--fp16"]
    if layers:
        precisions = ",".join(f"{layer.name}:fp32" for layer in layers)
        arguments += ["--precisionConstraints=obey", f"--layerPrecisions={precisions}"]
    # a layer's output types must cover all of its outputs, so those that also make integers go without
    plain = [layer for layer in layers if layer.floats == tuple(range(len(layer.floats))) and layer.floats]
    if plain:
        types = ",".join(f"{layer.name}:{'+'.join(['fp32'] * len(layer.floats))}" for layer in plain)
        arguments.append(f"--layerOutputTypes={types}")
    return " ".join(arguments) + "\n"
