"""A ConvTranspose as numbers: all that a rewrite needs, and nothing of the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto

from onnx_fp16fix.graph import ScopeView, ViewNode
from onnx_fp16fix.language.registry import NotPossible

__all__ = ["Array", "Deconv", "read_deconv", "zero_inserted"]

Array = npt.NDArray[Any]
Sizes = tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Deconv:
    """A transposed convolution with dilation 1; one entry for each spatial axis in all tuples.

    ``weights`` [Cin, Cout/group, *kernel]. Of the full result, (size - 1) * stride + kernel long, ``begin`` and ``end``
    elements are cut off (negative: added), ``extra`` (output_padding) are added at the end. ``sizes``: of the input,
    None where the model leaves them open.
    """

    weights: Array
    bias: Array | None
    group: int
    strides: Sizes
    begin: Sizes
    end: Sizes
    extra: Sizes
    sizes: tuple[int | None, ...]

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.strides)

    @property
    def kernel(self) -> Sizes:
        """Kernel sizes."""
        return tuple(self.weights.shape[2:])

    @property
    def channels(self) -> tuple[int, int]:
        """Input and output channels."""
        return self.weights.shape[0], self.weights.shape[1] * self.group

    @property
    def is_padded(self) -> bool:
        """Whether the result is anything but the full one."""
        return any((*self.begin, *self.end, *self.extra))

    def length(self, axis: int, size: int) -> int:
        """Output size along a spatial axis."""
        full = (size - 1) * self.strides[axis] + self.kernel[axis]
        return full - self.begin[axis] - self.end[axis] + self.extra[axis]


def read_deconv(scope: ScopeView, node: ViewNode) -> Deconv:
    """What the node computes. Raises NotPossible where a number of it is not known before the model runs."""
    if node.op != "ConvTranspose" or node.domain:
        raise NotPossible(f"this rewrites ConvTranspose, not {node.op}")
    if any(isinstance(value, AttributeProto) for value in node.attrs.values()):
        raise NotPossible("its attributes are parameters of a function")
    kernel = _constant(scope, node, 1, "weights")
    bias = _constant(scope, node, 2, "bias") if node.input(2) is not None else None
    assert kernel is not None
    rank, attrs = kernel.ndim - 2, node.attrs
    shape = scope.shape(str(node.inputs[0].name))
    sizes = tuple(size if isinstance(size, int) else None for size in shape[2:]) if shape else (None,) * rank
    group = int(attrs.get("group", 1))
    if rank < 1 or len(sizes) != rank or group < 1 or kernel.shape[0] % group or 0 in kernel.shape:
        raise NotPossible("its weights do not fit its input")
    weights = zero_inserted(kernel, _axes(attrs, "dilations", rank, 1))
    strides, extra = _axes(attrs, "strides", rank, 1), _axes(attrs, "output_padding", rank, 0)
    begin, end = _pads(attrs, weights.shape[2:], strides, extra, sizes)
    return Deconv(weights, bias, group, strides, begin, end, extra, sizes)


def zero_inserted(kernel: Array, dilations: Sequence[int]) -> Array:
    """The kernel with dilation 1 that does the same: zeros between the taps."""
    if all(step == 1 for step in dilations):
        return kernel
    sizes = [(size - 1) * step + 1 for size, step in zip(kernel.shape[2:], dilations, strict=True)]
    wide = np.zeros((*kernel.shape[:2], *sizes), kernel.dtype)
    taps = tuple(slice(None, None, step) for step in (1, 1, *dilations))
    wide[taps] = kernel
    return wide


def _constant(scope: ScopeView, node: ViewNode, slot: int, what: str) -> Array | None:
    tensor = node.input(slot)
    values = None if tensor is None else scope.constant(tensor)
    if values is None:
        raise NotPossible(f"its {what} are computed while the model runs")
    return np.asarray(values)


def _axes(attrs: Mapping[str, Any], name: str, rank: int, default: int) -> Sizes:
    values = tuple(int(value) for value in attrs.get(name) or (default,) * rank)
    if len(values) != rank:
        raise NotPossible(f"its {name} do not fit its weights")
    return values


def _pads(
    attrs: Mapping[str, Any], kernel: Sizes, strides: Sizes, extra: Sizes, sizes: Sequence[int | None]
) -> tuple[Sizes, Sizes]:
    """Pads at begin and end, computed where ``auto_pad`` or ``output_shape`` stand for them (ONNX, ConvTranspose)."""
    auto = attrs.get("auto_pad", b"NOTSET").decode()
    wanted = attrs.get("output_shape")
    if wanted:
        if None in sizes:
            raise NotPossible("output_shape gives its pads only where the input has a fixed size")
        lengths = [int(value) for value in wanted][-len(kernel) :]
        total = [
            s * (n - 1) + e + k - length
            for s, n, e, k, length in zip(
                strides, (size or 0 for size in sizes), extra, kernel, lengths, strict=True
            )
        ]
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        if any(extra):  # ONNX Runtime and ONNX's shape inference come to different sizes
            raise NotPossible("runtimes disagree about auto_pad together with output_padding")
        total = [k + e - s for k, e, s in zip(kernel, extra, strides, strict=True)]
    elif auto == "VALID":
        return (0,) * len(kernel), (0,) * len(kernel)
    else:
        pads = _axes(attrs, "pads", 2 * len(kernel), 0)
        return pads[: len(kernel)], pads[len(kernel) :]
    if min(total) < 0:
        raise NotPossible("runtimes disagree about an automatic padding that is negative")
    small = tuple(value // 2 for value in total)
    large = tuple(value - half for value, half in zip(total, small, strict=True))
    return (small, large) if auto == "SAME_UPPER" else (large, small)
