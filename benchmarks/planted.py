"""Models of any size with faults planted in them: five ways to break in FP16, each undone again in FP32."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["FAULTS", "Planted", "planted"]

WIDTH = 16
BLOCK = 5
FAULTS = ("scaled-exp", "big-square", "tiny-eps", "cancellation", "out-of-range-constant")


@dataclass
class Planted:
    """``model``, ``data`` for it, and for each fault the nodes of which at least one must be named."""

    model: onnx.ModelProto
    data: list[dict[str, npt.NDArray[np.float32]]]
    culprits: dict[str, str]


@dataclass
class _Writer:
    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def op(self, name: str, op: str, *inputs: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [f"{name}:0"], name=name, **attributes))
        return f"{name}:0"

    def constant(self, name: str, value: object) -> str:
        self.initializers.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def block(self, stream: str, name: str) -> str:
        """Two matrices on a residual stream, as harmless as trained layers are."""
        up = self.constant(f"{name}/W1", self.rng.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5)
        down = self.constant(f"{name}/W2", self.rng.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5)
        hidden = self.op(f"{name}/up", "MatMul", stream, up)
        hidden = self.op(f"{name}/act", "Tanh", hidden)
        hidden = self.op(f"{name}/down", "MatMul", hidden, down)
        small = self.op(f"{name}/scale", "Mul", hidden, self.constant(f"{name}/s", 0.25))
        return self.op(f"{name}/add", "Add", stream, small)

    def fault(self, stream: str, kind: str, name: str) -> tuple[str, str]:
        """A part that computes something ordinary in FP32 and fails in FP16; its result and the node to blame."""
        if kind == "scaled-exp":  # softplus(8 x) / 8: exp passes 65504 from x = 1.39 on
            big = self.op(f"{name}/Mul", "Mul", stream, self.constant(f"{name}/c", 8.0))
            e = self.op(f"{name}/Exp", "Exp", big)
            log = self.op(
                f"{name}/Log", "Log", self.op(f"{name}/Add", "Add", e, self.constant(f"{name}/one", 1.0))
            )
            return self.op(f"{name}/Div", "Div", log, f"{name}/c"), f"{name}/Exp"
        if kind == "big-square":  # an RMS norm of 300 x
            big = self.op(f"{name}/Mul", "Mul", stream, self.constant(f"{name}/c", 300.0))
            square = self.op(f"{name}/Square", "Mul", big, big)
            mean = self.op(f"{name}/Mean", "ReduceMean", square, axes=[-1])
            return self.op(f"{name}/Div", "Div", big, self.op(f"{name}/Sqrt", "Sqrt", mean)), f"{name}/Square"
        if kind == "tiny-eps":  # x / sqrt((x - x)**2 + eps), eps lost: 0 / 0
            zero = self.op(f"{name}/Sub", "Sub", stream, stream)
            eps = self.op(f"{name}/Eps", "Add", zero, self.constant(f"{name}/eps", 1e-10))
            ratio = self.op(f"{name}/Div", "Div", zero, self.op(f"{name}/Sqrt", "Sqrt", eps))
            return self.op(f"{name}/Join", "Add", stream, ratio), f"{name}/Eps"
        if kind == "cancellation":
            far = self.op(f"{name}/Add", "Add", stream, self.constant(f"{name}/c", 3000.0))
            return self.op(f"{name}/Sub", "Sub", far, f"{name}/c"), f"{name}/Sub"
        tiny = self.op(f"{name}/Down", "Mul", stream, self.constant(f"{name}/c", 1e-6))
        return self.op(f"{name}/Up", "Mul", tiny, self.constant(f"{name}/d", 1e6)), f"{name}/Up"


def planted(
    nodes: int, faults: tuple[str, ...], seed: int, samples: int = 2, *, inside: bool = False
) -> Planted:
    """A residual chain of about ``nodes`` nodes with each of the faults at a random place.

    ``inside``: the chain is the body of a Loop that runs twice, and names are those of its nodes there.
    """
    rng = np.random.default_rng(seed)
    writer, culprits = _Writer(rng), dict[str, str]()
    count = max(nodes // BLOCK, len(faults) + 1)
    places = dict(zip(rng.choice(count, len(faults), replace=False).tolist(), faults, strict=True))
    stream = "p" if inside else "x"
    for index in range(count):
        stream = writer.block(stream, f"layer{index}")
        if index in places:
            kind = places[index]
            stream, culprits[kind] = writer.fault(stream, kind, f"layer{index}/{kind}")
    writer.nodes.append(helper.make_node("Identity", [stream], ["q" if inside else "y"], name="head"))
    x, y, p, q = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, WIDTH]) for name in "xypq")
    if inside:
        graph = _looped(writer, x, y, p, q)
        culprits = {kind: f"0:body:0::{name}" for kind, name in culprits.items()}
    else:
        graph = helper.make_graph(writer.nodes, "planted", [x], [y], writer.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data = [{"x": rng.standard_normal((4, WIDTH)).astype(np.float32)} for _ in range(samples)]
    return Planted(model, data, culprits)


def _looped(
    writer: _Writer, x: onnx.ValueInfoProto, y: onnx.ValueInfoProto, *carried: onnx.ValueInfoProto
) -> onnx.GraphProto:
    """The written nodes as the body of a Loop from ``x`` to ``y``; weights stay outside."""
    scalar = helper.make_tensor_value_info
    again = helper.make_node("Identity", ["go"], ["again"], name="again")
    number, go = scalar("i", TensorProto.INT64, []), scalar("go", TensorProto.BOOL, [])
    body = helper.make_graph(
        [again, *writer.nodes],
        "body",
        [number, go, carried[0]],
        [scalar("again", TensorProto.BOOL, []), carried[1]],
    )
    loop = helper.make_node("Loop", ["rounds", "", "x"], ["y"], name="loop", body=body)
    rounds = numpy_helper.from_array(np.array(2), "rounds")
    return helper.make_graph([loop], "planted", [x], [y], [*writer.initializers, rounds])
