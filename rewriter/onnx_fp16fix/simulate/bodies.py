"""Tensors inside the bodies of If, Loop and Scan, compared each time their body runs.

Both models run body by body, as calibration runs them, side by side (``meeting``). A key is that of range tables
(``4:body:0::h``), with the places of the first model; bodies of the second one are found by what their nodes make.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnx_fp16fix.calibrate.data import Dataset, Feed
from onnx_fp16fix.calibrate.observer import Observer
from onnx_fp16fix.calibrate.origin import inline
from onnx_fp16fix.calibrate.ranges import tensor_key
from onnx_fp16fix.calibrate.runner import Runner, Setting
from onnx_fp16fix.calibrate.steps import Budget
from onnx_fp16fix.model.model import ScopePath, subgraphs
from onnx_fp16fix.progress import Progress
from onnx_fp16fix.runtime import Array, as_value
from onnx_fp16fix.simulate.meeting import Meeting, run_together
from onnx_fp16fix.simulate.metrics import Distance, distance

__all__ = ["Inside", "compare_bodies", "inner_tensors", "matching_bodies"]


@dataclass(slots=True)
class Inside:
    """What happened to one tensor of a body, worst over runs and samples.

    ``run``: number of the run, in its sample, in which it first was not finite, or else was furthest off. ``bad`` and
    ``lossy``: when, in the order of execution, it first was not finite or off by more than the threshold; None: never.
    """

    distance: Distance
    run: int
    bad: int | None = None
    lossy: int | None = None


@dataclass(slots=True)
class _Observer(Observer):
    """Brings the tensors in ``keys`` (own keys with the common ones) to the meeting."""

    side: int
    keys: Mapping[str, str]
    opened: frozenset[str]
    meeting: Meeting

    def wants(self, key: str) -> bool:
        return key in self.keys

    def opens(self, node: onnx.NodeProto) -> bool:
        return not self.opened.isdisjoint(node.output)

    def saw(self, keys: Sequence[str], values: Array, source: str | None) -> None:
        for key in keys:
            if key in self.keys:
                self.meeting.show(self.side, self.keys[key], values)


class _Record:
    """Gathers what the meetings of all samples show. ``exponents``: by common key."""

    def __init__(self, exponents: Mapping[str, int], threshold: float) -> None:
        self._exponents, self._threshold = exponents, threshold
        self.found: dict[str, Inside] = {}
        self._time = 0

    def begin(self) -> None:
        """A new sample; what goes wrong early in any of them comes first."""
        self._time = 0

    def met(self, key: str, run: int, arrays: Mapping[int, Array]) -> None:
        """Reference 0 and simulation 1 have the tensor. Called one at a time, in nearly the order of execution."""
        self._time += 1
        metric = distance(arrays[1], arrays[0], self._exponents.get(key, 0))
        known = self.found.get(key)
        bad, lossy = metric.nonfinite > 0, not metric.rel_l2 <= self._threshold
        if known is None:
            known = self.found[key] = Inside(metric, run)
        else:
            further = not known.distance.rel_l2 >= metric.rel_l2
            known.run = run if further and known.bad is None else known.run
            known.distance = metric.worse(known.distance)
        known.bad = _earlier(known.bad, self._time) if bad else known.bad
        known.lossy = _earlier(known.lossy, self._time) if lossy else known.lossy


def _earlier(known: int | None, now: int) -> int:
    return now if known is None else min(known, now)


def matching_bodies(before: onnx.GraphProto, after: onnx.GraphProto) -> dict[ScopePath, ScopePath]:
    """Places of bodies in ``after`` with those in ``before``.

    Nodes are the same that have most names in common: their own, those of outputs and of what their bodies make. One of
    them may have changed, an output that is stored scaled for instance.
    """
    return dict(_matching(before, after, (), ()))


def _matching(
    before: onnx.GraphProto, after: onnx.GraphProto, at: ScopePath, there: ScopePath
) -> Iterator[tuple[ScopePath, ScopePath]]:
    known = [(index, node, _names(node)) for index, node in enumerate(before.node) if _has_bodies(node)]
    for index, node in enumerate(after.node):
        if not known or not _has_bodies(node):
            continue
        names = _names(node)
        number, twin, shared = max(known, key=lambda entry: len(entry[2] & names))
        if twin.op_type != node.op_type or not shared & names:
            continue
        inner = dict(subgraphs(node))
        for element, graph in subgraphs(twin):
            if element in inner:
                own, other = (*at, f"{number}:{element}"), (*there, f"{index}:{element}")
                yield other, own
                yield from _matching(graph, inner[element], own, other)


def _has_bodies(node: onnx.NodeProto) -> bool:
    return next(subgraphs(node), None) is not None


def _names(node: onnx.NodeProto) -> set[str]:
    made = {name for _, body in subgraphs(node) for inner in body.node for name in inner.output}
    return {*node.output, *made, node.name} - {""}


def inner_tensors(graph: onnx.GraphProto, path: ScopePath = ()) -> Iterator[tuple[ScopePath, list[str]]]:
    """Names that each body inside makes or is fed, bodies in the order of their nodes."""
    for index, node in enumerate(graph.node):
        for element, body in subgraphs(node):
            inner = (*path, f"{index}:{element}")
            names = [info.name for info in body.input]
            made = (n for node in body.node if node.op_type != "Constant" for n in node.output if n)
            yield inner, [*names, *made]
            yield from inner_tensors(body, inner)


def compare_bodies(
    before: onnx.ModelProto,
    rounded: onnx.ModelProto,
    data: Dataset,
    *,
    before_dir: Path | None,
    after_dir: Path | None,
    exponents: Mapping[str, int],
    threshold: float,
    progress: Progress,
) -> tuple[dict[str, Inside], dict[str, tuple[int, int]]]:
    """The float tensors that bodies of both models have, by key, and bodies that did not run equally often.

    ``rounded`` is the simulated model; ``exponents`` are by common key. A body that runs more often in one model is
    compared as long as both run; it comes out with both numbers, FP32 first.
    """
    places = matching_bodies(before.graph, rounded.graph)
    inside, theirs = dict(inner_tensors(before.graph)), dict(inner_tensors(rounded.graph))
    common = {
        tensor_key(other, name): tensor_key(own, name)
        for other, own in places.items()
        for name in set(inside[own]).intersection(theirs[other])
    }
    if not common:
        return {}, {}
    record = _Record(exponents, threshold)
    nothing = Meeting(record.met)
    sides = [
        _Observer(0, {key: key for key in common.values()}, _opened(before, places.values()), nothing),
        _Observer(1, common, _opened(rounded, places), nothing),
    ]
    runners = [
        _runner(model, folder, side)
        for model, folder, side in zip((before, rounded), (before_dir, after_dir), sides, strict=True)
    ]
    times: dict[str, tuple[int, int]] = {}
    with progress.step("simulate FP16 inside bodies", data.length) as step:
        for feed in data:
            meeting = sides[0].meeting = sides[1].meeting = Meeting(record.met)
            record.begin()
            run_together(meeting, *(partial(run, feed) for run in runners))
            for key in meeting.shown[0].keys() | meeting.shown[1].keys():
                counts = meeting.shown[0][key], meeting.shown[1][key]
                if counts[0] != counts[1]:
                    times.setdefault(key.split("::")[0], counts)
            step.advance()
    return record.found, times


def _opened(proto: onnx.ModelProto, places: Collection[ScopePath]) -> frozenset[str]:
    """Names that nodes with such bodies make."""

    def names(graph: onnx.GraphProto, path: ScopePath) -> Iterator[str]:
        for index, node in enumerate(graph.node):
            for element, body in subgraphs(node):
                inner = (*path, f"{index}:{element}")
                if inner in places:
                    yield from filter(None, node.output)
                    yield from names(body, inner)

    return frozenset(names(proto.graph, ()))


def _runner(
    proto: onnx.ModelProto, base_dir: Path | None, observer: _Observer
) -> Callable[[Feed], Mapping[str, Any]]:
    """Runs a model as far as its bodies go."""
    results = [name for node in proto.graph.node if observer.opens(node) for name in node.output if name]
    runner = Runner(Setting(proto, base_dir, inline(proto), Budget(), observer), proto.graph, (), results)
    types = {info.name: info.type.tensor_type.elem_type for info in proto.graph.input}

    def run(feed: Feed) -> Mapping[str, Any]:
        return runner.run({name: as_value(_typed(value, types[name])) for name, value in feed.items()})

    return run


def _typed(values: Array, elem_type: int) -> Array:
    """Floats as the type that the graph declares: the simulated model takes FLOAT where the real one takes FLOAT16."""
    if not np.issubdtype(values.dtype, np.floating):
        return values
    return values.astype(onnx.helper.tensor_dtype_to_np_dtype(elem_type), copy=False)
