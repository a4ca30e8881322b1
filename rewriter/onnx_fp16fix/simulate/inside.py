"""What was measured inside bodies, as a part of the whole report: its place, what came first, what does no harm."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

import onnx

from onnx_fp16fix.calibrate.ranges import tensor_key
from onnx_fp16fix.fp16 import EPS
from onnx_fp16fix.model.model import ScopePath, subgraphs
from onnx_fp16fix.runtime import node_reads
from onnx_fp16fix.simulate.bodies import Inside, matching_bodies
from onnx_fp16fix.simulate.report import TensorError

__all__ = ["first_of", "harmless_inside", "in_order"]

_RIGHT = 4 * EPS
"""Relative error of a tensor that is as right as a few roundings leave it."""


def in_order(
    before: onnx.GraphProto,
    rounded: onnx.GraphProto,
    main: Mapping[str, TensorError],
    inside: Mapping[str, Inside],
) -> dict[str, TensorError]:
    """All tensors in topological order, those inside a body before what its node makes."""
    places = matching_bodies(before, rounded) if inside else {}
    found: dict[str, TensorError] = {}
    for key in _keys(rounded, (), places):
        if key in main:
            found[key] = main[key]
        elif key in inside:
            entry = inside[key]
            metric = entry.distance
            found[key] = TensorError(key, metric.rel_l2, metric.max_abs, metric.nonfinite, entry.run)
    return found


def _keys(graph: onnx.GraphProto, path: ScopePath, places: Mapping[ScopePath, ScopePath]) -> Iterator[str]:
    """Keys, as in the first model, of what a graph of the second one is fed and makes."""
    own = places.get(path, ())
    if own:
        yield from (tensor_key(own, info.name) for info in graph.input)
    for index, node in enumerate(graph.node):
        for element, body in subgraphs(node) if places else ():
            inner = (*path, f"{index}:{element}")
            if inner in places:
                yield from _keys(body, inner, places)
        yield from (tensor_key(own, name) for name in node.output if name)


def first_of(
    tensors: Mapping[str, TensorError],
    inside: Mapping[str, Inside],
    wrong: Callable[[TensorError], bool],
    when: Callable[[Inside], int | None],
) -> str | None:
    """The first tensor that is wrong; inside a body the first in time, for a loop comes round to its beginning."""
    first = next((name for name, error in tensors.items() if wrong(error)), None)
    if first is None or first not in inside:
        return first
    node = _node(first)
    times = {
        key: at for key, entry in inside.items() if _node(key) == node and (at := when(entry)) is not None
    }
    return min(times, key=lambda key: times[key], default=first)


def _node(key: str) -> str:
    """The main graph's node whose body a tensor belongs to."""
    return key.split(":")[0]


def harmless_inside(graph: onnx.GraphProto, tensors: Mapping[str, TensorError]) -> frozenset[str]:
    """Non-finite tensors of bodies whose readers all came out right, or harmless in turn.

    ``harm`` puts the true value in the place of an infinity; here the reader's own error tells, for it has no other
    cause that would make it smaller: tanh(inf) is right, x / inf is off by all there is. What leaves a body is harmful.
    """
    harmless: set[str] = set()
    for path, body in _bodies(graph, ()):
        readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in body.node:
            for name in set(node_reads(node)):
                readers[name].append(node)
        outputs = {info.name for info in body.output}
        names = [*(info.name for info in body.input), *(n for node in body.node for n in node.output if n)]
        for name in reversed(names):
            error = tensors.get(tensor_key(path, name))
            if error is None or not error.nonfinite or name in outputs:
                continue
            effects = list(_effects(name, readers, path, tensors))
            if all(_is_fine(effect, path, outputs, tensors, harmless) for effect in effects):
                harmless.add(error.name)
    return frozenset(harmless)


def _bodies(graph: onnx.GraphProto, path: ScopePath) -> Iterator[tuple[ScopePath, onnx.GraphProto]]:
    for index, node in enumerate(graph.node):
        for element, body in subgraphs(node):
            inner = (*path, f"{index}:{element}")
            yield inner, body
            yield from _bodies(body, inner)


def _effects(
    name: str,
    readers: Mapping[str, list[onnx.NodeProto]],
    path: ScopePath,
    tensors: Mapping[str, TensorError],
) -> Iterator[str]:
    """Compared tensors that are computed from ``name``, through those that are not compared (a mask, an index)."""
    pending, seen = [name], {name}
    while pending:
        for node in readers.get(pending.pop(), ()):
            for output in node.output:
                if not output or output in seen:
                    continue
                seen.add(output)
                yield output
                if tensor_key(path, output) not in tensors:
                    pending.append(output)


def _is_fine(
    name: str, path: ScopePath, outputs: set[str], tensors: Mapping[str, TensorError], harmless: set[str]
) -> bool:
    error = tensors.get(tensor_key(path, name))
    if error is None:
        return name not in outputs
    return error.name in harmless if error.nonfinite else error.rel_l2 <= _RIGHT
