"""How long all shipped rules take on graphs of any size: CPU seconds of matching, and where they go.

python -m benchmarks.rules [transformer|cnn|unlike|sums|products|quotients ...] [NODES ...]

Nothing repeats in ``unlike``. ``sums``, ``products`` and ``quotients`` are chains that no model has: each node is an
operand of many others' formulas.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnx_fp16fix.calibrate import RangeTable, TensorRange
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.language import Rule, apply_rules, load_rules
from onnx_fp16fix.model import Model

__all__ = ["cnn", "transformer"]

DEFAULT_SIZES = (25_000, 50_000, 100_000)
WIDTH, ROWS = 8, 4


class _Writer:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def op(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=f"/{op}_{name}", **attributes))
        return name

    def number(self, value: object) -> str:
        array = np.asarray(value, np.float32)
        name = f"c{array.shape}{array.reshape(-1)[:4].tolist()}"
        self.constants.setdefault(name, numpy_helper.from_array(array, name))
        return name


def transformer(nodes: int) -> onnx.ModelProto:
    """Blocks of attention and MLP, each exporter's layer norm spelled out, RMS norms, GELU, rotary positions; every
    formula that a shipped rule knows, and many more products and sums that none does."""
    g = _Writer()
    weight = g.number(np.linspace(0.1, 0.2, WIDTH * WIDTH).reshape(WIDTH, WIDTH))
    row = g.number(np.linspace(0.5, 1.5, WIDTH))
    stream, mask = "x", g.number(np.triu(np.full((ROWS, ROWS), -1e9), 1))
    cos, sin = g.op("Cos", "x"), g.op("Sin", "x")
    while len(g.nodes) < nodes:
        normed = _layer_norm(g, stream, row)
        q, k, v = (g.op("Add", g.op("MatMul", normed, weight), row) for _ in range(3))
        q, k = (g.op("Add", g.op("Mul", part, cos), g.op("Mul", g.op("Neg", part), sin)) for part in (q, k))
        scores = g.op("Div", g.op("MatMul", q, g.op("Transpose", k, perm=[0, 2, 1])), g.number(8.0))
        heads = g.op("MatMul", g.op("Softmax", g.op("Add", scores, mask), axis=-1), v)
        stream = g.op("Add", stream, g.op("MatMul", heads, weight))
        normed = _rms_norm(g, stream, row)
        up, gate = g.op("MatMul", normed, weight), g.op("Add", g.op("MatMul", normed, weight), row)
        half = g.op("Mul", gate, g.number(0.5))
        gelu = g.op("Mul", half, g.op("Add", g.op("Erf", g.op("Div", gate, g.number(2**0.5))), g.number(1.0)))
        stream = g.op("Add", stream, g.op("MatMul", g.op("Mul", up, gelu), weight))
    return _model(g, stream, [1, ROWS, WIDTH])


def _layer_norm(g: _Writer, x: str, row: str) -> str:
    centred = g.op("Sub", x, g.op("ReduceMean", x, axes=[-1]))
    variance = g.op("ReduceMean", g.op("Pow", centred, g.number(2.0)), axes=[-1])
    normed = g.op("Div", centred, g.op("Sqrt", g.op("Add", variance, g.number(1e-5))))
    return g.op("Add", g.op("Mul", normed, row), row)


def _rms_norm(g: _Writer, x: str, row: str) -> str:
    mean = g.op("ReduceMean", g.op("Mul", x, x), axes=[-1])
    inverse = g.op("Reciprocal", g.op("Sqrt", g.op("Add", mean, g.number(1e-6))))
    return g.op("Mul", g.op("Mul", x, inverse), row)


def cnn(nodes: int) -> onnx.ModelProto:
    """Residual blocks with batch norm, SiLU, ReLU6, squeeze-and-excite, and a group norm spelled out."""
    g = _Writer()
    weight = g.number(np.full((WIDTH, WIDTH, 3, 3), 0.1))
    scale, shift, mean, variance = (
        g.number(np.linspace(low, low + 1, WIDTH)) for low in (0.5, 0.1, -0.5, 1.0)
    )
    stream = "x"
    while len(g.nodes) < nodes:
        inner = g.op("BatchNormalization", _conv(g, stream, weight), scale, shift, mean, variance)
        inner = g.op("Mul", inner, g.op("Sigmoid", inner))
        pooled = g.op("GlobalAveragePool", inner)
        gate = g.op("Sigmoid", _conv(g, g.op("Relu", _conv(g, pooled, weight)), weight))
        inner = g.op(
            "BatchNormalization", _conv(g, g.op("Mul", inner, gate), weight), scale, shift, mean, variance
        )
        stream = g.op("Clip", g.op("Add", stream, inner), g.number(0.0), g.number(6.0))
        centred = g.op("Sub", stream, g.op("ReduceMean", stream, axes=[2, 3]))
        spread = g.op("ReduceMean", g.op("Mul", centred, centred), axes=[2, 3])
        stream = g.op("Div", centred, g.op("Sqrt", g.op("Add", spread, g.number(1e-5))))
    return _model(g, stream, [1, WIDTH, ROWS, ROWS])


def _conv(g: _Writer, x: str, weight: str) -> str:
    return g.op("Conv", x, weight, pads=[1, 1, 1, 1])


def chain(*ops: str) -> Callable[[int], onnx.ModelProto]:
    """A chain of these ops in turn; each node reads the two before it, and every third a constant."""

    def build(nodes: int) -> onnx.ModelProto:
        g = _Writer()
        last = before = "x"
        while len(g.nodes) < nodes:
            op = ops[len(g.nodes) % len(ops)]
            other = g.number(1.5 + len(g.nodes) % 7) if len(g.nodes) % 3 == 2 else before
            last, before = g.op(op, last, *(() if op in ("Sqrt", "Neg") else (other,))), last
        return _model(g, last, [1, ROWS, WIDTH])

    return build


def unlike(nodes: int) -> onnx.ModelProto:
    """Nodes at random, each reading some of the last twenty: nothing repeats."""
    g, pick = _Writer(), random.Random(1)
    near = ["x"] * 20
    while len(g.nodes) < nodes:
        op = pick.choice(
            ("Mul", "Mul", "Add", "Add", "Sub", "Div", "Sqrt", "Pow", "ReduceMean", "Softmax", "Erf", "Exp")
        )
        inputs, attributes = [pick.choice(near)], dict[str, object]()
        if op in ("Mul", "Add", "Sub", "Div"):
            inputs.append(pick.choice(near) if pick.random() < 0.6 else g.number(round(pick.random(), 2)))
        elif op == "Pow":
            inputs.append(g.number(2.0))
        elif op in ("ReduceMean", "Softmax"):
            attributes = {"axes": [-1]} if op == "ReduceMean" else {"axis": -1}
        near = [*near[1:], g.op(op, *inputs, **attributes)]
    return _model(g, near[-1], [1, ROWS, WIDTH])


def _model(g: _Writer, output: str, shape: list[int]) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", output))
    graph = helper.make_graph(g.nodes, "benchmark", [x], [y], list(g.constants.values()))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


GRAPHS: dict[str, Callable[[int], onnx.ModelProto]] = {
    "transformer": transformer,
    "cnn": cnn,
    "sums": chain("Add", "Sub", "Add"),
    "products": chain("Mul", "Div", "Mul"),
    "unlike": unlike,
    "quotients": chain("Div", "Neg", "Sub", "Sqrt", "Mul", "Add"),
}


def main(arguments: list[str]) -> None:
    rules = load_rules(["pack:all"])
    sizes = [int(argument) for argument in arguments if argument.isdigit()] or DEFAULT_SIZES
    for name in [argument for argument in arguments if not argument.isdigit()] or GRAPHS:
        for size in sizes:
            _measure(name, GRAPHS[name](size), rules)


def _measure(name: str, model: onnx.ModelProto, rules: Sequence[Rule]) -> None:
    view = build_view(Model(model))
    names = [str(output) for node in view.main.nodes for output in node.proto.output]
    table = RangeTable({tensor: TensorRange(-1000.0, 1000.0, count=1) for tensor in ["x", *names]}, 1)
    before = time.process_time()
    run = apply_rules(view, rules, table)
    seconds = time.process_time() - before
    nodes = len(view.main.nodes)
    print(
        f"{name} {nodes:>8,} nodes  {len(rules)} rules  {seconds:6.2f} s CPU, {1e6 * seconds / nodes:.0f} us a node  "
        f"{len(run.records)} matches, {sum(stats.given_up for stats in run.stats)} tries given up"
    )
    for stats in sorted(run.stats, key=lambda stats: -stats.seconds)[:6]:
        print(
            f"    {stats.rule:<10} {stats.seconds:6.2f} s  {stats.tried:>7} tried  {stats.matched:>6} matched"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
