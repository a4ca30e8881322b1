"""A residual stream of RMS norms and products: all its exponents hang together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def rms_stream(start: float, gains: Sequence[float], activations: Sequence[str]) -> onnx.ModelProto:
    """x [4, 8] times ``start`` is ``s0``; block i adds to ``s{i}`` the activation of its norm times weights of such a
    gain."""
    random = np.random.default_rng(0)
    weights: dict[str, Any] = {"two": np.float32(2), "eps": np.float32(1e-5), "start": np.eye(8) * start}
    nodes = [helper.make_node("MatMul", ["x", "start"], ["s0"])]
    for block, (gain, activation) in enumerate(zip(gains, activations, strict=True)):
        weights[f"w{block}"] = random.standard_normal((8, 8)) * gain
        s, q, m, a, r, d, h, t = (f"{letter}{block}" for letter in "sqmardht")
        nodes += [
            helper.make_node("Pow", [s, "two"], [q]),
            helper.make_node("ReduceMean", [q], [m], axes=[-1]),
            helper.make_node("Add", [m, "eps"], [a]),
            helper.make_node("Sqrt", [a], [r]),
            helper.make_node("Div", [s, r], [d]),
            helper.make_node("MatMul", [d, f"w{block}"], [h]),
            helper.make_node(activation, [h], [t]),
            helper.make_node("Add", [s, t], [f"s{block + 1}"]),
        ]
    nodes.append(helper.make_node("Softmax", [f"d{len(gains) - 1}"], ["y"]))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 8]) for name in "xy")
    initializers = [numpy_helper.from_array(np.asarray(v, np.float32), name) for name, v in weights.items()]
    graph = helper.make_graph(nodes, "stream", [x], [y], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
