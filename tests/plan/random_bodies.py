"""Small random graphs with an If, a Loop or a Scan, which may hold an If of its own and reads tensors from outside."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from plan.random_graphs import SHAPE, STEPS, Builder, Step, extend

__all__ = ["Held", "build_held", "feeds", "held"]

TURNS = 3
_INFO = helper.make_tensor_value_info
_FLOAT, _BOOL, _INT = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64


@dataclass(frozen=True)
class Held:
    """Steps before the node ``op``, in its body (of the If: in both branches), and after it; ``nested``: those of an
    If inside the body; ``outer``: what the body reads from outside besides weights, counted back."""

    op: str
    before: list[Step]
    body: list[Step]
    other: list[Step]
    after: list[Step]
    nested: list[Step] | None = None
    outer: int = 0


def build_held(case: Held) -> onnx.ModelProto:
    """The model; ``x``, ``c`` and ``xs`` are its inputs, the last tensor and what the node stacks its outputs."""
    graph = Builder()
    extend(graph, case.before)
    outside = [entry for entry in graph.tensors if entry[1] == SHAPE]
    start, outer = outside[-1], outside[-1 - case.outer % len(outside)]
    stacked: list[onnx.ValueInfoProto] = []
    if case.op == "If":
        branches = [
            _branch(f"{name}.", steps, [outer, start])
            for name, steps in (("then", case.body), ("else", case.other))
        ]
        graph.nodes.append(
            helper.make_node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1])
        )
    elif case.op == "Loop":
        body = _body("Loop", case, outer)
        graph.nodes.append(helper.make_node("Loop", ["turns", "", start[0]], ["y", "all"], body=body))
    else:
        body = _body("Scan", case, outer)
        graph.nodes.append(
            helper.make_node("Scan", [start[0], "xs"], ["y", "all"], body=body, num_scan_inputs=1)
        )
    if case.op != "If":
        stacked = [_INFO("all", _FLOAT, (TURNS, *SHAPE))]
    graph.add("y", SHAPE)
    extend(graph, case.after)
    last, shape = graph.tensors[-1]
    proto = helper.make_graph(
        graph.nodes,
        "random",
        [_INFO("x", _FLOAT, SHAPE), _INFO("c", _BOOL, ()), _INFO("xs", _FLOAT, (TURNS, *SHAPE))],
        [_INFO(last, _FLOAT, shape), *stacked],
        [
            *graph.weights,
            numpy_helper.from_array(np.array(TURNS), "turns"),
            numpy_helper.from_array(np.array(2), "two"),
        ],
    )
    return helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _last(graph: Builder) -> str:
    """The newest tensor of the usual shape, as one that the body makes."""
    name = next(name for name, shape in reversed(graph.tensors) if shape == SHAPE)
    made = any(name in node.output for node in graph.nodes)
    return name if made else graph.node("Identity", name)


def _branch(prefix: str, steps: list[Step], tensors: list[tuple[str, tuple[int, ...]]]) -> onnx.GraphProto:
    graph = Builder(tensors=list(tensors), prefix=prefix)
    extend(graph, steps)
    return helper.make_graph(graph.nodes, prefix, [], [_INFO(_last(graph), _FLOAT, SHAPE)], graph.weights)


def _body(op: str, case: Held, outer: tuple[str, tuple[int, ...]]) -> onnx.GraphProto:
    graph = Builder(tensors=[outer, ("b.p", SHAPE)], prefix="b.")
    inputs, outputs = [_INFO("b.p", _FLOAT, SHAPE)], list[onnx.ValueInfoProto]()
    if op == "Loop":
        inputs = [_INFO("b.i", _INT, ()), _INFO("b.go", _BOOL, ()), *inputs]
        graph.nodes.append(helper.make_node("Identity", ["b.go"], ["b.again"]))
        outputs.append(_INFO("b.again", _BOOL, ()))
    else:
        inputs.append(_INFO("b.x", _FLOAT, SHAPE))
        graph.add("b.x", SHAPE)
    extend(graph, case.body)
    if case.nested is not None:
        branches = [
            _branch(f"b.{name}.", steps, [outer, (_last(graph), SHAPE)])
            for name, steps in (("then", case.nested), ("else", case.other))
        ]
        condition = "c"
        if op == "Loop":
            condition = graph.node("Cast", graph.node("Mod", "b.i", "two"), to=_BOOL)
        name = f"b.t{len(graph.nodes)}"
        graph.nodes.append(
            helper.make_node("If", [condition], [name], then_branch=branches[0], else_branch=branches[1])
        )
        graph.add(name, SHAPE)
    result = _last(graph)
    made = [name for name, shape in graph.tensors if shape == SHAPE and name.startswith("b.t")]
    stack = graph.node("Identity", made[case.outer % len(made)] if made else result)
    outputs += [_INFO(result, _FLOAT, SHAPE), _INFO(stack, _FLOAT, SHAPE)]
    return helper.make_graph(graph.nodes, "b", inputs, outputs, graph.weights)


def feeds(seed: int) -> list[dict[str, np.ndarray]]:
    """Both ways of the condition."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(SHAPE).astype(np.float32)
    xs = rng.standard_normal((TURNS, *SHAPE)).astype(np.float32)
    return [{"x": x, "c": np.array(flag), "xs": xs} for flag in (True, False)]


_FEW = st.lists(STEPS, max_size=4)
_SOME = st.lists(STEPS, min_size=1, max_size=5)
held = st.builds(
    Held,
    op=st.sampled_from(("Loop", "If", "Scan")),
    before=_FEW,
    body=_SOME,
    other=_SOME,
    after=_FEW,
    nested=st.none() | _SOME,
    outer=st.integers(0, 3),
)
