"""What a case of a rule says of its tensors: type, shape, measured range, or the values of a constant."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

if TYPE_CHECKING:
    from onnx_fp16fix.calibrate.ranges import TensorRange

__all__ = ["TYPES", "Given", "check_size", "parse_given"]

_GIVEN = re.compile(r"(?:(float16|float|double|int64|int32|bool)\b)?\s*(?:\[([^\]]*)\])?\s*(.*)")
TYPES = {
    "float": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "double": TensorProto.DOUBLE,
    "int64": TensorProto.INT64,
    "int32": TensorProto.INT32,
    "bool": TensorProto.BOOL,
}
_MOST_ELEMENTS = 1 << 24
"""Of any tensor of a case: a case is a small model."""
_WORDS = ("absmax", "vmin", "vmax", "smallest", "fill", "all")


@dataclass(frozen=True, slots=True)
class Given:
    """``float [4, D] absmax=300``: type, shape, measured range; ``fill`` and ``all`` make a constant: that value above
    a diagonal of zeros, or everywhere."""

    dtype: int = TensorProto.FLOAT
    shape: tuple[int | str, ...] | None = None
    facts: Mapping[str, float] | None = None

    def range(self) -> TensorRange | None:
        """The measured range, None where nothing was given."""
        from onnx_fp16fix.calibrate.ranges import TensorRange

        facts = dict(self.facts or {})
        facts.pop("fill", None)
        facts.pop("all", None)
        if not facts:
            return None
        absmax = facts.get("absmax", max(abs(facts.get("vmin", 0.0)), abs(facts.get("vmax", 0.0))))
        smallest = facts.get("smallest", np.inf)
        return TensorRange(facts.get("vmin", -absmax), facts.get("vmax", absmax), smallest, count=1)


def parse_given(text: str) -> Given:
    """Read one entry of ``given``. Raises ValueError."""
    form = _GIVEN.fullmatch(text.strip())
    if form is None:
        raise ValueError(f"'{text}' is not a description such as 'float [4, 8] absmax=3'")
    facts = {}
    for word in form.group(3).split():
        key, _, value = word.partition("=")
        if key not in _WORDS:
            raise ValueError(f"'{word}' is not one of {', '.join(_WORDS)} with '=' and a number")
        facts[key] = float(value)
        if key not in ("fill", "all") and not abs(facts[key]) <= np.finfo(np.float32).max:
            raise ValueError(f"'{word}' is no FP32 number")
    shape: tuple[int | str, ...] | None = None
    if form.group(2) is not None:
        parts = [part.strip() for part in form.group(2).split(",") if part.strip()]
        shape = tuple(int(part) if part.isdecimal() and len(part) < 10 else part for part in parts)
        check_size(text, shape)
    return Given(TYPES[form.group(1) or "float"], shape, facts)


def check_size(what: str, shape: Sequence[int | str | None]) -> None:
    if math.prod(size for size in shape if isinstance(size, int)) > _MOST_ELEMENTS:
        raise ValueError(f"'{what}' has more than {_MOST_ELEMENTS} elements")
