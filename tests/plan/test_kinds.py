"""Pieces of one kind have one program: everything that the builder reads is in the kind."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection, Hashable
from dataclasses import fields, replace
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
from onnx_fp16fix.plan.build import build_problem
from onnx_fp16fix.plan.kinds import Kinds, Piece
from onnx_fp16fix.plan.problem import Problem
from onnx_fp16fix.plan.program import Program
from onnx_fp16fix.plan.room import Rooms
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


def _disturbed(region: Problem, seed: int) -> Problem:
    """What is asked here and there about nodes, tensors and slots is different from what it is."""
    random, views, need = np.random.default_rng(seed), region.views, region.need
    share = 0.1 if seed % 2 else 0.3
    edges = {
        (view.node.index, edge.slot): edge for view in views for edge in view.edges.values() if edge.reads
    }
    values = {edge.value.key: edge.value for edge in edges.values()}
    computed = [key for key, value in values.items() if not value.constant]

    def some(things: Collection[T]) -> list[T]:
        return [thing for thing in things if random.random() < share]

    for value in some([values[key] for key in values]):
        value.range = replace(value.range, shape=(5, 7))
    return replace(
        region,
        prone=region.nodes - set(some(region.nodes)),
        half=frozenset(some(region.nodes)),
        tolerant=region.tolerant | set(some(computed)),
        fixed=(fixed := dict.fromkeys(some(computed), 3)),
        held=frozenset(fixed),
        rooms=Rooms(dict.fromkeys(some(computed), (-2, 3)), dict.fromkeys(some(edges), (-1, 2))),
        need=replace(
            need,
            smallest=need.smallest | dict.fromkeys(some(computed), 1e-3),
            guarded=need.guarded | dict.fromkeys(some(computed), 1e-4),
            readers=need.readers | set(some(edges)),
            raised=need.raised | set(some(edges)),
            guards=need.guards | dict.fromkeys(some(edges), 2),
        ),
    )


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
        **{entry.name: getattr(problem.program, entry.name) for entry in fields(Program)},
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


@pytest.mark.parametrize("name", sorted(_MODELS))
def test_pieces_of_benchmark_graphs(name: str) -> None:
    model = _MODELS[name](80)
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    data = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    region = _region(model, data)
    assert _alike(region, (1, 3, 7)) > 10 or name == "varied"
    for seed in range(3):
        _alike(_disturbed(region, seed), (1, 2))


@settings(
    derandomize=True,
    max_examples=25,
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
    _alike(_disturbed(region, 0), (1, 2))
