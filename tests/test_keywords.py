"""Keywords of the library with a value of the wrong Python type are refused like any other mistake."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest

import onnx_fp16fix
from onnx_fp16fix.errors import UsageError
from onnx_text import model

X = {"x": np.ones(4, np.float32)}
PROTO: onnx.ModelProto = model("(float[4] x) => (float[4] y) { y = Relu(x) }")


def fix(**options: Any) -> object:
    return onnx_fp16fix.fix(PROTO, X, tensorrt="off", **options)


@pytest.mark.parametrize(
    ("call", "options", "words"),
    [
        (fix, {"margin": "x"}, ["margin is 'x'; it must be a number"]),
        (fix, {"margin": "2"}, ["margin is '2'", "hint: without quotes: 2"]),
        (fix, {"keep_fp32": 3}, ["keep_fp32 is 3 of type int; it must be a string or a list", "as a string: '3'"]),
        (fix, {"force_fp16_ops": None}, ["force_fp16_ops is None"]),
        (fix, {"allow": ["exact", 3]}, ["allow is ['exact', 3] of type list"]),
        (fix, {"limits": {"a": "b"}}, ["a mapping of regular expressions to numbers or None"]),
        (fix, {"verify": "off"}, ["verify is 'off'; it must be True or False"]),
        (fix, {"samples": 2.0, "seed": "1"}, ["samples is 2.0 of type float", "seed is '1'"]),
        (fix, {"ranges": 2}, ["ranges is 2 of type int; it must be a path or None"]),
        (fix, {"progress": print}, ["the methods step and warn"]),
        (lambda **options: onnx_fp16fix.check(PROTO, X, **options), {"simulate": "no"}, ["simulate is 'no'"]),
        (lambda **options: onnx_fp16fix.bisect(PROTO, X, **options), {"trials": True}, ["trials is True"]),
        (lambda **options: onnx_fp16fix.apply(PROTO, 5, X, **options), {}, ["rules is 5 of type int"]),
        (lambda **options: onnx_fp16fix.verify(PROTO, PROTO, X, **options), {"tolerance": "a"}, ["tolerance is 'a'"]),
        (lambda **options: onnx_fp16fix.calibrate(PROTO, X, **options), {"memory": "1G"}, ["memory is '1G'"]),
        (onnx_fp16fix.prove_rules, {"select": 3}, ["select is 3"]),
    ],
)  # fmt: skip
def test_a_value_of_a_wrong_type_is_refused(
    call: Callable[..., object], options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        call(**options)
    assert {problem.code for problem in caught.value.problems} == {"USAGE-TYPE"}
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_numbers_and_flags_of_numpy_are_fine() -> None:
    fix(margin=np.float32(2), samples=np.int64(2), force=np.True_, verify=0, keep_fp32=["y"])
