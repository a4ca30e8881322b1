"""Floating-point operations of the ops that are matrix products."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import parser

from onnx_fp16fix.calibrate import calibrate, open_data
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.model import wrap_model
from onnx_fp16fix.operators import flops
from onnx_fp16fix.plan.known.facts import Facts

HEADS = {"x": (2, 3, 4, 8), "k": (2, 3, 5, 8), "v": (2, 3, 5, 6)}
FLAT = {"x": (2, 4, 24), "k": (2, 5, 24), "v": (2, 5, 18)}
CACHE = {"x": (2, 3, 4, 8), "k": (2, 3, 1, 8), "v": (2, 3, 1, 8), "p": (2, 3, 9, 8), "q": (2, 3, 9, 8)}
CASES = {
    "Attention(x, k, v)": HEADS,
    "Attention<q_num_heads = 3, kv_num_heads = 3>(x, k, v)": FLAT,
    "Attention(x, k, v, , p, q)": CACHE,
    "com.microsoft.MultiHeadAttention<num_heads = 3>(x, k, v)": FLAT,
}


@pytest.mark.parametrize("call", CASES)
def test_an_attention_is_two_products(call: str) -> None:
    shapes = CASES[call]
    inputs = ", ".join(f"float[{','.join(map(str, shape))}] {name}" for name, shape in shapes.items())
    header = '<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>'
    names = "y, a, b" if "p" in shapes else "y"
    proto: onnx.ModelProto = parser.parse_model(
        f"{header} g ({inputs}) => (float[] y) {{ {names} = {call} }}"
    )
    feed = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    scope = build_view(wrap_model(proto)).main
    facts = Facts(scope, calibrate(proto, open_data(feed, proto)), 2.0)
    batch, heads, queries, size = 2, 3, 4, 8
    keys = 10 if "p" in shapes else 5
    values = 8 if "p" in shapes else 6
    expected = 2 * batch * heads * queries * keys * (size + values)
    assert flops(facts.node_view(scope.nodes[0])) == expected
