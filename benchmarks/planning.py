"""What planning costs: CPU seconds of the solver, of the whole plan, and of ``fix`` beyond calibration.

python -m benchmarks.planning [GRAPH ...] [NODES ...]     all graphs, 1000 and 10000 nodes

Each row is taken in a process of its own, on a model made here with data that put every block of it at risk. ``at
risk``: nodes that the solver looks at. ``fix`` runs without verification; ``beyond calibration`` is all of it but
running the model on the data, rules and emission included, but not loading ONNX Runtime and scipy (0.5 s, once).
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH, ROWS = 16, 4
DEFAULT_SIZES = (1_000, 10_000)


class Writer:
    """A graph written node by node; equal constants are shared."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[TensorProto] = []
        self.random = np.random.default_rng(0)
        self._numbers: dict[float, str] = {}

    def op(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def number(self, value: float) -> str:
        return self._numbers.setdefault(value, self.constant(np.float32(value)))

    def constant(self, values: Any) -> str:
        name = f"c{len(self.constants)}"
        array = np.asarray(values)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def weight(self, *shape: int, gain: float = 1.0) -> str:
        fan = int(np.prod(shape)) // shape[0] if len(shape) > 2 else shape[0]
        return self.constant(self.random.standard_normal(shape) * gain * fan**-0.5)

    def model(self, result: str, shape: list[int]) -> onnx.ModelProto:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        y = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "planning", [x], [y], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def rms(nodes: int) -> onnx.ModelProto:
    """A residual stream of 3000 whose squares overflow in every RMS norm: all exponents hang together."""
    g = Writer()
    stream = g.op("MatMul", "x", g.weight(WIDTH, WIDTH, gain=3000.0))
    while len(g.nodes) < nodes:
        normed = _rms_norm(g, stream)
        inner = g.op("Relu", g.op("MatMul", normed, g.weight(WIDTH, WIDTH)))
        stream = g.op("Add", stream, g.op("MatMul", inner, g.weight(WIDTH, WIDTH)))
    return g.model(_rms_norm(g, stream), [ROWS, WIDTH])


def _rms_norm(g: Writer, x: str) -> str:
    mean = g.op("ReduceMean", g.op("Pow", x, g.number(2.0)), axes=[-1])
    root = g.op("Sqrt", g.op("Add", mean, g.number(1e-5)))
    return g.op("Mul", g.op("Div", x, root), g.constant(g.random.uniform(0.5, 2.0, WIDTH)))


def islands(nodes: int) -> onnx.ModelProto:
    """Products of 1e6 between sigmoids: regions that have nothing to do with each other."""
    g = Writer()
    x = "x"
    while len(g.nodes) < nodes:
        big = g.op(
            "Add", g.op("MatMul", x, g.weight(WIDTH, WIDTH, gain=1e6)), g.constant(np.full(WIDTH, 1e5))
        )
        small = g.op("MatMul", g.op("Relu", big), g.weight(WIDTH, WIDTH, gain=1e-6))
        x = g.op("Sigmoid", g.op("Add", small, g.constant(np.zeros(WIDTH))))
    return g.model(x, [ROWS, WIDTH])


def conv(nodes: int) -> onnx.ModelProto:
    """Residual convolutions with a normalization folded into each, whose inner features reach 1e6."""
    g = Writer()
    x = g.op("Conv", "x", g.weight(8, 3, 3, 3), pads=[1] * 4)
    while len(g.nodes) < nodes:
        big = g.op(
            "Relu", g.op("Conv", x, g.weight(8, 8, 3, 3, gain=1e6), g.constant(np.ones(8)), pads=[1] * 4)
        )
        small = g.op("Conv", big, g.weight(8, 8, 3, 3, gain=1e-7), pads=[1] * 4)
        x = g.op("Relu", g.op("Add", x, small))
    return g.model(x, [1, 3, 4, 4])


def attention(nodes: int) -> onnx.ModelProto:
    """Blocks of layer norm, attention with scores of 1e6 before their scale, and a gated unit on one stream."""
    return _transformer(nodes, every=1)


def tenth(nodes: int) -> onnx.ModelProto:
    """The same where nine blocks of ten have nothing that FP16 cannot hold, which is what most models look like."""
    return _transformer(nodes, every=10)


def _transformer(nodes: int, every: int) -> onnx.ModelProto:
    """``every``: one block of so many overflows."""
    g = Writer()
    width, x, blocks = WIDTH, "x", 0
    while len(g.nodes) < nodes:
        large, blocks = blocks % every == 0, blocks + 1
        normed = _layer_norm(g, x)
        q, k, v = (
            g.op(
                "Add", g.op("MatMul", normed, g.weight(width, width, gain=gain)), g.constant(np.zeros(width))
            )
            for gain in ((300.0, 300.0, 1.0) if large else (1.0, 1.0, 1.0))
        )
        scale = g.number(1e-5 if large else 0.25)
        scores = g.op("Mul", g.op("MatMul", q, g.op("Transpose", k, perm=[1, 0])), scale)
        heads = g.op("MatMul", g.op("Softmax", scores, axis=-1), v)
        x = g.op("Add", x, g.op("MatMul", heads, g.weight(width, width)))
        normed = _layer_norm(g, x)
        gains = (400.0, 300.0, 1e-4) if large else (1.0, 1.0, 1.0)
        up, gate = (g.op("MatMul", normed, g.weight(width, width, gain=gain)) for gain in gains[:2])
        gated = g.op("Mul", g.op("Mul", gate, g.op("Sigmoid", gate)), up)
        x = g.op("Add", x, g.op("MatMul", gated, g.weight(width, width, gain=gains[2])))
    return g.model(_layer_norm(g, x), [ROWS, width])


def _layer_norm(g: Writer, x: str) -> str:
    centred = g.op("Sub", x, g.op("ReduceMean", x, axes=[-1]))
    variance = g.op("ReduceMean", g.op("Pow", centred, g.number(2.0)), axes=[-1])
    normed = g.op("Div", centred, g.op("Sqrt", g.op("Add", variance, g.number(1e-5))))
    return g.op("Add", g.op("Mul", normed, g.constant(np.ones(WIDTH))), g.constant(np.zeros(WIDTH)))


def gated(nodes: int) -> onnx.ModelProto:
    """Convolutions with SiLU of features that reach 1e6: each gate needs its true operand, so each costs a Mul."""
    g = Writer()
    x = g.op("Conv", "x", g.weight(8, 3, 3, 3), pads=[1] * 4)
    while len(g.nodes) < nodes:
        big = g.op("Conv", x, g.weight(8, 8, 3, 3, gain=1e6), g.constant(np.ones(8)), pads=[1] * 4)
        silu = g.op("Mul", big, g.op("Sigmoid", big))
        bias = g.constant(np.ones(8))
        x = g.op("Tanh", g.op("Conv", silu, g.weight(8, 8, 3, 3, gain=1e-6), bias, pads=[1] * 4))
    return g.model(x, [1, 3, 4, 4])


def mixed(nodes: int) -> onnx.ModelProto:
    """The RMS stream with a branch in each block that no exponent saves: exponentials of up to 1e6."""
    g = Writer()
    stream = g.op("MatMul", "x", g.weight(WIDTH, WIDTH, gain=3000.0))
    while len(g.nodes) < nodes:
        normed = _rms_norm(g, stream)
        grown = g.op("Exp", g.op("Mul", g.op("Tanh", normed), g.number(14.0)))
        logged = g.op("Log", g.op("Add", grown, g.number(1.0)))
        stream = g.op("Add", stream, g.op("MatMul", logged, g.weight(WIDTH, WIDTH)))
    return g.model(_rms_norm(g, stream), [ROWS, WIDTH])


def varied(nodes: int) -> onnx.ModelProto:
    """The gated convolutions with sizes and gains of their own in each block: nothing repeats."""
    g = Writer()
    x, width = "x", 3
    while len(g.nodes) < nodes:
        half, inner, outer = (int(g.random.integers(*ends)) for ends in ((0, 2), (4, 24), (4, 24)))
        gain, kernel, pads = float(10 ** g.random.uniform(5, 7)), 2 * half + 1, [half] * 4
        up = g.weight(inner, width, kernel, kernel, gain=gain)
        big = g.op("Conv", x, up, g.constant(np.ones(inner)), pads=pads)
        silu = g.op("Mul", big, g.op("Sigmoid", big))
        down = g.weight(outer, inner, kernel, kernel, gain=1 / gain)
        x = g.op("Tanh", g.op("Conv", silu, down, g.constant(np.ones(outer)), pads=pads))
        width = outer
    return g.model(x, [1, 3, 4, 4])


MODELS: dict[str, Callable[[int], onnx.ModelProto]] = {
    "rms": rms,
    "islands": islands,
    "conv": conv,
    "attention": attention,
    "tenth": tenth,
    "gated": gated,
    "varied": varied,
    "mixed": mixed,
}


class Watch:
    """CPU seconds inside a function, all its calls together; put in its place."""

    def __init__(self, owner: Any, name: str) -> None:
        self.seconds, self.results = 0.0, list[Any]()
        inner = getattr(owner, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            started = time.process_time()
            self.results.append(inner(*arguments, **options))
            self.seconds += time.process_time() - started
            return self.results[-1]

        setattr(owner, name, watched)


def measure(name: str, nodes: int) -> str:
    """One row."""
    import onnxruntime  # noqa: F401  a process loads its libraries once, whatever the model
    import scipy.optimize  # noqa: F401

    import onnx_fp16fix
    from onnx_fp16fix.pipeline import prepare
    from onnx_fp16fix.plan import planner
    from onnx_fp16fix.plan.solver import program

    model = MODELS[name](nodes)
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    data = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    calibration, draft, plan = (
        Watch(prepare, "measure"),
        Watch(planner.Draft, "__init__"),
        Watch(planner.Draft, "plan"),
    )
    region, solver = Watch(planner, "region"), Watch(program, "_solve")
    started = time.process_time()
    outcome = onnx_fp16fix.fix(model, data, verify=False)
    rest = time.process_time() - started - calibration.seconds
    planned = plan.results[-1]
    return (
        f"{name:10} {len(model.graph.node):>7,} nodes {max(map(len, region.results)):>7,} at risk"
        f"  solver {solver.seconds:5.2f} s  plan {draft.seconds + plan.seconds:5.2f} s"
        f" ({len(draft.results)}x, {len(plan.results)} whole)"
        f"  fix beyond calibration {rest:5.2f} s"
        f"  price {planned.cost:.4g}  {len(planned.fp32)} in FP32  {len(planned.muls)} Muls"
        f"  {'ok' if outcome.run.status == 'ok' else outcome.run.status}"
    )


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--one"]:
        print(measure(arguments[1], int(arguments[2])))
        return
    sizes = [int(argument) for argument in arguments if argument.isdigit()] or DEFAULT_SIZES
    for name in [argument for argument in arguments if not argument.isdigit()] or MODELS:
        for size in sizes:
            subprocess.run(
                [sys.executable, "-m", "benchmarks.planning", "--one", name, str(size)], check=True
            )


if __name__ == "__main__":
    main(sys.argv[1:])
