"""ConvTranspose with fixed upsampling weights as Resize."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
from pydantic import BaseModel

from onnx_fp16fix import fp16
from onnx_fp16fix.actions.deconv.draft import Draft
from onnx_fp16fix.actions.deconv.form import NoParameters, Write
from onnx_fp16fix.actions.deconv.operation import Array, Deconv
from onnx_fp16fix.language.registry import NotPossible

__all__ = ["ToResize", "tent", "upsampling_kernel"]


def upsampling_kernel(deconv: Deconv) -> Array | None:
    """The one kernel that every channel has for itself alone; None where channels mix or differ."""
    inputs, outputs = deconv.channels
    if inputs != outputs:
        return None
    weights = deconv.weights
    if deconv.group == inputs:
        own = weights[:, 0]
    elif deconv.group == 1:
        diagonal = np.arange(inputs)
        own = weights[diagonal, diagonal]
        if np.count_nonzero(weights) != np.count_nonzero(own):
            return None
    else:
        return None
    return np.asarray(own[0]) if (own == own[0]).all() else None


def tent(size: int, stride: int) -> Array:
    """Linear interpolation by ``stride``: 1 in the middle, falling by 1 / stride."""
    return np.asarray(1 - np.abs(np.arange(size) - (size - 1) / 2) / stride)


class ToResize:
    """``deconv-to-resize``: nearest (ones, kernel = stride) or linear (a tent of 2s or 2s - 1 taps).

    A ConvTranspose interpolates towards zeros beyond the border, a Resize repeats the border. So x gets a border of
    zeros first, and a Slice cuts its share off: equal everywhere. Only for strides that are powers of two, where
    the positions and weights that Resize computes are exact.
    """

    name = "deconv-to-resize"
    parameters: type[BaseModel] = NoParameters

    def write(self, draft: Draft, x: str, deconv: Deconv, rest: Write, parameters: Any) -> str:
        kernel = upsampling_kernel(deconv)
        if kernel is None or max(deconv.strides) == 1:
            raise NotPossible("it is no upsampling of each channel by one kernel")
        if (kernel == 1).all() and deconv.kernel == deconv.strides and not deconv.is_padded:
            wide = draft.resize(x, deconv.strides, "nearest", "asymmetric")
            return draft.add(wide, deconv.bias)
        return draft.add(self._linear(draft, x, deconv, kernel), deconv.bias)

    def _linear(self, draft: Draft, x: str, deconv: Deconv, kernel: Array) -> str:
        strides = deconv.strides
        wanted = reduce(np.multiply.outer, (tent(k, s) for k, s in zip(deconv.kernel, strides, strict=True)))
        if not np.array_equal(kernel, wanted.astype(kernel.dtype)):
            raise NotPossible("its kernel is neither all ones nor linear interpolation")
        even = [k == 2 * s for k, s in zip(deconv.kernel, strides, strict=True)]
        odd = [k == 2 * s - 1 for k, s in zip(deconv.kernel, strides, strict=True)]
        if not (all(even) or all(odd)) or not all(s > 1 and s == 2 ** fp16.floor_log2(s) for s in strides):
            raise NotPossible("Resize computes the positions exactly only for strides that are powers of two")
        # the zeros of one pixel around x reach as far as the result does without output_padding beyond the end pads
        if any(p < 0 for p in deconv.begin) or any(
            e > p for e, p in zip(deconv.extra, deconv.end, strict=True)
        ):
            raise NotPossible("its result goes on beyond the border that the weights reach")
        around = (0, *(1,) * deconv.rank)
        wide = draft.resize(
            draft.pad(x, around, around), strides, "linear", "half_pixel" if all(even) else "asymmetric"
        )
        left = [s // 2 if all(even) else 1 for s in strides]
        right = [s // 2 if all(even) else s for s in strides]
        return draft.crop(
            wide,
            [p + cut for p, cut in zip(deconv.begin, left, strict=True)],
            [p - e + cut for p, e, cut in zip(deconv.end, deconv.extra, right, strict=True)],
        )
