"""ConvTranspose models, rules that call one action, and what ONNX Runtime makes of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from language._models import load_text, patched, view
from onnx_fp16fix.language import Rule, RuleRun, apply_rules

__all__ = ["deconv", "mend", "run", "sample"]

_RULE = """
schema: fp16fix/1
rules:
  - id: TEST001
    name: test-deconv
    summary: A test
    equal: real
    targets: [tensorrt, tensorrt-rtx, dla, directml, onnxruntime-cuda]
    match: ConvTranspose(x, w, *rest, **attrs)
    action: {ACTION}
"""
_LOADED: dict[str, tuple[Rule, ...]] = {}


def deconv(
    inputs: int,
    outputs: int,
    kernel: list[int],
    *,
    size: list[Any] | None = None,
    weights: np.ndarray | None = None,
    bias: bool = True,
    as_node: bool = False,
    opset: int = 17,
    integers: bool = True,
    **attributes: Any,
) -> onnx.ModelProto:
    """One ConvTranspose; small whole weights make every sum exact in any order."""
    rng, group = np.random.default_rng(7), attributes.get("group", 1)
    shape = (inputs, outputs // group, *kernel)
    if weights is None:
        weights = rng.integers(-4, 5, shape) if integers else rng.normal(size=shape)
    constants = {"w": np.asarray(weights, np.float32)}
    if bias:
        constants["b"] = rng.integers(-9, 10, outputs).astype(np.float32)
    size = size or [6, 5, 4][: len(kernel)]
    nodes, initializers = [], []
    for name, values in constants.items():
        tensor = numpy_helper.from_array(values, name)
        if as_node:
            nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            initializers.append(tensor)
    nodes.append(helper.make_node("ConvTranspose", ["x", *constants], ["y"], name="up", **attributes))
    graph = helper.make_graph(
        nodes,
        "deconv",
        [helper.make_tensor_value_info("x", 1, ["N" if "H" in size else 2, inputs, *size])],
        [helper.make_tensor_value_info("y", 1, [None] * (2 + len(kernel)))],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def mend(
    model: onnx.ModelProto, action: str, folder: Path, target: Any = "tensorrt"
) -> tuple[onnx.ModelProto, RuleRun]:
    """The model after one pass of a rule with this action."""
    if action not in _LOADED:
        _LOADED[action] = load_text(_RULE.replace("{ACTION}", action), folder)
    found = apply_rules(view(model), _LOADED[action], None, targets=[target])
    return patched(model, found), found


def sample(model: onnx.ModelProto, integers: bool = True) -> np.ndarray:
    """An input of the model; open sizes become 5, 6, ..."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    shape = [dim.dim_value or 5 + place for place, dim in enumerate(dims)]
    rng = np.random.default_rng(3)
    values = rng.integers(-8, 9, shape) if integers else rng.normal(size=shape)
    return values.astype(np.float32)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """The output in ONNX Runtime, node by node."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]
