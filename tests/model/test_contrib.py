"""Files that ONNX Runtime's optimizers wrote: they load, their types are known, and they are repaired."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

import onnx_fp16fix
from onnx_fp16fix.errors import ModelError
from onnx_fp16fix.model import infer_types, wrap_model

SKIP = """<ir_version: 8, opset_import: ["" : 14]>
    g (float[2,3,8] x) => (float[2,3,8] y) {
        h = MatMul(x, w)
        n = com.microsoft.SkipLayerNormalization<epsilon: float = 1e-12>(h, h, one, zero)
        a = com.microsoft.BiasGelu(n, zero)
        l, r = Split<axis: int = -1>(a)
        c = Concat<axis: int = -1>(r, l)
        y = LayerNormalization(c, one, zero)
    }"""


def fused() -> onnx.ModelProto:
    proto = parser.parse_model(SKIP)
    for name, values in {"w": np.eye(8) * 1e6, "one": np.ones(8), "zero": np.zeros(8)}.items():
        proto.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return proto


def test_ops_of_onnx_runtime_need_no_import_and_pass_on_types() -> None:
    types = infer_types(wrap_model(fused()))
    found = {name: types.get((), name).elem_type for name in ("n", "a", "l", "r", "c")}
    assert set(found.values()) == {onnx.TensorProto.FLOAT}


def test_other_ops_without_a_schema_are_refused() -> None:
    proto = fused()
    proto.graph.node[-1].op_type = "LayerNormalisation"
    with pytest.raises(ModelError, match="No Op registered for LayerNormalisation"):
        wrap_model(proto)


def test_a_fused_model_runs_in_fp16_as_a_whole() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32)
    outcome = onnx_fp16fix.fix(fused(), {"x": x}, tensorrt="off")
    assert outcome.run.status == "ok"
    assert outcome.plan is not None
    assert not outcome.plan.fp32_nodes
    assert outcome.verification is not None
    assert outcome.verification.fp32 is not None
    assert outcome.verification.fp32.identical
