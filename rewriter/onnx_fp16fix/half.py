"""The 16-bit types that a model can be typed in: their limits, and exact rounding to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from onnx_fp16fix import fp16

__all__ = ["BF16", "FP16", "HALF_TYPES", "FloatType", "Half"]

Half = Literal["fp16", "bf16"]


@dataclass(frozen=True, slots=True)
class FloatType:
    """A floating-point type with IEEE 754's subnormals, infinities and NaN.

    ``label`` is its name in sentences, ``suffix`` in names of tensors and in ONNX's ``tensor(...)``. ``bits`` of
    significand, the implicit one included; ``max`` the largest finite magnitude; 2**``least`` the smallest normal one.
    """

    name: Half
    label: str
    suffix: str
    elem_type: int
    bits: int
    least: int
    max: float
    target: str = ""
    """What the model is made for, where that has not all kernels of the type; see ``operators.kernels``."""

    @property
    def min_normal(self) -> float:
        """Below it the relative precision falls by one bit per power of two."""
        return 2.0**self.least

    @property
    def tiny(self) -> float:
        """Smallest subnormal magnitude; half of it and less rounds to zero."""
        return 2.0 ** (self.least - self.bits + 1)

    @property
    def eps(self) -> float:
        """Distance from 1 to the next larger value; rounding is off by at most half of it."""
        return 2.0 ** (1 - self.bits)

    @property
    def integers(self) -> float:
        """Up to here every integer is held exactly."""
        return 2.0**self.bits

    @property
    def infinity(self) -> int:
        """Bit pattern of +inf; those of all finite magnitudes are smaller."""
        return 0x8000 - (1 << self.bits - 1)

    def encode(self, values: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
        """Bit patterns of the values rounded to nearest even, subnormals and signs of zeros kept, out of range to
        infinity; never clamped."""
        if self.elem_type == TensorProto.FLOAT16:
            return fp16.to_float16(values).view(np.uint16)
        exact = np.asarray(values, np.float32)
        wide = exact.view(np.uint32)
        half = ((wide + (0x7FFF + ((wide >> 16) & 1))) >> 16).astype(np.uint16)
        return np.where(np.isnan(exact), np.uint16(0x7FC0), half)


FP16: Final = FloatType("fp16", "FP16", "float16", TensorProto.FLOAT16, 11, -14, fp16.MAX)
BF16: Final = FloatType("bf16", "BF16", "bfloat16", TensorProto.BFLOAT16, 8, -126, (2 - 2.0**-7) * 2.0**127)
"""The upper half of an FP32 value: its range, and 8 bits of significand."""
HALF_TYPES: Final[dict[Half, FloatType]] = {"fp16": FP16, "bf16": BF16}
