"""Which transposed convolutions which target cannot build, or runs slowly: facts with their sources, one entry each.

``since`` and ``before`` bound the versions that are known to be concerned; None is open. An entry whose end is not
known is bounded by the last version it was seen in, so that later versions are left alone. A target of unknown version
is taken for the newest: only entries that are still open hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnx_fp16fix.actions.deconv.operation import Deconv
from onnx_fp16fix.actions.deconv.resize import upsampling_kernel
from onnx_fp16fix.language.target import Target

__all__ = ["KNOWN", "Known", "known_trouble"]

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """``issue``: its name in rules. ``concerns``: which operations. ``cures``: actions that end it, any of them."""

    issue: str
    target: str
    since: Version | None
    before: Version | None
    types: tuple[str, ...]
    concerns: Callable[[Deconv], bool]
    what: str
    cures: tuple[str, ...]
    source: str

    def holds(self, target: Target) -> bool:
        """Whether the target is one of these."""
        if target.name != self.target or target.type not in self.types:
            return False
        if target.version is None:
            return self.before is None
        after_start = self.since is None or target.version >= self.since
        return after_start and (self.before is None or target.version < self.before)


def _grouped(deconv: Deconv) -> bool:
    return deconv.group > 1


def _any(deconv: Deconv) -> bool:
    return True


def _not_fours(deconv: Deconv) -> bool:
    inputs, outputs = deconv.weights.shape[0] // deconv.group, deconv.weights.shape[1]
    return bool(inputs % 4 or outputs % 4)


def _beyond_pads(deconv: Deconv) -> bool:
    return any(extra > end for extra, end in zip(deconv.extra, deconv.end, strict=True))


def _negative(deconv: Deconv) -> bool:
    return min((*deconv.begin, *deconv.end)) < 0


def _asymmetric(deconv: Deconv) -> bool:
    return deconv.begin != deconv.end


def _asymmetric_3d(deconv: Deconv) -> bool:
    return deconv.rank == 3 and _asymmetric(deconv)


def _one_axis(deconv: Deconv) -> bool:
    return deconv.rank == 1


def _three_axes(deconv: Deconv) -> bool:
    return deconv.rank == 3 and max(deconv.strides) > 1


def _kernel_is_stride(deconv: Deconv) -> bool:
    return deconv.kernel == deconv.strides and not deconv.is_padded and max(deconv.strides) > 1


def _upsampling(deconv: Deconv) -> bool:
    return upsampling_kernel(deconv) is not None


def _grouped_1d_extra(deconv: Deconv) -> bool:
    return deconv.rank == 1 and deconv.group > 1 and any(deconv.extra)


_GITHUB = "https://github.com/"
_GROUPS = ("deconv-dense-groups", "deconv-split-groups")
_PHASES = ("deconv-kernel-is-stride", "deconv-polyphase")
_HALF, _ANY = ("fp16",), ("fp16", "bf16", "int8")

KNOWN: Sequence[Known] = (
    Known("groups", "tensorrt", (11, 2), None, _HALF, _grouped,
          "no kernel for grouped convolutions in strongly typed models; 10.16 builds them",
          _GROUPS, _GITHUB + "NVIDIA/TensorRT/issues/4838"),
    Known("groups", "dla", None, None, _ANY, _grouped,
          "groups must be 1, else the layer falls back to the GPU",
          _GROUPS, _GITHUB + "NVIDIA/TensorRT/issues/3365"),
    Known("bfloat16", "tensorrt", (11, 0), (11, 1), ("bf16",), _kernel_is_stride,
          "no valid tactic for ConvTranspose2d(1024, 512, 2, 2) in BF16; FP16 builds",
          _PHASES, _GITHUB + "NVIDIA/TensorRT/issues/4829"),
    Known("bfloat16", "tensorrt-rtx", (1, 7), None, ("bf16",), _any,
          "no ConvTranspose in BF16 builds (1.7.1.116, 16 shapes of 1 to 3 axes and 1 to 64 groups)",
          _PHASES, "measured without a GPU, November 2026: tests/rules/test_deconv.py"),
    Known("channels", "tensorrt", None, (10, 9), ("int8",), lambda d: _grouped(d) and _not_fours(d),
          "INT8: grouped ConvTranspose wants multiples of 4 channels in each group; builds in 10.9",
          ("deconv-pad-channels", "deconv-dense-groups"), _GITHUB + "NVIDIA/TensorRT/issues/1934"),
    Known("channels", "tensorrt", None, (8, 5), ("int8",), _not_fours,
          "INT8: ConvTranspose with odd channels (64 to 55) does not build",
          ("deconv-pad-channels",), _GITHUB + "NVIDIA/TensorRT/issues/1556"),
    Known("output-padding", "tensorrt", None, None, _ANY, _beyond_pads,
          "output_padding larger than the end pads becomes a padding layer and a separate bias, which end fusion",
          ("deconv-fold-output-padding",), _GITHUB + "pytorch/TensorRT/issues/3344"),
    Known("output-padding", "directml", None, None, _ANY, _grouped_1d_extra,
          "grouped ConvTranspose1d with output_padding does not load (Kokoro)",
          ("deconv-fold-output-padding", *_GROUPS), _GITHUB + "hexgrad/kokoro/issues/79"),
    Known("pads", "tensorrt", None, None, _ANY, _negative,
          "the ONNX importer asserts that pads are not negative (they come from output_shape)",
          ("deconv-fold-output-padding",), _GITHUB + "pytorch/TensorRT/issues/3344"),
    Known("pads", "tensorrt", None, (8, 4), _ANY, _asymmetric_3d,
          "no asymmetric padding in 3D",
          ("deconv-pads-to-slice", "deconv-polyphase"), _GITHUB + "NVIDIA/TensorRT/issues/1744"),
    Known("pads", "onnxruntime-cuda", None, (1, 11), _ANY, _asymmetric,
          "no asymmetric padding (SAME from TensorFlow)",
          ("deconv-pads-to-slice", "deconv-polyphase"), _GITHUB + "microsoft/onnxruntime/issues/11312"),
    Known("one-axis", "tensorrt", (8, 0), (8, 5), _ANY, _one_axis,
          "no 1D ConvTranspose; the importer expands it later (first version not stated)",
          ("deconv-1d-to-2d",), _GITHUB + "NVIDIA/TensorRT/issues/1587"),
    Known("three-axes", "tensorrt", (10, 15), (10, 16), _HALF, _three_axes,
          "3D ConvTranspose next to a Cast has no valid tactic (sm_120, FoundationStereo)",
          ("deconv-polyphase",), _GITHUB + "NVIDIA/TensorRT/issues/4715"),
    Known("kernel-is-stride", "tensorrt", None, (8, 0), _ANY, _kernel_is_stride,
          "kernel 2, stride 2 does not use tensor cores (7.1.3, Xavier)",
          ("deconv-kernel-is-stride",), _GITHUB + "NVIDIA-AI-IOT/torch2trt/issues/601"),
    Known("upsampling", "tensorrt", None, (5, 0), _ANY, _upsampling,
          "a fixed upsampling took 3986 of the network's 4004 ms (TensorRT 4, FCN)",
          ("deconv-to-resize",), _GITHUB + "dusty-nv/jetson-inference/issues/56"),
)  # fmt: skip


def known_trouble(target: Target, deconv: Deconv, issue: str | None = None) -> Known | None:
    """The first entry that concerns this operation on this target; only of one issue if that is named."""
    for entry in KNOWN:
        if issue in (None, entry.issue) and entry.holds(target) and entry.concerns(deconv):
            return entry
    return None
