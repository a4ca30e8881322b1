"""ConvTranspose as Conv: each of the s phases of the output is a convolution of its own, with every s-th kernel tap.

The full result at j = q * s + r is the sum over t of x[q - t] * W[t * s + r]. A Conv with the taps of each r as an
output channel, flipped, computes all phases; a depth to space puts them side by side; a Slice cuts the pads off.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pydantic import BaseModel

from onnx_fp16fix.actions.deconv.draft import Draft
from onnx_fp16fix.actions.deconv.form import NoParameters, Write
from onnx_fp16fix.actions.deconv.operation import Array, Deconv
from onnx_fp16fix.language.registry import NotPossible

__all__ = ["KernelIsStride", "Polyphase", "phase_weights"]


def phase_weights(weights: Array, group: int, strides: tuple[int, ...]) -> Array:
    """[Cin, Cout/g, k...] as Conv weights [Cout * prod(s), Cin/g, ceil(k / s)...], phases innermost, taps flipped."""
    rank = len(strides)
    taps = [-(-k // s) for k, s in zip(weights.shape[2:], strides, strict=True)]
    more = [(0, t * s - k) for t, s, k in zip(taps, strides, weights.shape[2:], strict=True)]
    wide = np.pad(weights, [(0, 0), (0, 0), *more])
    apart = [size for t, s in zip(taps, strides, strict=True) for size in (t, s)]
    parts = wide.reshape(group, -1, weights.shape[1], *apart)
    tap_axes, phase_axes = [3 + 2 * i for i in range(rank)], [4 + 2 * i for i in range(rank)]
    turned = np.flip(parts.transpose(0, 2, *phase_axes, 1, *tap_axes), tuple(range(-rank, 0)))
    return np.asarray(turned.reshape(-1, weights.shape[0] // group, *taps))


def write_phases(draft: Draft, x: str, deconv: Deconv) -> str:
    """Conv, depth to space, Slice."""
    weights = phase_weights(deconv.weights, deconv.group, deconv.strides)
    bias = None if deconv.bias is None else np.repeat(deconv.bias, math.prod(deconv.strides))
    before, after, head, tail = [], [], [], []
    rows = zip(
        weights.shape[2:], deconv.kernel, deconv.strides, deconv.begin, deconv.end, deconv.extra, strict=True
    )
    for taps, kernel, stride, begin, end, extra in rows:
        first = min(begin // stride, taps - 1)  # the first q that is needed, if the Conv can begin there
        past = kernel - end + extra  # elements needed from q = size - 1 on
        last = max(-(-past // stride) - 1, 0)
        before.append(taps - 1 - first)
        after.append(last)
        head.append(begin - first * stride)
        tail.append((last + 1) * stride - past)
    phases = draft.conv(x, weights, bias, deconv.group, before, after)
    return draft.crop(draft.shuffle(phases, deconv.strides), head, tail)


class Polyphase:
    """``deconv-polyphase``: for every kernel, stride and padding; keeps the groups."""

    name = "deconv-polyphase"
    parameters: type[BaseModel] = NoParameters

    def write(self, draft: Draft, x: str, deconv: Deconv, rest: Write, parameters: Any) -> str:
        if max(deconv.strides) == 1:
            raise NotPossible("its stride is 1: there is one phase")
        return write_phases(draft, x, deconv)


class KernelIsStride:
    """``deconv-kernel-is-stride``: nothing overlaps, so a Conv 1x1 and a depth to space do it, at the same price."""

    name = "deconv-kernel-is-stride"
    parameters: type[BaseModel] = NoParameters

    def write(self, draft: Draft, x: str, deconv: Deconv, rest: Write, parameters: Any) -> str:
        if deconv.kernel != deconv.strides or deconv.is_padded or max(deconv.strides) == 1:
            raise NotPossible("its kernel is not its stride, or it has pads")
        return write_phases(draft, x, deconv)
