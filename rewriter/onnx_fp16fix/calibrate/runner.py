"""Runs a graph part by part and shows every float tensor to whoever counts; bodies too, each time they run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from onnx_fp16fix.calibrate.control_flow import CONTROL_FLOW, run_if, run_loop, run_scan
from onnx_fp16fix.calibrate.observer import Observer
from onnx_fp16fix.calibrate.origin import Inlined
from onnx_fp16fix.calibrate.shapes import MEASURED_TYPES, Description, describe
from onnx_fp16fix.calibrate.steps import Budget, Step, make_steps, needed_nodes
from onnx_fp16fix.model.model import ScopePath
from onnx_fp16fix.model.tensors import is_external, read_tensor
from onnx_fp16fix.runtime import Session, as_value, node_reads, open_session

__all__ = ["Runner", "Setting"]

Value = Any
"""``onnxruntime.OrtValue``."""

_GROWTH = 2
"""Inputs this much larger than those the parts were cut for have them cut again."""


@dataclass(frozen=True)
class Setting:
    """What the main graph and all bodies share."""

    proto: onnx.ModelProto
    base_dir: Path | None
    inlined: Inlined
    budget: Budget
    observer: Observer
    weights: dict[str, Value] = field(default_factory=dict)
    """Weights of outer graphs that bodies read, as values."""


_SMALL = 1024
"""Elements of a weight whose copies do not count."""
_BLOCKED = 1 << 21
"""Weights (elements) of a part that may be copied."""
_LAYOUTS = 1000
"""Tensors fetched from a part up to which it runs blocked. ONNX Runtime 1.31 takes time with their cube to choose the
layouts of a chain of convolutions: 0.4 s for 1,000 of them, 1.6 s for 2,000, 15 s for 4,000, minutes for 10,000."""
_LAID_OUT = 1 << 26
"""Weights (elements) that kernels may lay out for themselves: 256 MiB in FP32. All others are read as they are."""

# Reading nothing but their first input, moving every element of it to exactly one place.
_SAME_ELEMENTS = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity"})


class Runner:
    """One graph: the main graph with ``path`` (), or a body.

    ``results``: names that ``run`` returns; only what these and the observer want is computed.
    """

    def __init__(
        self, setting: Setting, graph: onnx.GraphProto, path: ScopePath, results: Sequence[str]
    ) -> None:
        self._setting, self._graph, self._path, self._results = setting, graph, path, list(results)
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        if not path:  # functions are inlined in a copy without weights
            self._initializers = {tensor.name: tensor for tensor in setting.proto.graph.initializer}
        self._elements = -1
        self._sessions: dict[int, Session] = {}
        self._laid_out = 0
        self._bodies: dict[ScopePath, Runner] = {}

    def run(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Results for these inputs (and names of outer graphs); every measured tensor goes to the observer."""
        elements = sum(_size(value) for value in values.values())
        if self._elements < 0 or elements > _GROWTH * self._elements:
            self._prepare(values)
            self._elements = elements
        held = dict(values)
        for number, step in enumerate(self._steps):
            made = self._run_alone(step, held) if step.alone else self._run_part(number, step, held)
            self._show(step, made)
            held.update(made)
            del made
            for name in step.last:
                held.pop(name, None)
        return {name: held[name] if name in held else self._weight(name) for name in self._results}

    def _prepare(self, values: Mapping[str, Value]) -> None:
        """Learn types and sizes for inputs of this size, and cut the graph."""
        shapes = {name: value.shape() for name, value in values.items() if value.is_tensor()}
        model = self._as_model(values)
        known = describe(model, self._setting.base_dir, shapes, values)
        self._nodes = list(needed_nodes(self._graph, self._wanted(known), self._results))
        sizes = {
            name: known.bytes.get(name, 0)
            for at in self._nodes
            for slot, name in enumerate(self._graph.node[at].output)
            if name and known.types.get(name) in MEASURED_TYPES and self._is_wanted(at, slot)
        }
        self._measured = frozenset(sizes)
        self._sessions.clear()
        self._laid_out = 0
        self._steps = make_steps(
            [self._graph.node[at] for at in self._nodes],
            sizes,
            self._results,
            alone=lambda at: self._is_alone(self._graph.node[self._nodes[at]], known),
            unsplittable=known.untensored,
            budget=self._setting.budget,
        )
        self._origin = self._same_elements()

    def _wanted(self, known: Description) -> list[str]:
        return [
            name
            for at, node in enumerate(self._graph.node)
            for slot, name in enumerate(node.output)
            if name and known.types.get(name) in MEASURED_TYPES and self._is_wanted(at, slot)
        ]

    def _is_wanted(self, index: int, slot: int) -> bool:
        keys = self._setting.inlined.keys(self._graph.node[index], self._path, index, slot)
        return self._graph.node[index].op_type != "Constant" and any(map(self._setting.observer.wants, keys))

    def _as_model(self, values: Mapping[str, Value]) -> onnx.ModelProto:
        """The graph as a model of its own, with the types of this very run."""
        if not self._path and self._graph is self._setting.proto.graph:
            return self._setting.proto
        model = _header(self._setting.proto)
        model.graph.node.extend(self._graph.node)
        model.graph.initializer.extend(self._initializers.values())
        read = {name for node in self._graph.node for name in node_reads(node)}
        read.update(info.name for info in self._graph.input)
        for name in sorted(read & values.keys()):
            if values[name].is_tensor():
                kind, shape = values[name].element_type(), values[name].shape()
                model.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, shape))
        model.graph.output.extend(self._graph.output)
        return model

    def _is_alone(self, node: onnx.NodeProto, known: Description) -> bool:
        """Whether the node is run here: its bodies are opened, unless what passes through is no tensor."""
        if node.op_type not in CONTROL_FLOW or node.domain not in ("", "ai.onnx"):
            return False
        if not self._setting.observer.opens(node) or any(
            name in known.untensored for name in (*node_reads(node), *node.output)
        ):
            return False
        declared = (info for _, graph in _bodies(node) for info in (*graph.input, *graph.output))
        if any(info.type.WhichOneof("value") not in (None, "tensor_type") for info in declared):
            return False
        # Before version 9 Scan had a batch axis and sequence lengths.
        return node.op_type != "Scan" or _opset(self._setting.proto) >= 9

    def _run_part(self, number: int, step: Step, held: Mapping[str, Value]) -> dict[str, Value]:
        if not step.fetched:
            return {}
        if number not in self._sessions:
            self._sessions[number] = self._open_part(step, held)
        return self._sessions[number].run_values(held)

    def _open_part(self, step: Step, held: Mapping[str, Value]) -> Session:
        part = _header(self._setting.proto)
        part.graph.node.extend(self._graph.node[self._nodes[at]] for at in step.nodes)
        read = {name for node in part.graph.node for name in node_reads(node)}
        part.graph.initializer.extend(
            tensor for name, tensor in self._initializers.items() if name in read and name not in held
        )
        part.graph.sparse_initializer.extend(self._graph.sparse_initializer)
        # A weight of an outer graph arrives as a value; sequences cannot be given, and are never read across parts.
        given = {name: held[name].element_type() for name in read & held.keys() if held[name].is_tensor()}
        # Weights mapped from a file need no room beside the copies that kernels lay out for themselves; others do.
        weights = [tensor for tensor in part.graph.initializer if math.prod(tensor.dims) > _SMALL]
        mapped = all(map(is_external, weights))
        # Blocked layouts make convolutions a third faster, for two more copies of their weights. Nothing is fused:
        # every tensor is fetched.
        size = sum(math.prod(tensor.dims) for tensor in weights)
        prepack = mapped and self._laid_out + size <= _LAID_OUT
        self._laid_out += size if prepack else 0
        blocked = prepack and size <= _BLOCKED and len(step.fetched) <= _LAYOUTS
        blocked = blocked and any(node.op_type == "Conv" for node in part.graph.node)
        return open_session(
            part, self._setting.base_dir, outputs=step.fetched, given=given, optimize=blocked, arena=False,
            prepack=prepack,
        )  # fmt: skip

    def _show(self, step: Step, made: Mapping[str, Value]) -> None:
        inlined = self._setting.inlined
        for at in step.nodes:
            index = self._nodes[at]
            node = self._graph.node[index]
            for slot, name in enumerate(node.output):
                if name in self._measured:
                    keys = inlined.keys(node, self._path, index, slot)
                    self._setting.observer.saw(keys, made[name].numpy(), self._origin.get(name))

    def _same_elements(self) -> dict[str, str]:
        """Tensors that hold the elements of another measured one, with the key of that one."""
        origin: dict[str, str] = {}
        keys: dict[str, str] = {}
        for index in self._nodes:
            node = self._graph.node[index]
            for slot, name in enumerate(node.output):
                if name in self._measured:
                    keys[name] = self._setting.inlined.keys(node, self._path, index, slot)[0]
            if node.op_type in _SAME_ELEMENTS and node.domain in ("", "ai.onnx"):
                source = origin.get(node.input[0]) or keys.get(node.input[0])
                if source is not None:
                    origin[node.output[0]] = source
        return origin

    def _run_alone(self, step: Step, held: Mapping[str, Value]) -> dict[str, Value]:
        index = self._nodes[step.nodes[0]]
        node = self._graph.node[index]
        inputs = [self._value(name, held) if name else None for name in node.input]
        outer = {name: self._value(name, held) for name in node_reads(node) if self._has(name, held)}
        bodies = {
            name: (graph, self._body(graph, path, outer))
            for name, graph, path in self._setting.inlined.bodies(node, self._path, index)
        }
        if node.op_type == "If":
            results = run_if(inputs[0], bodies["then_branch"][1], bodies["else_branch"][1])
        elif node.op_type == "Loop":
            trip_count, condition = (*inputs, None, None)[:2]
            results = run_loop(trip_count, condition, inputs[2:], *bodies["body"])
        else:
            results = run_scan(node, inputs, *bodies["body"])
        return {name: value for name, value in zip(node.output, results, strict=False) if name}

    def _body(
        self, graph: onnx.GraphProto, path: ScopePath, outer: Mapping[str, Value]
    ) -> Callable[[Sequence[Value]], list[Value]]:
        if path not in self._bodies:
            self._bodies[path] = Runner(self._setting, graph, path, [info.name for info in graph.output])
        runner = self._bodies[path]

        def run(inputs: Sequence[Value]) -> list[Value]:
            for position, (info, value) in enumerate(zip(graph.input, inputs, strict=True)):
                key = self._setting.inlined.input_key(path, position, info.name)
                if (
                    value.is_tensor()
                    and value.element_type() in MEASURED_TYPES
                    and self._setting.observer.wants(key)
                ):
                    self._setting.observer.saw([key], value.numpy(), None)
            named = {info.name: value for info, value in zip(graph.input, inputs, strict=True)}
            results = runner.run({**outer, **named})
            return [results[info.name] for info in graph.output]

        return run

    def _has(self, name: str, held: Mapping[str, Value]) -> bool:
        return name in held or name in self._initializers

    def _value(self, name: str, held: Mapping[str, Value]) -> Value:
        return held[name] if name in held else self._weight(name)

    def _weight(self, name: str) -> Value:
        """An initializer as a value, read once."""
        weights = self._setting.weights
        if name not in weights:
            tensor = self._initializers[name]
            base_dir = self._setting.base_dir if is_external(tensor) else None
            weights[name] = as_value(read_tensor(tensor, base_dir))
        return weights[name]


def _header(proto: onnx.ModelProto) -> onnx.ModelProto:
    model = onnx.ModelProto(ir_version=proto.ir_version)
    model.opset_import.extend(proto.opset_import)
    model.graph.name = "part"
    return model


def _opset(proto: onnx.ModelProto) -> int:
    return next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)


def _bodies(node: onnx.NodeProto) -> Iterator[tuple[str, onnx.GraphProto]]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.name, attribute.g


def _size(value: Value) -> int:
    if not value.is_tensor():
        return 0
    size = 1
    for side in value.shape():
        size *= side
    return size
