"""Types carried over to a patched model: what inference of the whole model finds, or nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from language._models import case
from onnx_fp16fix.calibrate import calibrate, open_data
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.language import shipped_rules
from onnx_fp16fix.model import Patch, apply_patches, carried_types, infer_types, wrap_model
from onnx_fp16fix.pipeline.rules import RuleStage

NEGATED = helper.make_node("Neg", ["a"], ["b"])


def chain(shape="2,3"):
    return wrap_model(
        onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["": 18]> g (float[{shape}] x) => (float[{shape}] z)
        <float[3] w = {{1, 2, 3}}> {{ a = Exp(x)  b = Mul(a, w)  z = Add(b, a) }}""")
    )


def rewritten(node, *constants, **edits):
    """In place of node 1, which makes b of a and w."""
    tensors = [numpy_helper.from_array(values, name) for name, values in constants]
    return Patch(replaced={1: node}, initializers=tensors, **edits)


def whole(model, patch):
    return infer_types(replace(apply_patches(model, [patch]), types=None))


def test_only_what_is_new_is_inferred():
    model = chain()
    patch = rewritten(
        helper.make_node("Unsqueeze", ["c", "axes"], ["d"]),
        ("axes", np.array([0, -1])),
        dropped_initializers={"w"},
        inserted={
            1: [helper.make_node("Transpose", ["a"], ["c"])],
            2: [helper.make_node("Neg", ["a"], ["b"])],
        },
    )
    found = carried_types(infer_types(model), patch, model)
    assert found == whole(model, patch)
    assert found.get((), "d").shape == (1, 3, 2, 1)
    assert "w" not in found.scopes[()]


@pytest.mark.parametrize(
    ("model", "patch"),
    [
        (chain("n,3"), rewritten(NEGATED)),
        (chain(), rewritten(helper.make_node("Reshape", ["a", "n"], ["b"]), ("n", np.array([3, 2])))),
        (chain(), rewritten(helper.make_node("Shape", ["a"], ["n"]), inserted={2: [NEGATED]})),
        (chain(), rewritten(helper.make_node("Mine", ["a"], ["b"], domain="of.mine"))),
        (chain(), Patch(rewired={2: (["a", "a"], ["z"])})),
        (chain(), Patch(replaced_initializers={"w": numpy_helper.from_array(np.ones((1, 3), np.float32), "w")})),
        (chain(), rewritten(NEGATED, value_info={"b": helper.make_tensor_value_info("b", 1, [2, 3])})),
    ],
    ids=["unknown size", "another shape", "sizes", "unknown op", "rewired", "another weight", "declared"],
)  # fmt: skip
def test_whatever_may_change_types_elsewhere_has_the_whole_model_inferred(model, patch):
    assert carried_types(infer_types(model), patch, model) is None


@pytest.mark.parametrize(
    "text",
    ["Log(1.0 + Exp(x))", "e = Exp(x)\ne / ReduceSum(e, axes=[-1], keepdims=1)"],
)  # fmt: skip
def test_a_model_that_rules_rewrote_has_the_types_that_inference_finds(text):
    model = wrap_model(case(text, x="float [4, 16]"))
    data = open_data({"x": np.linspace(-9e4, 9e4, 64, dtype=np.float32).reshape(4, 16)}, model.proto)
    stage = RuleStage(shipped_rules, 2.0)
    trial = stage.run(build_view(model), calibrate(model.proto, data))
    assert trial.types == infer_types(replace(trial, types=None))
