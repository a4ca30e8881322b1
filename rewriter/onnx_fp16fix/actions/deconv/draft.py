"""Nodes of a rewrite before they are written: a list to price, compare and only then put into the model.

Prices: a position is one element of one channel. What a node computes counts in floating-point operations, what it
only moves in bytes read and written (FP16), weights in bytes. Axes whose size the model leaves open count as 64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from onnx_fp16fix.actions.deconv.operation import Array, Deconv
from onnx_fp16fix.language.emitter import Emitter
from onnx_fp16fix.language.registry import NotPossible

__all__ = ["Draft", "Price"]

_OPEN: Final = 64
_FLOPS_PER_BYTE: Final = 200.0
"""FP16 operations in the time of one byte of memory: 206 on an H200 (989 TFLOP/s, 4.8 TB/s)."""
_TO_END: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Price:
    """What nodes cost: operations and bytes."""

    flops: float = 0.0
    bytes: float = 0.0

    @property
    def total(self) -> float:
        """Both as bytes."""
        return self.flops / _FLOPS_PER_BYTE + self.bytes

    def __add__(self, other: Price) -> Price:
        return Price(self.flops + other.flops, self.bytes + other.bytes)


@dataclass(frozen=True, slots=True)
class _Step:
    op: str
    inputs: tuple[str | Array, ...]
    attributes: dict[str, Any]
    outputs: tuple[str, ...]


@dataclass
class Draft:
    """Steps so far; ``shapes`` maps a value to channels and spatial sizes, None where a size is open."""

    opset: int
    dtype: np.dtype[Any]
    shapes: dict[str, tuple[int | None, ...]] = field(default_factory=dict)
    steps: list[_Step] = field(default_factory=list)
    price: Price = Price()

    def copy(self) -> Draft:
        """A draft to try something on."""
        return Draft(self.opset, self.dtype, dict(self.shapes), list(self.steps), self.price)

    def adopt(self, other: Draft) -> None:
        """Go on from a copy."""
        self.shapes, self.steps, self.price = other.shapes, other.steps, other.price

    def emit(self, emitter: Emitter, result: str) -> str:
        """Write all nodes; gives the final name of ``result``."""
        names: dict[str, str] = {}
        for step in self.steps:
            inputs = [
                names.get(value, value) if isinstance(value, str) else emitter.array(value)
                for value in step.inputs
            ]
            names[step.outputs[0]] = emitter.call(step.op, "", inputs, dict(step.attributes))
            for more in step.outputs[1:]:
                names[more] = emitter.names.fresh(f"{emitter.base}/{step.op}")
                emitter.nodes[-1].output.append(names[more])
        return names.get(result, result)

    # values ------------------------------------------------------------------------------------------------------

    def deconv(self, x: str, operation: Deconv) -> str:
        """The ConvTranspose itself."""
        _, *sizes = self.shapes[x]
        lengths = tuple(None if n is None else operation.length(i, n) for i, n in enumerate(sizes))
        flops = 2.0 * _count(sizes) * math.prod(operation.weights.shape)
        attributes = {
            "group": operation.group,
            "kernel_shape": list(operation.kernel),
            "strides": list(operation.strides),
            "pads": [*operation.begin, *operation.end],
        }
        if any(operation.extra):
            attributes["output_padding"] = list(operation.extra)
        shape = (operation.channels[1], *lengths)
        return self._weighted("ConvTranspose", x, operation.weights, operation.bias, attributes, shape, flops)

    def conv(
        self, x: str, weights: Array, bias: Array | None, group: int, begin: Sequence[int], end: Sequence[int]
    ) -> str:
        """A Conv with stride 1; ``weights`` [Cout, Cin/group, *kernel]."""
        _, *sizes = self.shapes[x]
        kernel = weights.shape[2:]
        lengths = tuple(
            None if n is None else n + a + b - k + 1
            for n, a, b, k in zip(sizes, begin, end, kernel, strict=True)
        )
        attributes = {"group": group, "kernel_shape": list(kernel), "pads": [*begin, *end]}
        flops = 2.0 * _count(lengths) * math.prod(weights.shape)
        return self._weighted("Conv", x, weights, bias, attributes, (weights.shape[0], *lengths), flops)

    def shuffle(self, x: str, strides: Sequence[int]) -> str:
        """[C * s1 * .. * sn, d1, .., dn] to [C, d1 * s1, .., dn * sn]: a depth to space of any rank.

        Raises NotPossible where DepthToSpace cannot do it and more than one size is open.
        """
        channels, *sizes = self.shapes[x]
        assert channels is not None
        rank, depth = len(strides), channels // math.prod(strides)
        shape = (depth, *(None if n is None else n * s for n, s in zip(sizes, strides, strict=True)))
        if rank == 2 and len(set(strides)) == 1 and self.opset >= 11:
            return self._move("DepthToSpace", [x], shape, blocksize=strides[0], mode="CRD")
        if sum(size is None for size in sizes) > 1:
            raise NotPossible(
                "several sizes of its input are open, and DepthToSpace wants equal strides on two axes"
            )
        split = [0, depth, *strides, *(-1 if n is None else n for n in sizes)]
        order = [0, 1, *(axis for i in range(rank) for axis in (2 + rank + i, 2 + i))]
        merged = [0, *(-1 if n is None else n for n in shape)]
        apart = self._move("Reshape", [x, np.array(split, np.int64)], (channels, *sizes), free=True)
        turned = self._move("Transpose", [apart], (channels, *sizes), perm=order)
        return self._move("Reshape", [turned, np.array(merged, np.int64)], shape, free=True)

    def crop(self, x: str, begin: Sequence[int], end: Sequence[int]) -> str:
        """Without ``begin`` and ``end`` elements of the spatial axes; x itself where there is nothing to cut."""
        channels, *sizes = self.shapes[x]
        axes = [i for i in range(len(sizes)) if begin[i] or end[i]]
        if not axes:
            return x
        shape = (
            channels,
            *(None if n is None else n - a - b for n, a, b in zip(sizes, begin, end, strict=True)),
        )
        return self._move(
            "Slice",
            [x],
            shape,
            starts=[begin[i] for i in axes],
            ends=[-end[i] if end[i] else _TO_END for i in axes],
            axes=[i + 2 for i in axes],
        )

    def pad(self, x: str, begin: Sequence[int], end: Sequence[int]) -> str:
        """With zeros around; one entry for channels and each spatial axis."""
        sizes = self.shapes[x]
        shape = tuple(None if n is None else n + a + b for n, a, b in zip(sizes, begin, end, strict=True))
        return self._move("Pad", [x], shape, pads=[0, *begin, 0, *end])

    def take(self, x: str, channels: Sequence[int]) -> str:
        """These channels, in this order."""
        shape = (len(channels), *self.shapes[x][1:])
        if list(channels) == list(range(len(channels))):
            return self._move("Slice", [x], shape, starts=[0], ends=[len(channels)], axes=[1])
        return self._move("Gather", [x, np.array(channels, np.int64)], shape, axis=1)

    def split(self, x: str, parts: int) -> list[str]:
        """Equal parts of the channels."""
        channels, *sizes = self.shapes[x]
        assert channels is not None
        each = channels // parts
        outputs = tuple(f"\0{len(self.shapes) + i}" for i in range(parts))
        self.steps.append(_Step("Split", (x,), {"axis": 1, "split": [each] * parts}, outputs))
        self.shapes |= dict.fromkeys(outputs, (each, *sizes))
        self.price += Price(bytes=4.0 * channels * _count(sizes))
        return list(outputs)

    def concat(self, parts: Sequence[str]) -> str:
        """Channels one after the other."""
        channels = sum(self.shapes[part][0] or 0 for part in parts)
        return self._move("Concat", list(parts), (channels, *self.shapes[parts[0]][1:]), axis=1)

    def unsqueeze(self, x: str) -> str:
        """With a last axis of size 1."""
        shape = self.shapes[x]
        return self._move("Unsqueeze", [x], (*shape, 1), free=True, axes=[len(shape) + 1])

    def squeeze(self, x: str) -> str:
        """Without the last axis."""
        shape = self.shapes[x][:-1]
        return self._move("Squeeze", [x], shape, free=True, axes=[len(shape) + 1])

    def resize(self, x: str, scales: Sequence[int], mode: str, positions: str) -> str:
        """Resize by whole factors of the spatial axes. Raises NotPossible before opset 11."""
        if self.opset < 11:
            raise NotPossible("Resize has its coordinate modes from opset 11 on")
        channels, *sizes = self.shapes[x]
        shape = (channels, *(None if n is None else n * s for n, s in zip(sizes, scales, strict=True)))
        region: str | Array = "" if self.opset >= 13 else np.zeros(0, np.float32)
        factors = np.array([1, 1, *scales], np.float32)
        more: dict[str, Any] = {"nearest_mode": "floor"} if mode == "nearest" else {}
        return self._move(
            "Resize", [x, region, factors], shape, mode=mode, coordinate_transformation_mode=positions, **more
        )

    def add(self, x: str, bias: Array | None) -> str:
        """Plus a number for each channel."""
        if bias is None:
            return x
        shape = self.shapes[x]
        return self._move("Add", [x, bias.reshape(-1, *[1] * (len(shape) - 1))], shape)

    def _weighted(
        self,
        op: str,
        x: str,
        weights: Array,
        bias: Array | None,
        attributes: dict[str, Any],
        shape: tuple[int | None, ...],
        flops: float,
    ) -> str:
        constants = [np.ascontiguousarray(weights)] + (
            [np.ascontiguousarray(bias)] if bias is not None else []
        )
        self.price += Price(flops, 2.0 * sum(values.size for values in constants))
        return self._step(op, [x, *constants], shape, attributes)

    def _move(
        self,
        op: str,
        inputs: list[str | Array],
        shape: tuple[int | None, ...],
        free: bool = False,
        **attributes: Any,
    ) -> str:
        """A node that only moves values; ``free``: it does not even do that (a Reshape)."""
        if not free:
            read = sum(_count(self.shapes[name]) for name in inputs if isinstance(name, str) and name)
            self.price += Price(bytes=2.0 * (read + _count(shape)))
        return self._step(op, inputs, shape, attributes)

    def _step(
        self,
        op: str,
        inputs: Sequence[str | Array],
        shape: tuple[int | None, ...],
        attributes: dict[str, Any],
    ) -> str:
        name = f"\0{len(self.shapes)}"
        self.shapes[name] = shape
        self.steps.append(_Step(op, tuple(inputs), attributes, (name,)))
        return name


def _count(sizes: Sequence[int | None]) -> float:
    return float(math.prod(_OPEN if size is None else size for size in sizes))
