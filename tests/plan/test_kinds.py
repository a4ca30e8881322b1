"""Pieces of one kind have one program: everything that the builder reads is in the kind."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Hashable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings

from onnx_fp16fix.calibrate import calibrate, open_data
from onnx_fp16fix.graph import build_view
from onnx_fp16fix.model import wrap_model
from onnx_fp16fix.plan import draft_plan
from onnx_fp16fix.plan.known.need import Need
from onnx_fp16fix.plan.known.room import Rooms
from onnx_fp16fix.plan.pieces.build import build_pieces, build_problem
from onnx_fp16fix.plan.pieces.kinds import Kinds, Piece
from onnx_fp16fix.plan.pieces.problem import Problem
from onnx_fp16fix.plan.solver.arrays import stacked
from plan.random_graphs import Step, build, feed, graphs

T = TypeVar("T")


def _benchmarks() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "planning.py"
    spec = importlib.util.spec_from_file_location("planning_graphs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_MODELS = _benchmarks().MODELS


def _region(model: onnx.ModelProto, data: dict[str, np.ndarray]) -> Problem:
    """All nodes, each with the choice of FP32."""
    draft = draft_plan(build_view(wrap_model(model)).main, calibrate(model, open_data(data, model)))
    every = frozenset(range(len(draft._whole.views)))
    return replace(draft._whole, nodes=every, prone=every)


def _disturbed(region: Problem) -> Iterator[Problem]:
    """What is asked of some nodes, tensors and slots is another than it is: one question at a time."""
    random, need = np.random.default_rng(0), region.need
    slots = {(v.node.index, e.slot): e for v in region.views for e in v.edges.values() if e.reads}
    values = {edge.value.key: edge.value for edge in slots.values()}
    computed = [key for key, value in values.items() if not value.constant]

    def needing(**changes: Any) -> Need:
        changed = replace(need, **changes)
        changed.settle()
        return changed

    small = needing(smallest=dict.fromkeys(computed, 1e-3))

    def some(things: Collection[T]) -> list[T]:
        return [thing for thing in things if random.random() < 0.4]

    yield replace(region, prone=region.nodes - set(some(region.nodes)))
    yield replace(region, half=frozenset(some(region.nodes)))
    yield replace(region, tolerant=frozenset(some(computed)))
    yield replace(region, fixed=(fixed := dict.fromkeys(some(computed), 3)), held=frozenset(fixed))
    yield replace(region, rooms=Rooms(dict.fromkeys(some(computed), (-2, 3))))
    yield replace(region, rooms=Rooms({}, dict.fromkeys(some(slots), (-1, 2))))
    yield replace(region, need=needing(smallest=dict.fromkeys(some(computed), 1e-3)))
    yield replace(region, need=needing(guarded=dict.fromkeys(some(computed), 1e-4)))
    yield replace(region, need=replace(small, readers=set(some(slots))))
    yield replace(region, need=replace(need, raised=set(some(slots))))
    yield replace(region, need=replace(need, guards=dict.fromkeys(some(slots), 2)))
    for value in some(list(values.values())):
        value.range, value.numel = replace(value.range, shape=(5, 7)), 35
    yield replace(region, prone=frozenset())


def _said(region: Problem, piece: Piece) -> dict[str, Any]:
    """The program, and what its variables stand for in terms of the piece."""
    problem = build_problem(region.blank(frozenset(piece.nodes)))
    node = {index: place for place, index in enumerate(piece.nodes)}
    tensor = {value.key: place for place, value in enumerate(piece.tensors)}
    slots = {
        name: {(node[index], slot): variable for (index, slot), variable in getattr(problem, name).items()}
        for name in ("constant", "shift")
    }
    return {
        "program": [part.tobytes() for part in problem.program.arrays().parts()],
        **slots,
        "exponent": {tensor[key]: variable for key, variable in problem.exponent.items()},
        "result": {tensor[key]: variable for key, variable in problem.result.items()},
        "fp32": {node[index]: variable for index, variable in problem.fp32.items()},
        "follows": {node[index]: node[maker] for index, maker in problem.follows.items()},
    }


def _alike(region: Problem, sizes: tuple[int, ...]) -> int:
    """Pieces of so many nodes in a row that are of a kind seen before."""
    kinds, seen, alike = Kinds(region), dict[Hashable, dict[str, Any]](), 0
    for size in sizes:
        for start in range(len(region.nodes) - size + 1):
            piece = kinds.piece(range(start, start + size))
            said = _said(region, piece)
            alike += piece.kind in seen
            assert seen.setdefault(piece.kind, said) == said
    return alike


def _together_as_alone(region: Problem, size: int) -> None:
    pieces = [
        region.blank(frozenset(range(start, start + size)))
        for start in range(0, len(region.nodes) - size, size)
    ]
    built = build_pieces(pieces)
    alone = [build_problem(piece) for piece in pieces]
    together, variables, ends = built[0].program.pieces()
    one = stacked([problem.program.arrays() for problem in alone])
    assert [part.tobytes() for part in together.parts()] == [part.tobytes() for part in one.parts()]
    for piece, problem, start in zip(built, alone, [0, *ends], strict=False):
        for name in ("exponent", "result", "constant", "shift", "fp32"):
            own, whole = getattr(problem, name), getattr(piece, name)
            assert {key: variables[start + number] for key, number in own.items()} == whole


@pytest.mark.parametrize("name", sorted(_MODELS))
def test_pieces_of_benchmark_graphs(name: str) -> None:
    model = _MODELS[name](56)
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    data = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    region = _region(model, data)
    assert _alike(region, (1, 3, 7)) > 10 or name == "varied"
    _together_as_alone(region, 5)
    for disturbed in _disturbed(region):
        _alike(disturbed, (2,))
        _together_as_alone(disturbed, 9)


@settings(
    derandomize=True,
    max_examples=10,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(steps=graphs)
def test_pieces_of_any_graph(steps: list[Step]) -> None:
    layers = [replace(step, seed=step.seed + layer % 2) for layer in range(4) for step in steps]
    model = build(layers, tap=1)
    region = _region(model, feed(0))
    _alike(region, (1, 2, 4))
    for disturbed in _disturbed(region):
        _alike(disturbed, (2,))
