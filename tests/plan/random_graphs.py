"""Small random graphs whose values leave FP16's range in every way, as Hypothesis strategies that shrink well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

__all__ = [
    "EXTREME",
    "SHAPE",
    "STEPS",
    "Builder",
    "Step",
    "build",
    "extend",
    "extreme_graphs",
    "feed",
    "graphs",
]

SHAPE = (1, 4, 5, 5)
"""Of the graph input. Images for convolutions, square matrices for products."""


@dataclass(frozen=True)
class Step:
    """One step of a graph: an op, which tensors it reads (counted back from the newest), and its weights."""

    op: str
    first: int = 0
    second: int = 1
    scale: float = 0.0
    """Common logarithm of the size of the weights."""
    seed: int = 0


@dataclass
class Builder:
    """The graph so far. Every tensor but reduced ones has the shape of the input, or more channels."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    tensors: list[tuple[str, tuple[int, ...]]] = field(default_factory=lambda: [("x", SHAPE)])
    prefix: str = ""

    def read(self, back: int) -> tuple[str, tuple[int, ...]]:
        return self.tensors[-1 - back % len(self.tensors)]

    def node(self, op: str, *inputs: str, **attrs: object) -> str:
        """A node; its result is the input of the next one, a tensor only once ``add`` says so."""
        name = f"{self.prefix}t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name=f"{op}_{name}", **attrs))
        return name

    def add(self, name: str, shape: tuple[int, ...]) -> None:
        self.tensors.append((name, shape))

    def weight(self, values: object) -> str:
        name = f"{self.prefix}w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values).astype(np.float32), name))
        return name


Rule = Callable[[Builder, Step, str, tuple[int, ...], Callable[..., str]], None]
"""Adds nodes that read a tensor (name, shape); the last argument makes random weights of a shape."""


def _unary(op: str, **attrs: object) -> Rule:
    return lambda graph, step, x, shape, random: graph.add(graph.node(op, x, **attrs), shape)


def _constant(op: str) -> Rule:
    def rule(graph: Builder, step: Step, x: str, shape: tuple[int, ...], random: Callable[..., str]) -> None:
        graph.add(graph.node(op, x, random(*([1] * 3 if step.seed % 2 else (shape[1], 1, 1)))), shape)

    return rule


def _pair(op: str) -> Rule:
    def rule(graph: Builder, step: Step, x: str, shape: tuple[int, ...], random: Callable[..., str]) -> None:
        y, other = graph.read(step.second)
        if any(a != b and 1 not in (a, b) for a, b in zip(shape, other, strict=True)):
            y, other = x, shape
        graph.add(graph.node(op, x, y), tuple(max(a, b) for a, b in zip(shape, other, strict=True)))

    return rule


def _reduce(op: str) -> Rule:
    def rule(graph: Builder, step: Step, x: str, shape: tuple[int, ...], random: Callable[..., str]) -> None:
        axes = ((2, 3), (-1,), (1,))[step.seed % 3]
        reduced = tuple(1 if axis in axes or axis - 4 in axes else size for axis, size in enumerate(shape))
        graph.add(graph.node(op, x, axes=list(axes)), reduced)

    return rule


def _conv(graph: Builder, step: Step, x: str, shape: tuple[int, ...], random: Callable[..., str]) -> None:
    size = 3 if min(shape[2:]) > 1 and step.seed % 2 else 1
    inputs = [x, random(4, shape[1], size, size), *([random(4)] if step.seed % 3 else [])]
    graph.add(graph.node("Conv", *inputs, pads=[size // 2] * 4), (shape[0], 4, *shape[2:]))


def _matmul(graph: Builder, step: Step, x: str, shape: tuple[int, ...], random: Callable[..., str]) -> None:
    graph.add(graph.node("MatMul", x, random(shape[3], 5)), (*shape[:3], 5))


def _gram(graph: Builder, step: Step, x: str, shape: tuple[int, ...], random: Callable[..., str]) -> None:
    turned = graph.node("Transpose", x, perm=[0, 1, 3, 2])
    graph.add(graph.node("MatMul", x, turned), (*shape[:3], shape[2]))


def _divide(graph: Builder, step: Step, x: str, shape: tuple[int, ...], random: Callable[..., str]) -> None:
    """By the magnitude of the tensor itself and an epsilon."""
    magnitude = graph.node("Abs", x)
    guarded = graph.node("Add", magnitude, graph.weight(10.0 ** min(step.scale, 0)))
    graph.add(graph.node("Div", x, guarded), shape)


def _rms(graph: Builder, step: Step, x: str, shape: tuple[int, ...], random: Callable[..., str]) -> None:
    square = graph.node("Pow", x, graph.weight(2.0)) if step.seed % 2 else graph.node("Mul", x, x)
    mean = graph.node("ReduceMean", square, axes=[-1])
    root = graph.node("Sqrt", graph.node("Add", mean, graph.weight(1e-5)))
    graph.add(graph.node("Div", x, root), shape)


def _sqrt(graph: Builder, step: Step, x: str, shape: tuple[int, ...], random: Callable[..., str]) -> None:
    graph.add(graph.node("Sqrt", graph.node("Abs", x)), shape)


def _concat(graph: Builder, step: Step, x: str, shape: tuple[int, ...], random: Callable[..., str]) -> None:
    y, other = graph.read(step.second)
    if (shape[0], *shape[2:]) != (other[0], *other[2:]) or shape[1] + other[1] > 12:
        y, other = x, shape
    graph.add(graph.node("Concat", x, y, axis=1), (shape[0], shape[1] + other[1], *shape[2:]))


def _layer_norm(
    graph: Builder, step: Step, x: str, shape: tuple[int, ...], random: Callable[..., str]
) -> None:
    graph.add(graph.node("LayerNormalization", x, random(shape[3]), random(shape[3])), shape)


def _batch_norm(
    graph: Builder, step: Step, x: str, shape: tuple[int, ...], random: Callable[..., str]
) -> None:
    variance = graph.weight(np.full(shape[1], 10.0**step.scale))
    parameters = [random(shape[1]) for _ in range(3)]
    graph.add(graph.node("BatchNormalization", x, *parameters, variance), shape)


RULES: dict[str, Rule] = {
    **{op: _unary(op) for op in ("Relu", "Neg", "Abs", "Sigmoid", "Tanh", "Identity", "GlobalAveragePool")},
    "LeakyRelu": _unary("LeakyRelu", alpha=0.1),
    "Softmax": _unary("Softmax", axis=-1),
    **{f"{op} constant": _constant(op) for op in ("Add", "Mul", "Sub", "Max", "Min")},
    **{f"{op} tensors": _pair(op) for op in ("Add", "Sub", "Mul")},
    **{op: _reduce(op) for op in ("ReduceMean", "ReduceMax", "ReduceL2")},
    "Conv": _conv,
    "MatMul": _matmul,
    "Gram": _gram,
    "Divide": _divide,
    "RMS": _rms,
    "Sqrt": _sqrt,
    "Concat": _concat,
    "LayerNormalization": _layer_norm,
    "BatchNormalization": _batch_norm,
}


def extend(graph: Builder, steps: list[Step]) -> None:
    """Add the nodes of the steps."""
    for step in steps:
        rng = np.random.default_rng(step.seed)
        x, shape = graph.read(step.first)

        def random(*size: int, rng: np.random.Generator = rng, scale: float = step.scale) -> str:
            return graph.weight(rng.standard_normal(size) * 10.0**scale)

        if step.op == "GlobalAveragePool":
            graph.add(graph.node("GlobalAveragePool", x), (*shape[:2], 1, 1))
        else:
            RULES[step.op](graph, step, x, shape, random)


def build(steps: list[Step], tap: int | None = None) -> onnx.ModelProto:
    """The graph of the steps; its outputs are the last tensor and, with ``tap``, one from inside."""
    graph = Builder()
    extend(graph, steps)
    tensors = dict(graph.tensors[1:])
    last = graph.tensors[-1][0]
    names = [last] if tap is None else list(dict.fromkeys([list(tensors)[tap % len(tensors)], last]))
    info = helper.make_tensor_value_info
    proto = helper.make_graph(
        graph.nodes,
        "random",
        [info("x", TensorProto.FLOAT, SHAPE)],
        [info(name, TensorProto.FLOAT, tensors[name]) for name in names],
        graph.weights,
    )
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def feed(seed: int) -> dict[str, np.ndarray]:
    """Values of the graph input."""
    return {"x": np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)}


STEPS = st.builds(
    Step,
    op=st.sampled_from(sorted(RULES)),
    first=st.integers(0, 3),
    second=st.integers(0, 5),
    scale=st.floats(-4, 6, width=16),
    seed=st.integers(0, 99),
)
graphs = st.lists(STEPS, min_size=3, max_size=12)
EXTREME = st.builds(
    Step,
    op=st.sampled_from(
        """Mul constant/Mul constant/Mul tensors/Mul tensors/Gram/Gram/MatMul/Conv/Divide/RMS/Sqrt/Identity/ReduceL2
        /ReduceMean/Max constant/Add tensors/LayerNormalization/BatchNormalization/Concat""".replace(
            "\n        ", ""
        ).split("/")
    ),
    first=st.integers(0, 2),
    second=st.integers(0, 3),
    scale=st.sampled_from((0.0,)) | st.floats(-22, -5, width=16) | st.floats(5, 18, width=16),
    seed=st.integers(0, 99),
)
extreme_graphs = st.lists(EXTREME, min_size=3, max_size=9)
"""Of products that come near both ends of FP32 itself."""
