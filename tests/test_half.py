"""The 16-bit types: limits that are those of their bit patterns, and rounding as ONNX Runtime's Cast has it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnx_fp16fix.half import BF16, FP16, FloatType
from onnx_fp16fix.runtime import open_session


def cast(values: np.ndarray, half: FloatType) -> np.ndarray:
    """FLOAT values as the type holds them."""
    graph = onnx.GraphProto(name="round")
    graph.input.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, None))
    graph.node.append(helper.make_node("Cast", ["x"], ["half"], to=half.elem_type))
    graph.node.append(helper.make_node("Cast", ["half"], ["y"], to=TensorProto.FLOAT))
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return open_session(proto, outputs=["y"]).run({"x": values})["y"]


def decoded(bits: np.ndarray, half: FloatType) -> np.ndarray:
    if half is FP16:
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize("half", [FP16, BF16], ids=lambda half: half.name)
def test_rounding_is_that_of_onnx_runtime(half: FloatType) -> None:
    patterns = np.random.default_rng(0).integers(0, 1 << 32, 200_000, dtype=np.uint32)
    ties = (np.arange(1 << 16, dtype=np.uint32) << 16) | 0x8000
    values = np.concatenate([patterns, ties]).view(np.float32)
    values = values[~np.isnan(values)]
    found = decoded(half.encode(values), half)
    np.testing.assert_array_equal(found.view(np.uint32), cast(values, half).view(np.uint32))
    assert np.isnan(decoded(half.encode(np.float32([np.nan, -np.nan])), half)).all()


@pytest.mark.parametrize("half", [FP16, BF16], ids=lambda half: half.name)
def test_limits_are_where_rounding_says(half: FloatType) -> None:
    limits = np.float32([half.max, half.min_normal, half.tiny, 1 + half.eps, half.integers])
    np.testing.assert_array_equal(decoded(half.encode(limits), half), limits)
    assert int(half.encode(np.float32([half.max]))[0]) + 1 == half.infinity
    assert int(half.encode(np.float32([half.tiny]))[0]) == 1
    beyond = np.float32([half.tiny / 2, 1 + half.eps / 2, half.integers + 1])
    np.testing.assert_array_equal(decoded(half.encode(beyond), half), [0, 1, half.integers])
