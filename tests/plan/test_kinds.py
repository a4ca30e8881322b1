"""Pieces of one kind have one program: everything that the builder reads is in the kind."""

from __future__ import annotations

import importlib.util
from collections.abc import Hashable
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

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
from plan.random_graphs import Step, build, feed, graphs


def _benchmarks() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "planning.py"
    spec = importlib.util.spec_from_file_location("planning_graphs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_MODELS = _benchmarks().MODELS


def _region(model: onnx.ModelProto, data: dict[str, np.ndarray], held: int) -> Problem:
    """All nodes, as a large region has them: every third exponent that scaling alone finds is given, and kept so."""
    draft = draft_plan(build_view(wrap_model(model)).main, calibrate(model, open_data(data, model)))
    whole = draft._whole
    every = frozenset(range(len(whole.views)))
    found = {} if draft._scaling is None else draft._scaling.solution.exponent
    some = {key: value for place, (key, value) in enumerate(found.items()) if held and place % 3 == 0}
    return replace(whole, nodes=every, prone=every, fixed=some, held=frozenset(some))


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


@pytest.mark.parametrize("held", [0, 1])
@pytest.mark.parametrize("name", sorted(_MODELS))
def test_pieces_of_benchmark_graphs(name: str, held: int) -> None:
    model = _MODELS[name](80)
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    data = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    assert _alike(_region(model, data, held), (1, 3, 7)) > 10 or name == "varied"


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
    _alike(_region(model, feed(0), held=1), (1, 2, 4))
