"""A model whose square overflows, and what ``bisect`` says of models."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnx_fp16fix
from calibrate.small_models import model
from onnx_fp16fix.document import BisectEntry
from onnx_fp16fix.errors import UserError

__all__ = ["BIG", "entry_of", "refused", "square"]

SQUARE = """g (float[n,4] x) => (float[n,4] y) {
    a = Tanh(x)
    [square] b = Mul(x, x)
    m = ReduceMean <axes = [-1]> (b)
    r = Sqrt(m)
    [divide] d = Div(x, r)
    y = Add(a, d)
}"""
BIG = {"x": np.array([[300, -500, 800, 100]], np.float32)}


def square() -> onnx.ModelProto:
    return model(SQUARE)


def entry_of(proto: Any, data: Any, **options: Any) -> BisectEntry:
    entry = onnx_fp16fix.bisect(proto, data, **options).run.bisect
    assert entry is not None
    return entry


def refused(error: type[UserError], code: str, words: str, *args: Any, **options: Any) -> None:
    with pytest.raises(error) as caught:
        onnx_fp16fix.bisect(*args, **options)
    assert caught.value.problems[0].code == code
    assert words in str(caught.value)
